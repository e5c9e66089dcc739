"""Checkpoints: loading them from folders, and asking them.

The model library is imported when it is needed, so that what can be refused without it is.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from tokensieve.adapter import Adapter
from tokensieve.engine import prune
from tokensieve.errors import MissingEvidenceError, RefusedError, TokensieveError, listing
from tokensieve.recipe import Recipe
from tokensieve.registry import Registry
from tokensieve.review import review
from tokensieve.run import Run
from tokensieve.video import Shown, Video

Seen = Literal["image", "video"] | None
"""What a question is about; none where it is asked alone."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A model with what it takes to ask it something.

    Attributes:
        model: on its device, for inference.
        processor: makes inputs of pictures and text.
        adapter: says where its tokens are.
    """

    model: Any
    processor: Any
    adapter: Adapter

    def inputs(self, image: Image.Image, prompt: str) -> dict[str, Any]:
        """Give the model's inputs for a question about a picture.

        Raises:
            RefusedError: if the processor takes neither.
        """
        return self.batch([image], [prompt])

    def batch(self, images: Sequence[Shown] | None, prompts: Sequence[str]) -> dict[str, Any]:
        """Give the model's inputs for questions about a picture or a video each, padded on the left.

        Args:
            images: pictures or videos, one a prompt, or none: then the questions are asked without a picture.
            prompts: the users' turns.

        Raises:
            RefusedError: if the processor takes them not.
        """
        return dict(self.words(images, prompts).to(self.model.device, dtype=self.model.dtype))

    def words(self, images: Sequence[Shown] | None, prompts: Sequence[str]) -> Any:
        """Give what `batch` does as the processor makes it: on the CPU, and also for a model without weights.

        Raises:
            RefusedError: if the processor takes them not.
        """
        videos = [list(shown.frames) for shown in images or () if isinstance(shown, Video)]
        if images is not None and 0 < len(videos) < len(images):
            raise RefusedError("pictures and videos are not asked about in one batch")
        seen: Seen = None if images is None else "video" if videos else "image"
        settings: dict[str, Any] = {"text": [self.render(prompt, seen) for prompt in prompts], "return_tensors": "pt"}
        if videos:
            if getattr(self.processor, "video_processor", None) is None:
                raise RefusedError(f"the checkpoint's {type(self.processor).__name__} takes no videos")
            mark = getattr(self.processor, "video_token", None) or "<video>"
            if not all(mark in text for text in settings["text"]):
                raise RefusedError(f"the checkpoint's chat template has no place for a video: no {mark} in the prompt")
            # These are the frames: none of them is left out.
            settings |= {"videos": videos, "do_sample_frames": False}
        elif images is not None:
            # By prompt, as families take them that cut pictures into tiles.
            settings["images"] = [[image] for image in images] if len(images) > 1 else list(images)
        if len(prompts) > 1:
            settings |= {"padding": True, "padding_side": "left"}
        try:
            return self.processor(**settings)
        # A processor has checks of its own, and says by them what does not fit.
        except Exception as error:
            said = brief(error)
            raise RefusedError(f"the checkpoint's processor refuses the picture or the prompt: {said}") from None

    def render(self, prompt: str, seen: Seen = "image") -> str:
        """Give the text of a user's turn, with a picture, a video or neither: by the chat template, if there is one."""
        if getattr(self.processor, "chat_template", None):
            shown = [] if seen is None else [{"type": seen}]
            turn = {"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}
            return str(self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False))
        if seen is None:
            return prompt
        return f"{getattr(self.processor, f'{seen}_token', None) or f'<{seen}>'}\n{prompt}"

    def prefill(self, inputs: Mapping[str, Any]) -> None:
        """Run a prompt once, as `generate` does before the first word."""
        with torch.no_grad(), quiet():
            self.model(**inputs, use_cache=True, logits_to_keep=1)


_LOCAL = {"local_files_only": True, "trust_remote_code": False}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the model library's progress bars, hints and deprecations."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def adapter_of(directory: Path, registry: Registry) -> Adapter:
    """Give the adapter of a checkpoint from its config alone, without its weights.

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
                f"{brief(error)}"
            ) from None
    return registry.adapter_for(model)


def processor_of(directory: Path) -> Any:
    """Give the processor of a checkpoint.

    Raises:
        RefusedError: if the folder has none for pictures.
    """
    from transformers import AutoProcessor

    with quiet():
        try:
            processor = AutoProcessor.from_pretrained(directory, **_LOCAL)
        # A folder can lack anything, and each lack raises something else.
        except Exception as error:
            raise RefusedError(f"the checkpoint {directory} cannot be loaded: {brief(error)}") from None
    if not hasattr(processor, "image_processor"):
        raise RefusedError(
            f"the checkpoint {directory} has no processor for pictures; save it there with save_pretrained"
        )
    return processor


def load(
    directory: Path, registry: Registry, recipes: Sequence[Recipe], device: str | None = None, dtype: str = "auto"
) -> Ready:
    """Load a checkpoint, once it is known that it can run the recipes.

    Raises:
        RefusedError: if the folder holds no checkpoint, or a recipe cannot run on it.
        MissingEvidenceError: if a strategy needs what the model does not offer.
        UnsupportedModelError: if no adapter matches, or several.
    """
    place = _device(device)
    adapter = adapter_of(directory, registry)
    for recipe in recipes:
        _require(recipe, adapter)
    processor = processor_of(directory)
    from transformers import AutoModelForImageTextToText

    # Its annotation knows nothing of output_loading_info.
    loader: Any = AutoModelForImageTextToText
    with quiet():
        try:
            model, found = loader.from_pretrained(directory, dtype=dtype, output_loading_info=True, **_LOCAL)
        # A folder can lack anything, and each lack raises something else.
        except Exception as error:
            raise RefusedError(f"the checkpoint {directory} cannot be loaded: {brief(error)}") from None
    missing = found["missing_keys"]
    if missing:
        raise RefusedError(
            f"the checkpoint {directory} lacks {len(missing)} of the model's weights ({listing(missing, limit=3)}), "
            "which would be random; save it again, whole"
        )
    model = model.eval().to(place)
    return Ready(model, processor, registry.adapter_for(model))


def answer(
    ready: Ready,
    recipe: Recipe,
    image: Image.Image,
    prompt: str,
    most: int,
    query_encoder: Path | None,
    registry: Registry,
) -> tuple[str, Run]:
    """Answer a question about a picture under a recipe, greedily, and give the ledger."""
    inputs = ready.inputs(image, prompt)
    with torch.no_grad(), quiet(), pruned(ready, recipe, query_encoder, registry) as run:
        written = ready.model.generate(**inputs, max_new_tokens=most, do_sample=False)
    new = written[0, inputs["input_ids"].shape[1] :]
    return str(ready.processor.decode(new, skip_special_tokens=True)).strip(), run


@contextmanager
def pruned(ready: Ready, recipe: Recipe, query_encoder: Path | None, registry: Registry) -> Iterator[Run]:
    """Prune a ready model inside a `with` block."""
    partner = None if query_encoder is None else str(query_encoder)
    with (
        quiet(),
        prune(ready.model, recipe, processor=ready.processor, query_encoder=partner, registry=registry) as run,
    ):
        yield run


@contextmanager
def example_or(
    directory: Path | None, registry: Registry, recipes: Sequence[Recipe]
) -> Iterator[tuple[Path, str | None]]:
    """Give a checkpoint's folder, or make an example for the time of the `with` block.

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
        raise RefusedError(f"the device '{name}' cannot be used: {brief(error)}") from None
    return place


def brief(error: Exception) -> str:
    """Give the beginning of what another library says."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
