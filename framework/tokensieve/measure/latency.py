"""Latency of pruned prefills and decode steps beside the unpruned model, the floor, and what counted FLOPs promise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tokensieve.checkpoints.loaded_model import quiet
from tokensieve.engine import prune
from tokensieve.engine.cache import returned_cache
from tokensieve.ledger.run import Run
from tokensieve.measure.break_even import BreakEven, break_evens
from tokensieve.measure.intervals import Estimate
from tokensieve.measure.machine import Machine
from tokensieve.measure.memory import peak_on
from tokensieve.measure.prompts import Prompts, floor_request
from tokensieve.measure.rows import Role, Row, Setting
from tokensieve.measure.timing import CallTime, VisionWatch, decode, prefill, time_call, watched_vision
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import find_errors

FORMAT = "tokensieve.latency/1"
"""The format of what `Latency.to_dict` returns."""

Progress = Callable[[int, int, str], object]
"""Is told how many calls are done, of how many, and what is measured now."""


@dataclass
class Latency:
    """The result of a benchmark.

    Attributes:
        model: what was measured, and what of it was scaled down.
        parameters: the number of the model's weights.
        machine: where.
        tokens: the length of an answer.
        repeats: how often each variant was measured.
        rows: what was measured.
        refused: by recipe, why it was not measured.
    """

    model: str
    parameters: int
    machine: Machine
    tokens: int
    repeats: int
    rows: list[Row] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def break_evens(self) -> list[BreakEven]:
        """From how many visual tokens on each recipe is faster than the unpruned model."""
        return break_evens(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        return {
            "format": FORMAT,
            **asdict(self),
            "break_even": [asdict(one) for one in self.break_evens],
        }


@dataclass(eq=False)
class _Variant:
    """One of the things that are measured by turns: a request, and the recipe under which it runs, if any."""

    role: Role
    name: str
    request: Mapping[str, Any]
    recipe: Recipe | None = None
    kept: int = 0
    flops: float = 1.0
    tower_flops: float = 1.0
    times: list[CallTime] = field(default_factory=list)
    peak_bytes: int = 0


class Bench:
    """Measures a model.

    Args:
        prompts: makes requests for it.
        recipes: which the model can run, see `runnable`.
        tokens: the length of an answer; 1 for prefills alone.
        repeats: how often each variant is measured.
        warmup: how often each is run before.
        registry: where names are looked up.
    """

    def __init__(
        self,
        prompts: Prompts,
        recipes: Sequence[Recipe],
        tokens: int = 8,
        repeats: int = 7,
        warmup: int = 2,
        registry: Registry | None = None,
    ) -> None:
        self._prompts = prompts
        self._recipes = recipes
        self._steps = tokens - 1
        self._repeats = repeats
        self._warmup = warmup
        self._registry = registry or default_registry()

    @property
    def calls(self) -> int:
        """The number of calls of the model that a setting takes, at most."""
        return (1 + 2 * len(self._recipes)) * (self._warmup + self._repeats + 1)

    def measure(self, batch: int, visual: int, text: int, on_call: Callable[[str], object]) -> list[Row]:
        """Measure all variants in one setting, by turns: a busy machine slows all of them alike.

        Args:
            batch: the number of prompts.
            visual: visual tokens of each.
            text: text tokens of each.
            on_call: is called after each call, with the variant's name.

        Returns:
            A row of the unpruned model, of each recipe, and of the floor for each number of kept tokens.

        Raises:
            RefusedError: if no such prompts can be made, or a recipe turns out not to run.
        """
        model: Any = self._prompts.model
        config = model.config.get_text_config()
        setting = Setting(batch, visual, text, str(model.dtype).removeprefix("torch."), config._attn_implementation)
        request = self._prompts.request(batch, visual, text)
        variants = [_Variant("unpruned", "unpruned", request, kept=visual)]
        variants += [_Variant("recipe", recipe.name, request, recipe) for recipe in self._recipes]
        with quiet(), watched_vision(self._prompts.decoder) as vision:
            for variant in variants[1:]:
                self._plan(variant)
            floors = dict.fromkeys(variant.kept for variant in variants[1:])
            variants += [self._floor(request, kept) for kept in floors]
            for turn in range(self._warmup + self._repeats):
                # Each is the first of a turn as often as the others.
                first = turn % len(variants)
                for variant in variants[first:] + variants[:first]:
                    taken = self._called(variant, vision)
                    if turn >= self._warmup:
                        variant.times.append(taken)
                    on_call(variant.name)
            for variant in variants:
                variant.peak_bytes = self._peak(variant)
                on_call(variant.name)
        return _rows(setting, variants, self._steps)

    def _under(self, variant: _Variant) -> AbstractContextManager[Run | None]:
        """Prune the model as a variant says."""
        if variant.recipe is None:
            return nullcontext()
        return prune(self._prompts.model, variant.recipe, registry=self._registry)

    def _called(self, variant: _Variant, vision: VisionWatch) -> CallTime:
        with self._under(variant) as run:
            return time_call(self._prompts.model, variant.request, self._steps, vision, run)

    def _plan(self, variant: _Variant) -> None:
        """Run a recipe once, to see how many tokens stay and what is counted for them."""
        with torch.no_grad(), self._under(variant) as run:
            prefill(self._prompts.model, variant.request)
        if run is None:
            return
        rows = range(len(run.latest.visual))
        variant.kept = max(1, max(run.visual_per_layer(row)[-1] for row in rows))
        variant.flops = _part(run.flops(row) for row in rows)
        variant.tower_flops = _part(run.tower_flops(row) for row in rows)

    def _floor(self, request: Mapping[str, Any], kept: int) -> _Variant:
        shorter = floor_request(request, self._prompts.adapter, kept, self._registry)
        return _Variant("floor", "floor", shorter, kept=kept)

    @torch.no_grad()
    def _peak(self, variant: _Variant) -> int:
        model = self._prompts.model

        def compute() -> None:
            decode(model, variant.request, returned_cache(prefill(model, variant.request)), self._steps)

        with self._under(variant):
            return peak_on(model.device, compute)


def runnable(recipes: Sequence[Recipe], adapter: Adapter, said: dict[str, str], when: str = "") -> list[Recipe]:
    """Return the recipes that a model can run, and write down why it cannot run the others.

    Args:
        recipes: the recipes.
        adapter: the model's.
        said: gets a sentence by recipe.
        when: in which setting, such as ` (eager)`.
    """
    left = []
    for recipe in recipes:
        errors = find_errors(recipe, adapter)
        if errors:
            said[recipe.name + when] = str(errors[0])
        else:
            left.append(recipe)
    return left


def measure_latency(
    prompts: Prompts,
    recipes: Sequence[Recipe],
    *,
    title: str = "",
    batches: Sequence[int] = (1,),
    visual: Sequence[int] = (),
    text: Sequence[int] = (64,),
    tokens: int = 8,
    repeats: int = 7,
    warmup: int = 2,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Latency:
    """Measure a model as it is: its dtype and its attention implementation are those that it has.

    Args:
        prompts: makes requests for the model.
        recipes: what to measure beside the unpruned model and the floor.
        title: what the model is.
        batches: numbers of prompts.
        visual: numbers of visual tokens of a prompt; by default those of one picture.
        text: numbers of text tokens of a prompt.
        tokens: the length of an answer.
        repeats: how often each variant is measured.
        warmup: how often each is run before.
        registry: where names are looked up.
        progress: is told how far the work is.

    Raises:
        RefusedError: if a prompt cannot be made.
    """
    model: Any = prompts.model
    weights = sum(weight.numel() for weight in model.parameters())
    latency = Latency(title or type(model).__name__, weights, Machine.of(model.device), tokens, repeats)
    left = runnable(recipes, prompts.adapter, latency.refused)
    bench = Bench(prompts, left, tokens, repeats, warmup, registry)
    settings = list(itertools.product(batches, visual or (prompts.visual,), text))
    counted = itertools.count(1)
    for batch, shown, words in settings:
        where = f"batch {batch}, {shown} visual and {words} text tokens"

        def on_call(name: str, where: str = where) -> None:
            if progress is not None:
                progress(next(counted), bench.calls * len(settings), f"{where}: {name}")

        latency.rows += bench.measure(batch, shown, words, on_call)
    return latency


def _part(flops: Iterator[tuple[int, int] | None]) -> float:
    """Return what is left of counted FLOPs, over all samples; 1 where nothing was counted."""
    known = [pair for pair in flops if pair is not None]
    before = sum(pair[0] for pair in known)
    return sum(pair[1] for pair in known) / before if before else 1.0


def _rows(setting: Setting, variants: Sequence[_Variant], steps: int) -> list[Row]:
    """Return the rows of variants that were measured by turns."""
    unpruned = variants[0]
    floors = {variant.kept: variant for variant in variants if variant.role == "floor"}
    seeing = Estimate.of([time.vision for time in unpruned.times]).median
    return [_row(setting, variant, unpruned, floors.get(variant.kept), seeing, steps) for variant in variants]


def _row(
    setting: Setting, variant: _Variant, unpruned: _Variant, floor: _Variant | None, seeing: float, steps: int
) -> Row:
    # The floor's pictures are encoded already; its request would take as long to encode as any other.
    added = seeing if variant.role == "floor" else 0.0
    first = [time.first + added for time in variant.times]
    whole = [one + steps * time.step for one, time in zip(first, variant.times, strict=True)]
    base = Estimate.of([time.prefill for time in unpruned.times]).median
    expected = variant.flops * base + variant.tower_flops * seeing if variant.role == "recipe" else None
    return Row(
        setting,
        variant.role,
        variant.name,
        variant.kept,
        Estimate.of(first),
        Estimate.of([time.vision + added for time in variant.times]),
        Estimate.of([time.selection for time in variant.times]),
        Estimate.of([time.prefill for time in variant.times]),
        Estimate.of([time.step for time in variant.times]),
        Estimate.of([1000 * setting.batch * (1 + steps) / ms for ms in whole]),
        _paired(variant, unpruned),
        None if floor is None or variant is unpruned else _paired(variant, floor),
        expected,
        variant.peak_bytes,
    )


def _paired(one: _Variant, other: _Variant) -> Estimate:
    """Return the ratio of two variants' times after vision, turn by turn."""
    return Estimate.of([a.after_vision / b.after_vision for a, b in zip(one.times, other.times, strict=True)])
