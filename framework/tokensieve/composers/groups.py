"""per_group: every group of a row is judged on its own, and places are dealt between the groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tokensieve.algebra.budget import apportion
from tokensieve.algebra.chain import Chain
from tokensieve.algebra.doubts import refuse_if
from tokensieve.algebra.universe import Universe
from tokensieve.composers import settings as checks
from tokensieve.composers.expression import Composer, Expression, Reading
from tokensieve.composers.segments import segment_numbers
from tokensieve.errors import ScoreError
from tokensieve.evidence import GRID_COLUMNS, Evidence, Tokens

_BY = (*GRID_COLUMNS, "window", "segment")
_SHARES = ("equal", "proportional", "ranked")


class PerGroup(Composer):
    """Judges every group of a row on its own and deals places between the groups.

    Places are dealt by Sainte-Laguë, and what a saturated group cannot use goes to the others.

    Attributes:
        by: what makes a group: a column of the grid; `window`, squares of `size` rows and columns of one picture; or
            `segment`, a run of frames each of which is like the one before: the cosine of the sums of their tokens is
            `threshold` or more. Grids are numbered from the outside in, so tokens of one group agree on the image too,
            and on the tile, as far as these are outside of `by`.
        share: in which proportion places are dealt: `equal`; `proportional` to the groups' sizes; or `ranked`, by how
            the operand ranks the row as a whole, where the token at place p of n adds n - p to its group's weight.
        size: how many rows and columns a window has: 1 or more with `by=window`, and 0 otherwise.
        threshold: above 0 and at most 1 with `by=segment`, and 0 otherwise.
    """

    by: str = Field(default="frame", json_schema_extra={"enum": [*_BY]})
    share: str = Field(default="equal", json_schema_extra={"enum": [*_SHARES]})
    size: int = 0
    threshold: float = 0.0

    name = "per_group"
    examples = (
        {},
        {"by": "row", "share": "proportional"},
        {"by": "window", "size": 2},
        {"by": "column", "share": "ranked"},
        {"by": "segment", "threshold": 0.5},
    )
    arity = (1, 1)
    sized = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        for setting, value, known in (
            ("by", self.by, _BY),
            ("share", self.share, _SHARES),
        ):
            if value not in known:
                raise ValueError(f"per_group's {setting} is one of {', '.join(known)}, not '{value}'")
        if (self.by == "window") != (self.size > 0) or self.size < 0:
            raise ValueError(
                f"per_group takes a size of 1 or more by=window, such as size=6, and none otherwise; not {self.size!r}"
            )
        if self.size >= 2**31:
            raise ValueError(f"per_group's size is at most {2**31 - 1} rows and columns, not {self.size}")
        if (self.by == "segment") != (self.threshold > 0) or not 0 <= self.threshold <= 1:
            raise ValueError(
                "per_group takes a threshold above 0 and at most 1 by=segment, such as threshold=0.9, and none "
                f"otherwise; not {self.threshold!r}"
            )
        if self.share == "ranked" and not self.operands[0].is_nested:
            raise ValueError(
                f"share=ranked weighs groups by an order: {checks.no_order(getattr(self.operands[0], 'name', 'it'))}"
            )
        return self

    @property
    def needs(self) -> frozenset[Evidence]:
        """What the operand needs, the grid, and the features that tell segments apart."""
        own = {Evidence.GRID, Evidence.FEATURES} if self.by == "segment" else {Evidence.GRID}
        return super().needs | own

    def read(self, reading: Reading, depth: int) -> Chain:
        """Read the groups as rows of their own, then deal places to them."""
        groups = self._groups(reading, depth)
        inner = groups.within(reading).of(self.operands[0], depth)
        return groups.dealt(inner.ordered(self), reading.tokens.universe, depth, self)

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Ask every group for as many tokens as places are dealt to it."""
        universe = reading.tokens.universe
        groups = self._groups(reading, universe.n)
        seats = torch.tensor(groups.seats(k.tolist()), dtype=torch.int64, device=k.device)
        # All rows are dealt as many places as the one with most, and no group may run out of known tokens before.
        most = max([reading.depth, *k.tolist()])
        depth = max(groups.seats([most] * universe.rows), default=0)
        inner = groups.within(reading).settled(self.operands[0], seats, depth)
        return groups.dealt(inner.ordered(self), universe, universe.n, self)

    def written(self, name: Callable[[Expression], str]) -> str:
        """Return the formula; a size is there for windows only, and a threshold for segments."""
        settings = {key: getattr(self, key) for key in self.parameters()}
        said = [f"{key}={checks.write_value(value)}" for key, value in settings.items() if value]
        return f"{self.name}({', '.join([self.operands[0].written(name), *said])})"

    def _groups(self, reading: Reading, depth: int) -> _Groups:
        tokens = reading.tokens
        cells = tokens.grid
        if self.by == "window":
            window = cells[..., 3:].div(self.size, rounding_mode="floor")
            cells = torch.cat([cells[..., :3], window], dim=-1)
        elif self.by == "segment":
            cells = self._segments(tokens).unsqueeze(-1)
        else:
            column = GRID_COLUMNS.index(self.by)
            # A column of the grid crosses its rows, so image, tile and frame alone can be around it.
            cells = cells[..., [*range(min(column, 3)), column]]
        points: list[list[int]] | None = None
        if self.share == "ranked":
            level = reading.of(self.operands[0], tokens.universe.n).ordered(self).level
            points = (tokens.universe.counts.unsqueeze(1) - level).tolist()
        rows, turns = [], []
        for row, (numbers, valid) in enumerate(zip(cells.tolist(), tokens.valid.tolist(), strict=True)):
            members: dict[tuple[int, ...], list[int]] = {}
            for place in range(tokens.universe.n):
                if valid[place]:
                    members.setdefault(tuple(numbers[place]), []).append(place)
            groups = [members[number] for number in sorted(members)]
            capacity = [len(group) for group in groups]
            weights = [1] * len(groups) if self.share == "equal" else capacity
            if points is not None:
                weights = [sum(points[row][place] for place in group) for group in groups]
            rows.append(groups)
            turns.append([*islice(apportion(weights, capacity), depth)])
        return _Groups(rows, turns)

    def _segments(self, tokens: Tokens) -> Tensor:
        """Return the number of each token's segment in its row, int64 `[rows, n]`."""
        numbers = torch.zeros_like(tokens.ids)
        for row, n in enumerate(tokens.universe.sizes):
            if n:
                x, grid = tokens.features[row, :n].detach(), tokens.grid[row, :n]
                refuse_if(~x.isfinite().all(), lambda: ScoreError("per_group by=segment: the features are not finite"))
                numbers[row, :n] = segment_numbers(x, grid, self.threshold)
        return numbers


