"""The folders of the checkpoints that a command line names."""

from __future__ import annotations

from pathlib import Path

from tokensieve.models.pretrained import local_checkpoint
from tokensieve.plugins.registry import Registry


def checkpoint_folder(model: Path, registry: Registry) -> Path:
    """Return the folder of the shipped checkpoint that `--model` names, or else `--model` itself, a folder."""
    shipped = registry.checkpoints.get(str(model))
    return model if shipped is None else shipped.folder


def query_encoder_folder(model: Path | None, query_encoder: Path | None, registry: Registry) -> Path | None:
    """Return the folder of `--query-encoder`, or else of the query encoder of the shipped checkpoint of `--model`.

    Raises:
        RefusedError: if there is no checkpoint in the folder.
    """
    if query_encoder is not None:
        return local_checkpoint(query_encoder, "--query-encoder")
    shipped = registry.checkpoints.get(str(model))
    return None if shipped is None else shipped.query_encoder
