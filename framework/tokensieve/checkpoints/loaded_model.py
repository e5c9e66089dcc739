"""`LoadedModel`: a model with its processor and adapter, and how questions become its inputs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokensieve.errors import RefusedError, listing, short_message
from tokensieve.models.adapter import Adapter
from tokensieve.models.pictures import Images, Video, VisualInput, images_of
from tokensieve.models.pretrained import unset_fields


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded model, with its processor and its adapter.

    Attributes:
        model: the model, on its device, in evaluation mode.
        processor: the processor of the checkpoint.
        adapter: the adapter of the model's family.
    """

    model: Any
    processor: Any
    adapter: Adapter

    def inputs(self, image: Image.Image, prompt: str) -> dict[str, Any]:
        """Return the model's inputs for one question about one image.

        Raises:
            RefusedError: if the processor fails on them.
        """
        return self.batch_inputs([image], [prompt])

    def batch_inputs(self, images: Sequence[VisualInput] | None, prompts: Sequence[str]) -> dict[str, Any]:
        """Return the model's inputs for a batch of questions, on the model's device, padded on the left.

        Args:
            images: what is shown with each prompt; None for questions without images.
            prompts: the questions.

        Raises:
            RefusedError: if the processor fails on them.
        """
        return self.on_device(self.processor_inputs(images, prompts))

    def on_device(self, inputs: Any) -> dict[str, Any]:
        """Return the processor's output on the model's device, in its dtype; `inputs` stay as they are."""
        return dict(copy.copy(inputs).to(self.model.device, dtype=self.model.dtype))

    def processor_inputs(self, images: Sequence[VisualInput] | None, prompts: Sequence[str]) -> Any:
        """Return the processor's output for a batch of questions; it is on the CPU and needs no weights.

        Args:
            images: what is shown with each prompt; None for questions without images.
            prompts: the questions.

        Raises:
            RefusedError: if the processor fails on them.
        """
        videos = [list(shown.frames) for shown in images or () if isinstance(shown, Video)]
        if images is not None and 0 < len(videos) < len(images):
            raise RefusedError("pictures and videos are not asked about in one batch")
        texts = [
            self.render_chat([_user(prompt, None if images is None else images[number])])
            for number, prompt in enumerate(prompts)
        ]
        pictures = [] if videos else [list(images_of(shown)) for shown in images or ()]
        return self.tensors(texts, pictures, videos)

    def later_turns(self, shown: VisualInput | None, turns: Sequence[tuple[str, str]], question: str) -> Tensor:
        """Return the ids of what follows the first prompt of a talk, int64 `[1, n]`, on the model's device.

        That is the answer to the first question, and all turns behind it up to the invitation to answer the last one.

        Args:
            shown: what comes with the first question; None for a talk without images.
            turns: the questions and answers before the last question, at least one.
            question: the last question.

        Raises:
            RefusedError: if the chat template writes the beginning of a talk otherwise when the talk goes on.
        """
        talk = [_user(turns[0][0], shown)]
        first = self.render_chat(talk)
        for (_, answer), following in zip(turns, [*(one for one, _ in turns[1:]), question], strict=True):
            talk += [{"role": "assistant", "content": [{"type": "text", "text": answer}]}, _user(following, None)]
        # Without a template, a talk has no fixed form.
        whole = self.render_chat(talk) if getattr(self.processor, "chat_template", None) else ""
        if not whole.startswith(first):
            why = "writes that prompt otherwise when the talk goes on" if whole else "has no chat template"
            raise RefusedError(
                f"a talk cannot go on from the cache of its first prompt: the checkpoint's processor {why}; ask single "
                "questions"
            )
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        ids: Tensor = tokenizer(whole[len(first) :], add_special_tokens=False, return_tensors="pt")["input_ids"]
        return ids.to(self.model.device)

    def tensors(
        self, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]], videos: Sequence[Sequence[Image.Image]]
    ) -> Any:
        """Return the processor's output for prompts that are rendered already; it is on the CPU.

        Args:
            texts: the prompts, with placeholders.
            pictures: the pictures of each prompt; empty if there are none in the batch.
            videos: the frames of each video, in the order of the prompts; empty if there are none in the batch.

        Raises:
            RefusedError: if the processor fails on them.
        """
        settings: dict[str, Any] = {"text": list(texts), "return_tensors": "pt"}
        if videos:
            if getattr(self.processor, "video_processor", None) is None:
                raise RefusedError(f"the checkpoint's {type(self.processor).__name__} takes no videos")
            mark = getattr(self.processor, "video_token", None) or "<video>"
            if not all(mark in text for text in texts):
                raise RefusedError(f"the checkpoint's chat template has no place for a video: no {mark} in the prompt")
            # The frames are sampled already.
            settings |= {"videos": [list(frames) for frames in videos], "do_sample_frames": False}
        if pictures:
            # One list for each prompt, as processors that cut images into tiles take them.
            settings["images"] = [list(one) for one in pictures] if len(texts) > 1 else list(pictures[0])
        if len(texts) > 1:
            settings |= {"padding": True, "padding_side": "left"}
        try:
            return self.processor(**settings)
        # Each processor has checks of its own, with errors of several types.
        except Exception as error:
            said = short_message(error)
            if missing := unset_fields(self.processor):
                said += f"; it has no {listing(missing)}, by which it counts the tokens of a picture"
            raise RefusedError(f"the checkpoint's processor refuses the picture or the prompt: {said}") from None

    def render_chat(self, turns: Sequence[Mapping[str, Any]]) -> str:
        """Return the text of a chat: from the chat template if there is one, else placeholders and then all texts."""
        if getattr(self.processor, "chat_template", None):
            return str(self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        parts = [part for turn in turns for part in turn["content"]]
        kinds = [part["type"] for part in parts if part["type"] != "text"]
        marks = [getattr(self.processor, f"{kind}_token", None) or f"<{kind}>" for kind in kinds]
        return "\n".join([*marks, *(part["text"] for part in parts if part["type"] == "text")])

    def prefill(self, inputs: Mapping[str, Any]) -> None:
        """Run the prefill of a prompt, as `generate` does before the first new token."""
        with torch.no_grad(), quiet():
            self.model(**inputs, use_cache=True, logits_to_keep=1)


def _user(prompt: str, shown: VisualInput | None) -> dict[str, Any]:
    """Return the user's turn of a chat."""
    many = len(shown.images) if isinstance(shown, Images) else int(shown is not None)
    visual = [{"type": "video" if isinstance(shown, Video) else "image"}] * many
    return {"role": "user", "content": [*visual, {"type": "text", "text": prompt}]}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars, logs and warnings of transformers inside a `with` block."""
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