@dataclass(frozen=True)
class _Groups:
    """Groups of each row, as memory places in id order, and whose turn it is at each of the row's places."""

    rows: list[list[list[int]]]
    turns: list[list[int]]

    def within(self, reading: Reading) -> Reading:
        """Return a reading of every group as a row of its own."""
        device = reading.tokens.universe.device
        flat = [(row, places) for row, groups in enumerate(self.rows) for places in groups]
        width = max((len(places) for _, places in flat), default=0)
        padded = [places + [0] * (width - len(places)) for _, places in flat]
        places = torch.tensor(padded, dtype=torch.int64, device=device).reshape(len(flat), width)
        sizes = torch.tensor([len(p) for _, p in flat], dtype=torch.int64, device=device)
        rows = torch.tensor([row for row, _ in flat], dtype=torch.int64, device=device)
        valid = torch.arange(width, device=device) < sizes.unsqueeze(1)
        return reading.within(reading.tokens.take(places, valid, rows))

    def seats(self, sizes: list[int]) -> list[int]:
        """Return how many of the first `sizes` places of each row go to each of its groups, row by row."""
        counts = [Counter(turns[:size]) for turns, size in zip(self.turns, sizes, strict=True)]
        return [count[party] for count, row in zip(counts, self.rows, strict=True) for party in range(len(row))]

    def dealt(self, inner: Chain, universe: Universe, depth: int, key: Expression) -> Chain:
        """Order each row's tokens by dealing its places to its groups, whose own orders are `inner`."""
        deep = universe.n if inner.complete else inner.depth
        right = min(depth, universe.n)
        dealt: list[list[int]] = []
        queues = iter(inner.queue().tolist())
        for groups, turns in zip(self.rows, self.turns, strict=True):
            orders = [[group[i] for i in next(queues)[: len(group)]] for group in groups]
            taken = [0] * len(groups)
            dealt.append([])
            for turn, party in enumerate(turns[:right]):
                if taken[party] >= deep:
                    # The order of this group is not known any further, so all rows end here.
                    right = turn
                    break
                dealt[-1].append(orders[party][taken[party]])
                taken[party] += 1
        padded = [row[:right] + [-1] * (right - len(row)) for row in dealt]
        picks = torch.tensor(padded, dtype=torch.int64, device=universe.device).reshape(universe.rows, right)
        return Chain.from_picks(universe, picks, key, inner.notes)
