"""The command `bench`: how long prompts take, pruned and unpruned, on a checkpoint or on a released model's shape."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tokensieve.cli import console
from tokensieve.cli.bench_tables import break_even_table, latency_tables, overhead_table
from tokensieve.cli.files import require_writable
from tokensieve.cli.options import (
    Budget,
    Device,
    PluginFiles,
    RecipeNames,
    RecipeSettings,
    ShapedModel,
    open_registry,
    parse_budgets,
)
from tokensieve.cli.progress import Report, reported
from tokensieve.errors import RefusedError, listing

if TYPE_CHECKING:
    from tokensieve.cost.geometry import Geometry
    from tokensieve.measure import Counts, Latency
    from tokensieve.measure.subjects import Subject
    from tokensieve.plugins.registry import Registry
    from tokensieve.recipes.recipe import Recipe


def bench(
    recipes: RecipeNames,
    model: ShapedModel,
    keep: Budget = None,
    settings: RecipeSettings = None,
    visual: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Option("--visual", metavar="N,...", help="Visual tokens of a prompt: multiples of a picture's."),
    ] = None,
    text: Annotated[str, typer.Option("--text", metavar="N,...", help="Text tokens of a prompt.")] = "64",
    batch: Annotated[str, typer.Option("--batch", metavar="N,...", help="Prompts of a batch.")] = "1",
    dtype: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Option("--dtype", metavar="NAME,...", help="float32, bfloat16, float16; else the model's own."),
    ] = None,
    attention: Annotated[
        str, typer.Option("--attention", metavar="NAME,...", help="sdpa, eager, or others that transformers knows.")
    ] = "sdpa",
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of an answer; 1 for prefills alone.")] = 8,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="How often everything is measured, by turns.")] = 9,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="How often everything runs before.")] = 2,
    layers: Annotated[
        Optional[int],  # noqa: UP045 - typer reads the annotation
        typer.Option("--layers", min=1, help="Layers of a geometry's parts, at most; by default as many as fit."),
    ] = None,
    shrink: Annotated[
        Optional[int],  # noqa: UP045 - typer reads the annotation
        typer.Option("--shrink", min=1, help="Divide a geometry's widths by this."),
    ] = None,
    side: Annotated[
        int, typer.Option("--side", min=1, help="Pixels on a side of the picture that a checkpoint's processor gets.")
    ] = 672,
    device: Device = None,
    json_file: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--json", metavar="FILE", help="Write all figures as JSON."),
    ] = None,
    svg: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--svg", metavar="FILE", help="Draw the times."),
    ] = None,
    png: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--png", metavar="FILE", help="Draw the times."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Count operators, waits and bytes that pruning adds, and time nothing.")
    ] = False,
    plugin: PluginFiles = None,
) -> None:
    """Measure how fast pruned prompts are beside unpruned ones, and beside prompts that are as short from the start."""
    from tokensieve.cli.recipes import load_recipes

    registry = open_registry(plugin)
    grid = _Grid(
        numbers("--visual", visual) if visual is not None else (),
        numbers("--text", text),
        numbers("--batch", batch),
        _dtypes(dtype),
        _names("--attention", attention),
    )
    loaded = load_recipes(recipes, registry, parse_budgets(keep), settings)
    for file in (json_file, svg, png):
        require_writable(file)
    for file, suffix in ((svg, ".svg"), (png, ".png")):
        if file is not None and file.suffix != suffix:
            _wrong(f"{file} does not end in {suffix}")
    from tokensieve.measure.subjects import Size, find_source, open_subject

    source = find_source(model, registry)
    size = Size(layers, shrink)
    refused = _require_some(source, registry, loaded, grid, size)

    def opened(kind: str | None, attends: str) -> Subject:
        with console.working("making the model"):
            return open_subject(
                source, registry, loaded, dtype=kind, attention=attends, device=device, size=size, side=side
            )

    if profile:
        _profile(opened(grid.dtypes[0], grid.attention[0]), loaded, grid, registry, json_file)
        return
    plan = _Plan(loaded, grid, tokens, repeats, warmup, registry)
    with reported() as report:
        latency = plan.measured(opened, report)
    latency.refused = refused | latency.refused
    _show(latency)
    if json_file is not None:
        json_file.write_text(json.dumps(latency.to_dict(), indent=2) + "\n", encoding="utf-8")
    for file in (svg, png):
        if file is not None:
            from tokensieve.measure.picture import write_picture

            write_picture(latency, file)
    for file in (json_file, svg, png):
        if file is not None:
            console.warn(f"written: {file}")


@dataclass(frozen=True)
class _Grid:
    """What is varied."""

    visual: tuple[int, ...]
    text: tuple[int, ...]
    batch: tuple[int, ...]
    dtypes: tuple[str | None, ...]
    attention: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is measured of every model."""

    recipes: Sequence[Recipe]
    grid: _Grid
    tokens: int
    repeats: int
    warmup: int
    registry: Registry

    def measured(self, opened: Callable[[str | None, str], Subject], report: Report) -> Latency:
        """Measure one model after the other, and return all rows together."""
        from tokensieve.measure import measure_latency

        whole: Latency | None = None
        kinds = list(itertools.product(self.grid.dtypes, self.grid.attention))
        for number, (kind, attends) in enumerate(kinds):
            subject = opened(kind, attends)

            def progress(done: int, total: int, what: str, number: int = number, name: str = attends) -> None:
                report(number * total + done, len(kinds) * total, f"{what} ({name})")

            own = measure_latency(
                subject.prompts,
                self.recipes,
                title=subject.title,
                batches=self.grid.batch,
                visual=self.grid.visual,
                text=self.grid.text,
                tokens=self.tokens,
                repeats=self.repeats,
                warmup=self.warmup,
                registry=self.registry,
                progress=progress,
            )
            if whole is None:
                whole = own
            else:
                whole.rows += own.rows
        if whole is None:
            raise RefusedError("nothing was to be measured")
        return whole


