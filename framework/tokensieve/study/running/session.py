"""A loaded model, and what was measured and answered with it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensieve.checkpoints.ready import LoadedModel, quiet
from tokensieve.cost.language_model import LayerCost
from tokensieve.engine import VisionCache
from tokensieve.models.pictures import ImageOrVideo
from tokensieve.study.planning.downsampling import count_prompt_tokens
from tokensieve.study.planning.jobs import Job
from tokensieve.tasks.base import Answer

Grid = tuple[int, int]


@dataclass(eq=False)
class EncoderTime:
    """What encoding pictures took.

    Attributes:
        seconds: all together.
        pictures: how many were encoded in that time.
    """

    seconds: float = 0.0
    pictures: int = 0

    @property
    def ms(self) -> float:
        """Milliseconds a picture; 0 where none was measured."""
        return 1000 * self.seconds / self.pictures if self.pictures else 0.0


@dataclass(eq=False)
class ModelSession:
    """A model that is ready, and what was learnt with it.

    Attributes:
        job: whose model it is.
        ready: it.
        partner: its query encoder and that one's tokenizer, loaded once.
        layers: what each of its decoder's layers costs.
        grids: of the visual tokens, by the size of a picture.
        sizes: of smaller pictures, by the size of a picture and the budget.
        unpruned: what it answered without a recipe, by task and sample.
        needed: the tokens that answers need, by sample and grid.
        texts: visual and text tokens of prompts, by the size of a picture or video (none without one) and the question.
        warm: whether it has run yet.
        sights: its pictures that were encoded already; none where cells do not share them.
        towers: what encoding took, of whole pictures and of those made smaller for a budget.
        stack: what ends with it.
    """

    job: Job
    ready: LoadedModel
    partner: tuple[Any, Any] | None
    layers: tuple[LayerCost, ...]
    grids: dict[tuple[int, int], Grid | None] = field(default_factory=dict)
    sizes: dict[tuple[tuple[int, int], int], tuple[int, int]] = field(default_factory=dict)
    unpruned: dict[tuple[str, str], Answer] = field(default_factory=dict)
    needed: dict[tuple[str, Grid], frozenset[int] | None] = field(default_factory=dict)
    texts: dict[tuple[tuple[int, ...] | None, str], tuple[int, int]] = field(default_factory=dict)
    warm: bool = False
    sights: VisionCache | None = None
    towers: dict[str, EncoderTime] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def forget(self) -> None:
        """Forget what was learnt of a task."""
        self.unpruned.clear()
        self.needed.clear()
        self.texts.clear()

    def lengths(self, picture: ImageOrVideo | None, question: str) -> tuple[int, int]:
        """Return how many visual and how many text tokens a prompt has, which its picture's or video's size decides."""
        key = None if picture is None else picture.size, question
        if key not in self.texts:
            self.texts[key] = count_prompt_tokens(self.ready, picture, question)
        return self.texts[key]


def load_query_encoder(folder: Path, job: Job, ready: LoadedModel) -> tuple[Any, Any]:
    """Load a two-tower model, to where the other one is, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        model = AutoModel.from_pretrained(folder).eval().to(ready.model.device)
        # A copy of a release is known by the release's name, not by the folder that it lies in.
        model.config._name_or_path = job.model.query_encoder or str(folder)
        return model, AutoTokenizer.from_pretrained(folder)
