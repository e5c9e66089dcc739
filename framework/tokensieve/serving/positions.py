"""Positions that travel with the vectors of a picture, where a server numbers a prompt before tokens are chosen.

Where a prompt goes on behind a picture follows from its grid; only where the kept tokens of a picture stand follows
from the choice. So a server gives all of them the position at which their picture begins, and the model adds to it what
their vectors bring.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BASE, _DIGITS = 128, 3
"""Whole numbers up to 256 are exact in every type of vectors, bfloat16 among them."""
CHANNELS = 3 * _DIGITS
"""How many channels positions take behind a vector."""


def with_offsets(vectors: Tensor, offsets: Tensor) -> Tensor:
    """Return vectors `[n, d]` with positions behind them, `[n, d + CHANNELS]`.

    Args:
        vectors: of a picture.
        offsets: int64 `[3, n]`, their positions, less the one at which the picture begins; not negative.
    """
    digits = [offsets // _BASE**place % _BASE for place in range(_DIGITS)]
    return torch.cat([vectors, torch.cat(digits).T.to(vectors)], dim=1)


def without_offsets(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `with_offsets` was given: vectors `[n, d]`, and int64 `[3, n]`."""
    digits = vectors[:, -CHANNELS:].T.long().reshape(_DIGITS, 3, -1)
    return vectors[:, :-CHANNELS], sum(digits[place] * _BASE**place for place in range(1, _DIGITS)) + digits[0]


class Offsets:
    """What is added to the positions of one forward pass.

    It has its own memory, which stays where it is: captured graphs of a device read it there.
    """

    def __init__(self, most: int) -> None:
        """Make room.

        Args:
            most: how many tokens a forward pass may have.
        """
        # One more, so that no pass has a contiguous part: a compiler would take all passes to be so.
        self._offsets = torch.zeros(3, most + 1, dtype=torch.int64)
        self._positions = torch.zeros(3, most + 1, dtype=torch.int64)

    def put(self, offsets: Tensor, places: Tensor) -> None:
        """Take what the next forward pass adds, in place of what is there.

        Args:
            offsets: int64 `[3, n]`.
            places: bool `[tokens]`, with `n` true ones, for which tokens.
        """
        own = self._offsets.zero_()[:, : len(places)]
        own[:, places.to(own.device)] = offsets.to(own.device)

    def taken(self, positions: Tensor) -> Tensor:
        """Return positions `[3, tokens]` with what was put added to them; the next pass adds nothing."""
        tokens = positions.shape[1]
        own = self._offsets[:, :tokens]
        moved = torch.add(positions, own, out=self._positions[:, :tokens])
        own.zero_()
        return moved
