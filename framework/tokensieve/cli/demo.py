"""The demonstration: prune an example on this machine, time it, and draw what was kept."""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.showing import ends, names, picture, require_places
from tokensieve.cli.watching import Seen, watch
from tokensieve.loading import Ready, load, pruned, save_example
from tokensieve.recipe import Recipe
from tokensieve.registry import Registry
from tokensieve.run import Run
from tokensieve.study.statistics.overlap import jaccard_of as jaccard

FORMAT = "tokensieve.demo/1"


@dataclass
class Trial:
    """A recipe under measurement.

    Attributes:
        recipe: which.
        run: its ledger, of the latest prefill.
        seen: what each stage kept, and its operands.
        unpruned: milliseconds of a prefill without it, one a repeat.
        pruned: with it, right after.
        selection: the part of `pruned` that was spent selecting.
    """

    recipe: Recipe
    run: Run
    seen: Sequence[Seen]
    unpruned: list[float] = field(default_factory=list)
    pruned: list[float] = field(default_factory=list)
    selection: list[float] = field(default_factory=list)


def demonstrate(
    registry: Registry,
    recipes: Sequence[Recipe],
    name: str,
    image: Image.Image,
    prompt: str,
    out: Path,
    repeats: int,
) -> None:
    """Run the demonstration, and write everything into a folder.

    Args:
        registry: for adapters and names.
        recipes: what to show.
        name: of the picture.
        image: the picture.
        prompt: the question about it.
        out: an existing folder.
        repeats: how often everything is timed.
    """
    checkpoint = out / "model"
    checkpoint.mkdir(exist_ok=True)
    with _threads(1), _progress() as progress:
        task = progress.add_task("making the example checkpoint", total=4 + len(recipes) * (2 + repeats))
        description = save_example(registry, checkpoint, recipes)
        progress.update(task, advance=1, description="loading it")
        # On the CPU, so that it keeps the same tokens everywhere.
        ready = load(checkpoint, registry, recipes, "cpu")
        require_places(recipes, ready.adapter)
        inputs = ready.inputs(image, prompt)
        progress.update(task, advance=1, description="selecting")
        trials = []
        for recipe in recipes:
            run, seen = watch(ready, recipe, inputs, None, registry)
            trials.append(Trial(recipe, run, seen))
            progress.update(task, advance=1, description=f"selecting: {console.plain(recipe.name)}")
        # The first round warms up.
        for turn, trial in itertools.product(range(repeats + 1), trials):
            measure(ready, trial, inputs, registry, count=turn > 0)
            progress.update(task, advance=1, description=f"timing: {console.plain(trial.recipe.name)}")
        progress.update(task, advance=1, description="drawing")
        seen = [one for trial in trials for one in ends(trial.recipe, trial.seen)]
        drawn = picture(ready, inputs, seen, image, name, prompt, description)
        picture_file = out / names([Path(name)])[0]
        drawn.image.save(picture_file)
        ledger = out / "ledger.json"
        content = _ledger(trials, name, prompt, description, repeats)
        ledger.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        progress.update(task, advance=1, description="done")
    console.say(f"checkpoint  {description}.")
    console.say(f"picture     {name}, {trials[0].run.latest.visual[0]} visual tokens")
    console.say(f"question    {prompt}")
    console.say()
    console.show(timings(trials, repeats))
    console.say()
    composed = [one for one in seen if len(one.own) > 1]
    if composed:
        console.show(contributions(composed))
        console.say()
    console.say(f"picture     {picture_file}")
    console.say(f"ledger      {ledger}")
    console.say(f"checkpoint  {checkpoint}  (try: tokensieve run {recipes[0].name} --model {checkpoint} ...)")


def measure(ready: Ready, trial: Trial, inputs: Mapping[str, Any], registry: Registry, count: bool) -> None:
    """Time a prefill without and with a recipe, one after the other."""
    without = _timed(ready, inputs)
    with pruned(ready, trial.recipe, None, registry) as run:
        under = _timed(ready, inputs)
    trial.run = run
    if count:
        trial.unpruned.append(without)
        trial.pruned.append(under)
        trial.selection.append(sum(stage.ms for stage in run.latest.stages))


