"""The findings as sentences and tables: what a reader asks first, answered first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tokensieve.study import inference
from tokensieve.study.analysis import Arm, Comparison
from tokensieve.study.findings import Against, Carried, Findings, transfers
from tokensieve.study.inference import Versus, half
from tokensieve.study.report.tables import (
    NOTE,
    NOTHING,
    Cell,
    Delta,
    Group,
    Line,
    Table,
    control_table,
    in_points,
    mcnemar_note,
    slug,
    spelled,
    tested,
    with_tests,
)
from tokensieve.study.statistics import Rank


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


def questions(founds: Sequence[Findings]) -> list[Question]:
    """Answer every question for every comparison, and of several models whether an order carries over."""
    asked: tuple[tuple[str, str, Callable[[Findings], Answer], Callable[[Findings], Table | None]], ...] = (
        ("best-control", "Does any method beat the best control?", _best_control, control_table),
        ("plain", "Does any method beat both uniform and random?", _plain, _plain_table),
        ("compositions", "Does a composition beat each of its operands?", _compositions, _composition_table),
        ("attention", "Where do methods that judge by attention fall behind?", _attention, _attention_table),
        ("inverses", "Do scores point the right way?", _alarms, _alarm_table),
        ("order", "How sure is the order?", _order, rank_table),
        ("certainty", "What can this study show at all?", _certainty, lambda _: None),
    )
    made = [
        Question(
            name,
            text,
            tuple(answer(found) for found in founds),
            tuple(table for found in founds if (table := make(found)) is not None),
        )
        for name, text, answer, make in asked
    ]
    carried = transfers([found.comparison for found in founds])
    if carried:
        made.insert(-1, _transfer(carried))
    return made


# ----------------------------------------------------------------------------------------------------------- answers


def _best_control(found: Findings) -> Answer:
    comparison = found.comparison
    if not found.controls:
        return Answer(comparison.title, "No method can be compared: no control was measured at any of their budgets.")
    points = []
    for method, ours in _by_method(found.controls):
        parts = []
        for verdict in ("better", "worse"):
            shown = [one for one in ours if one.versus.verdict == verdict]
            if shown:
                far = max(shown, key=lambda one: abs(one.versus.value))
                where = _listed([one.arm.keep for one in shown], len(ours))
                parts.append(f"{verdict} at {where}, most at {far.arm.keep}: {in_points(far.versus)} points")
        points.append((method, "; ".join(parts) or f"not shown to differ at any of {_budgets(len(ours))}"))
    best = [
        f"{names[0].method} at {block.keep} ({_percent(comparison, names[0])})"
        for block in comparison.blocks
        if (names := [arm for arm in block.arms if arm.role != "method"]) and len(block.arms) > len(names)
    ]
    if best:
        points.append(("best controls", ", ".join(best)))
    won, lost = _somewhere(found.controls, "better"), _somewhere(found.controls, "worse")
    total = len(_by_method(found.controls))
    text = f"Yes: {len(won)} of {total} methods somewhere" if won else "None is shown to"
    text += f"; {len(lost)} of {total} somewhere worse." if lost else "."
    return Answer(comparison.title, text, tuple(points))


def _plain(found: Findings) -> Answer:
    title = found.comparison.title
    both = _both(found)
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


def _compositions(found: Findings) -> Answer:
    title = found.comparison.title
    if not found.composed:
        unknown = [name for name in found.comparison.methods if name not in found.anatomies]
        why = f" ({', '.join(unknown)}: what they are made of is not known here)" if unknown else ""
        return Answer(title, f"The study has no composition whose operands can be told{why}.")
    points = []
    beating = 0
    for method in dict.fromkeys(one.arm.method for one in found.composed):
        ours = [one for one in found.composed if one.arm.method == method]
        won = [one.arm.keep for one in ours if one.beats_each]
        beating += bool(won)
        parts = [f"beats each operand at {_listed(won, len(ours))}"]
        for operand in dict.fromkeys(one.other for each in ours for one in each.against):
            versus = [one.versus for each in ours for one in each.against if one.other == operand]
            parts.append(f"against {operand} {_counted(versus)}")
        missing = sorted({name for one in ours for name in one.missing})
        parts += [f"{', '.join(missing)} was not measured alone at the same ledger"] if missing else []
        points.append((spelled(method, ours[0].formula), "; ".join(parts)))
    text = f"Yes: {beating} of {len(points)} somewhere." if beating else "None is shown to, at any budget."
    return Answer(title, text, tuple(points))


def _attention(found: Findings) -> Answer:
    title = found.comparison.title
    judged = [name for name, anatomy in found.anatomies.items() if anatomy.attention]
    if not judged:
        return Answer(title, "No method of this study judges by attention.")
    points = []
    behind = 0
    for method in judged:
        whole = [one for one in found.controls if one.arm.method == method]
        lost = [one.arm.keep for one in whole if one.versus.verdict == "worse"]
        ours = [one for one in found.attention if one.arm.method == method and one.versus.verdict == "worse"]
        kinds = dict.fromkeys(one.kind for one in ours if one.kind)
        each = [f"{kind} ({', '.join(str(one.arm.keep) for one in ours if one.kind == kind)})" for kind in kinds]
        by_kind = f"; by type of question: {', '.join(each)}" if each else ""
        points.append((method, f"behind the best control at {_listed(lost, len(whole))}{by_kind}"))
        behind += bool(lost or kinds)
    text = f"{behind} of {len(judged)} such methods somewhere." if behind else "Nowhere that this study can show."
    return Answer(title, text, tuple(points))


def _alarms(found: Findings) -> Answer:
    title = found.comparison.title
    if not found.inverses:
        return Answer(title, "No inverted score was measured.")
    ringing = [one for one in found.inverses if one.rings]
    if not ringing:
        return Answer(title, "Every method is shown to be better than its own inverse, at every budget measured.")
    points = []
    for method in dict.fromkeys(one.arm.method for one in ringing):
        loud = [str(one.arm.keep) for one in ringing if one.arm.method == method and one.loud]
        quiet = [str(one.arm.keep) for one in ringing if one.arm.method == method and not one.loud]
        parts = [f"its inverse does no worse at {', '.join(loud)}"] if loud else []
        parts += [f"not shown to be better than its inverse at {', '.join(quiet)}"] if quiet else []
        points.append((method, "; ".join(parts)))
    alarm = any(one.loud for one in ringing)
    text = "Alarm: an inverted score does no worse." if alarm else "Not every method is shown to beat its inverse."
    return Answer(title, text, tuple(points), alarm)


def _order(found: Findings) -> Answer:
    comparison = found.comparison
    points = []
    for block in comparison.blocks:
        places = _ranks(comparison, block.arms)
        if places is not None:
            first = [arm.method for arm, rank in zip(block.arms, places, strict=True) if rank.low == 1]
            name = f"{block.keep}, {block.tokens:.3g} tokens per layer"
            points.append((name, f"{', '.join(first)} ({len(first)} of {len(block.arms)})"))
    text = "Who may truly be the best of a block:" if points else "There is nothing to rank."
    return Answer(comparison.title, text, tuple(points))


def _transfer(carried: Sequence[Carried]) -> Question:
    pairs: dict[str, list[Carried]] = {}
    tasks: dict[tuple[str, str], list[Carried]] = {}
    for one in carried:
        pairs.setdefault(f"{one.first.model} and {one.second.model} on {one.first.task}", []).append(one)
        tasks.setdefault((one.first.task, one.first.card_hash), []).append(one)
    return Question(
        "transfer",
        "Does the order of methods carry over to another model?",
        tuple(Answer(title, _agreeing(found)) for title, found in pairs.items()),
        tuple(transfer_table(found) for found in tasks.values()),
    )


def _agreeing(found: Sequence[Carried]) -> str:
    taus = [_two(tau) for tau in sorted(one.found.tau for one in found if one.found.tau is not None)]
    same, opposite = sum(one.found.same for one in found), sum(one.found.opposite for one in found)
    text = f"τ is {' to '.join(dict.fromkeys([taus[0], taus[-1]]))}" if taus else "τ is not known"
    text += f". Of {sum(one.found.pairs for one in found)} pairs of methods (over all budgets), both models tell "
    if not same + opposite:
        return f"{text}none apart."
    how = f"{opposite} of these are turned around" if opposite else "all of these are in the same order"
    return f"{text}{same + opposite} apart, and {how}."


def _certainty(found: Findings) -> Answer:
    comparison = found.comparison
    pictures = len(set(comparison.images))
    counted = int(comparison.headline.sum())
    text = (
        f"{len(comparison.samples)} questions on {pictures} pictures in every cell, {counted} of them in the headline."
    )
    if found.detectable is None:
        text += " No difference could be detected between methods that disagree this little."
    else:
        text += (
            f" A single comparison finds a true difference of {100 * found.detectable:.1f} points in four of five such "
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


# ------------------------------------------------------------------------------------------------------------ tables


def _plain_table(found: Findings) -> Table | None:
    return _difference_table(
        found,
        "plain",
        "difference to uniform and to random",
        found.plain,
        lambda one: f"{one.arm.method} vs {one.control}",
    )


def _composition_table(found: Findings) -> Table | None:
    flat = [one for composed in found.composed for one in composed.against]
    return _difference_table(
        found,
        "compositions",
        "compositions and their operands",
        flat,
        lambda one: f"{one.arm.method} vs {one.other}",
        test=True,
    )


def _attention_table(found: Findings) -> Table | None:
    return _difference_table(
        found,
        "attention",
        "attention against the best control",
        found.attention,
        lambda one: f"{one.arm.method}: {one.kind or 'all'}",
        test=True,
    )


def _alarm_table(found: Findings) -> Table | None:
    comparison = found.comparison
    keeps = [keep for keep in comparison.keeps if any(one.arm.keep == keep for one in found.inverses)]
    lines = []
    for method in dict.fromkeys(one.arm.method for one in found.inverses):
        by = {one.arm.keep: one for one in found.inverses if one.arm.method == method}
        lines.append(Line(f"{method} vs its inverse", tuple(Delta(by[k].versus) if k in by else None for k in keeps)))
    return _made(comparison, "inverses", "every method and its inverse", keeps, lines)


def rank_table(found: Findings) -> Table | None:
    """Return every arm's rank in its block, with an interval; arms with one ledger are a group."""
    comparison = found.comparison
    cells: dict[str, dict[str, Cell]] = {}
    ledgers: dict[str, list[str]] = {}
    for block in comparison.blocks:
        places = _ranks(comparison, block.arms)
        for arm, rank in zip(block.arms, places or (), strict=bool(places)):
            cells.setdefault(arm.method, {})[block.keep] = f"{rank.rank:.3g} [{rank.low}, {rank.high}]"
            ledgers.setdefault(arm.method, []).append(f"{block.tokens:.3g}")
    if not cells:
        return None
    keeps = [keep for keep in comparison.keeps if any(keep in row for row in cells.values())]
    groups: dict[str, list[Line]] = {}
    for name, row in cells.items():
        heading = f"{' / '.join(ledgers[name])} visual tokens per layer"
        groups.setdefault(heading, []).append(Line(name, tuple(row.get(keep) for keep in keeps)))
    return Table(
        f"ranks-{slug(comparison.title)}",
        f"{comparison.title}: ranks",
        tuple(keeps),
        tuple(Group(heading, tuple(lines)) for heading, lines in groups.items()),
        ("Rank by right answers, and the places that it may truly have, all together with 95 %.",),
    )


