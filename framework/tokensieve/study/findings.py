"""What a study found: the questions a report answers, each by paired differences with intervals. Draws nothing.

Differences are shares of right answers, paired sample by sample over the headline, with intervals that resample whole
pictures. A difference counts as shown (`better`, `worse`) if its p-value survives Holm's correction over all
differences of the same question within a comparison; otherwise it is `open`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from tokensieve.composers.expression import Expression, Intersection
from tokensieve.errors import TokensieveError
from tokensieve.evidence import Evidence
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Strategy
from tokensieve.study import inference
from tokensieve.study.analysis import Arm, Block, Comparison, Floats, Mask, Rival, rivals
from tokensieve.study.inference import Versus
from tokensieve.study.statistics import Transfer

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
        control: the control's role, where it is one.
    """

    arm: Arm
    block: Block
    other: str
    mixed: bool
    versus: Versus
    kind: str | None = None
    control: str = ""


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
        return bool(self.against) and not self.missing and all(one.versus.verdict == "better" for one in self.against)


@dataclass(frozen=True, eq=False)
class Alarm:
    """A method against its own inverse. It rings unless the method is shown to be better.

    Attributes:
        arm: the method.
        inverse: its inverted score.
        versus: the method's minus the inverse's.
    """

    arm: Arm
    inverse: Arm
    versus: Versus

    @property
    def rings(self) -> bool:
        """Say whether the method is not shown to be better than its inverse."""
        return self.versus.verdict != "better"

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
        inverses: every method against its inverse.
        detectable: the smallest difference that this many samples show with a power of 80 %, or none.
        anatomies: by method.
    """

    comparison: Comparison
    controls: tuple[Against, ...]
    plain: tuple[Against, ...]
    composed: tuple[Composed, ...]
    attention: tuple[Against, ...]
    inverses: tuple[Alarm, ...]
    detectable: float | None
    anatomies: Mapping[str, Anatomy]


@dataclass(frozen=True, eq=False)
class Carried:
    """How far two models order methods alike, on one task at one budget.

    Attributes:
        first: a model on the task.
        second: another model on it.
        keep: the budget.
        methods: those that both rank.
        found: how far they agree.
    """

    first: Comparison
    second: Comparison
    keep: str
    methods: tuple[str, ...]
    found: Transfer


def transfers(comparisons: Sequence[Comparison]) -> tuple[Carried, ...]:
    """Say how far the order of methods carries over from model to model, by task and budget.

    Methods are ranked where their ledgers agree on either model, by the questions that count in both headlines.
    Controls are no methods.
    """
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.task, comparison.card_hash), []).append(comparison)
    return tuple(
        carried
        for group in groups.values()
        for first, second in combinations(group, 2)
        for carried in _transfers(first, second)
    )


def _transfers(first: Comparison, second: Comparison) -> Iterator[Carried]:
    # A model may have been asked fewer samples, or in another order.
    place = {name: number for number, name in enumerate(second.samples)}
    both = [(number, place[name]) for number, name in enumerate(first.samples) if name in place]
    both = [(one, other) for one, other in both if first.headline[one] and second.headline[other]]
    ours, theirs = ([pair[side] for pair in both] for side in (0, 1))
    for block, twin in product(first.blocks, second.blocks):
        if block.keep != twin.keep:
            continue
        arms, others = ({arm.method: arm for arm in one.arms if arm.role == "method"} for one in (block, twin))
        names = tuple(name for name in first.methods if name in arms and name in others)
        if len(names) < 2:
            continue
        found = inference.transfer(
            np.array([arms[name].correct[ours] for name in names]),
            np.array([others[name].correct[theirs] for name in names]),
            first.clusters[ours],
        )
        if found is not None:
            yield Carried(first, second, block.keep, names, found)


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
        controls=_over_best(comparison, methods),
        plain=_over_plain(comparison, methods),
        composed=_composed(comparison, methods, anatomies),
        attention=_by_kind(comparison, methods, anatomies),
        inverses=_inverses(comparison, methods),
        detectable=_detectable(comparison, methods),
        anatomies=anatomies,
    )


def anatomise(comparison: Comparison, registry: Registry) -> dict[str, Anatomy]:
    """Return what each method is made of, where the registry can read its recipe."""
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
    try:
        # YAML reads JSON.
        return Recipe.loads(json.dumps(recipe), registry, str(recipe.get("name", "recipe")))
    except TokensieveError:
        # A plugin that is not installed here, or has changed since: its numbers stand, its anatomy is not known.
        return None


def _anatomy(name: str, recipe: Recipe, alone: Mapping[tuple[str, Any], str]) -> Anatomy:
    [first, *others] = recipe.stages
    leaves = first.select.strategies() if first.select.parts and not others else ()
    known = {leaf: alone.get((str(first.at), leaf)) for leaf in leaves}
    return Anatomy(
        formula=_spelled(recipe, first.select),
        attention=any(stage.needs & ATTENTION for stage in recipe.stages),
        operands=tuple(method for method in known.values() if method is not None and method != name),
        unmatched=tuple(_spelled(recipe, leaf) for leaf, method in known.items() if method is None),
        intersects=isinstance(first.select, Intersection),
    )


def _spelled(recipe: Recipe, expression: Expression) -> str:
    """Return a formula in the strategies' own names, or in the recipe's where two strategies share one."""
    names = [leaf.name for leaf in recipe.names() if isinstance(leaf, Strategy)]
    if len(set(names)) < len(recipe.names()):
        return recipe.formula(expression)
    return expression.written(lambda leaf: leaf.name if isinstance(leaf, Strategy) else recipe.formula(leaf))


def _over_best(comparison: Comparison, methods: Sequence[Arm]) -> tuple[Against, ...]:
    # Methods with the same rivals are compared at once: their intervals hold together.
    groups: dict[tuple[int, ...], tuple[list[Arm], list[Rival]]] = {}
    for number, arm in enumerate(methods):
        others = rivals(comparison, arm)
        mixed = any(other.mixed for other in others)
        key = (-number,) if mixed else tuple(id(other.correct) for other in others)
        groups.setdefault(key, ([], others))[0].append(arm)
    pairs: list[tuple[Arm, Rival]] = []
    found: list[Versus] = []
    mask, clusters = comparison.headline, comparison.clusters[comparison.headline]
    for arms, others in groups.values():
        if others:
            pairs += [(arm, others[0]) for arm in arms]
            controls = np.array([other.correct[mask] for other in others])
            found += inference.over_best(np.array([arm.correct[mask] for arm in arms]), controls, clusters)
    return _against(comparison, pairs, inference.corrected_best(found))


def _over_plain(comparison: Comparison, methods: Sequence[Arm]) -> tuple[Against, ...]:
    pairs = [
        (arm, rival) for arm in methods for rival in rivals(comparison, arm) if rival.control in ("uniform", "random")
    ]
    return _against(comparison, pairs, _paired(comparison, [(arm.correct, rival.correct) for arm, rival in pairs]))


def _by_kind(comparison: Comparison, methods: Sequence[Arm], anatomies: Mapping[str, Anatomy]) -> tuple[Against, ...]:
    judged = [arm for arm in methods if arm.method in anatomies and anatomies[arm.method].attention]
    pairs = [(arm, rival) for arm in judged for rival in rivals(comparison, arm)[:1]]
    scores = [(arm.correct, rival.correct) for arm, rival in pairs]
    kinds = comparison.headline_kinds
    found = inference.corrected(
        [one for kind in kinds for one in _paired(comparison, scores, comparison.of_kind(kind))]
    )
    whole = _against(comparison, pairs * len(kinds), found)
    named = [kind for kind in kinds for _ in pairs]
    return tuple(replace(one, kind=kind) for one, kind in zip(whole, named, strict=True))


def _against(
    comparison: Comparison, pairs: Sequence[tuple[Arm, Rival]], found: Sequence[Versus]
) -> tuple[Against, ...]:
    return tuple(
        Against(arm, comparison.block_of(arm), rival.name, rival.mixed, one, control=rival.control)
        for (arm, rival), one in zip(pairs, found, strict=True)
    )


def _paired(comparison: Comparison, pairs: Sequence[tuple[Floats, Floats]], where: Mask | None = None) -> list[Versus]:
    """Return the paired differences of many pairs, `[samples]` each, over the headline or where it is said."""
    if not pairs:
        return []
    mask = comparison.headline if where is None else where
    first, second = (np.array([pair[place][mask] for pair in pairs]) for place in (0, 1))
    return inference.paired(first, second, comparison.clusters[mask])


def _composed(comparison: Comparison, methods: Sequence[Arm], anatomies: Mapping[str, Anatomy]) -> tuple[Composed, ...]:
    plans: list[tuple[Arm, list[Arm], list[str]]] = []
    for arm in methods:
        anatomy = anatomies.get(arm.method)
        if anatomy is None or not (anatomy.operands or anatomy.unmatched):
            continue
        same = {one.method: one for one in comparison.block_of(arm).arms}
        there = [same[name] for name in anatomy.operands if name in same]
        gone = [name for name in anatomy.operands if name not in same]
        plans.append((arm, there, [*gone, *anatomy.unmatched]))
    pairs = [(arm, one) for arm, there, _ in plans for one in there]
    found = _paired(comparison, [(arm.correct, one.correct) for arm, one in pairs])
    flat = [
        Against(arm, comparison.block_of(arm), other.method, False, one)
        for (arm, other), one in zip(pairs, found, strict=True)
    ]
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


def _inverses(comparison: Comparison, methods: Sequence[Arm]) -> tuple[Alarm, ...]:
    inverses = {(arm.of, arm.keep): arm for arm in comparison.arms if arm.role == "inverted"}
    pairs = [(arm, inverses[arm.method, arm.keep]) for arm in methods if (arm.method, arm.keep) in inverses]
    found = _paired(comparison, [(arm.correct, inverse.correct) for arm, inverse in pairs])
    return tuple(Alarm(arm, inverse, one) for (arm, inverse), one in zip(pairs, found, strict=True))


def _detectable(comparison: Comparison, methods: Sequence[Arm]) -> float | None:
    """Return what is detectable between a typical method and its best control, the median over methods and budgets."""
    mask, clusters = comparison.headline, comparison.clusters[comparison.headline]
    found = [
        inference.detectable(arm.correct[mask], rival.correct[mask], clusters)
        for arm in methods
        for rival in rivals(comparison, arm)[:1]
    ]
    known = [one for one in found if one is not None]
    return float(np.median(known)) if known else None
