"""The differences that a report is about, paired by sample, with intervals.

Differences are of the share of right answers, paired by sample over the headline. Intervals resample whole images. A
difference is `better` or `worse` if its p-value survives Holm's correction over all differences for the same question
within a comparison; otherwise it is `open`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tokensieve.plugins.registry import Registry
from tokensieve.study.analysis import significance
from tokensieve.study.analysis.attempt import attempt
from tokensieve.study.analysis.comparison import Arm, Block, Comparison
from tokensieve.study.analysis.matching import MatchedControl, matched_controls
from tokensieve.study.analysis.measured import Floats, Mask
from tokensieve.study.analysis.significance import PairedDifference
from tokensieve.study.analysis.structure import MethodStructure, method_structures


@dataclass(frozen=True, eq=False)
class MethodDifference:
    """The difference of a method to something else with as many visual tokens.

    Attributes:
        arm: the method at a budget.
        block: the block in which the method is ranked.
        other: the name of what it is compared with.
        mixed: whether `other` is a mixture of two budgets.
        difference: the method's score minus the other's.
        kind: the type of question, or none for the headline.
        control_role: the role of the control; empty if `other` is no control.
    """

    arm: Arm
    block: Block
    other: str
    mixed: bool
    difference: PairedDifference
    kind: str | None = None
    control_role: str = ""


@dataclass(frozen=True, eq=False)
class CompositionDifferences:
    """The differences of a composition to its operands at one budget.

    Attributes:
        arm: the composition.
        formula: its formula.
        intersects: whether it is an intersection of its operands.
        differences: one for each operand that the study measured alone with as many visual tokens.
        missing: the operands that were not measured so.
    """

    arm: Arm
    formula: str
    intersects: bool
    differences: tuple[MethodDifference, ...]
    missing: tuple[str, ...]

    @property
    def beats_each(self) -> bool:
        """Return whether all operands were measured, and the composition is better than each."""
        return (
            bool(self.differences)
            and not self.missing
            and all(one.difference.verdict == "better" for one in self.differences)
        )


@dataclass(frozen=True, eq=False)
class InverseDifference:
    """The difference of a method to its own inverse.

    Attributes:
        arm: the method at a budget.
        inverse: the method with inverted scores.
        difference: the method's minus the inverse's.
    """

    arm: Arm
    inverse: Arm
    difference: PairedDifference

    @property
    def not_shown_better(self) -> bool:
        """Return whether the method is not shown to be better than its inverse."""
        return self.difference.verdict != "better"

    @property
    def inverse_no_worse(self) -> bool:
        """Return whether the inverse has at least as many right answers."""
        return self.difference.value <= 0


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that a report says about one comparison.

    Attributes:
        comparison: the comparison.
        controls: the difference of every method to its best matched control.
        plain: the differences of every method to `uniform` and to `random`.
        compositions: the differences of every composition to its operands.
        attention: the differences of methods that use attention to their best matched control, by type of question.
        inverses: the difference of every method to its inverse.
        detectable: the smallest difference that these samples detect with a power of 80 %, or none.
        structures: the structure of each method, by name.
        uncomputed: why an attribute could not be computed, by its name; such an attribute is empty.
    """

    comparison: Comparison
    controls: tuple[MethodDifference, ...]
    plain: tuple[MethodDifference, ...]
    compositions: tuple[CompositionDifferences, ...]
    attention: tuple[MethodDifference, ...]
    inverses: tuple[InverseDifference, ...]
    detectable: float | None
    structures: Mapping[str, MethodStructure]
    uncomputed: Mapping[str, str] = field(default_factory=dict)


def by_model(all_findings: Sequence[Findings]) -> list[list[Findings]]:
    """Return findings in groups of one model, told apart by its weights, in their order."""
    models: dict[tuple[str, str], list[Findings]] = {}
    for findings in all_findings:
        models.setdefault((findings.comparison.model, findings.comparison.model_hash), []).append(findings)
    return list(models.values())


