"""A loaded model, with what was measured and answered so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from tokensieve.algebra.budget import Keep, count
from tokensieve.checkpoints.loaded_model import LoadedModel
from tokensieve.checkpoints.query_encoders import query_encoder_from
from tokensieve.cost.language_model import LayerCost
from tokensieve.engine import VisionCache
from tokensieve.errors import StudyError
from tokensieve.models.pictures import Images, Video, VisualInput
from tokensieve.study.planning.downsampling import NO_SMALLER_VIDEO, count_prompt_tokens, downsampled_size
from tokensieve.study.planning.jobs import Job
from tokensieve.tasks.base import Answer, Sample

Grid = tuple[int, int]
MOST_INPUT_BYTES = 256 * 2**20
"""The size of the processed batches that a session keeps for the next cells."""


@dataclass(eq=False)
class EncoderTime:
    """The time that encoding images took.

    Attributes:
        seconds: the total time.
        pictures: the number of images that were encoded in that time.
    """

    seconds: float = 0.0
    pictures: int = 0

    @property
    def ms(self) -> float:
        """Return the mean milliseconds for an image; 0 if nothing was measured."""
        return 1000 * self.seconds / self.pictures if self.pictures else 0.0


@dataclass(eq=False)
class ModelSession:
    """A loaded model, with what was computed for the current task.

    Attributes:
        job: the first job of the model.
        ready: the model with its processor and adapter.
        query_encoder: the query encoder and its tokenizer, or none.
        layers: the cost of each decoder layer.
        grids: the grid of visual tokens, by the size of an image.
        downsampled_sizes: the sizes of downsampled images, by the size of an image and the budget.
        unpruned: the answers without a recipe, by task and sample.
        needed: the ids of the tokens that answers need, by sample and grid.
        prompt_lengths: the numbers of visual and text tokens of prompts, by the size of an image or video (none without
            one) and the question.
        warmed_up: whether the model has run.
        vision_cache: the images that are encoded already; none if cells do not share them.
        encoder_times: the time of encoding images: of original ones, and by budget of downsampled ones.
        processed: what the processor made of batches, on the CPU, by their samples and what was done to their images.
        stack: contexts that are closed when the model is freed.
    """

    job: Job
    ready: LoadedModel
    query_encoder: tuple[Any, Any] | None
    layers: tuple[LayerCost, ...]
    grids: dict[tuple[int, int], Grid | None] = field(default_factory=dict)
    downsampled_sizes: dict[tuple[tuple[int, int], int], tuple[int, int]] = field(default_factory=dict)
    unpruned: dict[tuple[str, str], Answer] = field(default_factory=dict)
    needed: dict[tuple[str, Grid], frozenset[int] | None] = field(default_factory=dict)
    prompt_lengths: dict[tuple[tuple[int, ...] | None, str], tuple[int, int]] = field(default_factory=dict)
    warmed_up: bool = False
    vision_cache: VisionCache | None = None
    encoder_times: dict[str, EncoderTime] = field(default_factory=dict)
    processed: dict[tuple[str, ...], Any] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def clear_task(self) -> None:
        """Drop everything that belongs to a task."""
        self.unpruned.clear()
        self.needed.clear()
        self.prompt_lengths.clear()
        self.processed.clear()

    def batch_inputs(
        self, pictures: Sequence[VisualInput] | None, batch: Sequence[Sample], size: str = ""
    ) -> dict[str, Any]:
        """Return the model's inputs for a batch of samples. Every cell of a task asks for the same ones.

        Args:
            pictures: what is shown with each; None for questions without images.
            batch: the samples.
            size: the budget that the images were downsampled for, if they were.
        """
        key = "none" if pictures is None else size, *(sample.id for sample in batch)
        made = self.processed.get(key)
        if made is None:
            made = self.ready.processor_inputs(pictures, [sample.first_question for sample in batch])
            # Those that do not fit are made again. Cells ask in one order, so dropping the oldest would keep none.
            if _size(made) + sum(map(_size, self.processed.values())) <= MOST_INPUT_BYTES:
                self.processed[key] = made
        return self.ready.on_device(made)

    def later_turns(self, picture: VisualInput | None, batch: Sequence[Sample]) -> Tensor | None:
        """Return the ids of what follows the first prompt of a talk, int64 `[1, n]`; None where there is no talk.

        Raises:
            StudyError: if there is a talk in a batch of several.
        """
        if not any(sample.turns for sample in batch):
            return None
        if len(batch) > 1:
            raise StudyError("talks go on from a cache of their own, and are answered one at a time")
        (sample,) = batch
        turns = [(turn.question, turn.answer) for turn in sample.turns]
        return self.ready.later_turns(picture, turns, sample.question)

    def count_tokens(self, picture: VisualInput | None, question: str) -> tuple[int, int]:
        """Return the number of visual and of text tokens of a prompt; they depend on the size of the image or video."""
        key = None if picture is None else picture.size, question
        if key not in self.prompt_lengths:
            self.prompt_lengths[key] = count_prompt_tokens(self.ready, picture, question)
        return self.prompt_lengths[key]

    def downsample(self, picture: VisualInput, keep: Keep) -> Image.Image | Images:
        """Return an image, or every image of a prompt, at a size of which the processor makes the budget's tokens.

        Raises:
            StudyError: if it is a video, or the processor makes no such number of tokens.
        """
        if isinstance(picture, Video):
            raise StudyError(NO_SMALLER_VIDEO)
        if isinstance(picture, Images):
            return Images(tuple(self._downsampled(one, keep) for one in picture.images))
        return self._downsampled(picture, keep)

    def _downsampled(self, picture: Image.Image, keep: Keep) -> Image.Image:
        whole, _ = self.count_tokens(picture, "?")
        budget = count(keep, whole)
        if (picture.size, budget) not in self.downsampled_sizes:
            size = downsampled_size(self.ready, picture, budget)
            if size is None:
                raise StudyError(f"the processor makes no picture of about {budget} tokens of one that has {whole}")
            self.downsampled_sizes[picture.size, budget] = size
        return picture.resize(self.downsampled_sizes[picture.size, budget], Image.Resampling.BICUBIC)


def _size(inputs: Mapping[str, Any]) -> int:
    """Return the bytes of the tensors of a processed batch."""
    return sum(value.nbytes for value in inputs.values() if isinstance(value, Tensor))


def load_query_encoder(folder: Path, job: Job, ready: LoadedModel) -> tuple[Any, Any]:
    """Load a query encoder onto the device of the model, and its tokenizer."""
    return query_encoder_from(folder, job.model.query_encoder or str(folder), ready.model.device)
