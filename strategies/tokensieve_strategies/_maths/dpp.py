"""Greedy MAP of a determinantal point process (DPP): tokens of high quality that are least similar to each other.

The kernel is L = diag(q) S diag(q) with the cosine S of the features and a quality q. Each step takes
the token with the largest gain, which is what remains of its diagonal entry of L once the tokens
taken before explain all they can. Incremental Cholesky after Chen et al. 2018,
https://arxiv.org/abs/1709.05135.

Large groups begin in float32 (`dpp_float32.py`), which is right as long as a pick keeps a good part of
its diagonal entry. From the first pick that does not, and in small groups from the start, the loop
here goes on in float64: what rounding leaves of a dependent token is about 1e-15 of the diagonal
there, and a stop at 1e-10 tells it from a token that is merely similar. In float32 both are near
1e-6, and no stop would be safe. It runs on S and weighs by q² outside: diag(q) scales the Cholesky
factor's rows and nothing else, so a small quality costs no precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokensieve_strategies._maths.dpp_float32 import STOP, Quick
from tokensieve_strategies._maths.vectors import WHOLE, in_float32, normalize

_STEPS = 13
"""How many times faster a matrix-matrix product is than matrix-vector products of the same FLOPs, about."""
_WHOLE = 2**26
"""The largest number of similarities of one row that is stored if they could be computed on demand: 512 MB."""
_ASKED = 64
"""After so many picks the host asks whether there is any gain left."""
_SLACK = 1e-12
"""Gains with a smaller difference count as equal; far below STOP, far above rounding."""


@dataclass(frozen=True, eq=False)
class Picks:
    """The picks of greedy MAP.

    Attributes:
        places: int64 `[rows, depth]`, in the order of picking, -1 once a row's tokens are used up.
        gains: float64 `[rows, depth]`, the gain of each pick, 0 from the exhausted rank on.
        rank: int64 `[rows]`, how many places were filled by gain; the others by quality.
        facts: of each row on the host: the rank, how many places were asked for, and what `along` said.
        picked: the places on the host, if they were fetched.
    """

    places: Tensor
    gains: Tensor
    rank: Tensor
    facts: Sequence[tuple[int, int, bool]] = ()
    picked: Sequence[Sequence[int]] | None = None


class GreedyMap:
    """Greedy MAP that can go on where it stopped.

    Where the rank is exhausted, the rest follows by falling quality. The lowest place wins ties. Memory
    is O(n depth) a row beside the similarities, which are stored where they fit (see `dpp_float32.py`).
    The host waits for the device once a call of `to`, at its end; in float64 also once in 64 picks.

    Args:
        features: `[rows, n, d]`.
        quality: `[rows, n]`, not negative.
        valid: bool `[rows, n]`, which places hold a token.
        full: whether all do, where that is known.
        along: bool `[rows]`, to be fetched along with the picks; false by default.
    """

    def __init__(
        self, features: Tensor, quality: Tensor, valid: Tensor, *, full: bool = False, along: Tensor | None = None
    ) -> None:
        self._along = torch.zeros(len(valid), dtype=torch.bool, device=valid.device) if along is None else along
        self._features, self._quality, self._valid = features.detach(), quality.detach(), valid
        n, d = features.shape[1:]
        self._whole = None if in_float32(n, d, valid.device) else _Exact(self._features, self._quality, valid)
        self._quick: list[tuple[int, Quick]] = []
        self._exact: list[tuple[Tensor, _Exact]] = []
        self._slow = set[int]()
        if self._whole is None:
            # As many rows at once as their similarities fit.
            some = max(1, WHOLE // (n * n))
            parts = zip(*(part.split(some) for part in (self._features, self._quality, valid)), strict=True)
            self._quick = [(number * some, Quick(*part, full=full)) for number, part in enumerate(parts)]

    def to(self, depth: int) -> Picks:
        """Return the first `depth` picks of every row, at most n; never fewer than before."""
        if self._whole is not None:
            return self._told(self._whole.to(depth))
        if len(self._slow) == len(self._valid):
            # No row has a use for float32 any more.
            return self._told(self._mended(*self._blank(depth), depth))
        picked: list[list[int]] = []
        sound: list[int] = []
        along: list[bool] = []
        for first, quick in self._quick:
            some, right, flags = quick.to(depth, self._along[first : first + quick.rows])
            along += flags
            if len(self._quick) > 1:
                quick.release()
            picked += some
            sound += right
        failed = {row for row, (own, right) in enumerate(zip(picked, sound, strict=True)) if right < len(own)}
        if new := sorted(failed - self._slow):
            self._leave(new, min(sound[row] for row in new))
        picks = self._mended(*self._found(depth), depth)
        if self._slow:
            return self._told(picks)
        facts = [(len(known), len(known), flag) for known, flag in zip(picked, along, strict=True)]
        return replace(picks, facts=facts, picked=picked)

    def _blank(self, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        rows, device = len(self._valid), self._valid.device
        places = torch.zeros(rows, depth, dtype=torch.int64, device=device)
        return places, torch.zeros(rows, depth, dtype=torch.float64, device=device), places.new_zeros(rows)

    def _mended(self, places: Tensor, gains: Tensor, rank: Tensor, depth: int) -> Picks:
        """Return the picks, with those of rows in float64 in their place."""
        for rows, exact in self._exact:
            part = exact.to(depth)
            for whole, own in ((places, part.places), (gains, part.gains), (rank, part.rank)):
                whole.index_copy_(0, rows, own)
        return Picks(places, gains, rank)

    def _found(self, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        parts = [quick.found(depth) for _, quick in self._quick]
        places, gains, rank = (torch.cat([part[number] for part in parts]) for number in range(3))
        return places, gains, rank

    def _told(self, picks: Picks) -> Picks:
        """Return the picks with what the host wants to know of them."""
        asked = self._valid.sum(dim=1).clamp(max=picks.places.shape[1])
        facts = torch.stack([picks.rank, asked, self._along], dim=1).tolist()
        return replace(picks, facts=[(rank, places, bool(flag)) for rank, places, flag in facts])

    def _leave(self, rows: Sequence[int], right: int) -> None:
        """Go on with some rows in float64, after the picks that are right."""
        self._slow.update(rows)
        at = torch.tensor(rows, device=self._valid.device)
        prefix = self._found(right)[0].index_select(0, at)
        features, quality, valid = (x.index_select(0, at) for x in (self._features, self._quality, self._valid))
        self._exact.append((at, _Exact(features, quality, valid, prefix)))


def greedy_map(features: Tensor, quality: Tensor, valid: Tensor, depth: int) -> Picks:
    """Return `depth` tokens of every row; see `GreedyMap`."""
    return GreedyMap(features, quality, valid).to(depth)


class _Exact:
    """The loop in float64.

    Args:
        features: `[rows, n, d]`.
        quality: `[rows, n]`, not negative.
        valid: bool `[rows, n]`, which places hold a token.
        prefix: int64 `[rows, some]`, picks to go on from, independent of each other; none by default.
    """

    def __init__(self, features: Tensor, quality: Tensor, valid: Tensor, prefix: Tensor | None = None) -> None:
        rows, n = valid.shape
        self._each = torch.arange(rows, device=valid.device)
        self._quality = quality
        self._clean = features.masked_fill(~valid.unsqueeze(-1), 0)
        self._weight = torch.where(valid, quality.double().square(), 0.0)
        # The diagonal of S: exactly one, and nothing for a zero vector.
        self._residual = (features != 0).any(dim=-1).double()
        self._least = STOP * (self._weight * self._residual).amax(dim=1) if n else self._weight.new_zeros(rows)
        self._factor = self._weight.new_zeros(rows, 0, n)
        self._places = torch.zeros(rows, 0, dtype=torch.int64, device=valid.device)
        self._gains = self._weight.new_zeros(rows, 0)
        self._left = valid.clone()
        self._going = valid.any(dim=1)
        self._similar: Callable[[Tensor], Tensor] | None = None
        self._stored = False
        if prefix is not None and prefix.shape[1]:
            self._begin(prefix)

    def to(self, depth: int) -> Picks:
        done = self._places.shape[1]
        if depth > done:
            self._grow(depth)
            self._find_similarities(depth)
            for turn in range(done, depth):
                # Once every rank is exhausted, nothing changes any more. To ask now and then costs less than to go on.
                if turn % _ASKED == 0 and turn > done and not bool(self._going.any()):
                    break
                self._step(turn)
        places, gains = self._places[:, :depth], self._gains[:, :depth]
        rank = (places >= 0).sum(dim=1)
        left = self._left.scatter(1, self._places[:, depth:].clamp(min=0), self._places[:, depth:] >= 0)
        return Picks(_filled(places, rank, left, self._quality), gains, rank)

    def _grow(self, depth: int) -> None:
        more = depth - self._places.shape[1]
        self._places = torch.nn.functional.pad(self._places, (0, more), value=-1)
        self._gains = torch.nn.functional.pad(self._gains, (0, more))
        self._factor = torch.nn.functional.pad(self._factor, (0, 0, 0, more))

    def _begin(self, prefix: Tensor) -> None:
        """Factorise the picks of a prefix at once."""
        x = normalize(self._clean)
        across = x.gather(1, prefix.unsqueeze(-1).expand(-1, -1, x.shape[2])) @ x.mT
        within = across.gather(2, prefix.unsqueeze(1).expand(-1, prefix.shape[1], -1))
        lower = torch.linalg.cholesky_ex(within).L
        self._factor = torch.linalg.solve_triangular(lower, across, upper=False)
        self._residual = (self._residual - self._factor.square().sum(dim=1)).clamp(min=0)
        self._places = prefix
        self._gains = self._weight.gather(1, prefix) * lower.diagonal(dim1=1, dim2=2).square()
        self._left = self._left.scatter(1, prefix, False)

    def _step(self, turn: int) -> None:
        assert self._similar is not None  # noqa: S101 - set before
        each, weight, residual, left = self._each, self._weight, self._residual, self._left
        best = torch.where(left, weight * residual, -1.0).amax(dim=1)
        going = self._going = self._going & (best > self._least)
        tied = left & (weight * (residual + _SLACK) >= (best * (1 - _SLACK)).unsqueeze(1))
        # A token that has no gain of its own is not tied with one that has, however small.
        tied &= weight * residual > self._least.unsqueeze(1)
        pick = tied.to(torch.uint8).argmax(dim=1)
        self._places[:, turn] = torch.where(going, pick, -1)
        self._gains[:, turn] = torch.where(going, best, 0.0)
        left[each, pick] &= ~going
        explained = self._factor[each, :turn, pick].unsqueeze(1) @ self._factor[:, :turn]
        root = residual[each, pick].clamp(min=STOP**2).sqrt().unsqueeze(1)
        found = torch.where(going.unsqueeze(1), (self._similar(pick) - explained.squeeze(1)) / root, 0.0)
        self._factor[:, turn] = found
        self._residual = (residual - found.square()).clamp(min=0)

    def _find_similarities(self, depth: int) -> None:
        """Keep a function that maps one place of each row, `[rows]`, to its similarities to all tokens, `[rows, n]`.

        Kept as a matrix where that takes less memory than the vectors, or less time at this depth; else
        computed on demand. What decides is one row, so a row is treated in a batch as it is alone.
        """
        rows, n, d = self._clean.shape
        stored = not (n > d and (n > _STEPS * depth or n * n > _WHOLE))
        if self._similar is not None and stored <= self._stored:
            return
        self._stored = stored
        each = self._each
        if not stored:
            x = normalize(self._clean)
            self._similar = lambda place: (x @ x[each, place].unsqueeze(-1)).squeeze(-1)
            return
        whole = self._weight.new_empty(rows, n, n)
        for row in range(rows):
            x = normalize(self._clean[row])
            torch.mm(x, x.T, out=whole[row])
        self._similar = lambda place: whole[each, place]


def _filled(places: Tensor, rank: Tensor, left: Tensor, quality: Tensor) -> Tensor:
    """Return `places` with the tokens `left` from `rank` on, by falling quality."""
    if not places.numel():
        return places
    by_quality = quality.float().argsort(dim=1, descending=True, stable=True)
    gone = (~left).to(torch.uint8).gather(1, by_quality)
    queue = by_quality.gather(1, gone.argsort(dim=1, stable=True))
    queue = queue.where(torch.arange(queue.shape[1], device=queue.device) < left.sum(dim=1, keepdim=True), -1)
    turn = torch.arange(places.shape[1], device=places.device) - rank.unsqueeze(1)
    return torch.where(turn < 0, places, queue.gather(1, turn.clamp(min=0)))
