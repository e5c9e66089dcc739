"""The time of one call of a model, by its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tokensieve.engine.cache import cache_name, returned_cache
from tokensieve.engine.installation import Installation
from tokensieve.engine.stopwatch import Stopwatch
from tokensieve.ledger.run import Run
from tokensieve.models.decoder import Decoder


@dataclass(frozen=True)
class CallTime:
    """The milliseconds of a call, for the whole batch.

    Attributes:
        first: from the request to the logits of the first token (TTFT).
        vision: of it, encoding pictures.
        selection: of it, choosing tokens; 0 without pruning.
        step: of every further token, the mean.
    """

    first: float
    vision: float
    selection: float
    step: float

    @property
    def prefill(self) -> float:
        """The rest of `first`: the language model's prefill, and the bookkeeping of pruning."""
        return self.first - self.vision - self.selection

    @property
    def after_vision(self) -> float:
        """All of `first` but encoding pictures."""
        return self.first - self.vision


@dataclass
class VisionWatch:
    """What encoding pictures took since `clear`.

    Attributes:
        spans: the milliseconds of each call, which are known when they are asked for.
    """

    spans: list[Callable[[], float]] = field(default_factory=list)

    def clear(self) -> None:
        """Forget all calls."""
        self.spans.clear()

    @property
    def ms(self) -> float:
        """The milliseconds of all calls together."""
        return sum(span() for span in self.spans)


@contextmanager
def watched_vision(decoder: Decoder) -> Iterator[VisionWatch]:
    """Time the calls that encode pictures, inside the block; `prune` is entered inside of it, too."""
    watch = VisionWatch()

    def timed(real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        clock = Stopwatch(decoder.model.device)  # type: ignore[arg-type]
        result = real(*args, **kwargs)
        watch.spans.append(clock.stop())
        return result

    with closing(Installation()) as installation:
        for modality in decoder.modalities:
            installation.wrap(decoder.base_model, f"get_{modality.name}_features", timed)
        yield watch


def prefill(model: Any, request: Mapping[str, Any]) -> Any:
    """Return what the model answers to a request, as `generate` asks it."""
    return model(**request, use_cache=True, logits_to_keep=1)


def decode(model: Any, request: Mapping[str, Any], cache: Any, steps: int) -> None:
    """Let the model read `steps` further tokens, one at a time. Which they are does not matter, so nothing waits."""
    name, token = cache_name(model), request["input_ids"][:, :1]
    positions = request.get("position_ids")
    for number in range(steps):
        further = {name: cache}
        if positions is not None:
            further["position_ids"] = positions[..., -1:] + 1 + number
        cache = returned_cache(model(input_ids=token, use_cache=True, logits_to_keep=1, **further)) or cache


@torch.no_grad()
def time_call(model: Any, request: Mapping[str, Any], steps: int, vision: VisionWatch, run: Run | None) -> CallTime:
    """Time a prefill and decode steps after it: by events on a GPU, by a monotonic clock elsewhere.

    Args:
        model: the model, pruned or not.
        request: the arguments of forward.
        steps: how many tokens follow the first one.
        vision: of the model.
        run: the ledger, if the model is pruned.
    """
    device = model.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    vision.clear()
    clock = Stopwatch(device)
    output = prefill(model, request)
    first = clock.stop()
    cache = returned_cache(output)
    del output
    clock = Stopwatch(device)
    decode(model, request, cache, steps)
    rest = clock.stop()
    selection = sum(stage.ms for stage in run.latest.stages) if run is not None else 0.0
    return CallTime(first(), vision.ms, selection, rest() / steps if steps else 0.0)