def transfer_table(carried: Sequence[Carried]) -> Table:
    """Return how far two models order methods alike on one task: a group for every two models, a column a budget."""
    known = list(dict.fromkeys(one.methods for one in carried))
    sets = {
        methods: f"{len(methods)} methods" + (f" ({number})" if [*map(len, known)].count(len(methods)) > 1 else "")
        for number, methods in enumerate(known, start=1)
    }
    groups: dict[str, dict[str, dict[str, Cell]]] = {}
    for one in carried:
        rows = groups.setdefault(f"{one.first.model} and {one.second.model}", {})
        tau = NOTHING if one.found.tau is None else _two(one.found.tau)
        rows.setdefault(sets[one.methods], {})[one.keep] = f"{tau} [{_two(one.found.low)}, {_two(one.found.high)}]"
    keeps = tuple(dict.fromkeys(one.keep for one in carried))
    task = carried[0].first.task
    return Table(
        f"transfer-{slug(task)}",
        f"{task}: order of methods on two models",
        keeps,
        tuple(
            Group(models, tuple(Line(label, tuple(row.get(keep) for keep in keeps)) for label, row in rows.items()))
            for models, rows in groups.items()
        ),
        (
            "Kendall's τ-b of the two orders: 1 the same, -1 turned around; and where it may truly lie with 95 %, by "
            "intervals of all pairs of methods on both models together.",
            *(f"{name}: {', '.join(methods)}." for methods, name in sets.items()),
        ),
    )


