"""The pruned prefill beside the floor, and a prefill that keeps every token beside the plain model.

`python -m benchmarks.engine` prints the tables; `--layers 24` takes a deeper model, `--json FILE` writes all figures,
and `--png FILE` draws those of the pruned prefill.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import tokensieve as ts
from benchmarks.models import llava
from tokensieve.cli.bench_tables import latency_tables
from tokensieve.cli.progress import reported
from tokensieve.measure import Latency, Prompts, measure_latency
from tokensieve.measure.picture import write_picture

KEEP, TEXT, TOKENS = 64, 64, 4
RECIPES = ("uniform", "divprune", "script")
KEEP_ALL = "keep all"


def timed(function: Callable[[], Any]) -> float:
    """Return the seconds a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measured(repeats: int, layers: int = 12) -> list[Latency]:
    """Measure 576 tokens pruned to 64, and 576 of which all are kept, each beside the unpruned model and the floor."""
    registry, model = ts.default_registry(), llava(layers)
    picture = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(1))
    prompts = Prompts(registry.adapter_for(model), {"pixel_values": picture})
    title = f"LLaVA, hidden {model.config.text_config.hidden_size}, {layers} layers, random weights"
    pruned = [ts.Recipe.load(name, registry).replace(keep=KEEP) for name in RECIPES]
    whole = ts.Recipe.of(registry.strategy("norm")(), "100%", name=KEEP_ALL)
    found = []
    with reported() as report:
        for recipes in (pruned, [whole]):
            found.append(
                measure_latency(
                    prompts, recipes, title=title, text=(TEXT,), tokens=TOKENS, repeats=repeats, progress=report
                )
            )
    return found


def ratios(found: list[Latency]) -> dict[str, float]:
    """Return the ratios that have bounds: of prefills after vision, and of decode steps."""
    pruned, whole = found
    floor = next(row for row in pruned.rows if row.role == "floor")
    out = {}
    for row in pruned.rows:
        if row.role == "recipe" and row.of_floor is not None:
            out[f"{row.name}, 64 of 576, prefill / floor"] = row.of_floor.median
            out[f"{row.name}, 64 of 576, decode step / floor"] = row.step.median / floor.step.median
    kept = next(row for row in whole.rows if row.name == KEEP_ALL)
    return out | {"keep all, prefill / plain model": kept.of_unpruned.median}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    chosen = parser.parse_args()
    # One thread, because on a shared machine threads mostly wait for each other.
    torch.set_num_threads(1)
    found = measured(chosen.repeats, chosen.layers)
    for latency in found:
        for table in latency_tables(latency):
            Console().print(table)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([one.to_dict() for one in found], indent=1) + "\n", encoding="utf-8")
    if chosen.png is not None:
        write_picture(found[0], chosen.png)


if __name__ == "__main__":
    main()