def make_findings(comparison: Comparison, registry: Registry) -> Findings:
    """Return the findings of a comparison. What cannot be computed is empty, and its reason is in `uncomputed`.

    Args:
        comparison: the comparison.
        registry: where the strategies of recipes are looked up. A recipe that cannot be read has no structure, so
            nothing is known of its operands and whether it uses attention.
    """
    structures = method_structures(comparison, registry)
    methods = [arm for arm in comparison.arms if arm.role == "method" and arm.keep is not None]
    why: dict[str, str] = {}
    return Findings(
        comparison=comparison,
        controls=attempt(lambda: _best_control_differences(comparison, methods), (), "controls", why),
        plain=attempt(lambda: _plain_differences(comparison, methods), (), "plain", why),
        compositions=attempt(lambda: _compositions(comparison, methods, structures), (), "compositions", why),
        attention=attempt(lambda: _attention_differences(comparison, methods, structures), (), "attention", why),
        inverses=attempt(lambda: _inverse_differences(comparison, methods), (), "inverses", why),
        detectable=attempt(lambda: _detectable(comparison, methods), None, "detectable", why),
        structures=structures,
        uncomputed=why,
    )


def _best_control_differences(comparison: Comparison, methods: Sequence[Arm]) -> tuple[MethodDifference, ...]:
    # Methods with the same controls are compared together, so that their intervals hold simultaneously.
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
    return _method_differences(comparison, pairs, significance.holm_corrected_best(found))


def _plain_differences(comparison: Comparison, methods: Sequence[Arm]) -> tuple[MethodDifference, ...]:
    pairs = [
        (arm, control)
        for arm in methods
        for control in matched_controls(comparison, arm)
        if control.role in ("uniform", "random")
    ]
    return _method_differences(
        comparison, pairs, _paired_differences(comparison, [(arm.correct, control.correct) for arm, control in pairs])
    )


def _attention_differences(
    comparison: Comparison, methods: Sequence[Arm], structures: Mapping[str, MethodStructure]
) -> tuple[MethodDifference, ...]:
    judged = [arm for arm in methods if arm.method in structures and structures[arm.method].attention]
    pairs = [(arm, control) for arm in judged for control in matched_controls(comparison, arm)[:1]]
    scores = [(arm.correct, control.correct) for arm, control in pairs]
    kinds = comparison.headline_kinds
    found = significance.holm_corrected(
        [one for kind in kinds for one in _paired_differences(comparison, scores, comparison.of_kind(kind))]
    )
    whole = _method_differences(comparison, pairs * len(kinds), found)
    named = [kind for kind in kinds for _ in pairs]
    return tuple(replace(one, kind=kind) for one, kind in zip(whole, named, strict=True))


def _method_differences(
    comparison: Comparison, pairs: Sequence[tuple[Arm, MatchedControl]], found: Sequence[PairedDifference]
) -> tuple[MethodDifference, ...]:
    return tuple(
        MethodDifference(arm, comparison.block_of(arm), control.name, control.mixed, one, control_role=control.role)
        for (arm, control), one in zip(pairs, found, strict=True)
    )


def _paired_differences(
    comparison: Comparison, pairs: Sequence[tuple[Floats, Floats]], mask: Mask | None = None
) -> list[PairedDifference]:
    """Return the paired differences of many pairs, `[samples]` each, over the headline or another mask."""
    if not pairs:
        return []
    mask = comparison.headline if mask is None else mask
    first, second = (np.array([pair[place][mask] for pair in pairs]) for place in (0, 1))
    return significance.paired_differences(first, second, comparison.clusters[mask])


def _compositions(
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
    found = _paired_differences(comparison, [(arm.correct, one.correct) for arm, one in pairs])
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


def _inverse_differences(comparison: Comparison, methods: Sequence[Arm]) -> tuple[InverseDifference, ...]:
    inverses = {(arm.of, arm.keep): arm for arm in comparison.arms if arm.role == "inverted"}
    pairs = [(arm, inverses[arm.method, arm.keep]) for arm in methods if (arm.method, arm.keep) in inverses]
    found = _paired_differences(comparison, [(arm.correct, inverse.correct) for arm, inverse in pairs])
    return tuple(InverseDifference(arm, inverse, one) for (arm, inverse), one in zip(pairs, found, strict=True))


def _detectable(comparison: Comparison, methods: Sequence[Arm]) -> float | None:
    """Return the median, over methods and budgets, of the smallest detectable difference to the best control."""
    mask, clusters = comparison.headline, comparison.clusters[comparison.headline]
    found = [
        significance.detectable_difference(arm.correct[mask], control.correct[mask], clusters)
        for arm in methods
        for control in matched_controls(comparison, arm)[:1]
    ]
    known = [one for one in found if one is not None]
    return float(np.median(known)) if known else None
