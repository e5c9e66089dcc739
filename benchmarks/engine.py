"""The overhead of pruning: time inside our hooks, and a pruned prefill against a prefill of the same length.

Time inside hooks is summed while the model runs, because it would be lost in the difference of two noisy medians.
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import tokensieve as ts
from benchmarks.models import TEXT, VISUAL, llava, request
from tokensieve.engine.decoder_pruner import DecoderPruner
from tokensieve.engine.layer_pruner import LayerPruner

KEEP = 64


class Clock:
    """Sums the time spent in wrapped functions."""

    def __init__(self) -> None:
        self.spent = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, wrapped so that its time is added."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent += time.perf_counter() - started

        return timed


def timed(function: Callable[[], Any]) -> float:
    """Return the seconds a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def hooks(repeats: int) -> dict[str, float]:
    """Return the time inside hooks divided by the time of the step, for a prefill and for a decode step."""
    model, clock = llava(), Clock()
    expression = ts.default_registry().strategy("norm")()
    real = {name: getattr(DecoderPruner, name) for name in ("_before", "_after")}
    real_enter = LayerPruner._enter
    for name, function in real.items():
        setattr(DecoderPruner, name, clock.wrap(function))
    LayerPruner._enter = clock.wrap(real_enter)  # type: ignore[method-assign]
    out: dict[str, float] = {}
    try:
        # transformers 5.24 calls it by another name.
        cache = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
        for label, keep in (("keep 64", KEEP), ("keep all", "100%")):
            prefill, decode = [], []
            with torch.no_grad(), ts.prune(model, expression, keep=keep) as run:
                for _ in range(repeats):
                    clock.spent = 0.0
                    asked = request(model)
                    started = time.perf_counter()
                    output = model(**asked)
                    whole = time.perf_counter() - started
                    selecting = run.latest.stages[0].ms / 1000
                    prefill.append((clock.spent - selecting) / (whole - selecting))
                    past, length = output[cache], VISUAL + TEXT
                    for step in range(4):
                        clock.spent = 0.0
                        started = time.perf_counter()
                        model(
                            input_ids=torch.tensor([[5]]),
                            position_ids=torch.tensor([[length + step]]),
                            **{cache: past},
                            use_cache=True,
                        )
                        decode.append(clock.spent / (time.perf_counter() - started))
            out[f"hooks / prefill ({label})"] = statistics.median(prefill)
            out[f"hooks / decode step ({label})"] = statistics.median(decode)
    finally:
        for name, function in real.items():
            setattr(DecoderPruner, name, function)
        LayerPruner._enter = real_enter  # type: ignore[method-assign]
    return out


def prefill(repeats: int) -> dict[str, float]:
    """Compare a prefill pruned to k visual tokens, without the time of selection, with an unpruned one of k tokens."""
    model = llava()
    expression = ts.default_registry().strategy("norm")()
    ratios, gains = [], []
    with torch.no_grad():
        for _ in range(repeats):
            short, long = request(model, visual=KEEP), request(model)
            native = timed(lambda: model(**short))  # noqa: B023 - called at once
            with ts.prune(model, expression, keep=KEEP) as run:
                pruned = timed(lambda: model(**long))  # noqa: B023 - called at once
            full = timed(lambda: model(**long))  # noqa: B023 - called at once
            pruned -= run.latest.stages[0].ms / 1000
            ratios.append(pruned / native)
            gains.append(full / pruned)
    return {
        "pruned prefill, selection apart / native prefill of k": statistics.median(ratios),
        "unpruned prefill / pruned prefill": statistics.median(gains),
    }
