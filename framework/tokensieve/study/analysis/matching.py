"""Controls with the same ledger as a method."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tokensieve.study.analysis.comparison import BUDGET_TOLERANCE, CONTROL_ROLES, Arm, Comparison
from tokensieve.study.analysis.measured import Floats


@dataclass(frozen=True, eq=False)
class MatchedControl:
    """What a method is measured against: a control with the same ledger.

    Attributes:
        name: the control's, with how it was mixed where it was.
        control: the control's role.
        correct: float64 `[samples]`.
        tokens: mean visual tokens per decoder layer.
        mixed: whether it is a mixture of two budgets of a control, because none matched.
    """

    name: str
    control: str
    correct: Floats
    tokens: float
    mixed: bool


def matched_controls(comparison: Comparison, arm: Arm) -> list[MatchedControl]:
    """Return the controls with an arm's ledger, the best first.

    Where a control has no cell with as many visual tokens per layer, as for a recipe that cuts inside the decoder,
    it is mixed: a share of the samples at its budget above and the others at its budget below, or unpruned, or
    without any visual token, so that the mean agrees exactly. Every sample counts with both, in that proportion.

    Args:
        comparison: where the arm is from.
        arm: what to match.

    Returns:
        One rival for each control that was measured and whose budgets reach so far.
    """
    found = []
    for role in CONTROL_ROLES:
        arms = [one for one in comparison.arms if one.role == role]
        near = [one for one in arms if abs(one.tokens - arm.tokens) <= BUDGET_TOLERANCE * max(one.tokens, arm.tokens)]
        # One that cuts at the same places costs the same in every layer, not only in the mean.
        near = [one for one in near if one.shape is not None and one.shape == arm.shape] or near
        if near:
            best = max(near, key=comparison.score)
            found.append(MatchedControl(best.label, role, best.correct, best.tokens, mixed=False))
        elif arms and (mixed := _mixture(comparison, role, arms, arm.tokens)) is not None:
            found.append(mixed)
    return sorted(found, key=lambda rival: -float(rival.correct[comparison.headline].mean()))


def _mixture(comparison: Comparison, role: str, arms: Sequence[Arm], tokens: float) -> MatchedControl | None:
    ends = [one for one in comparison.arms if one.role in ("unpruned", "text_only")]
    points = sorted([*arms, *ends], key=lambda one: one.tokens)
    for below, above in itertools.pairwise(points):
        if below.tokens <= tokens <= above.tokens and above.tokens > below.tokens:
            part = (tokens - below.tokens) / (above.tokens - below.tokens)
            name = f"{below.label} and {above.label}, mixed to {tokens:.3g} tokens"
            return MatchedControl(name, role, part * above.correct + (1 - part) * below.correct, tokens, mixed=True)
    return None