def numbers(option: str, said: str) -> tuple[int, ...]:
    """Return the whole numbers of an option such as `1,4,16`.

    Raises:
        typer.Exit: with code 2, if there are others.
    """
    parts = [part.strip() for part in said.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        _wrong(f"{option} {said} is no list of whole numbers above 0, such as 1,4")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _names(option: str, said: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in said.split(",")))
    if not all(names):
        _wrong(f"{option} {said} has an empty name")
    return names


def _dtypes(said: str | None) -> tuple[str | None, ...]:
    from tokensieve.measure.subjects import DTYPES

    if said is None:
        return (None,)
    names = _names("--dtype", said)
    unknown = set(names) - set(DTYPES)
    if unknown:
        _wrong(f"--dtype takes {', '.join(DTYPES)}, and not {listing(unknown)}")
    return names


def _wrong(said: str) -> None:
    """End with a sentence about a wrong command line."""
    console.warn(said)
    raise typer.Exit(2)


def _require_some(
    source: Path | Geometry, registry: Registry, recipes: Sequence[Recipe], grid: _Grid, size: Any
) -> dict[str, str]:
    """Return which recipes are refused in which setting, and why, before any weights are made.

    Raises:
        RefusedError: if none can run.
    """
    from tokensieve.measure.latency import runnable
    from tokensieve.measure.shapes import resized
    from tokensieve.measure.subjects import planned_adapter

    planned = source if isinstance(source, Path) else resized(source, size.layers, size.shrink or 1)
    refused: dict[str, str] = {}
    left = 0
    with console.working("checking the recipes"):
        for name in grid.attention:
            adapter = planned_adapter(planned, registry, name)
            when = f" ({name})" if len(grid.attention) > 1 else ""
            left += len(runnable(recipes, adapter, refused, when))
    if not left:
        raise RefusedError("; ".join(f"recipe '{name}' cannot run: {said}" for name, said in refused.items()))
    return refused


def _show(latency: Latency) -> None:
    """Print the tables of a result."""
    for table in latency_tables(latency):
        console.show(table)
    console.show(break_even_table(latency))
    for name, said in latency.refused.items():
        console.warn(f"not measured: {name}: {said}")


def _profile(
    subject: Subject, recipes: Sequence[Recipe], grid: _Grid, registry: Registry, json_file: Path | None
) -> None:
    """Print and write what pruning adds to the first of the settings."""
    from tokensieve.measure import count_overhead
    from tokensieve.measure.latency import runnable

    refused: dict[str, str] = {}
    prompts = subject.prompts
    request = prompts.request(grid.batch[0], (grid.visual or (prompts.visual,))[0], grid.text[0])
    plain = count_overhead(prompts.model, request, None, registry)
    found = []
    for recipe in runnable(recipes, prompts.adapter, refused):
        with console.working(f"counting {recipe.name}"):
            found.append(count_overhead(prompts.model, request, recipe, registry))
    console.show(overhead_table(subject.title, plain, found))
    for name, said in refused.items():
        console.warn(f"not counted: {name}: {said}")
    if json_file is not None:
        content = {
            "format": "tokensieve.overhead/1",
            "model": subject.title,
            "unpruned": {"prefill": _counted(plain.prefill), "step": _counted(plain.step)},
            "added": {
                one.name: {
                    part: asdict(added) for part, added in zip(("prefill", "step"), one.over(plain), strict=True)
                }
                for one in found
            },
            "refused": refused,
        }
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        console.warn(f"written: {json_file}")


def _counted(counts: Counts) -> dict[str, Any]:
    return {
        "operators": counts.operators,
        "synchronisations": counts.synchronisations,
        "bytes_allocated": counts.bytes_allocated,
        "waits": dict(counts.waits),
    }
