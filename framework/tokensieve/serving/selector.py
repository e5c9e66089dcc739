"""`PictureSelector`: how many tokens of a picture stay, from its layout, and which, from its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from tokensieve.algebra.budget import Keep, count
from tokensieve.algebra.doubts import settled_together
from tokensieve.engine.batches import padded
from tokensieve.engine.stage_selection import StageOutcome, TokenPool, decide
from tokensieve.engine.token_layout import TokenLayout
from tokensieve.errors import RefusedError
from tokensieve.evidence import Evidence, Query, Text
from tokensieve.models.layouts import raster
from tokensieve.recipes.recipe import Recipe
from tokensieve.serving.families import TEXTUAL, ServedFamily
from tokensieve.serving.refusals import served_stage
from tokensieve.stage import Stage


class Raster(NamedTuple):
    """The grid of a picture's tokens: frames, then rows, then columns.

    Attributes:
        frames: how many frames there are; 1 for an image.
        rows: rows of tokens in each frame.
        columns: columns of tokens in each frame.
    """

    frames: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return self.frames * self.rows * self.columns

    @property
    def places(self) -> Tensor:
        """Tile, frame, row and column of each token, int64 `[n, 4]`."""
        return raster(self.rows, self.columns, self.frames)


class PictureLayout:
    """The layout of a picture that is more than one grid: it has tiles, or newline tokens. Equal ones are one key.

    Attributes:
        places: int64 `[n, 4]`, tile, frame, row and column of each token; nobody may write into it.
    """

    def __init__(self, places: Tensor) -> None:
        self.places = places
        self._content = places.numpy().tobytes()
        self._hash = hash(self._content)

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return len(self.places)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, PictureLayout) and self._content == other._content)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"PictureLayout of {self.tokens} tokens"


PictureGrid: TypeAlias = Raster | PictureLayout
"""Where the tokens of a picture are."""


@dataclass(frozen=True, eq=False)
class Selected:
    """What stays of pictures that have one grid.

    Attributes:
        features: `[pictures, kept, d]`, by ascending id; merged tokens are folded in.
        ids: int64 `[pictures, kept]`, their numbers among the tokens of their picture.
    """

    features: Tensor
    ids: Tensor


class PictureSelector:
    """Selects the tokens of pictures, each as `prune` does in a prompt that has this picture alone.

    It is made of the parts that `prune` is made of. Pictures of one call may belong to different prompts.

    Attributes:
        recipe: the recipe.
        family: the model family that it is served with.
        stage: its one stage.
    """

    def __init__(self, recipe: Recipe, family: ServedFamily) -> None:
        """Check a recipe.

        Raises:
            TokensieveError: see `served_stage`.
        """
        self.stage = served_stage(recipe, family)
        self.recipe, self.family = recipe, family
        self._counts: dict[PictureGrid, int] = {}

    @property
    def reads_questions(self) -> bool:
        """Whether tokens are judged by a question."""
        return bool(self.stage.needs & TEXTUAL)

    @cached_property
    def reads_numbers(self) -> bool:
        """Whether the choice depends on the number of a token in its prompt, as random draws do.

        It is tried on two equal pictures in one prompt. Where it is so, a picture that is not the first of its prompt
        has no choice of its own, which a server could keep beside the picture.
        """
        budgets = (self.stage.keep, Keep.of("1/2"), Keep.of("1/9"))
        for keep in dict.fromkeys(budgets):
            first, second = self._tried(self.stage.model_copy(update={"keep": keep}), Raster(2, 12, 12), 2)
            if not torch.equal(first, second):
                return True
        return False

    def count(self, grid: PictureGrid) -> int:
        """Return how many tokens of a picture stay."""
        if grid not in self._counts:
            layout = _layout(grid, 1, 1)
            if self.stage.newlines == "keep" and layout.has_newlines:
                # Newline tokens that stay count against budgets; with any vectors as many stay.
                self._counts[grid] = int(self._tried(self.stage, grid, 1).sum())
            else:
                groups = layout.groups(self.stage.per, self.stage.newlines == "judge")
                self._counts[grid] = sum(count(self.stage.keep, size) for size in groups.sizes)
        return self._counts[grid]

    def _tried(self, stage: Stage, grid: PictureGrid, pictures: int) -> Tensor:
        """Return what a stage keeps of equal pictures with random vectors in one prompt, bool `[pictures, n]`."""
        draw = torch.Generator().manual_seed(0)
        vectors = torch.randn(1, grid.tokens, 16, generator=draw)
        text = torch.randn(3, 16, generator=draw)
        every = vectors.repeat(1, pictures, 1)
        return _decided(self.recipe, stage, every, _layout(grid, 1, pictures), [text]).keep.view(pictures, -1)

    @torch.no_grad()
    def select(self, features: Tensor, grid: PictureGrid, questions: Sequence[Tensor] | None = None) -> Selected:
        """Select the tokens of pictures that have one grid, on the device of their vectors.

        Args:
            features: `[pictures, n, d]`, what the projector hands on.
            grid: of each picture.
            questions: for each picture the question of its prompt, `[m, d]`, one vector a token of text, in the
                language model's own embeddings; needed where tokens are judged by a question.

        Raises:
            RefusedError: if pictures have another number of tokens than the grid, or questions are missing.
            TokensieveError: what strategies raise.
        """
        pictures, n, _ = features.shape
        if n != grid.tokens:
            raise RefusedError(f"a picture has {n} visual tokens, and {grid} has {grid.tokens}")
        if self.reads_questions and (questions is None or len(questions) != pictures):
            found = 0 if questions is None else len(questions)
            raise RefusedError(
                f"recipe '{self.recipe.name}' judges tokens by a question, and there are {found} questions for "
                f"{pictures} pictures"
            )
        with settled_together():
            outcome = _decided(self.recipe, self.stage, features, _layout(grid, pictures, 1), questions)
        # Not nonzero: how many there are is known, and a device need not be asked.
        order = outcome.keep.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        ids = order[:, : self.count(grid)]
        folded = outcome.apply(features).to(features.dtype)
        return Selected(folded.gather(1, ids.unsqueeze(-1).expand(-1, -1, features.shape[-1])), ids)

    def select_each(
        self, features: Sequence[Tensor], grids: Sequence[PictureGrid], questions: Sequence[Tensor] | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Select the tokens of pictures `[n, d]` of any grids; those of one grid go together.

        Returns:
            For each picture the vectors that stay, `[kept, d]`, and their ids, int64 `[kept]`.

        Raises:
            TokensieveError: see `select`.
        """
        alike: dict[PictureGrid, list[int]] = {}
        for number, grid in enumerate(grids):
            alike.setdefault(grid, []).append(number)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for grid, numbers in alike.items():
            asked = None if questions is None else [questions[number] for number in numbers]
            selected = self.select(torch.stack([features[number] for number in numbers]), grid, asked)
            found |= zip(numbers, zip(selected.features, selected.ids, strict=True), strict=True)
        return [found[number] for number in range(len(features))]


