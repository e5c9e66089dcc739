"""The query encoder that a command line names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.models.pretrained import local_checkpoint

if TYPE_CHECKING:
    from tokensieve.plugins.registry import Registry


def query_encoder_folder(model: str | None, query_encoder: Path | None, registry: Registry) -> Path | None:
    """Return the folder of `--query-encoder`, or else of the query encoder of the shipped checkpoint of `--model`.

    Raises:
        RefusedError: if there is no checkpoint in the folder.
    """
    if query_encoder is not None:
        return local_checkpoint(query_encoder, "--query-encoder")
    shipped = registry.checkpoints.get(model or "")
    return None if shipped is None else shipped.query_encoder
