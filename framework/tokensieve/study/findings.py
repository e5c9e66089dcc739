"""What a study found: the questions a report answers, each by paired differences with intervals. Draws nothing.

Differences are shares of right answers, paired sample by sample over the headline, with intervals that resample whole
pictures. A difference counts as shown (`better`, `worse`) if its p-value survives Holm's correction over all
differences of the same question within a comparison; otherwise it is `open`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tokensieve.composers import Intersection
from tokensieve.errors import TokensieveError
from tokensieve.evidence import Evidence
from tokensieve.recipe import Recipe
from tokensieve.registry import Registry
from tokensieve.study import inference
from tokensieve.study.analysis import Arm, Block, Comparison, Floats, Mask, Rival, rivals

LEVEL = 0.05
ATTENTION = frozenset(
    {
        Evidence.VISION_ATTENTION,
        Evidence.VISION_RECEIVED,
        Evidence.VISION_MIDDLE,
        Evidence.DECODER_ATTENTION,
        Evidence.DECODER_CONTENT,
    }
)
"""Evidence that is somebody's attention."""

Verdict = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Versus:
    """A paired difference.

    Attributes:
        value: the mean difference of shares of right answers.
        low: the lower end of its 95 % interval.
        high: the upper end.
        p: of no difference.
        holm: `p`, corrected for all differences of the same question.
        wins: samples where the first is better.
        ties: samples where both are equal.
        losses: samples where the second is better.
    """

    value: float
    low: float
    high: float
    p: float
    holm: float
    wins: int
    ties: int
    losses: int

    @property
    def samples(self) -> int:
        """Give how many samples were compared."""
        return self.wins + self.ties + self.losses

    @property
    def verdict(self) -> Verdict:
        """Say what is shown after the correction."""
        if self.holm >= LEVEL:
            return "open"
        return "better" if self.value > 0 else "worse"


@dataclass(frozen=True, eq=False)
class Against:
    """A method against something else at the same ledger.

    Attributes:
        arm: the method at a budget.
        block: where it is ranked.
        other: what it is measured against.
        mixed: whether that is a mixture of budgets.
        versus: the difference, the method's minus the other's.
        kind: the type of question, or none for the headline.
    """

    arm: Arm
    block: Block
    other: str
    mixed: bool
    versus: Versus
    kind: str | None = None


@dataclass(frozen=True, eq=False)
class Composed:
    """A composition against its operands at one budget.

    Attributes:
        arm: the composition.
        formula: how it is written.
        intersects: whether it is an intersection of exactly its operands.
        against: one for each operand that the study measured alone at the same ledger.
        missing: operands of which there is no such arm.
    """

    arm: Arm
    formula: str
    intersects: bool
    against: tuple[Against, ...]
    missing: tuple[str, ...]

    @property
    def beats_each(self) -> bool:
        """Say whether it is shown to be better than every operand, and all were measured."""
        return not self.missing and all(one.versus.verdict == "better" for one in self.against)


@dataclass(frozen=True, eq=False)
class Alarm:
    """A method that is not shown to be better than its own inverse.

    Attributes:
        arm: the method.
        inverse: its inverted score.
        versus: the method's minus the inverse's.
    """

    arm: Arm
    inverse: Arm
    versus: Versus

    @property
    def loud(self) -> bool:
        """Say whether the inverse does at least as well, not only perhaps."""
        return self.versus.value <= 0


