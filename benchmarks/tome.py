"""The speed of a Vision Transformer that merges r tokens in every block: throughput and counted FLOPs against r.

`python -m benchmarks.tome` prints a table; `--record` also writes it to docs/assets/tome-sweep.json, from which
`python docs/figures.py` draws the page's figure.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import tokensieve as ts

RS = (0, 4, 8, 12, 16)
IMAGES, REPEATS = 8, 7
RECORD = Path(__file__).parents[1] / "docs" / "assets" / "tome-sweep.json"


def vit() -> Any:
    """Return a ViT-S/16 with random weights and 196 patches an image."""
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", pretrained=False).eval()


def recipe(r: int) -> ts.Recipe:
    """Return the paper's schedule: r tokens in each of the twelve blocks."""
    merger = ts.default_registry().strategy("tome")(metric="keys")  # type: ignore[call-arg]
    return ts.Recipe.of(merger, at="encoder.0..11", r=r, rest="merge")


@torch.no_grad()
def sweep(rs: Sequence[int] = RS, repeats: int = REPEATS) -> list[tuple[int, int, float, float]]:
    """Measure every r once in each turn, so that a busy machine slows all of them alike.

    Returns:
        r, the patches left, FLOPs of the blocks and throughput, both over those of the plain model.
    """
    model, images = vit(), torch.randn(IMAGES, 3, 224, 224)
    seconds: dict[int, list[float]] = {r: [] for r in rs}
    plain: list[float] = []
    left, flops = {}, {}
    for turn in range(repeats + 1):
        started = time.perf_counter()
        model(images)
        native = time.perf_counter() - started
        for r in rs:
            with ts.prune(model, recipe(r)) as run:
                started = time.perf_counter()
                model(images)
                spent = time.perf_counter() - started
            counted = run.tower_flops(0)
            left[r] = len(run.kept("encoder.11")[0])
            flops[r] = counted[1] / counted[0] if counted is not None else float("nan")
            # The first turn is a warm-up.
            if turn:
                seconds[r].append(spent)
        if turn:
            plain.append(native)
    return [(r, left[r], flops[r], statistics.median(plain) / statistics.median(seconds[r])) for r in rs]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    console = Console()
    with console.status("timing"):
        found = sweep()
    table = Table("r", "patches left", "FLOPs of blocks / plain", "throughput / plain")
    for r, patches, share, speed in found:
        table.add_row(str(r), str(patches), f"{share:.3f}", f"{speed:.2f}")
    console.print(table)
    if "--record" in sys.argv:
        rows = [[r, patches, round(share, 3), round(speed, 3)] for r, patches, share, speed in found]
        RECORD.write_text(json.dumps(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
