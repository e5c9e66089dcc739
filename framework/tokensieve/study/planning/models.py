"""A model of a study, opened without its weights."""

from __future__ import annotations

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
    """A model of a study, as far as it is known without its weights.

    Attributes:
        model: what the study says.
        folder: of its checkpoint, or none where it is not here.
        adapter: of its config, or none where it is not known.
        hash: of config and weights.
        partner: the hash of its query encoder, or none.
    """

    model: ModelEntry
    folder: Path | None
    adapter: Adapter | None
    hash: str
    partner: str | None


def open_model(model: ModelEntry, registry: Registry, download: bool = False, place: str = "") -> OpenedModel:
    """Find a model, and read its config.

    Raises:
        TokensieveError: if it is not there, or cannot be pruned.
    """
    try:
        folder = checkpoint_folder(model.path, registry, model.revision, download)
        partner = query_encoder_folder(model, registry, download)
        if folder is not None:
            adapter = load_adapter(folder, registry)
        elif model.geometry is not None:
            adapter = registry.adapter_for(Geometry.load(registry.geometry(model.geometry)).model())
        else:
            return OpenedModel(model, None, None, f"not here: {model.path}", None)
        if adapter.decoder is None:
            raise UnsupportedModelError(f"{type(adapter.model).__name__} has no language model to ask")
    except TokensieveError as error:
        raise type(error)(f"model '{model.name}': {error}{place}") from None
    known = checkpoint_hash(folder) if folder is not None else f"not here: {model.path}"
    return OpenedModel(model, folder, adapter, known, None if partner is None else checkpoint_hash(partner))


def with_absolute_paths(model: ModelEntry) -> ModelEntry:
    """Return a model whose folders are found from any other folder, too."""
    paths = {"path": model.path, "query_encoder": model.query_encoder}
    folders = {key: str(Path(path).resolve()) for key, path in paths.items() if path and Path(path).is_dir()}
    return model.model_copy(update=folders)
