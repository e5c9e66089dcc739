"""A model of a study, opened without its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tokensieve.checkpoints.loading import load_adapter
from tokensieve.cost.geometry import Geometry
from tokensieve.errors import TokensieveError, UnsupportedModelError
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry
from tokensieve.study.planning.checkpoints import checkpoint_folder, checkpoint_hash, query_encoder_folder
from tokensieve.study.spec.entries import ModelEntry


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model of a study, without its weights.

    Attributes:
        model: the entry of the study.
        folder: the folder of the checkpoint; none if it is not downloaded.
        adapter: the adapter for the model's config; none if the config is not known.
        hash: the hash of config and weights.
        query_encoder_hash: the hash of the query encoder; none without one.
    """

    model: ModelEntry
    folder: Path | None
    adapter: Adapter | None
    hash: str
    query_encoder_hash: str | None


def open_model(model: ModelEntry, registry: Registry, download: bool = False, location: str = "") -> OpenedModel:
    """Find the checkpoint of a model, and read its config.

    Args:
        model: the entry of the study.
        registry: for shipped checkpoints, geometries and adapters.
        download: whether a missing checkpoint is downloaded.
        location: the file and line of the entry, for messages.

    Raises:
        TokensieveError: if the checkpoint is not found, or the model cannot be pruned.
    """
    try:
        folder = checkpoint_folder(model.path, registry, model.revision, download)
        query_encoder = query_encoder_folder(model, registry, download)
        if folder is not None:
            adapter = load_adapter(folder, registry)
        elif model.geometry is not None:
            adapter = registry.adapter_for(Geometry.load(registry.geometry(model.geometry)).model())
        else:
            return OpenedModel(model, None, None, f"not here: {model.path}", None)
        if adapter.decoder is None:
            raise UnsupportedModelError(f"{type(adapter.model).__name__} has no language model to ask")
    except TokensieveError as error:
        raise type(error)(f"model '{model.name}': {error}{location}") from None
    model_hash = checkpoint_hash(folder) if folder is not None else f"not here: {model.path}"
    query_encoder_hash = None if query_encoder is None else checkpoint_hash(query_encoder)
    return OpenedModel(model, folder, adapter, model_hash, query_encoder_hash)


def with_absolute_paths(model: ModelEntry) -> ModelEntry:
    """Return a model entry with absolute paths of its folders."""
    paths = {"path": model.path, "query_encoder": model.query_encoder}
    folders = {key: str(Path(path).resolve()) for key, path in paths.items() if path and os.path.isdir(path)}
    return model.model_copy(update=folders)
