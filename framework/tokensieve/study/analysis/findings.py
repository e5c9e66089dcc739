"""What a study found: the questions a report answers, each by paired differences with intervals. Draws nothing.

Differences are shares of right answers, paired sample by sample over the headline, with intervals that resample whole
pictures. A difference counts as shown (`better`, `worse`) if its p-value survives Holm's correction over all
differences of the same question within a comparison; otherwise it is `open`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokensieve.plugins.registry import Registry
from tokensieve.study.analysis import significance
from tokensieve.study.analysis.comparison import Arm, Block, Comparison
from tokensieve.study.analysis.matching import MatchedControl, matched_controls
from tokensieve.study.analysis.measured import Floats, Mask
from tokensieve.study.analysis.significance import PairedDifference
from tokensieve.study.analysis.structure import MethodStructure, method_structures


@dataclass(frozen=True, eq=False)
class MethodDifference:
    """A method against something else at the same ledger.

    Attributes:
        arm: the method at a budget.
        block: where it is ranked.
        other: what it is measured against.
        mixed: whether that is a mixture of budgets.
        difference: the difference, the method's minus the other's.
        kind: the type of question, or none for the headline.
        control: the control's role, where it is one.
    """

    arm: Arm
    block: Block
    other: str
    mixed: bool
    difference: PairedDifference
    kind: str | None = None
    control: str = ""


@dataclass(frozen=True, eq=False)
class CompositionDifferences:
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
    against: tuple[MethodDifference, ...]
    missing: tuple[str, ...]

    @property
    def beats_each(self) -> bool:
        """Say whether it is shown to be better than every operand, and all were measured."""
        return (
            bool(self.against) and not self.missing and all(one.difference.verdict == "better" for one in self.against)
        )


@dataclass(frozen=True, eq=False)
class InverseDifference:
    """A method against its own inverse. It rings unless the method is shown to be better.

    Attributes:
        arm: the method.
        inverse: its inverted score.
        difference: the method's minus the inverse's.
    """

    arm: Arm
    inverse: Arm
    difference: PairedDifference

    @property
    def not_shown_better(self) -> bool:
        """Say whether the method is not shown to be better than its inverse."""
        return self.difference.verdict != "better"

    @property
    def inverse_no_worse(self) -> bool:
        """Say whether the inverse does at least as well, not only perhaps."""
        return self.difference.value <= 0


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
        structures: by method.
    """

    comparison: Comparison
    controls: tuple[MethodDifference, ...]
    plain: tuple[MethodDifference, ...]
    composed: tuple[CompositionDifferences, ...]
    attention: tuple[MethodDifference, ...]
    inverses: tuple[InverseDifference, ...]
    detectable: float | None
    structures: Mapping[str, MethodStructure]


def make_findings(comparison: Comparison, registry: Registry) -> Findings:
    """Answer a report's questions about a comparison.

    Args:
        comparison: what was measured.
        registry: where recipes' strategies are looked up, for what methods are made of. A recipe that it cannot read
            has no structure, so no operands and no attention.
    """
    structures = method_structures(comparison, registry)
    methods = [arm for arm in comparison.arms if arm.role == "method" and arm.keep is not None]
    return Findings(
        comparison=comparison,
        controls=_over_best(comparison, methods),
        plain=_over_plain(comparison, methods),
        composed=_composed(comparison, methods, structures),
        attention=_by_kind(comparison, methods, structures),
        inverses=_inverses(comparison, methods),
        detectable=_detectable(comparison, methods),
        structures=structures,
    )


def _over_best(comparison: Comparison, methods: Sequence[Arm]) -> tuple[MethodDifference, ...]:
    # Methods with the same rivals are compared at once: their intervals hold together.
    groups: dict[tuple[int, ...], tuple[list[Arm], list[MatchedControl]]] = {}
    for number, arm in enumerate(methods):
        others = matched_controls(comparison, arm)
        mixed = any(other.mixed for other in others)
        key = (-number,) if mixed else tuple(id(other.correct) for other in others)
        groups.setdefault(key, ([], others))[0].append(arm)
    pairs: list[tuple[Arm, MatchedControl]] = []
    found: list[PairedDifference] = []
    mask, clusters = comparison.headline, comparison.clusters[comparison.headline]
    for arms, others in groups.values():
        if others:
            pairs += [(arm, others[0]) for arm in arms]
            controls = np.array([other.correct[mask] for other in others])
            found += significance.best_control_differences(
                np.array([arm.correct[mask] for arm in arms]), controls, clusters
            )
    return _against(comparison, pairs, significance.holm_corrected_best(found))


