"""The loop of greedy MAP in float32, as long as float32 can tell tokens apart.

It works on L itself, which is symmetric: with the rows u of unexplained similarities of the picks and
their gains g, u_t = L_j - sum over earlier s of (u_sj / g_s) u_s and what remains of the diagonal is
lessened by u_t² / g_t. That is the incremental Cholesky without roots. A step is ten operators on what
exists already, and none of them asks the host.

A pick is right to float32 as long as its gain is at least `CLEAR` of its diagonal entry: rounding
errors, about 1e-7 of the diagonal, are then less than 1e-5 of the gain. Gains closer than that are
ties, and the lowest place wins them. What comes from the first pick with less is not used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve_strategies._maths.one_launch import kernels_for
from tokensieve_strategies._maths.vectors import CLEAR, CLOSE, WHOLE, no_autocast, norms_float32

STOP = 1e-10
"""A gain up to this fraction of the largest diagonal entry counts as zero: the rank is exhausted."""
_STEPS = 13
"""How many times faster a matrix-matrix product is than matrix-vector products of the same FLOPs, about."""
_BLOCK = 32
"""Rows of the factor that are added to the product at once: the product reads so many rows of zeros at most."""
_NEAR = 1 - 8 * CLOSE
"""Gains of at least this fraction of the largest are ties."""


class Quick:
    """Greedy MAP in float32 that can go on where it stopped.

    Args:
        features: `[rows, n, d]`.
        quality: `[rows, n]`, not negative.
        valid: bool `[rows, n]`, which places hold a token.
        full: whether all do.
    """

    def __init__(self, features: Tensor, quality: Tensor, valid: Tensor, *, full: bool) -> None:
        rows, n, _ = features.shape
        self.rows = rows
        x = (features if full else features.masked_fill(~valid.unsqueeze(-1), 0)).float()
        norm, fine = norms_float32(x)
        self._counts = valid.sum(dim=1)
        # A common factor changes no pick.
        self._top = torch.where(valid, quality, 0).amax(dim=1, keepdim=True)
        q = torch.where(valid, quality / self._top, 0).float()
        self._x = x * (q / norm).nan_to_num(0, 0, 0).unsqueeze(-1)
        self._fine = (fine | ~valid).all(dim=1)
        self._diagonal = q.square()
        self._gain = self._diagonal.clone()
        self._offset = torch.arange(rows, device=valid.device) * n
        self._kernel: Tensor | None = None
        self._launch = kernels_for(n, x.device)
        self._done = 0
        self._places = torch.zeros(0, rows, dtype=torch.int64, device=valid.device)
        self._pivots = self._gain.new_zeros(0, rows, 1)
        self._rest = self._gain.new_zeros(rows, 0, n)
        self._part = self._gain.new_zeros(rows, 0, n)

    def to(self, depth: int, along: Tensor) -> tuple[list[list[int]], list[int], list[bool]]:
        """Go on to `depth` picks, and return them, how many of the first ones are right, and `along` `[rows]`, by row.

        Rows with fewer tokens have fewer picks.
        """
        if depth > self._done:
            self._grow(depth)
            with no_autocast(self._gain.device):
                self._store(depth)
                self._pick(depth)
            self._done = depth
        own = self._places[:depth]
        diagonal = self._diagonal.gather(1, own.T).T
        gain = self._pivots[:depth, :, 0]
        least = torch.maximum(diagonal * CLEAR, 2 * STOP * self._diagonal.amax(dim=1))
        right = ((gain > least) & self._fine).cumprod(dim=0).sum(dim=0)
        told = torch.stack([self._counts.clamp(max=depth), right, along])
        facts = torch.cat([told, own]).T.tolist()
        return [row[3 : 3 + row[0]] for row in facts], [row[1] for row in facts], [bool(row[2]) for row in facts]

    def found(self, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the picks int64 `[rows, depth]`, -1 where there is none, their gains float64, and how many there are.

        All of these were found before.
        """
        has = torch.arange(depth, device=self._places.device) < self._counts.unsqueeze(1)
        gains = self._pivots[:depth, :, 0].T.double() * self._top.double().square()
        places = self._places[:depth].T.where(has, -1)
        return places, gains.where(has, 0.0), self._counts.clamp(max=depth)

    def release(self) -> None:
        """Forget the similarities until they are needed again."""
        self._kernel = None

    def _grow(self, depth: int) -> None:
        """Make room for the factor of so many picks, and for those of the block that the last one is in."""
        height = -(-depth // _BLOCK) * _BLOCK
        more = height - self._rest.shape[1]
        pad = torch.nn.functional.pad
        self._places = pad(self._places, (0, 0, 0, depth - self._done))
        self._pivots = pad(self._pivots, (0, 0, 0, 0, 0, depth - self._done))
        if more > 0:
            self._rest = pad(self._rest, (0, 0, 0, more))
            self._part = pad(self._part, (0, 0, 0, more))

    def _store(self, depth: int) -> None:
        """Compute all similarities where they fit, if so many picks are worth it."""
        rows, n, d = self._x.shape
        worth = n <= _STEPS * depth or n <= d or self._launch is not None
        if self._kernel is None and worth and n * n <= WHOLE:
            self._kernel = torch.mm(self._x[0], self._x[0].T) if rows == 1 else self._x @ self._x.mT
            self._kernel = self._kernel.reshape(rows * n, n)

    def _pick(self, depth: int) -> None:
        turns = range(self._done, depth)
        if self._launch is not None and self._kernel is not None:
            self._launch.greedy_map(self._kernel, self._gain, self._rest, self._places, self._pivots, turns, _NEAR)
            return
        pick = self._pick_one if self.rows == 1 else self._pick_all
        pick(turns)

    def _pick_one(self, turns: range) -> None:
        """Pick in a batch of one row."""
        gain, across = self._gain, self._x[0].T
        tied = torch.empty(gain.shape, dtype=torch.uint8, device=gain.device)
        bound, row = gain.new_empty(1, 1), torch.empty_like(gain)
        all_rest, all_part = self._rest[0], self._part[0]
        some = slice(turns.start, turns.stop)
        columns, part = all_rest.T, all_part
        slots = zip(
            turns,
            self._places[some].unbind(),
            self._pivots[some].unbind(),
            all_rest[some].split(1),
            all_part[some].split(1),
            strict=True,
        )
        for turn, place, pivot, own, share in slots:
            if turn == turns.start or turn % _BLOCK == 0:
                height = turn - turn % _BLOCK + _BLOCK
                columns, part = all_rest[:height].T, all_part[:height]
            torch.amax(gain, 1, True, out=pivot)
            torch.mul(pivot, _NEAR, out=bound)
            torch.ge(gain, bound, out=tied)
            torch.argmax(tied, 1, out=place)
            if self._kernel is None:
                torch.mm(self._x[0].index_select(0, place), across, out=row)
            else:
                torch.index_select(self._kernel, 0, place, out=row)
            torch.addmm(row, columns.index_select(0, place), part, alpha=-1, out=own)
            torch.div(own, pivot, out=share)
            gain.addcmul_(own, share, value=-1)
            gain.index_fill_(1, place, 0)

    def _pick_all(self, turns: range) -> None:
        """Pick in all rows of a batch at once."""
        gain, x = self._gain, self._x
        flat = gain.view(-1)
        for turn in turns:
            height = turn - turn % _BLOCK + _BLOCK
            rest, part = self._rest[:, :height], self._part[:, :height]
            pivot = gain.amax(dim=1, keepdim=True)
            place = (gain >= pivot * _NEAR).to(torch.uint8).argmax(dim=1)
            own = place + self._offset
            if self._kernel is None:
                row = (x.view(-1, x.shape[2]).index_select(0, own).unsqueeze(1) @ x.mT).squeeze(1)
            else:
                row = self._kernel.index_select(0, own)
            across = rest.gather(2, place.view(-1, 1, 1).expand(-1, height, 1))
            row = torch.baddbmm(row.unsqueeze(1), across.mT, part, alpha=-1).squeeze(1)
            share = row / pivot
            rest[:, turn], part[:, turn] = row, share
            gain.addcmul_(row, share, value=-1)
            flat.index_fill_(0, own, 0)
            self._places[turn], self._pivots[turn] = place, pivot
