"""Loading a model, its processor and its adapter from the folder of a checkpoint.

transformers is imported inside functions: it is slow to import, and many mistakes can be reported without it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tokensieve.checkpoints.devices import named_device
from tokensieve.checkpoints.loaded_model import LoadedModel, quiet
from tokensieve.errors import (
    MissingEvidenceError,
    RefusedError,
    TokensieveError,
    did_you_mean,
    listing,
    short_message,
)
from tokensieve.models.adapter import Adapter
from tokensieve.models.pretrained import (
    LOCAL,
    cached_folder,
    from_pretrained,
    model_from_pretrained,
    require_counting_fields,
    require_vocabulary,
)
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import review


def load_adapter(directory: Path, registry: Registry) -> Adapter:
    """Return the adapter of a checkpoint from its config alone, without its weights.

    Raises:
        RefusedError: if the folder holds no checkpoint of an image-text-to-text model.
        UnsupportedModelError: if no adapter matches, or several.
    """
    _require_config(directory)
    from transformers import AutoConfig, AutoModelForImageTextToText

    with quiet():
        try:
            config = AutoConfig.from_pretrained(directory, **LOCAL)
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        # transformers does not document what it raises for an unknown config.
        except Exception as error:
            raise RefusedError(
                f"{directory} is no checkpoint of a model of pictures and text that transformers can load: "
                f"{short_message(error)}"
            ) from None
    return registry.adapter_for(model)


def load_processor(directory: Path) -> Any:
    """Return the processor of a checkpoint.

    Raises:
        RefusedError: if the folder has none that takes images, its tokenizer has no vocabulary, or a setting is missing
            by which it counts the tokens of a picture.
    """
    from transformers import AutoProcessor

    with quiet():
        processor = from_pretrained(AutoProcessor, directory)
    if not hasattr(processor, "image_processor"):
        raise RefusedError(
            f"the checkpoint {directory} has no processor for pictures; save it there with save_pretrained"
        )
    require_vocabulary(processor.tokenizer, directory)
    require_counting_fields(processor, directory)
    return processor


def load(
    directory: Path, registry: Registry, recipes: Sequence[Recipe], device: str | None = None, dtype: str = "auto"
) -> LoadedModel:
    """Load a checkpoint after checking that it can run the recipes.

    Args:
        directory: the folder of the checkpoint.
        registry: where adapters are looked up.
        recipes: the recipes that will run on the model.
        device: where to load the model; by default CUDA if available, else the CPU.
        dtype: as `from_pretrained` takes it.

    Raises:
        RefusedError: if the folder holds no checkpoint, or a recipe cannot run on it.
        MissingEvidenceError: if a strategy needs evidence that the model does not offer.
        UnsupportedModelError: if no adapter matches, or several.
    """
    place = named_device(device)
    adapter = load_adapter(directory, registry)
    for recipe in recipes:
        _require_runnable(recipe, adapter)
    processor = load_processor(directory)
    from transformers import AutoModelForImageTextToText

    with quiet():
        model = model_from_pretrained(AutoModelForImageTextToText, directory, dtype=dtype).to(place)
    return LoadedModel(model, processor, registry.adapter_for(model))


@contextmanager
def checkpoint_or_example(
    directory: Path | None, registry: Registry, recipes: Sequence[Recipe]
) -> Iterator[tuple[Path, str | None]]:
    """Return a checkpoint's folder, or save an example checkpoint for the duration of the `with` block.

    Yields:
        The folder, and the description of the example; None instead of the description if the folder was given.
    """
    if directory is not None:
        yield directory, None
        return
    with tempfile.TemporaryDirectory(prefix="tokensieve-") as made:
        yield Path(made), save_example(registry, Path(made), recipes)


def save_example(registry: Registry, directory: Path, recipes: Sequence[Recipe]) -> str:
    """Save the example checkpoint of the first adapter that has one, and return a description of it.

    The model is as deep as the recipes need.

    Raises:
        TokensieveError: if no adapter has an example.
    """
    sites = [stage.at for recipe in recipes for stage in recipe.stages]
    with quiet():
        for adapter in registry.adapters.values():
            description = adapter.example(directory, sites)
            if description is not None:
                return description
    raise TokensieveError(f"no adapter brings an example checkpoint ({listing(registry.adapters)}); give --model DIR")


def _require_runnable(recipe: Recipe, adapter: Adapter) -> None:
    """Raise what `prune` would raise, before weights are loaded."""
    for finding in review(recipe, adapter):
        if finding.level == "error":
            kind = MissingEvidenceError if finding.missing_evidence else RefusedError
            raise kind(f"recipe '{recipe.name}' cannot run on {type(adapter.model).__name__}: {finding}")


def checkpoint_named(name: str, registry: Registry, geometries: Iterable[str] = ()) -> Path:
    """Return the folder of the checkpoint that `--model` names: a shipped one, a folder, or an id in the hub's cache.

    Args:
        name: what was named.
        registry: for shipped checkpoints.
        geometries: the names of geometries that the caller takes as well, for the message.

    Raises:
        RefusedError: if there is none; nothing is downloaded.
    """
    if name in registry.checkpoints:
        return registry.checkpoints[name].folder
    folder = Path(name).expanduser()
    is_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
    # Not by methods of the path, which raise where a name is too long.
    if name.strip() and os.path.isdir(folder):
        _require_config(folder)
        return folder
    if is_id and (cached := cached_folder(name)) is not None:
        return cached
    near = did_you_mean(name, [*registry.checkpoints, *geometries])
    if not name.strip():
        said = "--model is empty"
    elif os.path.isfile(folder):
        said = f"{name} is a file"
        near = f" Did you mean '{folder.parent}'?" if (folder.parent / "config.json").is_file() else near
    elif name in registry.geometries:
        said = (
            f"'{name}' is a geometry, a shape without weights; bench, explain and recommend take it, cost as --geometry"
        )
    else:
        said = f"there is no folder {name}, and nothing is downloaded"
    takes = ["a folder written by save_pretrained", f"a shipped checkpoint ({listing(registry.checkpoints)})"]
    takes += [f"a geometry ({listing(geometries)})"] if geometries else []
    fetch = f"; to get one from the hub: hf download {name}" if is_id else ""
    raise RefusedError(f"{said}; --model takes {', '.join(takes[:-1])} or {takes[-1]}{fetch}.{near}")


def _require_config(folder: Path) -> None:
    """Raise `RefusedError` unless a folder has a config."""
    if not (folder / "config.json").is_file():
        inside = sorted(file.parent for file in folder.glob("*/config.json"))
        near = f" Did you mean '{inside[0]}'?" if inside else ""
        raise RefusedError(
            f"{folder} is no checkpoint: it has no config.json. "
            f"--model takes a folder written by save_pretrained.{near}"
        )
