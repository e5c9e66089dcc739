"""Moving values between places of a sequence and ids of visual tokens.

A sequence has text and visual tokens, padded to one length; `ids` `[rows, n]` says which visual
token stands where, -1 for everything else. By id, a batch is `[rows, tokens, ...]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokensieve.errors import RefusedError


def interleaved(found: Sequence[Tensor], order: NDArray[np.int8]) -> Tensor:
    """Return values of visual tokens `[tokens, c]` in prompt order from those of each modality.

    Args:
        found: `[tokens of it, c]` by modality.
        order: int8 `[tokens]`, the modality of every token.
    """
    if len(found) == 1:
        return found[0]
    # The token of each modality that stands at a turn, counted through all modalities.
    turn = np.argsort(np.argsort(order, kind="stable"), kind="stable")
    joined = torch.cat([values.to(found[0]) for values in found])
    return joined.index_select(0, torch.from_numpy(turn).to(joined.device))


def of_id(x: Tensor, ids: Tensor) -> Tensor:
    """Return values of tokens `[rows, tokens, ...]` at their places `[rows, n, ...]`; zero at text."""
    if not x.shape[1]:
        return x.new_zeros(*ids.shape, *x.shape[2:])
    rows = torch.arange(ids.shape[0], device=ids.device).unsqueeze(1)
    found = x[rows, ids.clamp(min=0)]
    visual = (ids >= 0).reshape(*ids.shape, *([1] * (x.ndim - 2)))
    return torch.where(visual, found, torch.zeros_like(found))


def from_sequence(x: Tensor, ids: Tensor, width: int) -> Tensor:
    """Return values of places `[rows, n, d]` by token id, `[rows, width, d]`; zero where a token was dropped."""
    ids = ids.to(x.device)
    out = x.new_zeros(x.shape[0], width + 1, x.shape[2])
    index = torch.where(ids >= 0, ids, width).unsqueeze(-1).expand_as(x)
    return out.scatter(1, index, x)[:, :width]


def put_back(whole: Tensor, part: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Write `part` `[rows, m, d]` into `whole` `[rows, n, d]` at `index`, where it is real."""
    n = whole.shape[1]
    at = torch.where(mask, index, n).to(whole.device).unsqueeze(-1).expand_as(part)
    longer = torch.cat([whole, whole[:, :1]], dim=1)
    return longer.scatter(1, at, part)[:, :n]


def compact_positions(positions: Tensor, mask: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Renumber positions without gaps from each row's first.

    Args:
        positions: int64 `[..., rows or 1, n]`.
        mask: bool `[rows, n]`, which places are real.
        whole: bool `[rows]`, the rows that lost nothing and keep their positions.

    Returns:
        The positions `[..., rows, n]`, and by how much each row's last one moved, `[..., rows]`.
    """
    rows = mask.shape[0]
    positions = positions.expand(*positions.shape[:-2], rows, positions.shape[-1])
    turn = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    first_place = mask.to(torch.uint8).argmax(dim=1, keepdim=True)
    first = positions.gather(-1, first_place.expand(*positions.shape[:-1], 1))
    compact = torch.where(mask & ~whole.unsqueeze(1), first + turn, positions)
    last_place = mask.shape[1] - 1 - mask.flip(1).to(torch.uint8).argmax(dim=1, keepdim=True)
    last = last_place.expand(*positions.shape[:-1], 1)
    moved = positions.gather(-1, last) - compact.gather(-1, last)
    return compact, moved.squeeze(-1)


def mask_out(mask: Tensor, gone: Tensor) -> Tensor:
    """Mask the places whose tokens were dropped."""
    if mask.dtype == torch.bool:
        return mask & ~gone
    return mask.masked_fill(gone, torch.finfo(mask.dtype).min)


def gather_mask(mask: Tensor, index: Tensor, filler: Tensor) -> Tensor:
    """Return the mask `[rows, heads or 1, m, m]` of some places of a sequence.

    Args:
        mask: `[rows or 1, heads or 1, n, at least n]`, bool or added to scores.
        index: int64 `[rows, m]`, the places.
        filler: bool `[rows, m]`, which of them stand on a token that left. Nobody sees it, and it sees itself, so that
            no row of attention is empty. Padding sees what it saw.
    """
    rows, length = index.shape
    lines = index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1])
    columns = index[:, None, None, :].expand(-1, mask.shape[1], length, -1)
    gathered = mask.expand(rows, *mask.shape[1:]).gather(2, lines).gather(3, columns)
    gathered = mask_out(gathered, filler[:, None, None, :])
    own = torch.eye(length, dtype=torch.bool, device=mask.device) & filler[:, None, :, None]
    return gathered | own if gathered.dtype == torch.bool else gathered.masked_fill(own, 0.0)


def assign_grid(
    layouts: Sequence[Sequence[Tensor]], kinds: NDArray[np.int8], tiled: bool
) -> tuple[NDArray[np.int64], list[list[int]]]:
    """Assign pictures to prompts, in the order of both.

    Args:
        layouts: by modality, the layout `[tokens, 4]` of every picture.
        kinds: `[rows, n]`, the modality of the visual token at each place, or -1.
        tiled: whether pictures that stand side by side are tiles of one image.

    Returns:
        The grid `[rows, most tokens, 5]`; and by modality, the prompt that each picture went to.
    """
    grids = [[layout.cpu().numpy() for layout in own] for own in layouts]
    out = np.zeros((len(kinds), int((kinds >= 0).sum(axis=1).max(initial=0)), 5), dtype=np.int64)
    queues = [iter(own) for own in grids]
    assigned: list[list[int]] = [[] for _ in grids]
    for row, kind in enumerate(kinds):
        own = np.flatnonzero(kind >= 0)
        pictures = []
        for modality, queue in enumerate(queues):
            places, begin = np.flatnonzero(kind == modality), 0
            while begin < len(places):
                layout = next(queue, None)
                if layout is None or begin + len(layout) > len(places):
                    raise RefusedError(
                        f"prompt {row} has {len(places)} placeholders of a kind, which is no whole number of images; "
                        "build prompts with the model's own processor"
                    )
                at = places[begin : begin + len(layout)]
                pictures.append((int(at[0]), int(at[-1]), modality, at, layout))
                assigned[modality].append(row)
                begin += len(layout)
        image, tile, beside = -1, 0, None
        for first, end, modality, at, layout in sorted(pictures, key=lambda picture: picture[0]):
            image, tile = (image, tile + 1) if tiled and beside == (modality, first) else (image + 1, 0)
            turn = np.searchsorted(own, at)
            out[row, turn, 0] = image
            out[row, turn, 1:] = layout
            if tiled:
                out[row, turn, 1] = tile
            beside = (modality, end + 1)
    return out, assigned


def padded(rows: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Pad vectors `[m, d]` of each row to `[rows, most, d]`, and give their mask."""
    width = max((len(row) for row in rows), default=0)
    dim = rows[0].shape[-1] if rows else like.shape[-1]
    out = torch.zeros(len(rows), width, dim, dtype=like.dtype, device=like.device)
    mask = torch.zeros(len(rows), width, dtype=torch.bool, device=like.device)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row.to(out)
        mask[i, : len(row)] = True
    return out, mask
