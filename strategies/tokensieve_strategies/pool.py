"""Pool: average pooling, the control for merging methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from tokensieve import Chain, Evidence, Merger, Reduction, Tokens
from tokensieve.algebra.budget import apportion
from tokensieve.evidence import NEWLINE
from tokensieve_strategies._maths.order import split_evenly, stack_orders

Grid = tuple[tuple[int, ...], ...]
Cell = list[int]


class Pool(Merger):
    """Averages neighbouring tokens in as many cells as the budget has places.

    A picture of h rows and w columns, n tokens, that gets k cells is cut into b bands of rows,
    b = sqrt(k h / w) rounded, at least 1 and at most h and k: its r-th row is in band
    floor(r b / h). The k cells are apportioned to the bands by their numbers of tokens (Sainte-Laguë, after
    one for each). A band with m tokens and c cells is read column by column, and its i-th token is in
    cell floor(i c / m). So 24 x 24 tokens in 64 cells are averages of 3 x 3, and any other number
    gives cells that are as square and as equal as the grid allows.

    Several pictures, tiles or frames get cells in the same way; where there are more of them
    than cells, neighbouring ones share a cell. A cell is the mean of its tokens, weighted by size, and
    stands in the place of the token nearest to its middle, the first of several. Another k has other
    cells, so the sets are not nested, and the method knows its budget.

    A control without a paper. A newline token is taken as the last of its row.
    """

    name = "pool"
    nested = False
    complexity = ("O(n log n)", "O(n)")
    known_failures: ClassVar = {"ties_by_id": "tokens that are alike are spread over cells, and each keeps its middle"}

    @property
    def needs(self) -> frozenset[Evidence]:
        """The grid, and the sizes of the tokens."""
        return frozenset({Evidence.GRID, Evidence.SIZES})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the token in the middle of each of `depth` cells."""
        orders = [
            torch.tensor([middle for middle, _ in _cut(grid, depth)], dtype=torch.int64) for grid in _grids(tokens)
        ]
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self)

    def assign(self, tokens: Tokens, keep: Tensor) -> Reduction:
        """Merge every cell into the token in its middle."""
        kept = torch.zeros_like(tokens.valid)
        owner = torch.zeros_like(tokens.ids)
        for row, (grid, k) in enumerate(zip(_grids(tokens), keep.tolist(), strict=True)):
            for middle, cell in _cut(grid, k):
                kept[row, middle] = True
                owner[row, cell] = middle
        return Reduction.merge(tokens.universe, kept, owner, tokens.sizes)


def _grids(tokens: Tokens) -> list[Grid]:
    rows = [tokens.grid[row, :n].tolist() for row, n in enumerate(tokens.universe.counts.tolist())]
    return [tuple(tuple(place) for place in row) for row in rows]


@lru_cache(maxsize=64)
def _cut(grid: Grid, k: int) -> list[tuple[int, Cell]]:
    """Return min(k, n) cells, each with its middle place; cached, because rows of a batch often have one grid."""
    return [(_middle(grid, cell), cell) for cell in _cells(grid, k)]


def _cells(grid: Grid, k: int) -> list[Cell]:
    """Return min(k, n) cells: lists of places that together hold every place once."""
    pictures: dict[tuple[int, ...], Cell] = {}
    for place, at in enumerate(grid):
        pictures.setdefault(tuple(at[:3]), []).append(place)
    several = [pictures[number] for number in sorted(pictures)]
    k = min(k, len(grid))
    if k < len(several):
        return [[place for picture in several[run] for place in picture] for run in split_evenly(len(several), k)]
    return [cell for own, c in zip(several, _share(k, several), strict=True) for cell in _bands(grid, own, c)]


def _bands(grid: Grid, picture: Cell, k: int) -> list[Cell]:
    """Return k cells of one image, band by band."""
    last = max(grid[place][4] for place in picture) + 1
    at = {place: (last if grid[place][4] == NEWLINE else grid[place][4], grid[place][3]) for place in picture}
    rows, columns = (sorted({cell[axis] for cell in at.values()}) for axis in (1, 0))
    number = min(len(rows), k, max(1, math.floor(math.sqrt(k * len(rows) / len(columns)) + 0.5)))
    band_of = {row: band for band, own in enumerate(split_evenly(len(rows), number)) for row in rows[own]}
    bands: list[Cell] = [[] for _ in range(number)]
    for place in sorted(picture, key=lambda place: at[place]):
        bands[band_of[at[place][1]]].append(place)
    return [band[cell] for band, c in zip(bands, _share(k, bands), strict=True) for cell in split_evenly(len(band), c)]


def _share(k: int, parts: Sequence[Cell]) -> list[int]:
    """Return how many of k cells each part gets: one, and more in proportion to its size."""
    weights = [Fraction(len(part)) for part in parts]
    assigned = [*range(len(parts)), *islice(apportion(weights, [len(part) - 1 for part in parts]), k - len(parts))]
    return [assigned.count(part) for part in range(len(parts))]


def _middle(grid: Grid, cell: Cell) -> int:
    """Return the place nearest to the mean of the cell's places on the grid, computed in integers."""
    sums = [sum(grid[place][axis] for place in cell) for axis in range(5)]
    distances = {
        place: sum((len(cell) * grid[place][axis] - total) ** 2 for axis, total in enumerate(sums)) for place in cell
    }
    return min(cell, key=lambda place: (distances[place], place))
