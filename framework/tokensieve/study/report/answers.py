"""The findings as sentences and tables: what a reader asks first, answered first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tokensieve.study.analysis.comparison import Arm, Comparison
from tokensieve.study.analysis.findings import Findings, MethodDifference
from tokensieve.study.analysis.significance import PairedDifference, half_width
from tokensieve.study.analysis.transfers import OrderTransfer, order_transfers
from tokensieve.study.report.tables.differences import (
    attention_table,
    composition_table,
    control_table,
    inverse_table,
    plain_table,
)
from tokensieve.study.report.tables.ranks import rank_table, ranks_of, transfer_table, two_digits
from tokensieve.study.report.tables.values import Table, method_label, points_text


@dataclass(frozen=True)
class Answer:
    """What one comparison says to a question.

    Attributes:
        title: of the comparison.
        text: the answer in a sentence.
        points: what it is made of, one a method: its name, and what is shown of it.
        alarm: whether a reader must not miss it.
    """

    title: str
    text: str
    points: tuple[tuple[str, str], ...] = ()
    alarm: bool = False


@dataclass(frozen=True)
class Question:
    """A question with the answers of all comparisons.

    Attributes:
        name: for links.
        text: the question.
        answers: one a comparison.
        tables: the numbers behind them.
    """

    name: str
    text: str
    answers: tuple[Answer, ...]
    tables: tuple[Table, ...] = field(default=())


def answer_questions(all_findings: Sequence[Findings]) -> list[Question]:
    """Answer every question for every comparison, and of several models whether an order carries over."""
    asked: tuple[tuple[str, str, Callable[[Findings], Answer], Callable[[Findings], Table | None]], ...] = (
        ("best-control", "Does any method beat the best control?", _best_control, control_table),
        ("plain", "Does any method beat both uniform and random?", _plain, plain_table),
        ("compositions", "Does a composition beat each of its operands?", _compositions, composition_table),
        ("attention", "Where do methods that judge by attention fall behind?", _attention, attention_table),
        ("inverses", "Do scores point the right way?", _alarms, inverse_table),
        ("order", "How sure is the order?", _order, rank_table),
        ("certainty", "What can this study show at all?", _certainty, lambda _: None),
    )
    made = [
        Question(
            name,
            text,
            tuple(answer(findings) for findings in all_findings),
            tuple(table for findings in all_findings if (table := make(findings)) is not None),
        )
        for name, text, answer, make in asked
    ]
    carried = order_transfers([findings.comparison for findings in all_findings])
    if carried:
        made.insert(-1, _transfer(carried))
    return made


# ----------------------------------------------------------------------------------------------------------- answers


def _best_control(findings: Findings) -> Answer:
    comparison = findings.comparison
    if not findings.controls:
        return Answer(comparison.title, "No method can be compared: no control was measured at any of their budgets.")
    points = []
    for method, ours in _by_method(findings.controls):
        parts = []
        for verdict in ("better", "worse"):
            shown = [one for one in ours if one.difference.verdict == verdict]
            if shown:
                far = max(shown, key=lambda one: abs(one.difference.value))
                where = _listed([one.arm.keep for one in shown], len(ours))
                parts.append(f"{verdict} at {where}, most at {far.arm.keep}: {points_text(far.difference)} points")
        points.append((method, "; ".join(parts) or f"not shown to differ at any of {_budgets(len(ours))}"))
    best = [
        f"{names[0].method} at {block.keep} ({_percent(comparison, names[0])})"
        for block in comparison.blocks
        if (names := [arm for arm in block.arms if arm.role != "method"]) and len(block.arms) > len(names)
    ]
    if best:
        points.append(("best controls", ", ".join(best)))
    won, lost = _somewhere(findings.controls, "better"), _somewhere(findings.controls, "worse")
    total = len(_by_method(findings.controls))
    text = f"Yes: {len(won)} of {total} methods somewhere" if won else "None is shown to"
    text += f"; {len(lost)} of {total} somewhere worse." if lost else "."
    return Answer(comparison.title, text, tuple(points))


def _plain(findings: Findings) -> Answer:
    title = findings.comparison.title
    both = _both(findings)
    if not both:
        return Answer(title, "Nothing to compare: uniform and random were not both measured at any method's ledger.")
    points = []
    methods = list(dict.fromkeys(arm.method for arm, _ in both))
    beating = []
    for method in methods:
        ours = [(arm, ones) for arm, ones in both if arm.method == method]
        won = [arm.keep for arm, ones in ours if all(one.verdict == "better" for one in ones)]
        lost = [arm.keep for arm, ones in ours if any(one.verdict == "worse" for one in ones)]
        parts = [f"beats both at {_listed(won, len(ours))}"] if won else []
        parts += [f"worse than one of them at {_listed(lost, len(ours))}"] if lost else []
        points.append((method, "; ".join(parts) or f"not shown to beat both at any of {_budgets(len(ours))}"))
        beating += [method] if won else []
    text = (
        f"Yes: {len(beating)} of {len(methods)} methods somewhere." if beating else "None is shown to, at any budget."
    )
    return Answer(title, text, tuple(points))


def _compositions(findings: Findings) -> Answer:
    title = findings.comparison.title
    if not findings.composed:
        unknown = [name for name in findings.comparison.methods if name not in findings.structures]
        why = f" ({', '.join(unknown)}: what they are made of is not known here)" if unknown else ""
        return Answer(title, f"The study has no composition whose operands can be told{why}.")
    points = []
    beating = 0
    for method in dict.fromkeys(one.arm.method for one in findings.composed):
        ours = [one for one in findings.composed if one.arm.method == method]
        won = [one.arm.keep for one in ours if one.beats_each]
        beating += bool(won)
        parts = [f"beats each operand at {_listed(won, len(ours))}"]
        for operand in dict.fromkeys(one.other for each in ours for one in each.against):
            difference = [one.difference for each in ours for one in each.against if one.other == operand]
            parts.append(f"against {operand} {_counted(difference)}")
        missing = sorted({name for one in ours for name in one.missing})
        parts += [f"{', '.join(missing)} was not measured alone at the same ledger"] if missing else []
        points.append((method_label(method, ours[0].formula), "; ".join(parts)))
    text = f"Yes: {beating} of {len(points)} somewhere." if beating else "None is shown to, at any budget."
    return Answer(title, text, tuple(points))


def _attention(findings: Findings) -> Answer:
    title = findings.comparison.title
    judged = [name for name, structure in findings.structures.items() if structure.attention]
    if not judged:
        return Answer(title, "No method of this study judges by attention.")
    points = []
    behind = 0
    for method in judged:
        whole = [one for one in findings.controls if one.arm.method == method]
        lost = [one.arm.keep for one in whole if one.difference.verdict == "worse"]
        ours = [one for one in findings.attention if one.arm.method == method and one.difference.verdict == "worse"]
        kinds = dict.fromkeys(one.kind for one in ours if one.kind)
        each = [f"{kind} ({', '.join(str(one.arm.keep) for one in ours if one.kind == kind)})" for kind in kinds]
        by_kind = f"; by type of question: {', '.join(each)}" if each else ""
        points.append((method, f"behind the best control at {_listed(lost, len(whole))}{by_kind}"))
        behind += bool(lost or kinds)
    text = f"{behind} of {len(judged)} such methods somewhere." if behind else "Nowhere that this study can show."
    return Answer(title, text, tuple(points))


def _alarms(findings: Findings) -> Answer:
    title = findings.comparison.title
    if not findings.inverses:
        return Answer(title, "No inverted score was measured.")
    ringing = [one for one in findings.inverses if one.not_shown_better]
    if not ringing:
        return Answer(title, "Every method is shown to be better than its own inverse, at every budget measured.")
    points = []
    for method in dict.fromkeys(one.arm.method for one in ringing):
        loud = [str(one.arm.keep) for one in ringing if one.arm.method == method and one.inverse_no_worse]
        quiet = [str(one.arm.keep) for one in ringing if one.arm.method == method and not one.inverse_no_worse]
        parts = [f"its inverse does no worse at {', '.join(loud)}"] if loud else []
        parts += [f"not shown to be better than its inverse at {', '.join(quiet)}"] if quiet else []
        points.append((method, "; ".join(parts)))
    alarm = any(one.inverse_no_worse for one in ringing)
    text = "Alarm: an inverted score does no worse." if alarm else "Not every method is shown to beat its inverse."
    return Answer(title, text, tuple(points), alarm)


def _order(findings: Findings) -> Answer:
    comparison = findings.comparison
    points = []
    for block in comparison.blocks:
        places = ranks_of(comparison, block.arms)
        if places is not None:
            first = [arm.method for arm, rank in zip(block.arms, places, strict=True) if rank.low == 1]
            name = f"{block.keep}, {block.tokens:.3g} tokens per layer"
            points.append((name, f"{', '.join(first)} ({len(first)} of {len(block.arms)})"))
    text = "Who may truly be the best of a block:" if points else "There is nothing to rank."
    return Answer(comparison.title, text, tuple(points))


def _transfer(carried: Sequence[OrderTransfer]) -> Question:
    pairs: dict[str, list[OrderTransfer]] = {}
    tasks: dict[tuple[str, str], list[OrderTransfer]] = {}
    for one in carried:
        pairs.setdefault(f"{one.first.model} and {one.second.model} on {one.first.task}", []).append(one)
        tasks.setdefault((one.first.task, one.first.card_hash), []).append(one)
    return Question(
        "transfer",
        "Does the order of methods carry over to another model?",
        tuple(Answer(title, _agreeing(found)) for title, found in pairs.items()),
        tuple(transfer_table(found) for found in tasks.values()),
    )


def _agreeing(found: Sequence[OrderTransfer]) -> str:
    taus = [two_digits(tau) for tau in sorted(one.found.tau for one in found if one.found.tau is not None)]
    same, opposite = sum(one.found.same for one in found), sum(one.found.opposite for one in found)
    text = f"τ is {' to '.join(dict.fromkeys([taus[0], taus[-1]]))}" if taus else "τ is not known"
    text += f". Of {sum(one.found.pairs for one in found)} pairs of methods (over all budgets), both models tell "
    if not same + opposite:
        return f"{text}none apart."
    how = f"{opposite} of these are turned around" if opposite else "all of these are in the same order"
    return f"{text}{same + opposite} apart, and {how}."


def _certainty(findings: Findings) -> Answer:
    comparison = findings.comparison
    pictures = len(set(comparison.images))
    counted = int(comparison.headline.sum())
    text = (
        f"{len(comparison.samples)} questions on {pictures} pictures in every cell, {counted} of them in the headline."
    )
    if findings.detectable is None:
        text += " No difference could be detected between methods that disagree this little."
    else:
        text += (
            f" A single comparison finds a true difference of {100 * findings.detectable:.1f} points in four of five such "
            "studies; smaller ones are mostly missed."
        )
    for kind, (right, count) in comparison.left_out.items():
        text += (
            f" {kind} is left out of the headline: the unpruned model has only {100 * right:.1f} % of {count} right, "
            "below 80 %."
        )
    accuracies = comparison.accuracies
    if accuracies and not comparison.left_out and max(right for right, _ in accuracies.values()) < 0.8:
        text += " The unpruned model has 80 % right in no type of question, so all of them count."
    return Answer(comparison.title, text)


def _both(findings: Findings) -> list[tuple[Arm, list[PairedDifference]]]:
    by: dict[int, tuple[Arm, list[PairedDifference]]] = {}
    for one in findings.plain:
        by.setdefault(id(one.arm), (one.arm, []))[1].append(one.difference)
    return [(arm, ones) for arm, ones in by.values() if len(ones) == 2]


def _by_method(found: Sequence[MethodDifference]) -> list[tuple[str, list[MethodDifference]]]:
    methods = dict.fromkeys(one.arm.method for one in found)
    return [(method, [one for one in found if one.arm.method == method]) for method in methods]


def _somewhere(found: Sequence[MethodDifference], verdict: str) -> set[str]:
    return {one.arm.method for one in found if one.difference.verdict == verdict}


def _budgets(count: int) -> str:
    return "1 budget" if count == 1 else f"{count} budgets"


def _counted(found: Sequence[PairedDifference]) -> str:
    better = sum(one.verdict == "better" for one in found)
    worse = sum(one.verdict == "worse" for one in found)
    parts = [f"better at {better}" if better else "", f"worse at {worse}" if worse else ""]
    left = len(found) - better - worse
    parts.append(f"open at {left}" if left else "")
    return ", ".join(part for part in parts if part) + f" of {len(found)}"


def _listed(keeps: Sequence[str | None], total: int) -> str:
    if not keeps:
        return f"none of {_budgets(total)}"
    if len(keeps) == total:
        return "every budget" if total > 1 else f"{keeps[0]}"
    return f"{', '.join(map(str, keeps))} ({len(keeps)} of {total} budgets)"


def _percent(comparison: Comparison, arm: Arm) -> str:
    found = comparison.interval(arm)
    return f"{100 * found.estimate:.1f} ±{100 * half_width(found):.1f} %"
