"""`python -m benchmarks`: prints every timing with its bound."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

REPEATS = 15

BOUNDS = {
    "uniform, 64 of 576, prefill / floor": 1.05,
    "divprune, 64 of 576, prefill / floor": 1.07,
    "script, 64 of 576, prefill / floor": 1.10,
    "keep all, prefill / plain model": 1.02,
    "import tokensieve beyond torch, seconds": 0.5,
    "divprune, 64 of 576 / loop": 1.1,
    "divprune, 320 of 2,880 / loop": 1.1,
    "qcsp, 64 of 576 / loop": 1.1,
    "qcsp, 320 of 2,880 / loop": 1.1,
    "gsp, 64 of 576 / loop": 1.5,
    "gsp, 320 of 2,880 / loop": 1.5,
    "script, 64 of 576 / loop": 1.25,
    "script, 320 of 2,880 / loop": 1.25,
    "script, 1,024 of 12,544 / greedy picks that it needs": 2.0,
    "qcsp, a batch of 8 / its rows one by one": 1.1,
    "gsp by tau, 6,272 tokens / one product": 2.0,
    "gsp by tau, 6,272 tokens, MiB beside its input": 64.0,
    "gsp by quantile, 6,272 tokens / one product": 4.0,
    "gsp by quantile, 6,272 tokens, MiB beside its input": 64.0,
}


def imports(repeats: int) -> dict[str, float]:
    """Return the time to import tokensieve in a fresh interpreter that has imported torch."""
    code = "import time, torch; t = time.perf_counter(); import tokensieve; print(time.perf_counter() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats)
    ]
    return {"import tokensieve beyond torch, seconds": statistics.median(seconds)}


def main() -> int:
    """Print a table; return 1 if a bound is broken."""
    # Otherwise the profiler, which measures memory, logs every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch

    from benchmarks import engine, selection

    # One thread, because on a shared machine threads mostly wait for each other.
    torch.set_num_threads(1)
    console = Console()
    with console.status("timing"):
        found = engine.ratios(engine.measured(REPEATS)) | imports(5) | selection.all_ratios(5)
    table = Table("what", "median", "bound")
    for name, value in found.items():
        table.add_row(name, f"{value:.4f}", f"{BOUNDS[name]:g}" if name in BOUNDS else "-")
    console.print(table)
    broken = [name for name, bound in BOUNDS.items() if found[name] > bound]
    if broken:
        console.print(f"over the bound: {', '.join(broken)}", style="red")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
