"""Neighbours of a token on the grid, its diagonals, and a token's predecessor in time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokensieve.evidence import GRID_COLUMNS, NEWLINE

_STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))


def neighbours(grid: Tensor, steps: Sequence[tuple[int, int]] = _STEPS) -> Tensor:
    """Return each token's neighbours in its own picture, -1 where there is none: left, right, above and below.

    Rows do not run on into the next: the last token of one is no neighbour of the first of the next.
    Newline tokens have no neighbours and are nobody's. Memory is O(n).

    Args:
        grid: int64 `[n, 5]`: image, tile, frame, row, column. Of several tokens in one cell the first is meant.
        steps: other neighbours than those four, by how many rows down and columns across they are.

    Returns:
        int64 `[n, steps]`, places.
    """
    n = len(grid)
    if not n:
        return grid.new_empty(0, len(steps))
    # With a margin on every side, a step never ends in another row.
    margin = max(max(abs(down), abs(across)) for down, across in steps)
    low = grid.amin(dim=0) - margin
    extent = (grid.amax(dim=0) + 1 + margin - low).tolist()
    strides = [1]
    for side in reversed(extent[1:]):
        strides.insert(0, strides[0] * side)
    code = ((grid - low) * torch.tensor(strides, device=grid.device)).sum(dim=1)
    real = grid[:, 4] != NEWLINE
    # No step ends at a newline token.
    cells, order = code.where(real, -1).sort(stable=True)
    found = []
    for down, across in steps:
        wanted = code + down * strides[3] + across * strides[4]
        at = torch.searchsorted(cells, wanted).clamp(max=n - 1)
        found.append(torch.where((cells[at] == wanted) & real, order[at], -1))
    return torch.stack(found, dim=1)


def diagonals(grid: Tensor) -> tuple[Tensor, ...]:
    """Return the tokens on each diagonal, by rising sum of row and column; those of all pictures together.

    The neighbours to the left of a token, above it, and above on the left lie on diagonals before its own.

    Args:
        grid: int64 `[n, 5]`: image, tile, frame, row, column.
    """
    _, number, sizes = (grid[:, 3] + grid[:, 4]).unique(return_inverse=True, return_counts=True)
    return tuple(number.argsort(stable=True).split_with_sizes(sizes.tolist()))


def predecessors(grid: Tensor, frames: int) -> Tensor:
    """Return the token before each one at its place of the picture, -1 where it is the first of its group of frames.

    Frame f is in group floor(f / frames). What is missing in between is passed over.

    Args:
        grid: int64 `[n, 5]`: image, tile, frame, row, column.
        frames: how many frames there are in a group.

    Returns:
        int64 `[n]`, places.
    """
    image, tile, frame, row, column = (grid[:, place] for place in range(len(GRID_COLUMNS)))
    group = frame.div(frames, rounding_mode="floor")
    cell = torch.stack([image, tile, group, row, column], dim=1).unique(dim=0, return_inverse=True)[1]
    order = frame.argsort(stable=True)
    order = order[cell[order].argsort(stable=True)]
    same = cell[order][1:] == cell[order][:-1]
    return torch.full_like(frame, -1).scatter(0, order[1:], torch.where(same, order[:-1], -1))
