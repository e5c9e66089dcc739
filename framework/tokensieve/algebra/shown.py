"""How chains and selections show themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tokensieve.algebra.markup import MOST_ROWS, bars, grid, table
from tokensieve.algebra.universe import Universe


class ShownChain:
    """A chain as text, and as grids in which a token is the paler the later it comes."""

    universe: Universe
    level: Tensor
    depth: int
    ranking: bool

    def __repr__(self) -> str:
        rows, n = self.level.shape
        kind = "one order" if self.ranking else "nested sets"
        right = "all levels" if self.depth >= n else f"levels below {self.depth}"
        return f"<Chain of {rows} x {n} tokens, {kind}, right in {right}>"

    def _repr_html_(self) -> str:
        rows = []
        for number in range(min(MOST_ROWS, len(self.level))):
            valid = self.universe.valid[number]
            by_id = dict(
                zip(self.universe.ids[number][valid].tolist(), self.level[number][valid].tolist(), strict=True)
            )
            levels = [min(by_id[token], self.depth) for token in sorted(by_id)]
            last = max([1, *levels])
            strengths = [1 - max(0, one) / (last + 1) for one in levels]
            rows.append([str(number), grid(strengths, f"levels of row {number}")])
        return table(repr(self), ["row", "earliest brightest"], rows, _left_out(len(self.level)))


class ShownSelection:
    """A selection as text, and as grids of what was taken."""

    mask: Tensor
    depth: Tensor
    shares: Mapping[Any, Tensor]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        taken = self.mask.sum(dim=1).tolist()
        return f"<Selection of {_few(taken)} of {self.mask.shape[1]} places, read to {_few(self.depth.tolist())}>"

    def _repr_html_(self) -> str:
        rows = []
        for number in range(min(MOST_ROWS, len(self.mask))):
            strengths = [float(one) for one in self.mask[number].tolist()]
            shares = {str(name): float(share[number]) for name, share in self.shares.items()}
            rows.append([str(number), grid(strengths, f"what was taken of row {number}"), bars(shares)])
        note = "; ".join(filter(None, [_left_out(len(self.mask)), *self.notes]))
        return table(repr(self), ["row", "taken", "own best"], rows, note)


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:MOST_ROWS]))
    return shown + (", ..." if len(numbers) > MOST_ROWS else "")


def _left_out(rows: int) -> str:
    return f"{rows - MOST_ROWS} more rows" if rows > MOST_ROWS else ""
