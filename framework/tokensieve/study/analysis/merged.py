"""The results of several runs, read as those of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokensieve.study.analysis.collect import Results
from tokensieve.study.rows import Cell, Failure, Row


class MergedResults:
    """The results of several runs.

    A cell that several runs have is read once: its key is the hash of everything that decides its content. What may be
    compared is decided as within a run: cells of one model, by its hash, on one task, by its card.

    Args:
        runs: the results of each run, in the order of the report.
    """

    def __init__(self, runs: Sequence[Results]) -> None:
        self._runs = tuple(runs)
        self._owners = {key: run for run in reversed(self._runs) for key in run.keys()}  # noqa: SIM118 - no mapping

    def keys(self) -> Iterable[str]:
        """Return the keys of all finished cells."""
        return list(self._owners)

    def read(self, key: str) -> tuple[Cell, list[Row]]:
        """Return a finished cell and its rows."""
        return self._owners[key].read(key)

    def failures(self) -> Iterable[Failure]:
        """Return the cells that no run finished."""
        found = {one.cell.key: one for run in self._runs for one in run.failures()}
        return [one for key, one in found.items() if key not in self._owners]

    def damaged(self) -> Mapping[str, str]:
        """Return what is wrong with files of cells that no run finished, by key."""
        found = {key: problem for run in self._runs for key, problem in run.damaged().items()}
        return {key: problem for key, problem in found.items() if key not in self._owners}

    def plan(self) -> Mapping[str, Any]:
        """Return the plans of all runs as one; without `keys` if a run has none: what is missing is not known."""
        plans = [run.plan() for run in self._runs]
        merged: dict[str, Any] = {"cells": [], "skipped": []}
        for plan in plans:
            for name in merged:
                merged[name] += [one for one in plan.get(name, ()) if one not in merged[name]]
        if all("keys" in plan for plan in plans):
            merged["keys"] = list(dict.fromkeys(key for plan in plans for key in plan["keys"]))
        return merged
