"""Draws all figures of a report, from findings alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokensieve.study.analysis.comparison import CONTROL_ROLES
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.report.figures.style import Drawing, LineStyle, line_styles, plot_settings

if TYPE_CHECKING:
    pass
from tokensieve.study.report.figures.curves import accuracy_flops, accuracy_time, accuracy_tokens, by_kind, recall
from tokensieve.study.report.figures.kept import maps, overlap, shares
from tokensieve.study.report.figures.ranks import critical_difference


def draw(all_findings: Sequence[Findings]) -> list[Drawing]:
    """Return all figures for which the findings have numbers."""
    roles: dict[str, str] = {}
    for findings in all_findings:
        for arm in findings.comparison.arms:
            if arm.role == "method" or arm.role in CONTROL_ROLES:
                roles.setdefault(arm.method, arm.role)
    # Methods come before controls, whatever ran first.
    styles = line_styles(dict(sorted(roles.items(), key=lambda pair: pair[1] != "method")))
    makers: tuple[Callable[[Findings, dict[str, LineStyle]], Drawing | None], ...] = (
        accuracy_tokens,
        accuracy_flops,
        accuracy_time,
        by_kind,
        recall,
        overlap,
        shares,
        maps,
        critical_difference,
    )
    with plot_settings():
        made = [make(findings, styles) for make in makers for findings in all_findings]
        drawn = [drawing for drawing in made if drawing is not None]
        for drawing in drawn:
            # The layout is computed once, not again for every file.
            drawing.figure.draw_without_rendering()
            drawing.figure.set_layout_engine("none")
    return drawn
