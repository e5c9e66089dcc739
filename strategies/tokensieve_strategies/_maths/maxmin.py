"""Greedy max-min diversity: each pick is the token farthest from all earlier picks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tokensieve_strategies._maths.one_launch import kernels_for
from tokensieve_strategies._maths.vectors import (
    CLOSE,
    WHOLE,
    in_float32,
    no_autocast,
    normalize,
    norms_float32,
    round_for_ties,
)

Distance = Callable[[Tensor], Tensor]
"""Maps places `[rows, b]` to their distances to all tokens, `[rows, b, n]`."""
_FAR = 2.0**-4
"""A distance of 1 - cosine is computed in float32 down to here, where `CLOSE` is 1.5e-5 of it."""
_BLOCK = 2**22
"""The number of similarities that are looked at at once for the most isolated token."""


def max_min(distance: Distance, valid: Tensor, first: Tensor, depth: int) -> Tensor:
    """Return `depth` picks of every row, the lowest place on ties.

    The running minimum makes a step O(n), and every prefix of the picks is the answer for its size.
    The host never waits for the device.

    Args:
        distance: any real dtype; equal distances must be equal to the bit (see `round_for_ties`).
        valid: bool `[rows, n]`, which places hold a token.
        first: int64 `[rows]`, where each row begins; ignored where a row has no token.
        depth: how many to pick, at most n.

    Returns:
        int64 `[rows, depth]`, -1 once a row's tokens are used up.
    """
    places = first.new_zeros(valid.shape[0], 0)
    return MaxMin(distance, valid, first, places).to(depth)


class MaxMin:
    """Greedy max-min that can go on where it stopped; see `max_min`.

    Args:
        distance: maps places to their distances.
        valid: bool `[rows, n]`.
        first: int64 `[rows]`, where each row begins.
        prefix: int64 `[rows, some]`, picks to go on from; `first` counts only where there are none.
    """

    def __init__(self, distance: Distance, valid: Tensor, first: Tensor, prefix: Tensor) -> None:
        self._distance, self._valid, self._pick = distance, valid, first
        self._places = prefix
        self._left = valid.clone()
        self._nearest = torch.full(valid.shape, torch.inf, dtype=torch.float64, device=valid.device)
        if prefix.shape[1]:
            self._left.scatter_(1, prefix, False)
            for some in prefix.split(max(1, _BLOCK // max(1, valid.shape[1])), dim=1):
                self._nearest = torch.minimum(self._nearest, distance(some).double().amin(dim=1))
            self._choose()

    def to(self, depth: int) -> Tensor:
        """Return the first `depth` picks of every row, int64 `[rows, depth]`, -1 once a row's tokens are used up."""
        done = self._places.shape[1]
        if depth > done:
            self._places = torch.nn.functional.pad(self._places, (0, depth - done), value=-1)
        for turn in range(done, depth):
            self._places[:, turn] = torch.where(self._left.any(dim=1), self._pick, -1)
            self._left.scatter_(1, self._pick.unsqueeze(1), False)
            reach = self._distance(self._pick.unsqueeze(1)).squeeze(1).double()
            self._nearest = torch.minimum(self._nearest, reach)
            self._choose()
        return self._places[:, :depth]

    def _choose(self) -> None:
        self._pick = self._nearest.masked_fill(~self._left, -torch.inf).argmax(dim=1)


