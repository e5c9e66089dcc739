"""What is known of shipped recipes: right answers in studies, and operators counted, from tables beside their files.

Who ships recipes puts a folder `findings` beside their YAML: `accuracy-MODEL-on-TASK.csv` as reports write them, and
`operators.csv` with the columns `recipe`, `operators` and `waits`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from tokensieve.plugins.registry import Registry

LEVEL = 0.05
"""The largest p-value, after Holm's correction, at which a difference is called one."""

_FILE = re.compile(r"accuracy-(.+)-on-(.+)\.csv")
_BUDGET = re.compile(r"keep (\d+/\d+):")
_CONTROLS = frozenset({"uniform", "random", "pool"})
_ALL = "All"
_OVER = "Δ best control"


@dataclass(frozen=True)
class Studied:
    """What a study measured of a recipe with one budget on one model.

    Attributes:
        recipe: the name in the study.
        model: on which model.
        task: of which task.
        keep: the part of the visual tokens that the budget keeps.
        control: whether it is a control and no method.
        right: right answers, in per cent.
        low: the lower end of its interval of 95 %.
        high: the upper end.
        relative: right answers in per cent of the unpruned model's.
        over_control: points over the best control of the same cost; None for controls.
        p: of that difference, after Holm's correction; None for controls, and where the report has none, as where the
            best control is a mean over several draws.
    """

    recipe: str
    model: str
    task: str
    keep: Fraction
    control: bool
    right: float
    low: float
    high: float
    relative: float
    over_control: float | None
    p: float | None

    @property
    def verdict(self) -> Literal["control", "better", "worse", "undecided", "untested"]:
        """How it compares with the best control of the same cost."""
        if self.control or self.over_control is None:
            return "control"
        if self.p is None:
            return "untested"
        if self.p >= LEVEL:
            return "undecided"
        return "better" if self.over_control > 0 else "worse"


@dataclass(frozen=True)
class CountedOperators:
    """What choosing tokens adds to a prefill, counted once.

    Attributes:
        operators: operators that torch runs.
        waits: how often the host waits for a result.
    """

    operators: int
    waits: int


def read_studies(registry: Registry) -> tuple[Studied, ...]:
    """Return what studies measured of the recipes in a registry; references such as oracles are left out."""
    return tuple(row for folder in _folders(registry) for file in sorted(folder.glob("*.csv")) for row in _rows(file))


def read_operators(registry: Registry) -> dict[str, CountedOperators]:
    """Return the operators and waits that were counted of the recipes in a registry, by recipe."""
    found = {}
    for file in (folder / "operators.csv" for folder in _folders(registry)):
        for row in _table(file) if file.is_file() else ():
            found[row["recipe"]] = CountedOperators(int(row["operators"]), int(row["waits"]))
    return found


def _folders(registry: Registry) -> list[Path]:
    files = (file for file in registry.recipes.values() if isinstance(file, Path))
    return list(dict.fromkeys(file.parent / "findings" for file in files))


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def _rows(file: Path) -> Iterator[Studied]:
    named = _FILE.fullmatch(file.name)
    for row in _table(file) if named else ():
        budget = _BUDGET.match(row["group"])
        if named is None or budget is None or row["role"] not in _CONTROLS | {"method"}:
            continue
        over, p = row[_OVER], row["p"]
        yield Studied(
            row["row"],
            named[1],
            named[2],
            Fraction(budget[1]),
            row["role"] in _CONTROLS,
            float(row[_ALL]),
            float(row[f"{_ALL} low"]),
            float(row[f"{_ALL} high"]),
            float(row["Rel. %"]),
            float(over) if over else None,
            float(p) if p else None,
        )