@lru_cache(maxsize=64)
def _layout(grid: PictureGrid, prompts: int, pictures: int) -> TokenLayout:
    """Return the layout of prompts that all have as many pictures of one grid."""
    places = grid.places.repeat(pictures, 1)
    number = torch.arange(pictures).repeat_interleave(grid.tokens).unsqueeze(1)
    whole = torch.cat([number, places], dim=1)
    # Copies on devices are kept for calls to come.
    with torch.inference_mode(False):
        return TokenLayout.of(whole.expand(prompts, -1, -1).contiguous())


def _decided(
    recipe: Recipe, stage: Stage, features: Tensor, layout: TokenLayout, questions: Sequence[Tensor] | None
) -> StageOutcome:
    """Return what a stage decides about visual tokens `[prompts, n, d]`."""
    fresh: dict[Evidence, Any] = {Evidence.FEATURES: lambda: features}
    if stage.needs & TEXTUAL:
        text, mask = padded(list(questions or ()), features)
        fresh[Evidence.TEXT_FEATURES] = lambda: Text(text, mask)
        # As `prune` says it where no query encoder is given.
        fresh[Evidence.QUERY] = lambda: Query(features, text, mask, "text embeddings")
    pool = TokenPool(
        layout.every.on(features.device),
        layout,
        torch.zeros(len(features), dtype=torch.int64, device=features.device),
        {},
        counts=layout.counts,
    )
    return decide(recipe, stage, pool, pool.groups(stage), fresh)[1]
