"""Draws all figures of a report, from findings alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from tokensieve.study.analysis.attempt import attempt
from tokensieve.study.analysis.benchmarks import Benchmarks
from tokensieve.study.analysis.comparison import CONTROL_ROLES
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.report.figures.benchmarks import mean_tokens
from tokensieve.study.report.figures.curves import accuracy_flops, accuracy_time, accuracy_tokens, recall
from tokensieve.study.report.figures.kept import maps, overlap, shares
from tokensieve.study.report.figures.panels import by_kind, by_method
from tokensieve.study.report.figures.ranks import critical_difference
from tokensieve.study.report.figures.style import Drawing, LineStyle, line_styles, plot_settings

Maker: TypeAlias = Callable[[Findings, dict[str, LineStyle]], Drawing | None]

MAKERS: tuple[Maker, ...] = (
    accuracy_tokens,
    by_method,
    accuracy_flops,
    accuracy_time,
    by_kind,
    recall,
    overlap,
    shares,
    maps,
    critical_difference,
)
"""The figures of a report, in its order."""


def draw(
    all_findings: Sequence[Findings], benchmarks: Sequence[Benchmarks], note: str, problems: dict[str, str]
) -> list[Drawing]:
    """Return all figures for which the findings have numbers.

    Args:
        all_findings: the findings, one for each comparison.
        benchmarks: of every model with several.
        note: a sentence that every figure and its caption show, such as that the study is incomplete; may be empty.
        problems: gets why a figure could not be drawn, by its name.

    Returns:
        The figures that could be drawn.
    """
    roles: dict[str, str] = {}
    for findings in all_findings:
        for arm in findings.comparison.arms:
            if arm.role == "method" or arm.role in CONTROL_ROLES:
                roles.setdefault(arm.method, arm.role)
    # Methods come before controls, whatever ran first.
    styles = line_styles(dict(sorted(roles.items(), key=lambda pair: pair[1] != "method")))
    makers: list[tuple[str, Callable[[], Drawing | None]]] = [
        *((f"mean of {own.model}", partial(mean_tokens, own, styles)) for own in benchmarks),
        *(
            (f"{make.__name__.replace('_', ' ')} of {findings.comparison.title}", partial(make, findings, styles))
            for make in MAKERS
            for findings in all_findings
        ),
    ]
    with plot_settings():
        drawn = [attempt(partial(_drawn, make, note), None, name, problems) for name, make in makers]
    return [drawing for drawing in drawn if drawing is not None]


def _drawn(make: Callable[[], Drawing | None], note: str) -> Drawing | None:
    """Return a figure with its layout, which is computed once and not again for every file."""
    drawing = make()
    if drawing is None:
        return None
    if note:
        drawing.figure.suptitle(note, fontsize=7, x=0.01, ha="left")
        drawing = replace(drawing, caption=f"{drawing.caption} {note}")
    drawing.figure.draw_without_rendering()
    drawing.figure.set_layout_engine("none")
    return drawing