def _timed(ready: Ready, inputs: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    ready.prefill(inputs)
    return 1000 * (time.perf_counter() - started)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute on so many threads: a model this small is no faster on more, and times vary less on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def timings(trials: Sequence[Trial], repeats: int) -> Table:
    """Give the table of what each recipe keeps and costs."""
    times = f"median of {repeats} paired repeats" if repeats > 1 else "of one repeat"
    table = Table(
        title="What a prompt costs: counted, and measured on this machine",
        title_justify="left",
        caption="per layer: mean visual tokens per decoder layer. GFLOPs: counted, of the language model alone. "
        f"prefill ms: vision tower, selection and language model, {times} on one thread, without and with the "
        "recipe; select ms: the selection alone, which on a model as small as this one can cost more than it saves.",
        caption_justify="left",
    )
    table.add_column("recipe", overflow="fold")
    for column in ("kept", "per layer", "LM GFLOPs", "prefill ms", "select ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for trial in trials:
        flops = trial.run.flops(0) or (0, 0)
        before, after = (statistics.median(times) for times in (trial.unpruned, trial.pruned))
        table.add_row(
            console.cell(trial.recipe.name),
            ", ".join(str(len(one.kept)) for one in trial.seen),
            f"{trial.run.mean_visual(0) or 0:.0f}",
            f"{flops[0] / 1e9:.2f} -> {flops[1] / 1e9:.2f}",
            f"{before:.1f} -> {after:.1f}",
            f"{statistics.median(trial.selection):.1f}",
        )
    return table


def contributions(seen: Sequence[Seen]) -> Table:
    """Give the table of what each operand had to do with what was kept."""
    table = Table(
        title="What the operands contribute",
        title_justify="left",
        caption="in its own best: how many of the kept tokens the operand alone would have kept, too. Jaccard: "
        "what both hold of what either holds; with the recipe's own choice, and with the other operands alone.",
        caption_justify="left",
    )
    table.add_column("recipe", overflow="fold")
    table.add_column("operand", overflow="fold")
    table.add_column("in its own best", justify="right")
    table.add_column("Jaccard: recipe", justify="right")
    table.add_column("others", justify="right", overflow="fold")
    for one in seen:
        for number, (operand, ids) in enumerate(one.own.items()):
            others = [f"{other} {jaccard(ids, theirs):.2f}" for other, theirs in one.own.items() if other != operand]
            table.add_row(
                console.cell(one.recipe if number == 0 else ""),
                console.cell(operand),
                f"{len(ids & one.kept)} of {len(one.kept)}",
                f"{jaccard(ids, one.kept):.2f}",
                console.cell("\n".join(others)),
            )
        table.add_section()
    return table


def _ledger(trials: Sequence[Trial], name: str, prompt: str, description: str, repeats: int) -> dict[str, Any]:
    versions = {package: metadata.version(package) for package in ("tokensieve", "torch", "transformers")}
    return {
        "format": FORMAT,
        "image": name,
        "prompt": prompt,
        "checkpoint": description,
        "repeats": repeats,
        "environment": {
            "python": platform.python_version(),
            **versions,
            "device": "cpu",
            "cores": os.cpu_count(),
            "threads": 1,
        },
        "recipes": [_entry(trial) for trial in trials],
    }


def _entry(trial: Trial) -> dict[str, Any]:
    times = {"unpruned": trial.unpruned, "pruned": trial.pruned, "selection": trial.selection}
    return {
        **trial.run.to_dict(),
        "ms": {what: [round(value, 3) for value in values] for what, values in times.items()},
        "operands": [
            {
                "at": one.site,
                "own_ids": {operand: sorted(ids) for operand, ids in one.own.items()},
                "kept_in_own": {operand: len(ids & one.kept) for operand, ids in one.own.items()},
                "jaccard_with_kept": {operand: jaccard(ids, one.kept) for operand, ids in one.own.items()},
                "jaccard_between": {
                    f"{a} {b}": jaccard(one.own[a], one.own[b]) for a, b in itertools.combinations(one.own, 2)
                },
            }
            for one in trial.seen
        ],
    }
