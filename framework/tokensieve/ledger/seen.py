"""What a prefill saw: where its visual tokens were, and the pixels, as long as the caller holds them."""

from __future__ import annotations

import base64
import io
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """Where the visual tokens of a prefill were, with a weak hold on its pixels: a ledger keeps no pictures.

    Attributes:
        grid: int64 `[samples, tokens, 5]`: image, tile, frame, row and column of each token, by id.
        counts: how many tokens each sample has; they are those with the smallest ids.
        pixels: `[samples, 3, height, width]` if called while the caller holds them, else None.
    """

    grid: NDArray[np.int64]
    counts: tuple[int, ...]
    pixels: weakref.ref[Tensor] | None

    @classmethod
    def of(cls, grid: NDArray[np.int64], counts: tuple[int, ...], given: Mapping[str, Any]) -> Seen:
        """Return what a request shows.

        Args:
            grid: int64 `[samples, tokens, 5]`.
            counts: how many tokens each sample has.
            given: the request, with the caller's own tensors.
        """
        pixels = given.get("pixel_values")
        one_each = isinstance(pixels, Tensor) and pixels.ndim == 4 and pixels.shape[:2] == (len(grid), 3)
        return cls(grid, counts, weakref.ref(pixels) if isinstance(pixels, Tensor) and one_each else None)

    def places(self, sample: int) -> list[tuple[int, int]] | None:
        """Return the row and column of each token by id; None where they are not one grid, as with tiles and frames."""
        grid = self.grid[sample, : self.counts[sample]]
        if not len(grid) or len(np.unique(grid[:, :3], axis=0)) > 1 or (grid[:, 3:] < 0).any():
            return None
        return [(int(row), int(column)) for row, column in grid[:, 3:]]

    def picture(self, sample: int) -> str | None:
        """Return the picture of a sample as a `data:` address of a PNG, in stretched contrast; None if it is gone."""
        pixels = None if self.pixels is None else self.pixels()
        if pixels is None:
            return None
        values = pixels[sample].detach().float().cpu().permute(1, 2, 0).numpy()
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) / max(high - low, 1e-6)
        file = io.BytesIO()
        Image.fromarray((scaled * 255).round().astype(np.uint8)).save(file, format="PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