def _over_plain(comparison: Comparison, methods: Sequence[Arm]) -> tuple[MethodDifference, ...]:
    pairs = [
        (arm, rival)
        for arm in methods
        for rival in matched_controls(comparison, arm)
        if rival.control in ("uniform", "random")
    ]
    return _against(comparison, pairs, _paired(comparison, [(arm.correct, rival.correct) for arm, rival in pairs]))


def _by_kind(
    comparison: Comparison, methods: Sequence[Arm], structures: Mapping[str, MethodStructure]
) -> tuple[MethodDifference, ...]:
    judged = [arm for arm in methods if arm.method in structures and structures[arm.method].attention]
    pairs = [(arm, rival) for arm in judged for rival in matched_controls(comparison, arm)[:1]]
    scores = [(arm.correct, rival.correct) for arm, rival in pairs]
    kinds = comparison.headline_kinds
    found = significance.holm_corrected(
        [one for kind in kinds for one in _paired(comparison, scores, comparison.of_kind(kind))]
    )
    whole = _against(comparison, pairs * len(kinds), found)
    named = [kind for kind in kinds for _ in pairs]
    return tuple(replace(one, kind=kind) for one, kind in zip(whole, named, strict=True))


def _against(
    comparison: Comparison, pairs: Sequence[tuple[Arm, MatchedControl]], found: Sequence[PairedDifference]
) -> tuple[MethodDifference, ...]:
    return tuple(
        MethodDifference(arm, comparison.block_of(arm), rival.name, rival.mixed, one, control=rival.control)
        for (arm, rival), one in zip(pairs, found, strict=True)
    )


def _paired(
    comparison: Comparison, pairs: Sequence[tuple[Floats, Floats]], where: Mask | None = None
) -> list[PairedDifference]:
    """Return the paired differences of many pairs, `[samples]` each, over the headline or where it is said."""
    if not pairs:
        return []
    mask = comparison.headline if where is None else where
    first, second = (np.array([pair[place][mask] for pair in pairs]) for place in (0, 1))
    return significance.paired_differences(first, second, comparison.clusters[mask])


def _composed(
    comparison: Comparison, methods: Sequence[Arm], structures: Mapping[str, MethodStructure]
) -> tuple[CompositionDifferences, ...]:
    plans: list[tuple[Arm, list[Arm], list[str]]] = []
    for arm in methods:
        structure = structures.get(arm.method)
        if structure is None or not (structure.operands or structure.unmatched):
            continue
        same = {one.method: one for one in comparison.block_of(arm).arms}
        there = [same[name] for name in structure.operands if name in same]
        gone = [name for name in structure.operands if name not in same]
        plans.append((arm, there, [*gone, *structure.unmatched]))
    pairs = [(arm, one) for arm, there, _ in plans for one in there]
    found = _paired(comparison, [(arm.correct, one.correct) for arm, one in pairs])
    flat = [
        MethodDifference(arm, comparison.block_of(arm), other.method, False, one)
        for (arm, other), one in zip(pairs, found, strict=True)
    ]
    return tuple(
        CompositionDifferences(
            arm,
            structures[arm.method].formula,
            structures[arm.method].intersects,
            tuple(one for one in flat if one.arm is arm),
            tuple(missing),
        )
        for arm, _, missing in plans
    )


def _inverses(comparison: Comparison, methods: Sequence[Arm]) -> tuple[InverseDifference, ...]:
    inverses = {(arm.of, arm.keep): arm for arm in comparison.arms if arm.role == "inverted"}
    pairs = [(arm, inverses[arm.method, arm.keep]) for arm in methods if (arm.method, arm.keep) in inverses]
    found = _paired(comparison, [(arm.correct, inverse.correct) for arm, inverse in pairs])
    return tuple(InverseDifference(arm, inverse, one) for (arm, inverse), one in zip(pairs, found, strict=True))


def _detectable(comparison: Comparison, methods: Sequence[Arm]) -> float | None:
    """Return what is detectable between a typical method and its best control, the median over methods and budgets."""
    mask, clusters = comparison.headline, comparison.clusters[comparison.headline]
    found = [
        significance.detectable_difference(arm.correct[mask], rival.correct[mask], clusters)
        for arm in methods
        for rival in matched_controls(comparison, arm)[:1]
    ]
    known = [one for one in found if one is not None]
    return float(np.median(known)) if known else None