def record_table(found: Findings) -> Table | None:
    """Return how often each method is surely better than each other over the budgets at which all were measured."""
    comparison = found.comparison
    full = [block for block in comparison.blocks if len(block.arms) > 1]
    if not full:
        return None
    common = [arm.method for arm in full[0].arms if all(any(a.method == arm.method for a in b.arms) for b in full)]
    mask = comparison.headline
    blocks = [
        (
            np.array([next(a for a in block.arms if a.method == name).correct[mask] for name in common]),
            comparison.clusters[mask],
        )
        for block in full
    ]
    record = inference.record(blocks) if len(common) > 1 else None
    if record is None:
        return None
    lines = [
        Line(
            name,
            tuple(
                None
                if one == other
                else f"{record.wins[one][other]} / {record.ties[one][other]} / {record.losses[one][other]}"
                for other in range(len(common))
            ),
        )
        for one, name in enumerate(common)
    ]
    notes = (f"Wins / ties / losses over {len(full)} budgets; a win is shown by intervals of all pairs together.",)
    return _made(comparison, "record", "wins, ties and losses", common, lines, notes)


def _difference_table(
    found: Findings,
    name: str,
    title: str,
    differences: Iterable[Against],
    label: Callable[[Against], str],
    *,
    test: bool = False,
) -> Table | None:
    """Return a row for every label and a column for every budget, with McNemar's test beside it where that is said."""
    comparison = found.comparison
    rows: dict[str, dict[str, Versus]] = {}
    mixed = False
    for one in differences:
        mixed |= one.mixed
        rows.setdefault(label(one) + (" ‡" if one.mixed else ""), {})[str(one.arm.keep)] = one.versus
    keeps = [keep for keep in comparison.keeps if any(keep in row for row in rows.values())]
    width = 2 if test else 1
    lines = [
        Line(text, tuple(cell for keep in keeps for cell in tested(row.get(keep))[:width]))
        for text, row in rows.items()
    ]
    notes = [NOTE, mcnemar_note(comparison)][:width]
    if mixed:
        notes.append("‡ Against controls mixed from their two nearest budgets to exactly as many tokens per layer.")
    return _made(comparison, name, title, with_tests(keeps) if test else keeps, lines, tuple(notes))


