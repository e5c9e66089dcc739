"""Which planned cells of a study have no result, and the sentence that says so wherever results are shown."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.study.analysis.collect import Results
from tokensieve.study.rows import Failure

NOT_RUN = "it has not run, or its file is gone; run the study again"


@dataclass(frozen=True)
class UnfinishedCell:
    """A planned cell without a result.

    Attributes:
        key: its key.
        model: the name of its model; empty if the plan does not name it.
        what: its method, seed and task; its key if the plan does not name it.
        keep: its budget, or none.
        reason: why it has no result.
    """

    key: str
    model: str
    what: str
    keep: str | None
    reason: str


@dataclass(frozen=True)
class Completeness:
    """What of a study is there.

    Attributes:
        planned: the number of planned cells; none if the study has no plan.
        unfinished: the planned cells without a result.
    """

    planned: int | None
    unfinished: tuple[UnfinishedCell, ...]

    @property
    def complete(self) -> bool:
        """Return whether every planned cell is known to have a result."""
        return self.planned is not None and not self.unfinished

    @property
    def note(self) -> str:
        """Return the sentence for tables, figures and findings; empty if the study is complete."""
        if self.complete:
            return ""
        if self.planned is None:
            return "The study has no plan, so it is not known whether cells are missing."
        count = f"{len(self.unfinished)} of {self.planned} planned cells"
        return f"Incomplete study: {count} {'has' if len(self.unfinished) == 1 else 'have'} no result."


def check_completeness(results: Results) -> Completeness:
    """Compare the planned cells of a study with those that have a result.

    Args:
        results: the store, or an object like it.
    """
    plan = results.plan()
    finished = set(results.keys())
    failed = {failure.cell.key: failure for failure in results.failures()}
    damaged = results.damaged()
    named = {str(one.get("key")): one for one in plan.get("cells", ())}
    keys = list(dict.fromkeys([*plan.get("keys", ()), *failed]))
    unfinished = [key for key in keys if key not in finished]
    cells = [_unfinished_cell(key, named.get(key, {}), failed.get(key), damaged.get(key)) for key in unfinished]
    return Completeness(len(keys) if "keys" in plan else None, tuple(cells))


def _unfinished_cell(key: str, named: dict[str, object], failure: Failure | None, damage: str | None) -> UnfinishedCell:
    if failure is not None:
        cell = failure.cell
        named = {"model": cell.model, "method": cell.method, "seed": cell.seed, "task": cell.task, "keep": cell.keep}
    reason = damage or (NOT_RUN if failure is None else failure.reason)
    if not named:
        return UnfinishedCell(key, "", f"cell {key}", None, reason)
    seed = "" if named.get("seed") is None else f", seed {named['seed']}"
    keep = named.get("keep")
    what = f"{named.get('method')}{seed} on {named.get('task')}"
    return UnfinishedCell(key, str(named.get("model")), what, None if keep is None else str(keep), reason)
