"""stream: tokens are judged as they come, and a memory of bounded size holds what stays."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve.algebra.chain import Chain, noted
from tokensieve.composers.expression import Composer, Reading
from tokensieve.composers.settings import no_order
from tokensieve.errors import AlgebraError
from tokensieve.evidence import Evidence, Tokens


class Stream(Composer):
    """Judges a row as it comes: after each few frames, the operand's best of these and of the memory stay.

    Frames come in the order of their numbers, those of each tile of each image after another. A token that left the
    memory is never looked at again, so what the memory holds after some frames is what it would hold of a video that
    ends there, and the operand never sees more tokens than the memory and one step have. That holds for the selection;
    evidence is as causal as what it is read from.

    The order is the operand's at the last step. Tokens that left follow, those of the last step first, and each step's
    as they stand. So a budget beyond the memory takes tokens that a stream would have lost.

    Attributes:
        frames: how many frames come at a time; a picture or tile without time is one.
        memory: how many tokens the memory holds; 0 is as many as the budget, which makes another set of every budget.
    """

    frames: int = Field(default=1, ge=1)
    memory: int = Field(default=0, ge=0)

    name = "stream"
    examples = ({}, {"memory": 3}, {"frames": 2, "memory": 2}, {"frames": 2})
    arity = (1, 1)
    sized = True

    @property
    def is_nested(self) -> bool:
        """Whether the memory is the same for every budget."""
        return self.memory > 0

    @property
    def needs(self) -> frozenset[Evidence]:
        """What the operand needs, and the grid."""
        return super().needs | {Evidence.GRID}

    def read(self, reading: Reading, depth: int) -> Chain:
        """Pass the row through the memory.

        Raises:
            AlgebraError: if the memory is the budget, which is not known here.
        """
        if not self.memory:
            raise AlgebraError(no_order(self))
        return self._passed(reading, reading.tokens.universe.counts.clamp(max=self.memory))

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Pass the row through a memory of k tokens."""
        return super().read_at(reading, k) if self.memory else self._passed(reading, k)

    def _passed(self, reading: Reading, memory: Tensor) -> Chain:
        tokens = reading.tokens
        universe = tokens.universe
        step = self._steps(tokens)
        held = torch.zeros_like(universe.valid)
        left = torch.full_like(universe.ids, universe.n)
        turn = torch.zeros_like(universe.ids)
        chains: list[Chain] = []
        for number in range(int(step.max()) + 1 if step.numel() else 0):
            arrived = step == number
            rows = arrived.any(dim=1).nonzero().flatten()
            pool = (held | arrived)[rows]
            width = int(pool.sum(dim=1).max())
            places = (~pool).to(torch.uint8).sort(dim=1, stable=True).indices[:, :width]
            inner = reading.within(tokens.take(places, pool.gather(1, places), rows))
            size = torch.minimum(memory[rows], inner.tokens.universe.counts)
            chain = inner.settled(self.operands[0], size).ordered(self)
            chains.append(chain)
            stays = torch.zeros_like(pool).scatter_(1, places, chain.cut(size))
            held[rows] = stays
            left[rows] = torch.where(pool & ~stays, number, left[rows])
            turn[rows] = torch.zeros_like(turn[rows]).scatter_(1, places, chain.level)
        # What left keeps the order in which it stands: how it was ordered is known to the cut alone.
        turn = torch.where(held, turn, torch.arange(universe.n, device=turn.device))
        rank = torch.where(universe.valid, turn - left * universe.n, universe.n)
        picks = rank.sort(dim=1, stable=True).indices
        return Chain.from_picks(universe, picks, self, noted(chains))

    def _steps(self, tokens: Tokens) -> Tensor:
        """Return with which step each token comes, int64 `[rows, n]`, -1 at invalid places."""
        steps = torch.full_like(tokens.ids, -1)
        for row, n in enumerate(tokens.universe.sizes):
            frame = tokens.grid[row, :n, :3].unique(dim=0, return_inverse=True)[1]
            steps[row, :n] = frame.div(self.frames, rounding_mode="floor")
        return steps