def _made(
    comparison: Comparison,
    name: str,
    title: str,
    columns: Sequence[str],
    lines: Sequence[Line],
    notes: tuple[str, ...] = (NOTE,),
) -> Table | None:
    if not lines:
        return None
    whole = f"{comparison.title}: {title}"
    return Table(f"{name}-{slug(comparison.title)}", whole, tuple(columns), (Group("", tuple(lines)),), notes)


# ------------------------------------------------------------------------------------------------------------- words


def _ranks(comparison: Comparison, arms: Sequence[Arm]) -> list[Rank] | None:
    mask = comparison.headline
    if len(arms) < 2:
        return None
    return inference.ranks(np.array([arm.correct[mask] for arm in arms]), comparison.clusters[mask])


def _both(found: Findings) -> list[tuple[Arm, list[Versus]]]:
    by: dict[int, tuple[Arm, list[Versus]]] = {}
    for one in found.plain:
        by.setdefault(id(one.arm), (one.arm, []))[1].append(one.versus)
    return [(arm, ones) for arm, ones in by.values() if len(ones) == 2]


def _by_method(found: Sequence[Against]) -> list[tuple[str, list[Against]]]:
    methods = dict.fromkeys(one.arm.method for one in found)
    return [(method, [one for one in found if one.arm.method == method]) for method in methods]


def _somewhere(found: Sequence[Against], verdict: str) -> set[str]:
    return {one.arm.method for one in found if one.versus.verdict == verdict}


def _two(value: float) -> str:
    # Rounded first, so that nothing is printed as minus zero.
    return f"{round(value, 2) + 0.0:.2f}"


def _budgets(count: int) -> str:
    return "1 budget" if count == 1 else f"{count} budgets"


def _counted(found: Sequence[Versus]) -> str:
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
    return f"{100 * found.estimate:.1f} ±{100 * half(found):.1f} %"
