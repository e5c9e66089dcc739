"""A model with its processor, ready to be asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image

from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.pictures import ImageOrVideo, Video

VisualKind = Literal["image", "video"] | None
"""What a question is about; none where it is asked alone."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
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
        """Return the model's inputs for a question about a picture.

        Raises:
            RefusedError: if the processor takes neither.
        """
        return self.batch([image], [prompt])

    def batch(self, images: Sequence[ImageOrVideo] | None, prompts: Sequence[str]) -> dict[str, Any]:
        """Return the model's inputs for questions about a picture or a video each, padded on the left.

        Args:
            images: pictures or videos, one a prompt, or none: then the questions are asked without a picture.
            prompts: the users' turns.

        Raises:
            RefusedError: if the processor takes them not.
        """
        return dict(self.words(images, prompts).to(self.model.device, dtype=self.model.dtype))

    def words(self, images: Sequence[ImageOrVideo] | None, prompts: Sequence[str]) -> Any:
        """Return what `batch` does as the processor makes it: on the CPU, and also for a model without weights.

        Raises:
            RefusedError: if the processor takes them not.
        """
        videos = [list(shown.frames) for shown in images or () if isinstance(shown, Video)]
        if images is not None and 0 < len(videos) < len(images):
            raise RefusedError("pictures and videos are not asked about in one batch")
        seen: VisualKind = None if images is None else "video" if videos else "image"
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
            said = short_message(error)
            raise RefusedError(f"the checkpoint's processor refuses the picture or the prompt: {said}") from None

    def render(self, prompt: str, seen: VisualKind = "image") -> str:
        """Return the text of a user's turn, with a picture, a video or neither, by the chat template if any."""
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


def short_message(error: Exception) -> str:
    """Return the beginning of what another library says."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
