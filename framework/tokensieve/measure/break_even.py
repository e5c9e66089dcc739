"""From which prompt length on pruning is faster than not pruning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tokensieve.measure.rows import Row, Setting


@dataclass(frozen=True)
class BreakEven:
    """Where the pruned and the unpruned prefill take equally long, by straight lines through what was measured.

    Attributes:
        recipe: the recipe's name.
        setting: in which it was measured; `visual` is the largest.
        visual: the number of visual tokens from which on pruning is faster; `always` if it is faster wherever there is
            anything to remove, `never` if it is slower by as much or more in longer prompts.
        lengths: how many lengths were measured. With one, the time of pruning is taken to be the same in all.
    """

    recipe: str
    setting: Setting
    visual: float | Literal["always", "never"]
    lengths: int


def break_evens(rows: Iterable[Row]) -> list[BreakEven]:
    """Return where each recipe breaks even, for all settings that differ in visual tokens alone.

    The line of the unpruned model goes through its own times and those of the floor, which is the unpruned model on
    shorter prompts. Encoding pictures takes equally long and is left out.
    """
    groups: dict[Setting, list[Row]] = {}
    for row in rows:
        groups.setdefault(replace(row.setting, visual=0), []).append(row)
    found = []
    for own in groups.values():
        longest = max((row.setting for row in own), key=lambda setting: setting.visual)
        plain = [(row.kept, _time(row)) for row in own if row.role in ("unpruned", "floor")]
        for name in dict.fromkeys(row.name for row in own if row.role == "recipe"):
            pruned = [row for row in own if row.name == name]
            points = [(row.setting.visual, _time(row)) for row in pruned]
            kept = min(row.kept for row in pruned)
            found.append(BreakEven(name, longest, crossing(plain, points, kept), len(points)))
    return found


def crossing(
    plain: Sequence[tuple[float, float]], pruned: Sequence[tuple[float, float]], kept: float
) -> float | Literal["always", "never"]:
    """Return from which length on the second line is below the first.

    Args:
        plain: lengths and times without pruning.
        pruned: lengths and times with pruning.
        kept: the length from which on there is anything to remove.
    """
    start, slope = _line(plain)
    overhead, growth = _line(pruned)
    if slope <= growth:
        # They run apart: faster in all prompts, or in none.
        return "always" if overhead + growth * kept < start + slope * kept else "never"
    crossed = (overhead - start) / (slope - growth)
    return "always" if crossed <= kept else crossed


def _time(row: Row) -> float:
    return row.first.median - row.vision.median


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return a line's value at 0 and its slope, by least squares; a level line through a single length."""
    x, y = np.array(points, dtype=np.float64).T
    if np.ptp(x) == 0:
        return float(y.mean()), 0.0
    slope, start = np.polyfit(x, y, 1)
    return float(start), float(slope)
