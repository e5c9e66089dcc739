"""Time and memory of selecting, against the number of tokens, of kept ones, and of rows.

`python -m benchmarks.scale` prints a table; `--record` also writes it to docs/assets/scale.json, from which
`python docs/figures.py` draws the page's figures. Names measure these alone, such as `divprune "gsp & qcsp"`, and leave
the others as they were recorded. Every strategy of `tokensieve_strategies` is measured, with its first
example's settings, on random evidence as wide as that of a small model. Times are of the processor, on one thread, so
that what else the machine does counts little; memory is the peak of what torch allocates beside the evidence.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tokensieve as ts
from tokensieve.composers import Stream
from tokensieve.evidence import Text
from tokensieve.testing.memory import peak
from tokensieve.testing.samples import sample
from tokensieve_strategies import GSP, QCSP, STRATEGIES

RECORD = Path(__file__).parents[1] / "docs" / "assets" / "scale.json"
LENGTHS = (576, 2880, 6272, 12544, 25088, 50176)
"""LLaVA-1.5, LLaVA-NeXT, and videos of 32 to 256 frames of 14 x 14 tokens."""
KEPT = (64, 256, 1024)
ROWS = (1, 8, 64)
KEEP, AT = 64, 12544
"""The kept tokens of the first sweep, and the tokens of the second."""
WIDTH, KEYS, QUERY = 1024, 64, 768
FRAME = 196
SECONDS, BYTES = 10.0, 4 * 2**30
"""What a measurement may be expected to take; larger ones are left out, and so said."""

Row = dict[str, Any]


def tokens(n: int, rows: int) -> ts.Tokens:
    """Return random tokens `[rows, n]` with all evidence; in frames of 14 x 14 where these divide n, else in tiles."""
    g = torch.Generator().manual_seed(n)
    video = n % FRAME == 0
    side = math.isqrt(FRAME) if video else 24
    made = sample([n] * rows, d=WIDTH, text=(8,), width=side)
    place = torch.arange(n).expand(rows, n)
    frame = side * side
    flat = torch.zeros_like(place)
    number = place // frame
    cells = [flat, flat if video else number, number if video else flat, place % frame // side, place % side]
    some = torch.ones(rows, 8, dtype=torch.bool)
    wide: dict[ts.Evidence, Any] = {
        ts.Evidence.GRID: torch.stack(cells, dim=-1),
        ts.Evidence.VISION_KEYS: torch.randn(rows, n, KEYS, generator=g),
        ts.Evidence.DECODER_KEYS: torch.randn(rows, n, KEYS, generator=g),
        ts.Evidence.VISION_FEATURES: torch.randn(rows, n, WIDTH, generator=g),
        ts.Evidence.TEXT_FEATURES: Text(torch.randn(rows, 8, WIDTH, generator=g), some),
        ts.Evidence.QUERY: ts.Query(
            torch.randn(rows, n, QUERY, generator=g),
            torch.randn(rows, 1, QUERY, generator=g),
            torch.ones(rows, 1, dtype=torch.bool),
            "clip",
        ),
    }
    return ts.Tokens(made.universe, {**made.evidence, **wide}, made.keys, made.samples)


def strategies() -> dict[str, ts.Expression]:
    """Return every strategy with its first example's settings, `script`, and `script` over a stream of four frames."""
    found: dict[str, ts.Expression] = {one.name: one(**one.examples[0]) for one in STRATEGIES}
    script: ts.Expression = GSP() & QCSP()
    stream = Stream.of(script, frames=4)
    return dict(sorted(found.items())) | {"gsp & qcsp": script, "stream(script)": stream}


def sweep(expression: ts.Expression, points: Iterable[tuple[int, int, int]]) -> list[Row]:
    """Measure a selection at (tokens, kept, rows), from small to large, as far as that is expected to fit."""
    found: list[Row] = []
    for n, k, rows in points:
        if len(found) > 1 and any(_next(found, n * k * rows, what) > most for what, most in LIMITS.items()):
            break
        of = tokens(n, rows)
        select = lambda of=of, k=k: ts.select(expression, of, ts.Keep.of(k))  # noqa: E731
        first = used(select)
        seconds = first if first > 2 else statistics.median(used(select) for _ in range(3))
        found.append({"n": n, "k": k, "rows": rows, "seconds": seconds, "bytes": peak(select)})
    return found


LIMITS = {"seconds": SECONDS, "bytes": BYTES}


def _next(found: list[Row], size: int, what: str) -> float:
    """Return what a measurement of a size will take, by the power law through the last two."""
    before, last = found[-2], found[-1]
    small, large = (one["n"] * one["k"] * one["rows"] for one in (before, last))
    power = math.log(max(last[what], 1e-9) / max(before[what], 1e-9)) / math.log(large / small)
    return float(last[what] * (size / large) ** max(1.0, power))


def used(compute: Callable[[], object]) -> float:
    """Return the seconds of the processor that a computation takes."""
    start = time.process_time()
    compute()
    return time.process_time() - start


def main(record: bool, names: Sequence[str]) -> None:
    """Measure, print, and record."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[Row]]] = {}
    known = strategies()
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"nothing to measure is called {', '.join(unknown)}; there are {', '.join(known)}")
    measured = {name: known[name] for name in names or known}
    for name, expression in track(list(measured.items()), "measuring", console=Console(stderr=True)):
        length = sweep(expression, ((n, KEEP, 1) for n in LENGTHS))
        reached = any(row["n"] == AT for row in length)
        found[name] = {
            "length": length,
            "kept": sweep(expression, ((AT, k, 1) for k in KEPT)) if reached else [],
            "rows": sweep(expression, ((LENGTHS[0], KEEP, rows) for rows in ROWS)),
        }
    console = Console()
    for what, heads in (("length", LENGTHS), ("kept", KEPT), ("rows", ROWS)):
        table = Table(what, *(f"{head:,}" for head in heads))
        for name, sweeps in found.items():
            cells = [f"{1000 * row['seconds']:,.0f} ms, {row['bytes'] / 2**20:,.0f} MiB" for row in sweeps[what]]
            table.add_row(name, *cells)
        console.print(table)
    if record:
        recorded = json.loads(RECORD.read_text(encoding="utf-8")) if names else {}
        together = recorded | found
        after = {name: together[name] for name in known if name in together}
        RECORD.write_text(json.dumps(after, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main("--record" in sys.argv, [one for one in sys.argv[1:] if one != "--record"])
