"""How much faster a Vision Transformer is that merges r tokens in every block: throughput and counted FLOPs against r.

`python -m benchmarks.tome` prints a table, and draws it into docs/assets/tome-sweep.svg with `--draw`.
"""

from __future__ import annotations

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
FIGURE = Path(__file__).parents[1] / "docs" / "assets" / "tome-sweep.svg"


def vit() -> Any:
    """Give a ViT-S/16 of random weights, 196 patches an image."""
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", pretrained=False).eval()


def recipe(r: int) -> ts.Recipe:
    """Give the paper's schedule: r tokens in each of the twelve blocks."""
    merger = ts.default_registry().strategy("tome")(metric="keys")  # type: ignore[call-arg]
    return ts.Recipe.of(merger, at="encoder.0..11", r=r, rest="merge")


@torch.no_grad()
def sweep(rs: Sequence[int] = RS, repeats: int = REPEATS) -> list[tuple[int, int, float, float]]:
    """Measure every r, all of them in each turn, so that a busy machine is as hard on one as on another.

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
            # The first turn warms up.
            if turn:
                seconds[r].append(spent)
        if turn:
            plain.append(native)
    return [(r, left[r], flops[r], statistics.median(plain) / statistics.median(seconds[r])) for r in rs]


def draw(found: Sequence[tuple[int, int, float, float]]) -> str:
    """Give a figure of throughput and FLOPs against r, dark on white."""
    width, height, left, bottom, top = 640, 300, 60, 46, 24
    most = max(2.0, *(speed for *_, speed in found))
    xs = [left + (width - left - 120) * r / max(r for r, *_ in found) for r, *_ in found]

    def y(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / most

    def line(values: Sequence[float], colour: str, name: str) -> list[str]:
        points = " ".join(f"{x:.1f},{y(value):.1f}" for x, value in zip(xs, values, strict=True))
        dots = [
            f'<circle cx="{x:.1f}" cy="{y(v):.1f}" r="4" fill="{colour}"/>' for x, v in zip(xs, values, strict=True)
        ]
        label = f'<text x="{xs[-1] + 10:.1f}" y="{y(values[-1]) + 5:.1f}" font-size="14" fill="{colour}">{name}</text>'
        return [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots, label]

    parts = [f'<rect class="paper" width="{width}" height="{height}" fill="#ffffff"/>']
    for tick in [0.5 * i for i in range(int(most / 0.5) + 1)]:
        parts.append(
            f'<line x1="{left}" y1="{y(tick):.1f}" x2="{xs[-1]:.1f}" y2="{y(tick):.1f}" stroke="currentColor" '
            f'stroke-opacity="0.15"/><text x="{left - 8}" y="{y(tick) + 5:.1f}" font-size="13" text-anchor="end" '
            f'fill="currentColor">{tick:g}</text>'
        )
    for x, (r, patches, *_) in zip(xs, found, strict=True):
        parts.append(
            f'<text x="{x:.1f}" y="{height - 26}" font-size="13" text-anchor="middle" fill="currentColor">'
            f'r = {r}</text><text x="{x:.1f}" y="{height - 8}" font-size="12" text-anchor="middle" '
            f'fill="currentColor" fill-opacity="0.7">{patches} left</text>'
        )
    parts += line([speed for *_, speed in found], "#0072b2", "throughput")
    parts += line([share for _, _, share, _ in found], "#d55e00", "FLOPs")
    label = "Throughput and counted FLOPs of a merging ViT-S, over those of the plain one, against r"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}" '
        'color="#222222" font-family="system-ui, sans-serif">\n' + "\n".join(parts) + "\n</svg>\n"
    )


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
    if "--draw" in sys.argv:
        FIGURE.write_text(draw(found), encoding="utf-8")


if __name__ == "__main__":
    main()