@dataclass(frozen=True)
class Anatomy:
    """What a method is made of, as far as plugins at hand can say.

    Attributes:
        formula: its first stage's.
        attention: whether it judges by attention.
        operands: names of the study's methods that are its operands, alone at the same site.
        unmatched: operands that no method of the study is.
        intersects: whether it is an intersection.
    """

    formula: str
    attention: bool
    operands: tuple[str, ...]
    unmatched: tuple[str, ...]
    intersects: bool


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything a report says about one comparison.

    Attributes:
        comparison: about what.
        controls: every method against the best control of its ledger, by block.
        plain: every method against `uniform` and against `random`.
        composed: every composition against its operands.
        attention: methods that judge by attention, by type of question, against the best control.
        alarms: methods not shown to be better than their inverse.
        detectable: the smallest difference that this many samples show with a power of 80 %, or none.
        anatomies: by method.
    """

    comparison: Comparison
    controls: tuple[Against, ...]
    plain: tuple[Against, ...]
    composed: tuple[Composed, ...]
    attention: tuple[Against, ...]
    alarms: tuple[Alarm, ...]
    detectable: float | None
    anatomies: Mapping[str, Anatomy]


def find(comparison: Comparison, registry: Registry) -> Findings:
    """Answer a report's questions about a comparison.

    Args:
        comparison: what was measured.
        registry: where recipes' strategies are looked up, for what methods are made of. A recipe that it cannot read
            has no anatomy, so no operands and no attention.
    """
    anatomies = anatomise(comparison, registry)
    methods = [arm for arm in comparison.arms if arm.role == "method" and arm.keep is not None]
    return Findings(
        comparison=comparison,
        controls=_holm(_over_best(comparison, methods)),
        plain=_holm(_over_plain(comparison, methods)),
        composed=_composed(comparison, methods, anatomies),
        attention=_holm(_by_kind(comparison, methods, anatomies)),
        alarms=_alarms(comparison, methods),
        detectable=_detectable(comparison, methods),
        anatomies=anatomies,
    )


def versus(comparison: Comparison, first: Floats, second: Floats, where: Mask | None = None) -> Versus:
    """Give a paired difference.

    Args:
        comparison: whose samples these are.
        first: float64 `[samples]`.
        second: float64 `[samples]`.
        where: bool `[samples]`, which samples count; the headline if not given.
    """
    mask = comparison.headline if where is None else where
    found = inference.paired(first[mask], second[mask], comparison.clusters[mask])
    delta = first[mask] - second[mask]
    wins, losses = int((delta > 0).sum()), int((delta < 0).sum())
    return Versus(found.value, found.low, found.high, found.p, found.p, wins, len(delta) - wins - losses, losses)


def anatomise(comparison: Comparison, registry: Registry) -> dict[str, Anatomy]:
    """Give what each method is made of, where the registry can read its recipe."""
    recipes: dict[str, Recipe] = {}
    for arm in comparison.arms:
        recipe = arm.cells[0].cell.recipe
        if arm.role == "method" and recipe is not None and arm.method not in recipes:
            read = _read(recipe, registry)
            if read is not None:
                recipes[arm.method] = read
    alone = {
        (str(recipe.stages[0].at), recipe.stages[0].select): name
        for name, recipe in reversed(recipes.items())
        if len(recipe.stages) == 1 and not recipe.stages[0].select.parts
    }
    return {name: _anatomy(name, recipe, alone) for name, recipe in recipes.items()}


def _read(recipe: Mapping[str, Any], registry: Registry) -> Recipe | None:
    # YAML reads JSON.
    import json

    try:
        return Recipe.loads(json.dumps(recipe), registry, str(recipe.get("name", "recipe")))
    except TokensieveError:
        # A plugin that is not installed here, or has changed since: its numbers stand, its anatomy is not known.
        return None


def _anatomy(name: str, recipe: Recipe, alone: Mapping[tuple[str, Any], str]) -> Anatomy:
    [first, *others] = recipe.stages
    leaves = first.select.strategies() if first.select.parts and not others else ()
    known = {leaf: alone.get((str(first.at), leaf)) for leaf in leaves}
    return Anatomy(
        formula=recipe.formula(first.select),
        attention=any(stage.needs & ATTENTION for stage in recipe.stages),
        operands=tuple(method for method in known.values() if method is not None and method != name),
        unmatched=tuple(recipe.formula(leaf) for leaf, method in known.items() if method is None),
        intersects=isinstance(first.select, Intersection),
    )


def _over_best(comparison: Comparison, methods: Sequence[Arm]) -> list[Against]:
    found = []
    for arm in methods:
        for rival in rivals(comparison, arm)[:1]:
            found.append(_against(comparison, arm, rival))
    return found


def _over_plain(comparison: Comparison, methods: Sequence[Arm]) -> list[Against]:
    return [
        _against(comparison, arm, rival)
        for arm in methods
        for rival in rivals(comparison, arm)
        if rival.control in ("uniform", "random")
    ]


def _by_kind(comparison: Comparison, methods: Sequence[Arm], anatomies: Mapping[str, Anatomy]) -> list[Against]:
    judged = [arm for arm in methods if arm.method in anatomies and anatomies[arm.method].attention]
    return [
        replace(_against(comparison, arm, rival, comparison.of_kind(kind)), kind=kind)
        for arm in judged
        for rival in rivals(comparison, arm)[:1]
        for kind in comparison.headline_kinds
    ]


def _against(comparison: Comparison, arm: Arm, rival: Rival, where: Mask | None = None) -> Against:
    difference = versus(comparison, arm.correct, rival.correct, where)
    return Against(arm, comparison.block_of(arm), rival.name, rival.mixed, difference)


def _composed(
    comparison: Comparison, methods: Sequence[Arm], anatomies: Mapping[str, Anatomy]
) -> tuple[Composed, ...]:
    plans: list[tuple[Arm, list[Arm], list[str]]] = []
    for arm in methods:
        anatomy = anatomies.get(arm.method)
        if anatomy is None or not anatomy.operands:
            continue
        block = comparison.block_of(arm)
        same = {one.method: one for one in block.arms}
        there = [same[name] for name in anatomy.operands if name in same]
        gone = [name for name in anatomy.operands if name not in same]
        plans.append((arm, there, [*gone, *anatomy.unmatched]))
    flat = _holm(
        [
            Against(
                arm, comparison.block_of(arm), one.method, False, versus(comparison, arm.correct, one.correct)
            )
            for arm, there, _ in plans
            for one in there
        ]
    )
    return tuple(
        Composed(
            arm,
            anatomies[arm.method].formula,
            anatomies[arm.method].intersects,
            tuple(one for one in flat if one.arm is arm),
            tuple(missing),
        )
        for arm, _, missing in plans
    )


def _alarms(comparison: Comparison, methods: Sequence[Arm]) -> tuple[Alarm, ...]:
    inverses = {(arm.of, arm.keep): arm for arm in comparison.arms if arm.role == "inverted"}
    pairs = [(arm, inverses[arm.method, arm.keep]) for arm in methods if (arm.method, arm.keep) in inverses]
    found = [versus(comparison, arm.correct, inverse.correct) for arm, inverse in pairs]
    corrected = inference.holm([one.p for one in found])
    alarms = [
        Alarm(arm, inverse, replace(one, holm=p))
        for (arm, inverse), one, p in zip(pairs, found, corrected, strict=True)
    ]
    return tuple(alarm for alarm in alarms if alarm.versus.verdict != "better")


def _detectable(comparison: Comparison, methods: Sequence[Arm]) -> float | None:
    """Give what is detectable between a typical method and its best control, the median over methods and budgets."""
    mask, clusters = comparison.headline, comparison.clusters
    found = [
        inference.detectable(arm.correct[mask] - rival.correct[mask], clusters[mask])
        for arm in methods
        for rival in rivals(comparison, arm)[:1]
    ]
    return float(np.median(found)) if found else None


def _holm(found: Sequence[Against]) -> tuple[Against, ...]:
    corrected = inference.holm([one.versus.p for one in found])
    return tuple(
        replace(one, versus=replace(one.versus, holm=p)) for one, p in zip(found, corrected, strict=True)
    )
