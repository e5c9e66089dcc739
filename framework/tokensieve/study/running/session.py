"""A loaded model, with what was measured and answered so far."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensieve.checkpoints.loaded_model import LoadedModel
from tokensieve.checkpoints.query_encoders import query_encoder_from
from tokensieve.cost.language_model import LayerCost
from tokensieve.engine import VisionCache
from tokensieve.models.pictures import ImageOrVideo
from tokensieve.study.planning.downsampling import count_prompt_tokens
from tokensieve.study.planning.jobs import Job
from tokensieve.tasks.base import Answer

Grid = tuple[int, int]


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
    stack: ExitStack = field(default_factory=ExitStack)

    def clear_task(self) -> None:
        """Drop everything that belongs to a task."""
        self.unpruned.clear()
        self.needed.clear()
        self.prompt_lengths.clear()

    def count_tokens(self, picture: ImageOrVideo | None, question: str) -> tuple[int, int]:
        """Return the number of visual and of text tokens of a prompt; they depend on the size of the image or video."""
        key = None if picture is None else picture.size, question
        if key not in self.prompt_lengths:
            self.prompt_lengths[key] = count_prompt_tokens(self.ready, picture, question)
        return self.prompt_lengths[key]


def load_query_encoder(folder: Path, job: Job, ready: LoadedModel) -> tuple[Any, Any]:
    """Load a query encoder onto the device of the model, and its tokenizer."""
    return query_encoder_from(folder, job.model.query_encoder or str(folder), ready.model.device)
