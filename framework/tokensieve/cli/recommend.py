"""The command `recommend`: which recipes a model can run, and what is known of each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich import box
from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.files import require_writable
from tokensieve.cli.options import Device, PluginFiles, ShapedModel, open_registry, parse_budgets
from tokensieve.cli.progress import reported

if TYPE_CHECKING:
    from tokensieve.measure.recommendation import Adviser, Candidate, Recommendation

DEFAULT_KEEP = "1/9"
"""The budget if none is asked for; the shipped studies have it."""


def recommend(
    model: ShapedModel,
    recipes: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads the annotation
        typer.Argument(metavar="[RECIPE...]", help="What to choose from; by default all shipped recipes."),
    ] = None,
    keep: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Option("--keep", metavar="K", help="The budget, such as 64 or 1/9, which is the default."),
    ] = None,
    speedup: Annotated[
        Optional[float],  # noqa: UP045 - typer reads the annotation
        typer.Option("--speedup", metavar="X", help="By what to divide the language model's prefill FLOPs."),
    ] = None,
    latency: Annotated[
        Optional[float],  # noqa: UP045 - typer reads the annotation
        typer.Option("--latency", metavar="MS", help="Milliseconds to the first token; measured on this machine."),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure what fits on this machine.")] = False,
    visual: Annotated[
        Optional[int],  # noqa: UP045 - typer reads the annotation
        typer.Option("--visual", min=1, help="Visual tokens of a picture; a geometry has its own."),
    ] = None,
    text: Annotated[int, typer.Option("--text", min=1, help="Text tokens of a prompt.")] = 64,
    attention: Annotated[str, typer.Option("--attention", metavar="NAME", help="sdpa, eager, or others.")] = "sdpa",
    device: Device = None,
    json_file: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--json", metavar="FILE", help="Write the answer as JSON."),
    ] = None,
    plugin: PluginFiles = None,
) -> None:
    """List the recipes that a model can run with a budget, speed-up or latency, and what is known of each."""
    budgets = _asked(keep, speedup, latency)
    if latency is not None and visual is not None:
        _wrong("--latency measures a picture with as many visual tokens as it has; leave --visual out")
    require_writable(json_file)
    registry = open_registry(plugin)
    from tokensieve.cost.geometry import Geometry
    from tokensieve.measure import recommendation
    from tokensieve.measure.subjects import find_source, open_subject, planned_adapter
    from tokensieve.sites import Site

    source = find_source(model, registry)
    adapter = planned_adapter(source, registry, attention)
    if isinstance(source, Geometry) and latency is None:
        visual = visual or source.num_visual_tokens
    names = recipes or list(registry.recipes)
    adviser = recommendation.Adviser(adapter, registry, visual, text)
    answer = subject = None
    if latency is None:
        answer = (
            adviser.with_budget(names, budgets[0]) if speedup is None else adviser.with_speedup(names, float(speedup))
        )
    if answer is None or measure:
        runnable = adviser.runnable(names)[0]
        with console.working("making the model"):
            subject = open_subject(source, registry, runnable, attention=attention, device=device)
        with reported() as progress:
            if answer is None:
                adviser = recommendation.Adviser(subject.prompts.adapter, registry, subject.prompts.visual, text)
                answer = recommendation.within_latency(
                    adviser, names, subject.prompts, float(latency or 0), progress=progress
                )
            else:
                recommendation.add_times(answer, adviser, subject.prompts, progress=progress)
    asked = _question(keep, speedup, latency)
    title = f"{asked}, on {model if subject is None else subject.title} ({adapter.name}, {attention})"
    limits = _limits(answer, adviser)
    offered = sorted(adapter.offers(Site("decoder", 0)))
    _show(title, answer, offered, limits)
    if json_file is not None:
        content = _content(title, answer, limits) | {"evidence_before_language_model": offered}
        json_file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        console.warn(f"written: {json_file}")


def _asked(keep: str | None, speedup: float | None, latency: float | None) -> list[Any]:
    """Return the budgets of `--keep`, or end with a sentence if the question is none."""
    if sum(one is not None for one in (keep, speedup, latency)) > 1:
        _wrong("ask for one of --keep, --speedup and --latency")
    if speedup is not None and not (math.isfinite(speedup) and speedup > 1):
        _wrong(f"--speedup {speedup} is no factor above 1, such as 2")
    if latency is not None and not (math.isfinite(latency) and latency > 0):
        _wrong(f"--latency {latency} is no number of milliseconds above 0, such as 50")
    budgets = parse_budgets(keep or DEFAULT_KEEP) or []
    if len(budgets) != 1:
        _wrong("--keep takes one budget here, such as 64 or 1/9")
    return budgets


def _wrong(said: str) -> None:
    """End with a sentence about a wrong command line."""
    console.warn(said)
    raise typer.Exit(2)


def _question(keep: str | None, speedup: float | None, latency: float | None) -> str:
    if speedup is not None:
        return f"1/{speedup:g} of the prefill's FLOPs or less"
    if latency is not None:
        return f"the first token within {latency:g} ms"
    return f"keep {keep}" if keep is not None else f"keep {DEFAULT_KEEP} (the default)"


def _show(title: str, answer: Recommendation, offered: Iterable[str], limits: Sequence[str]) -> None:
    timed = any(one.first_ms is not None for one in answer.candidates)
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    table.add_column("recipe", overflow="fold", min_width=10)
    for column in ("keep", "FLOPs", *(("TTFT\nms", "select\nms") if timed else ("select\noperators",))):
        table.add_column(column, justify="right")
    table.add_column("reads", no_wrap=True)
    table.add_column("in shipped studies", overflow="fold", min_width=28)
    for one in answer.candidates:
        if timed:
            costs = [_number(one.first_ms), _number(one.selection_ms)]
        else:
            costs = [f"+{one.operators.operators:,}" if one.operators is not None else ""]
        flops = f"{one.flops:.1%}" if one.flops is not None else ""
        reads = "question" if one.question else ""
        table.add_row(cell(one.recipe.name), one.keep, flops, *costs, reads, cell(evidence_of(one)))
    if answer.candidates:
        console.show(table)
    else:
        console.echo(f"{title}: no recipe fits")
    if answer.unpruned_ms is not None:
        console.echo(f"unpruned: {answer.unpruned_ms:.1f} ms to the first token")
    for heading, reasons in (("cannot run on this model", answer.refused), ("no answer to this", answer.aside)):
        if reasons:
            console.echo(f"\n{heading}:")
            for name, said in reasons.items():
                console.echo(f"  {name}: {said}")
    console.echo(f"\nevidence before the language model: {', '.join(offered)}; `check --model` lists all sites")
    console.echo("\nwhat this does not say:")
    for said in limits:
        console.echo(f"  - {said}")


def evidence_of(one: Candidate) -> str:
    """Return what studies found of a candidate, as text."""
    if not one.studied:
        return "none"
    relative = [row.relative for row in one.studied]
    least, most = f"{min(relative):.0f}", f"{max(relative):.0f}"
    kept = f"{least}" if least == most else f"{least} to {most}"
    first = one.studied[0]
    alias = f"as {first.recipe}, " if first.recipe != one.recipe.name else ""
    said = f"{alias}at {first.keep} {kept} % of unpruned; "
    if first.verdict == "control":
        return said + "a control"
    counts = [
        f"{kind} on {number}" for kind in ("better", "undecided", "worse", "untested") if (number := one.verdicts(kind))
    ]
    points = [row.over_control for row in one.studied if row.verdict == "untested" and row.over_control is not None]
    if points:
        counts[-1] += f" ({min(points):+.0f} to {max(points):+.0f} points)"
    return f"{said}against the best control {', '.join(counts)} of {len(one.studied)} models"


def _number(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.1f}"


def _limits(answer: Recommendation, adviser: Adviser) -> list[str]:
    """Return what the answer leaves open, and where its numbers are from."""
    models = sorted({row.model for one in answer.candidates for row in one.studied})
    limits = [
        "How good answers of this model are: nothing was measured on it here. `tokensieve compare` measures it on your "
        "questions."
    ]
    if models:
        limits.append(
            f"The studies ask {', '.join(models)}, which are small, about drawn scenes (docs/findings.md). 'better' "
            "and 'worse' survive Holm's correction; 'untested' have no p-value there. Another training run of "
            "a model changed results by more than 20 points."
        )
    unknown = sum(not one.studied for one in answer.candidates)
    if unknown:
        limits.append(
            f"{unknown} of {len(answer.candidates)} recipes have no study near this budget; these stand last."
        )
    if adviser.visual is None:
        limits.append("FLOPs, and what part of a picture a count is: say --visual N.")
    else:
        limits.append(
            f"FLOPs are counted, for the language model's prefill of {adviser.visual} visual and {adviser.text} text "
            "tokens, without vision encoder, head and selection. They are no times."
        )
    if answer.unpruned_ms is None:
        limits.append(
            "Times: say --measure. Operators that selecting adds were counted once, for 64 of 576 tokens in "
            "LLaVA-1.5's shape (docs/benchmarks.md)."
        )
    else:
        limits.append(
            "Times are medians of single prompts on this machine, for one random picture; `tokensieve bench` has "
            "intervals and larger batches. At another load or on another machine they are others."
        )
    return limits


def _content(title: str, answer: Recommendation, limits: Sequence[str]) -> dict[str, Any]:
    return {
        "format": "tokensieve.recommendation/1",
        "asked": title,
        "candidates": [one.to_dict() for one in answer.candidates],
        "cannot_run": answer.refused,
        "no_answer": answer.aside,
        "unpruned_first_token_ms": answer.unpruned_ms,
        "not_said": list(limits),
    }
