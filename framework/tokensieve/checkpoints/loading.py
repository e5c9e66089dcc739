"""Checkpoints: loading them from folders, and asking them.

The model library is imported when it is needed, so that what can be refused without it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tokensieve.checkpoints.ready import LoadedModel, quiet, short_message
from tokensieve.errors import MissingEvidenceError, RefusedError, TokensieveError, listing
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import review

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_adapter(directory: Path, registry: Registry) -> Adapter:
    """Return the adapter of a checkpoint from its config alone, without its weights.

    Raises:
        RefusedError: if the folder holds no checkpoint of a model of pictures and text.
        UnsupportedModelError: if no adapter matches, or several.
    """
    _require_checkpoint(directory)
    from transformers import AutoConfig, AutoModelForImageTextToText

    with quiet():
        try:
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        # What the library raises over a config that it does not know is not documented.
        except Exception as error:
            raise RefusedError(
                f"{directory} is no checkpoint of a model of pictures and text that transformers can load: "
                f"{short_message(error)}"
            ) from None
    return registry.adapter_for(model)


def load_processor(directory: Path) -> Any:
    """Return the processor of a checkpoint.

    Raises:
        RefusedError: if the folder has none for pictures.
    """
    from transformers import AutoProcessor

    with quiet():
        try:
            processor = AutoProcessor.from_pretrained(directory, **_LOCAL)
        # A folder can lack anything, and each lack raises something else.
        except Exception as error:
            raise RefusedError(f"the checkpoint {directory} cannot be loaded: {short_message(error)}") from None
    if not hasattr(processor, "image_processor"):
        raise RefusedError(
            f"the checkpoint {directory} has no processor for pictures; save it there with save_pretrained"
        )
    return processor


def load(
    directory: Path, registry: Registry, recipes: Sequence[Recipe], device: str | None = None, dtype: str = "auto"
) -> LoadedModel:
    """Load a checkpoint, once it is known that it can run the recipes.

    Raises:
        RefusedError: if the folder holds no checkpoint, or a recipe cannot run on it.
        MissingEvidenceError: if a strategy needs what the model does not offer.
        UnsupportedModelError: if no adapter matches, or several.
    """
    place = _device(device)
    adapter = load_adapter(directory, registry)
    for recipe in recipes:
        _require(recipe, adapter)
    processor = load_processor(directory)
    from transformers import AutoModelForImageTextToText

    # Its annotation knows nothing of output_loading_info.
    loader: Any = AutoModelForImageTextToText
    with quiet():
        try:
            model, found = loader.from_pretrained(directory, dtype=dtype, output_loading_info=True, **_LOCAL)
        # A folder can lack anything, and each lack raises something else.
        except Exception as error:
            raise RefusedError(f"the checkpoint {directory} cannot be loaded: {short_message(error)}") from None
    missing = found["missing_keys"]
    if missing:
        raise RefusedError(
            f"the checkpoint {directory} lacks {len(missing)} of the model's weights ({listing(missing, limit=3)}), "
            "which would be random; save it again, whole"
        )
    model = model.eval().to(place)
    return LoadedModel(model, processor, registry.adapter_for(model))


@contextmanager
def example_or(
    directory: Path | None, registry: Registry, recipes: Sequence[Recipe]
) -> Iterator[tuple[Path, str | None]]:
    """Return a checkpoint's folder, or make an example for the time of the `with` block.

    Yields:
        The folder, and what the example is, or none where the folder was given.
    """
    if directory is not None:
        yield directory, None
        return
    with tempfile.TemporaryDirectory(prefix="tokensieve-") as made:
        yield Path(made), save_example(registry, Path(made), recipes)


def save_example(registry: Registry, directory: Path, recipes: Sequence[Recipe]) -> str:
    """Save the example checkpoint of the first adapter that has one, and say what it is.

    It is as deep as recipes need it.

    Raises:
        TokensieveError: if none has.
    """
    sites = [stage.at for recipe in recipes for stage in recipe.stages]
    with quiet():
        for adapter in registry.adapters.values():
            description = adapter.example(directory, sites)
            if description is not None:
                return description
    raise TokensieveError(f"no adapter brings an example checkpoint ({listing(registry.adapters)}); give --model DIR")


def _require(recipe: Recipe, adapter: Adapter) -> None:
    """Refuse what `prune` would, before weights are read."""
    for finding in review(recipe, adapter):
        if finding.level == "error":
            kind = MissingEvidenceError if finding.missing else RefusedError
            raise kind(f"recipe '{recipe.name}' cannot run on {type(adapter.model).__name__}: {finding}")


def _require_checkpoint(directory: Path) -> None:
    if not directory.is_dir():
        raise RefusedError(
            f"there is no folder {directory}; --model takes a folder written by save_pretrained, or "
            "the name of a shipped checkpoint, and downloads nothing"
        )
    if not (directory / "config.json").is_file():
        raise RefusedError(
            f"{directory} is no checkpoint: it has no config.json. --model takes a folder written by save_pretrained"
        )


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
        torch.empty(1, device=place)
    # Which error it is depends on the kind of device.
    except Exception as error:
        raise RefusedError(f"the device '{name}' cannot be used: {short_message(error)}") from None
    return place