def most_isolated(distance: Distance, valid: Tensor) -> Tensor:
    """Return the token of every row whose nearest other token is farthest, int64 `[rows]`.

    Streamed in blocks of tokens. The lowest place wins ties.
    """
    rows, n = valid.shape
    own = torch.arange(n, device=valid.device)
    nearest = torch.full((rows, n), -torch.inf, dtype=torch.float64, device=valid.device)
    for start in range(0, n, block := max(1, 2**20 // max(1, n))):
        some = own[start : start + block]
        others = valid.unsqueeze(1) & (some.unsqueeze(1) != own)
        reach = distance(some.expand(rows, -1)).double().masked_fill(~others, torch.inf)
        nearest[:, start : start + block] = reach.amin(dim=2)
    return nearest.masked_fill(~valid, -torch.inf).argmax(dim=1)


class CosineMaxMin:
    """Greedy max-min by the distance 1 - cosine, from the most isolated token on; it can go on where it stopped.

    Large groups begin in float32, with a row of similarities and six operators a step. A pick is right
    to float32 while it is at least `_FAR` from all picks before. From the first that is not, and in
    small groups from the start, the loop goes on in float64, where copies are told from neighbours.
    The host waits once a call of `to` if the group is large, else never.

    Args:
        features: `[rows, n, d]`, n positive.
        valid: bool `[rows, n]`, which places hold a token.
        full: whether all do.
    """

    def __init__(self, features: Tensor, valid: Tensor, *, full: bool) -> None:
        self._features, self._valid = features.detach(), valid
        n, d = features.shape[1:]
        self._whole = None if in_float32(n, d, valid.device) else _exact(self._features, valid)
        self._quick = [] if self._whole else self._parts(full=full)
        self._exact: list[tuple[Tensor, MaxMin]] = []
        self._slow = set[int]()

    def _parts(self, *, full: bool) -> list[_Quick]:
        some = max(1, WHOLE // self._features.shape[1] ** 2)
        parts = zip(self._features.split(some), self._valid.split(some), strict=True)
        return [_Quick(*part, full=full) for part in parts]

    def to(self, depth: int) -> tuple[Tensor, Sequence[Sequence[int]] | None]:
        """Return the first `depth` picks, int64 `[rows, depth]`, -1 once a row's tokens are used up; and on the host.

        The host has none if it had no need to ask for them.
        """
        if self._whole is not None:
            return self._whole.to(depth), None
        told = [quick.to(depth) for quick in self._quick]
        picked = [row for rows, _ in told for row in rows]
        sound = [right for _, rights in told for right in rights]
        failed = {row for row, (own, right) in enumerate(zip(picked, sound, strict=True)) if right < len(own)}
        if new := sorted(failed - self._slow):
            self._leave(new, min(sound[row] for row in new))
        places = self._found(depth)
        for rows, exact in self._exact:
            places.index_copy_(0, rows, exact.to(depth))
        return places, None if self._slow else picked

    def _found(self, depth: int) -> Tensor:
        return torch.cat([quick.found(depth) for quick in self._quick])

    def _leave(self, rows: Sequence[int], right: int) -> None:
        """Go on with some rows in float64, after the picks that are right."""
        self._slow.update(rows)
        at = torch.tensor(rows, device=self._valid.device)
        prefix = self._found(right).index_select(0, at)
        exact = _exact(self._features.index_select(0, at), self._valid.index_select(0, at), prefix)
        self._exact.append((at, exact))


def _exact(features: Tensor, valid: Tensor, prefix: Tensor | None = None) -> MaxMin:
    """Return the loop in float64."""
    x = normalize(features.masked_fill(~valid.unsqueeze(-1), 0))
    # The whole distance matrix if it is no larger than the features, else single rows on demand.
    whole = round_for_ties(1 - x @ x.mT) if x.shape[1] <= x.shape[2] and prefix is None else None

    def distance(places: Tensor) -> Tensor:
        source = x if whole is None else whole
        rows = source.gather(1, places.unsqueeze(-1).expand(-1, -1, source.shape[2]))
        return round_for_ties(1 - rows @ x.mT) if whole is None else rows

    if prefix is None or not prefix.shape[1]:
        prefix = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        first = most_isolated(distance, valid)
    else:
        first = prefix[:, 0]
    return MaxMin(distance, valid, first, prefix)


class _Quick:
    """Max-min by cosines in float32 that can go on where it stopped."""

    def __init__(self, features: Tensor, valid: Tensor, *, full: bool) -> None:
        rows, n, _ = features.shape
        self._valid, self._counts, self._full = valid, valid.sum(dim=1), full
        x = (features if full else features.masked_fill(~valid.unsqueeze(-1), 0)).float()
        norm, fine = norms_float32(x)
        self._fine = (fine | ~valid).all(dim=1)
        self._x = x * norm.reciprocal().nan_to_num(0, 0, 0).unsqueeze(-1)
        self._offset = torch.arange(rows, device=valid.device) * n
        self._kernel: Tensor | None = None
        self._launch = kernels_for(n, x.device)
        self._done = 0
        self._places = torch.zeros(0, rows, dtype=torch.int64, device=valid.device)
        self._pivots = x.new_zeros(0, rows, 1)
        # The largest similarity to a pick: first to any other token, so that the first pick is a step like all others.
        with no_autocast(x.device):
            self._closest = self._to_others()

    def _to_others(self) -> Tensor:
        """Return the largest similarity of each token to another, `[rows, n]`; 3 at places without a token."""
        rows, n, _ = self._x.shape
        if n * n <= WHOLE:
            product = torch.mm(self._x[0], self._x[0].T).unsqueeze(0) if rows == 1 else self._x @ self._x.mT
            self._kernel = product.view(rows * n, n)
            product.diagonal(dim1=1, dim2=2).fill_(-2)
            found = self._largest(product)
            product.diagonal(dim1=1, dim2=2).fill_(1)
            return found
        height = max(1, _BLOCK // n)
        parts = []
        for start in range(0, n, height):
            product = self._x[:, start : start + height] @ self._x.mT
            product[:, :, start : start + height].diagonal(dim1=1, dim2=2).fill_(-2)
            parts.append(self._largest(product, slice(start, start + height)))
        return torch.cat(parts, dim=1)

    def _largest(self, product: Tensor, places: slice = slice(None)) -> Tensor:
        if not self._full:
            product = product.masked_fill(~self._valid.unsqueeze(1), -2)
        return product.amax(dim=2).masked_fill(~self._valid[:, places], 3)

    def to(self, depth: int) -> tuple[list[list[int]], list[int]]:
        """Go on to `depth` picks, and return them and how many of the first ones are right, by row."""
        if depth > self._done:
            pad = torch.nn.functional.pad
            self._places = pad(self._places, (0, 0, 0, depth - self._done))
            self._pivots = pad(self._pivots, (0, 0, 0, 0, 0, depth - self._done))
            with no_autocast(self._x.device):
                self._pick(range(self._done, depth))
            self._done = depth
        own = self._places[:depth]
        right = ((1 - self._pivots[:depth, :, 0] > _FAR) & self._fine).cumprod(dim=0).sum(dim=0)
        told = torch.stack([self._counts.clamp(max=depth), right])
        facts = torch.cat([told, own]).T.tolist()
        return [row[2 : 2 + row[0]] for row in facts], [row[1] for row in facts]

    def found(self, depth: int) -> Tensor:
        """Return the picks found before, int64 `[rows, depth]`, -1 where there is none."""
        has = torch.arange(depth, device=self._places.device) < self._counts.unsqueeze(1)
        return self._places[:depth].T.where(has, -1)

    def _pick(self, turns: range) -> None:
        rows, _, d = self._x.shape
        closest = self._closest
        if self._launch is not None and self._kernel is not None:
            self._launch.max_min(self._kernel, closest, self._places, self._pivots, turns, CLOSE)
            return
        tied = torch.empty(closest.shape, dtype=torch.uint8, device=closest.device)
        bound, row = closest.new_empty(rows, 1), torch.empty_like(closest)
        slots = zip(self._places[turns.start :].unbind(), self._pivots[turns.start :].unbind(), turns, strict=True)
        for place, pivot, turn in slots:
            torch.amin(closest, 1, True, out=pivot)
            torch.add(pivot, CLOSE, out=bound)
            torch.le(closest, bound, out=tied)
            torch.argmax(tied, 1, out=place)
            own = place if rows == 1 else place + self._offset
            if self._kernel is not None:
                torch.index_select(self._kernel, 0, own, out=row)
            elif rows == 1:
                torch.mm(self._x[0].index_select(0, place), self._x[0].T, out=row)
            else:
                picked = self._x.view(-1, d).index_select(0, own).unsqueeze(1)
                row = (picked @ self._x.mT).squeeze(1)
            if turn:
                torch.maximum(closest, row, out=closest)
            else:
                # From here on, similarity to picks alone counts.
                closest = self._closest = torch.where(self._valid, row, 3.0)
