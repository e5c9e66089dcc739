"""The sentence that a report starts with: what won, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokensieve.study.analysis.attempt import attempt
from tokensieve.study.analysis.comparison import RIGHT, Arm, Block, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.analysis.significance import half_width
from tokensieve.study.report.tables.ranks import ranks_of

NOTHING_RANKED = "Nothing can be ranked: no budget has a method beside another arm with as many visual tokens."


@dataclass(frozen=True, eq=False)
class _Place:
    """A budget of a comparison: where something can be in front.

    Attributes:
        findings: the findings of the comparison.
        block: its block with most arms at the budget.
        leaders: the arms with the most right answers.
    """

    findings: Findings
    block: Block
    leaders: tuple[Arm, ...]

    def shown_better(self, name: str) -> bool:
        """Return whether an arm is in front and shown to beat the best control."""
        return any(
            one.arm.method == name and one.arm in self.leaders and one.difference.verdict == "better"
            for one in self.findings.controls
        )

    def surely_first(self, name: str) -> bool:
        """Return whether an arm is in front, and no other arm of the block may truly be."""
        ranks = attempt(lambda: ranks_of(self.findings.comparison, self.block.arms), None, "ranks", {})
        return ranks is not None and any(
            arm.method == name and rank.high == 1 for arm, rank in zip(self.block.arms, ranks, strict=True)
        )


def headline(all_findings: Sequence[Findings]) -> str:
    """Return one sentence: which method has most right answers most often, and at how many budgets that is shown.

    It counts the budgets of all comparisons, each with the block that has most arms. `Shown to beat the best control`
    is the verdict of the findings, after Holm's correction; `surely the best` is a rank whose interval is the first
    place alone. Where a control leads most often, it says so.
    """
    places = [place for findings in all_findings for place in _places(findings)]
    if not places:
        return NOTHING_RANKED
    counts = Counter(arm.method for place in places for arm in place.leaders)
    most = max(counts.values())
    winners = [name for name, count in counts.items() if count == most]
    roles = {arm.method: arm.role for place in places for arm in place.leaders}
    total = f"{len(places)} budgets{_over(all_findings)}"
    counted = " and ".join(dict.fromkeys(place.findings.comparison.counted for place in places))
    if len(winners) > 1:
        named = f"{', '.join(winners[:-1])} and {winners[-1]}"
        return f"Nothing is in front alone: {named} have the most {counted} equally often{_at(most, places, total)}."
    [winner] = winners
    if roles[winner] != "method":
        methods = {arm.method for place in places for arm in place.block.arms if arm.role == "method"}
        better = sorted(name for name in methods if any(place.shown_better(name) for place in places))
        shown = f"only {', '.join(better)} beats the best control anywhere" if better else "no method is shown to win"
        return f"{winner}, a control, has the most {counted}{_at(most, places, total)}; {shown}."
    beats = sum(place.shown_better(winner) for place in places)
    alone = sum(place.surely_first(winner) for place in places)
    return (
        f"{winner} has the most {counted}{_at(most, places, total)}; {_how_sure(beats, alone, most)}"
        f"{_retained(winner, places)}."
    )


def _places(findings: Findings) -> list[_Place]:
    comparison = findings.comparison
    found = []
    for keep in comparison.keeps:
        # Of one budget, the block with most arms comes first.
        block = next((block for block in comparison.blocks if block.keep == keep), None)
        if block is None or len(block.arms) < 2 or all(arm.role != "method" for arm in block.arms):
            continue
        top = max(comparison.score(arm) for arm in block.arms)
        leaders = tuple(arm for arm in block.arms if comparison.score(arm) >= top)
        found.append(_Place(findings, block, leaders))
    return found


def _at(count: int, places: Sequence[_Place], total: str) -> str:
    """Return at how many of the budgets; nothing where there is one."""
    return "" if len(places) == 1 else f" at {count} of {total}"


def _over(all_findings: Sequence[Findings]) -> str:
    """Return what the budgets are of, if of more than one comparison."""
    comparisons = [findings.comparison for findings in all_findings]
    parts = []
    for what, count in (
        ("models", len({(one.model, one.model_hash) for one in comparisons})),
        ("tasks", len({(one.task, one.card_hash) for one in comparisons})),
    ):
        if count > 1:
            parts.append(f"{count} {what}")
    return f" (over {' and '.join(parts)})" if parts else ""


def _how_sure(beats: int, alone: int, led: int) -> str:
    """Return how sure the lead is, with 95 %."""
    if not beats and not alone:
        return "it is nowhere shown to beat the best control, nor to be surely the best (95 %)"
    if led == 1:
        against = "is shown to beat the best control" if beats else "is not shown to beat the best control"
        first = "is surely the best" if alone else "is not surely the best"
        return f"it {against}, and {first} (95 %, corrected for multiple comparisons)"
    against = f"it is shown to beat the best control at {_count(beats, led)}"
    first = f"to be surely the best at {_count(alone, led)}"
    return f"{against}, and {first} (95 %, corrected for multiple comparisons)"


def _count(count: int, of: int) -> str:
    return "none of these" if not count else "all of these" if count == of else f"{count} of these"


def _retained(winner: str, places: Sequence[_Place]) -> str:
    """Return how much of the unpruned model's accuracy the winner has at the middle budget of the places.

    Nothing where answers only agree: with itself, the unpruned model agrees always.
    """
    if any(place.findings.comparison.counted != RIGHT for place in places):
        return ""
    keeps = list(dict.fromkeys(place.block.keep for place in places))
    keep = keeps[len(keeps) // 2]
    found: list[tuple[Comparison, Arm]] = []
    for place in places:
        arm = next((arm for arm in place.block.arms if arm.method == winner), None)
        if place.block.keep == keep and arm is not None:
            found.append((place.findings.comparison, arm))
    ratios = [ratio for comparison, arm in found if (ratio := comparison.relative(arm)) is not None]
    if not ratios or len(ratios) < len(found):
        return ""
    if len(ratios) == 1:
        [ratio] = ratios
        said = f"{100 * ratio.estimate:.1f} ±{100 * half_width(ratio):.1f} %"
    else:
        values = sorted(100 * ratio.estimate for ratio in ratios)
        said = f"{values[0]:.1f} to {values[-1]:.1f} %"
    return f"; at keep {keep} it has {said} of the unpruned accuracy"
