"""The mean over benchmarks against visual tokens."""

from __future__ import annotations

from tokensieve.errors import StudyError
from tokensieve.study.analysis.benchmarks import BenchmarkAverage, Benchmarks
from tokensieve.study.analysis.comparison import CONTROL_ROLES
from tokensieve.study.report.figures.curves import BANDS, curve, legend, token_axis
from tokensieve.study.report.figures.style import INK, SOFT_ALPHA, Drawing, LineStyle, new_figure
from tokensieve.study.report.tables.values import slug


def mean_tokens(benchmarks: Benchmarks, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw the relative average over a model's benchmarks against visual tokens; none if no row has one."""
    rows: dict[str, list[BenchmarkAverage]] = {name: [] for name in styles}
    for one in benchmarks.averages:
        if one.keep is not None and one.relative is not None and (one.role == "method" or one.role in CONTROL_ROLES):
            rows[one.method].append(one)
    drawn = {name: sorted(found, key=lambda one: one.tokens) for name, found in rows.items() if found}
    if not drawn:
        return None
    methods = [name for name, found in drawn.items() if found[0].role == "method"]
    # The methods with the highest mean over their budgets have bands.
    best = sorted(methods, key=lambda name: -sum(_relative(one)[0] for one in drawn[name]) / len(drawn[name]))[:BANDS]
    figure = new_figure(height=4.3)
    axes = figure.subplots()
    for number, (name, found) in enumerate(drawn.items()):
        points = [(one.tokens, *_relative(one)) for one in found]
        curve(axes, name, points, styles[name], f"curve-{number}", name in best)
    axes.axhline(100, color=INK, alpha=SOFT_ALPHA, linestyle="--", linewidth=0.8, zorder=1)
    token_axis(axes, benchmarks.comparisons[0])
    axes.set_ylabel("mean of the unpruned accuracy, %")
    legend(axes)
    tasks = ", ".join(comparison.task for comparison in benchmarks.comparisons)
    return Drawing(
        f"mean-{slug(benchmarks.model)}",
        f"{benchmarks.model}: mean over {len(benchmarks.comparisons)} benchmarks against visual tokens",
        f"The mean, over {tasks}, of the ratio to the unpruned model (dashed, 100 %), against the mean visual tokens "
        f"per decoder layer. Bands ({', '.join(best)}) are 95 % intervals over pictures; the table has all intervals.",
        figure,
        switches=tuple(drawn),
    )


def _relative(one: BenchmarkAverage) -> tuple[float, float, float]:
    """Return the relative average and both ends of its interval in per cent."""
    if one.relative is None:
        raise StudyError(f"'{one.method}' has no relative average")
    return 100 * one.relative.estimate, 100 * one.relative.low, 100 * one.relative.high
