"""What a search found, as the first section of the report on its held-out pictures."""

from __future__ import annotations

from typing import Any

from tokensieve.search.confirmation import Comparison, Confirmation, Confirmed
from tokensieve.search.writing import interval_text, points, verdict_text
from tokensieve.study.report.answers import Answer, Question
from tokensieve.study.report.figures.style import INK, MARKERS, PALETTE, SOFT_ALPHA, Drawing, new_figure, plot_settings
from tokensieve.study.report.parts import Section
from tokensieve.study.report.tables.values import RowGroup, Share, Table, TableRow

NAME = "search"


def search_section(made: Confirmation, objective: str) -> Section:
    """Return what a search found: a sentence, a figure of what was luck, and a table.

    Args:
        made: the found and the given recipes on both parts of the pictures.
        objective: what the search weighed accuracy against: `tokens`, `flops` or `ms`.
    """
    found = [one.found for one in made.comparisons]
    answer = Answer(
        "Held-out pictures",
        _luck_text(found, made.given),
        tuple((one.found.name, verdict_text(one)) for one in made.comparisons),
    )
    question = Question(NAME, "What did the search find?", (answer,), (_table(made, objective),))
    headline = "" if made.best is None else f"Of the search, {verdict_text(made.best)}."
    return Section(headline, question, (_drawing(made, objective),))


def _luck_text(found: list[Confirmed], given: tuple[Confirmed, ...]) -> str:
    if not found:
        return "Nothing was found."
    lost = sum(one.lost for one in found) / len(found)
    text = f"What was found was chosen by its accuracy on other pictures. Here it has {points(-lost)} points"
    if not given:
        return f"{text}."
    other = sum(one.lost for one in given) / len(given)
    return f"{text}, and what was given {points(-other)}. The difference is the luck that a search selects."


def _table(made: Confirmation, objective: str) -> Table:
    ranked = sorted(made.given, key=lambda one: -one.held_out.accuracy)
    groups = (
        RowGroup("All tokens", (_row(made.unpruned, "unpruned"),)),
        RowGroup("Found", tuple(_row(one.found, "method", one) for one in made.comparisons)),
        RowGroup("Given", tuple(_row(one, "method") for one in ranked)),
    )
    columns = (f"{objective} %", "Search", "Held out", "Lost", "Δ best given", "Holm p")
    notes = (
        "Search: right answers in per cent on the pictures of the search. Held out: on pictures that the search did "
        "not see, with intervals of 95 %. Lost: what the first says too much.",
        "Δ best given: to the truly best of the given recipes that cost no more. The intervals of all found recipes "
        "hold together, and their p-values are corrected by Holm.",
    )
    return Table(NAME, "Found and given recipes", columns, tuple(one for one in groups if one.rows), notes)


def _row(one: Confirmed, role: str, against: Comparison | None = None) -> TableRow:
    difference = None if against is None else against.difference
    cells = (
        f"{100 * one.held_out.cost:.1f}",
        f"{100 * one.calibration.accuracy:.1f}",
        Share(one.interval),
        points(one.lost),
        None if difference is None else interval_text(difference),
        None if difference is None or against is None else f"{against.p_holm:.3f}",
    )
    return TableRow(one.name, cells, role)


def _drawing(made: Confirmation, objective: str) -> Drawing:
    """Draw accuracy against cost: on the pictures of the search, and where it went on held-out ones."""
    with plot_settings():
        figure = new_figure()
        axes = figure.subplots()
        groups = (
            ("given", list(made.given), INK, MARKERS[1], SOFT_ALPHA),
            ("found", [one.found for one in made.comparisons], PALETTE[1], MARKERS[0], 1.0),
        )
        for name, recipes, colour, marker, alpha in groups:
            for number, one in enumerate(recipes):
                cost, before, after = 100 * one.held_out.cost, one.calibration.accuracy, one.held_out.accuracy
                axes.plot([cost, cost], [100 * before, 100 * after], color=colour, alpha=0.6 * alpha, linewidth=1)
                label = name if number == 0 else None
                options: dict[str, Any] = {"color": colour, "marker": marker, "alpha": alpha, "linestyle": "none"}
                axes.plot([cost], [100 * before], markerfacecolor="none", **options)
                axes.plot([cost], [100 * after], label=label, **options)
        axes.axhline(100 * made.unpruned.held_out.accuracy, color=INK, linewidth=0.8, linestyle="--", label="unpruned")
        axes.set_xlabel(f"{objective}, % of the unpruned model")
        axes.set_ylabel("right answers, %")
        axes.legend(loc="lower right")
    return Drawing(
        NAME,
        "What the search found, on its own pictures and on others",
        "Hollow: on the pictures of the search. Filled: on held-out pictures. What was chosen for its accuracy there "
        "loses the luck that it was chosen for; what was given loses nothing on average.",
        figure,
    )
