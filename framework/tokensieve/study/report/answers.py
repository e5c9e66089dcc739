"""The questions of a report, answered in sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from tokensieve.study.analysis.attempt import attempt
from tokensieve.study.analysis.comparison import Arm, Comparison
from tokensieve.study.analysis.filtered import FilteredBlock, filtered_blocks
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
from tokensieve.study.report.tables.filtered import filtered_table
from tokensieve.study.report.tables.ranks import rank_table, ranks_of, transfer_table, two_digits
from tokensieve.study.report.tables.values import Table, method_label, points_text

TRANSFER = "Does the order of methods carry over to another model?"


@dataclass(frozen=True)
class Answer:
    """The answer of one comparison to a question.

    Attributes:
        title: the title of the comparison.
        text: the answer in a sentence.
        points: details, one for each method: its name, and what is shown about it.
        alarm: whether the answer is highlighted.
    """

    title: str
    text: str
    points: tuple[tuple[str, str], ...] = ()
    alarm: bool = False


@dataclass(frozen=True)
class Question:
    """A question with the answers of all comparisons.

    Attributes:
        name: the name for links.
        text: the question.
        answers: one for each comparison.
        tables: the numbers behind the answers.
    """

    name: str
    text: str
    answers: tuple[Answer, ...]
    tables: tuple[Table, ...] = field(default=())


@dataclass(frozen=True)
class _QuestionKind:
    """A question, and how it is answered for a comparison.

    Attributes:
        name: the name for links.
        text: the question.
        needs: the attributes of findings that the answer is made of.
        answer: makes the answer.
        table: makes the table behind it.
    """

    name: str
    text: str
    needs: tuple[str, ...]
    answer: Callable[[Findings], Answer]
    table: Callable[[Findings], Table | None]


def answer_questions(all_findings: Sequence[Findings], note: str = "") -> list[Question]:
    """Return all questions with their answers. An answer that cannot be computed says why.

    With several models, one of them is whether the order of methods carries over.

    Args:
        all_findings: the findings, one for each comparison.
        note: a sentence that ends every answer, such as that the study is incomplete.
    """
    kinds = (
        _QuestionKind(
            "best-control", "Does any method beat the best control?", ("controls",), _best_control, control_table
        ),
        _QuestionKind("plain", "Does any method beat both uniform and random?", ("plain",), _plain, plain_table),
        _QuestionKind(
            "compositions",
            "Does a composition beat each of its operands?",
            ("compositions",),
            _compositions,
            composition_table,
        ),
        _QuestionKind(
            "attention",
            "Where do methods that judge by attention fall behind?",
            ("controls", "attention"),
            _attention,
            attention_table,
        ),
        _QuestionKind("inverses", "Do scores point the right way?", ("inverses",), _inverses, inverse_table),
        _QuestionKind("order", "How sure is the order?", (), _order, rank_table),
        _QuestionKind("certainty", "What can this study show at all?", ("detectable",), _certainty, lambda _: None),
    )
    questions = []
    for kind in kinds:
        found = [_answer(kind, findings) for findings in all_findings]
        tables = tuple(table for _, table in found if table is not None)
        questions.append(Question(kind.name, kind.text, tuple(answer for answer, _ in found), tables))
    filtered = _filtered_question(all_findings)
    if filtered is not None:
        questions.insert(2, filtered)
    transfer = _transfer_question(all_findings)
    if transfer is not None:
        questions.insert(-1, transfer)
    if note:
        questions = [
            replace(one, answers=tuple(replace(answer, text=f"{answer.text} {note}") for answer in one.answers))
            for one in questions
        ]
    return questions


def _answer(kind: _QuestionKind, findings: Findings) -> tuple[Answer, Table | None]:
    """Return the answer to a question with its table, or why it cannot be computed."""
    why = {name: findings.uncomputed[name] for name in kind.needs if name in findings.uncomputed}
    nothing: tuple[Answer | None, Table | None] = (None, None)
    if not why:
        answer, table = attempt(lambda: (kind.answer(findings), kind.table(findings)), nothing, kind.name, why)
        if answer is not None:
            return answer, table
    return Answer(findings.comparison.title, uncomputed_text(why)), None


def uncomputed_text(why: Mapping[str, str]) -> str:
    """Return the sentence that says why something cannot be computed."""
    return f"This cannot be computed: {'; '.join(dict.fromkeys(why.values()))}"


def _transfer_question(all_findings: Sequence[Findings]) -> Question | None:
    why: dict[str, str] = {}
    nothing: tuple[OrderTransfer, ...] = ()
    transfers = attempt(
        lambda: order_transfers([findings.comparison for findings in all_findings]), nothing, "transfer", why
    )
    if transfers:
        return _transfer(transfers)
    return Question("transfer", TRANSFER, (Answer("All models", uncomputed_text(why)),)) if why else None


def _filtered_question(all_findings: Sequence[Findings]) -> Question | None:
    """Return the question about a smaller image; none if no comparison has one."""
    answers, tables = [], []
    measured = False
    for findings in all_findings:
        comparison = findings.comparison
        why: dict[str, str] = {}
        nothing: tuple[FilteredBlock, ...] = ()
        blocks = attempt(partial(filtered_blocks, comparison), nothing, "filtered", why)
        measured |= bool(blocks or why)
        if why:
            answers.append(Answer(comparison.title, uncomputed_text(why)))
            continue
        answers.append(_filtered(comparison, blocks))
        table = filtered_table(comparison, blocks)
        tables += [] if table is None else [table]
    text = "What is left where a smaller image fails?"
    return Question("filtered", text, tuple(answers), tuple(tables)) if measured else None


def _filtered(comparison: Comparison, blocks: Sequence[FilteredBlock]) -> Answer:
    if not blocks:
        return Answer(comparison.title, "No smaller image was measured with as many tokens as a method.")
    points = []
    for one in blocks:
        best = "; too few to say more"
        if one.shares:
            arm, share = one.shares[0]
            best = f"; most right: {arm.method}, {100 * share.estimate:.1f} ±{100 * half_width(share):.1f} %"
        points.append((one.block.keep, f"{one.left} of {one.asked} questions{best}"))
    text = "Questions that the unpruned model has right, and with an image shrunk to as many tokens wrong:"
    return Answer(comparison.title, text, tuple(points))


def _best_control(findings: Findings) -> Answer:
    comparison = findings.comparison
    if not findings.controls:
        return Answer(comparison.title, "No method can be compared: no control was measured at any of their budgets.")
    points = []
    for method, own in _by_method(findings.controls):
        parts = []
        for verdict in ("better", "worse"):
            shown = [one for one in own if one.difference.verdict == verdict]
            if shown:
                far = max(shown, key=lambda one: abs(one.difference.value))
                where = _budget_list([one.arm.keep for one in shown], len(own))
                parts.append(f"{verdict} at {where}, most at {far.arm.keep}: {points_text(far.difference)} points")
        points.append((method, "; ".join(parts) or f"not shown to differ at any of {_budget_count(len(own))}"))
    best = [
        f"{names[0].method} at {block.keep} ({_percent(comparison, names[0])})"
        for block in comparison.blocks
        if (names := [arm for arm in block.arms if arm.role != "method"]) and len(block.arms) > len(names)
    ]
    if best:
        points.append(("best controls", ", ".join(best)))
    won, lost = _methods_with_verdict(findings.controls, "better"), _methods_with_verdict(findings.controls, "worse")
    total = len(_by_method(findings.controls))
    text = f"Yes: {len(won)} of {total} methods somewhere" if won else "None is shown to"
    text += f"; {len(lost)} of {total} somewhere worse." if lost else "."
    return Answer(comparison.title, text, tuple(points))


def _plain(findings: Findings) -> Answer:
    title = findings.comparison.title
    both = _against_both(findings)
    if not both:
        return Answer(title, "Nothing to compare: uniform and random were not both measured at any method's ledger.")
    points = []
    methods = list(dict.fromkeys(arm.method for arm, _ in both))
    beating = []
    for method in methods:
        own = [(arm, ones) for arm, ones in both if arm.method == method]
        won = [arm.keep for arm, ones in own if all(one.verdict == "better" for one in ones)]
        lost = [arm.keep for arm, ones in own if any(one.verdict == "worse" for one in ones)]
        parts = [f"beats both at {_budget_list(won, len(own))}"] if won else []
        parts += [f"worse than one of them at {_budget_list(lost, len(own))}"] if lost else []
        points.append((method, "; ".join(parts) or f"not shown to beat both at any of {_budget_count(len(own))}"))
        beating += [method] if won else []
    text = (
        f"Yes: {len(beating)} of {len(methods)} methods somewhere." if beating else "None is shown to, at any budget."
    )
    return Answer(title, text, tuple(points))


def _compositions(findings: Findings) -> Answer:
    title = findings.comparison.title
    if not findings.compositions:
        unknown = [name for name in findings.comparison.methods if name not in findings.structures]
        why = f" ({', '.join(unknown)}: what they are made of is not known here)" if unknown else ""
        return Answer(title, f"The study has no composition whose operands can be told{why}.")
    points = []
    beating = 0
    for method in dict.fromkeys(one.arm.method for one in findings.compositions):
        own = [one for one in findings.compositions if one.arm.method == method]
        won = [one.arm.keep for one in own if one.beats_each]
        beating += bool(won)
        parts = [f"beats each operand at {_budget_list(won, len(own))}"]
        for operand in dict.fromkeys(one.other for each in own for one in each.differences):
            difference = [one.difference for each in own for one in each.differences if one.other == operand]
            parts.append(f"against {operand} {_verdict_counts(difference)}")
        missing = sorted({name for one in own for name in one.missing})
        parts += [f"{', '.join(missing)} was not measured alone at the same ledger"] if missing else []
        points.append((method_label(method, own[0].formula), "; ".join(parts)))
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
        own = [one for one in findings.attention if one.arm.method == method and one.difference.verdict == "worse"]
        kinds = dict.fromkeys(one.kind for one in own if one.kind)
        each = [f"{kind} ({', '.join(str(one.arm.keep) for one in own if one.kind == kind)})" for kind in kinds]
        by_kind = f"; by type of question: {', '.join(each)}" if each else ""
        points.append((method, f"behind the best control at {_budget_list(lost, len(whole))}{by_kind}"))
        behind += bool(lost or kinds)
    text = f"{behind} of {len(judged)} such methods somewhere." if behind else "Nowhere that this study can show."
    return Answer(title, text, tuple(points))


def _inverses(findings: Findings) -> Answer:
    title = findings.comparison.title
    if not findings.inverses:
        return Answer(title, "No inverted score was measured.")
    not_better = [one for one in findings.inverses if one.not_shown_better]
    if not not_better:
        return Answer(title, "Every method is shown to be better than its own inverse, at every budget measured.")
    points = []
    for method in dict.fromkeys(one.arm.method for one in not_better):
        no_worse = [str(one.arm.keep) for one in not_better if one.arm.method == method and one.inverse_no_worse]
        unclear = [str(one.arm.keep) for one in not_better if one.arm.method == method and not one.inverse_no_worse]
        parts = [f"its inverse does no worse at {', '.join(no_worse)}"] if no_worse else []
        parts += [f"not shown to be better than its inverse at {', '.join(unclear)}"] if unclear else []
        points.append((method, "; ".join(parts)))
    alarm = any(one.inverse_no_worse for one in not_better)
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
        TRANSFER,
        tuple(Answer(title, _agreement(found)) for title, found in pairs.items()),
        tuple(transfer_table(found) for found in tasks.values()),
    )


def _agreement(found: Sequence[OrderTransfer]) -> str:
    taus = [two_digits(tau) for tau in sorted(one.transfer.tau for one in found if one.transfer.tau is not None)]
    same, opposite = sum(one.transfer.same for one in found), sum(one.transfer.opposite for one in found)
    text = f"τ is {' to '.join(dict.fromkeys([taus[0], taus[-1]]))}" if taus else "τ is not known"
    text += f". Of {sum(one.transfer.pairs for one in found)} pairs of methods (over all budgets), both models tell "
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
            f" A single comparison finds a true difference of {100 * findings.detectable:.1f} points in four of five "
            "such studies; smaller ones are mostly missed."
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


def _against_both(findings: Findings) -> list[tuple[Arm, list[PairedDifference]]]:
    by: dict[int, tuple[Arm, list[PairedDifference]]] = {}
    for one in findings.plain:
        by.setdefault(id(one.arm), (one.arm, []))[1].append(one.difference)
    return [(arm, ones) for arm, ones in by.values() if len(ones) == 2]


def _by_method(found: Sequence[MethodDifference]) -> list[tuple[str, list[MethodDifference]]]:
    methods = dict.fromkeys(one.arm.method for one in found)
    return [(method, [one for one in found if one.arm.method == method]) for method in methods]


def _methods_with_verdict(found: Sequence[MethodDifference], verdict: str) -> set[str]:
    return {one.arm.method for one in found if one.difference.verdict == verdict}


def _budget_count(count: int) -> str:
    return "1 budget" if count == 1 else f"{count} budgets"


def _verdict_counts(found: Sequence[PairedDifference]) -> str:
    better = sum(one.verdict == "better" for one in found)
    worse = sum(one.verdict == "worse" for one in found)
    parts = [f"better at {better}" if better else "", f"worse at {worse}" if worse else ""]
    left = len(found) - better - worse
    parts.append(f"open at {left}" if left else "")
    return ", ".join(part for part in parts if part) + f" of {len(found)}"


def _budget_list(keeps: Sequence[str | None], total: int) -> str:
    if not keeps:
        return f"none of {_budget_count(total)}"
    if len(keeps) == total:
        return "every budget" if total > 1 else f"{keeps[0]}"
    return f"{', '.join(map(str, keeps))} ({len(keeps)} of {total} budgets)"


def _percent(comparison: Comparison, arm: Arm) -> str:
    found = comparison.interval(arm)
    return f"{100 * found.estimate:.1f} ±{100 * half_width(found):.1f} %"
