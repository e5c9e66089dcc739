"""Controls with the same number of visual tokens as a method."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tokensieve.study.analysis.comparison import CONTROL_ROLES, Arm, Comparison
from tokensieve.study.analysis.measured import Floats


@dataclass(frozen=True, eq=False)
class MatchedControl:
    """A control with as many visual tokens per decoder layer as a method.

    Attributes:
        name: the name of the control; of a mixture, the names of both budgets.
        role: the role of the control.
        correct: float64 `[samples]`, the metric.
        tokens: mean visual tokens per decoder layer.
        mixed: whether it is a mixture of two budgets, because no budget of the control matched.
    """

    name: str
    role: str
    correct: Floats
    tokens: float
    mixed: bool


def matched_controls(comparison: Comparison, arm: Arm) -> list[MatchedControl]:
    """Return the controls with as many visual tokens per layer as an arm, the best first.

    If no budget of a control matches, as for a recipe that cuts inside the decoder, the control is a mixture of its
    nearest larger and smaller budget; these may also be all tokens and none. Each sample's score is the weighted mean
    of both, with weights so that the mean number of tokens is the same.

    Args:
        comparison: where the arm is from.
        arm: the method at a budget.

    Returns:
        One for each control that was measured and has a budget or a mixture that matches.
    """
    found = []
    for role in CONTROL_ROLES:
        arms = [one for one in comparison.arms if one.role == role]
        near = [one for one in arms if one.costs_as(arm)]
        # A control with the same shape has the same number of tokens in every layer, not only in the mean.
        near = [one for one in near if one.shape is not None and one.shape == arm.shape] or near
        if near:
            best = max(near, key=comparison.score)
            found.append(MatchedControl(best.label, role, best.correct, best.tokens, mixed=False))
        elif arms and (mixed := _mixture(comparison, role, arms, arm.tokens)) is not None:
            found.append(mixed)
    return sorted(found, key=lambda control: -float(control.correct[comparison.headline].mean()))


def _mixture(comparison: Comparison, role: str, arms: Sequence[Arm], tokens: float) -> MatchedControl | None:
    ends = [one for one in comparison.arms if one.role in ("unpruned", "text_only")]
    points = sorted([*arms, *ends], key=lambda one: one.tokens)
    for below, above in itertools.pairwise(points):
        if below.tokens <= tokens <= above.tokens and above.tokens > below.tokens:
            part = (tokens - below.tokens) / (above.tokens - below.tokens)
            name = f"{below.label} and {above.label}, mixed to {tokens:.3g} tokens"
            return MatchedControl(name, role, part * above.correct + (1 - part) * below.correct, tokens, mixed=True)
    return None
