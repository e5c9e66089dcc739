"""Which recipes a model can run with a budget or a speed-up, and what is known of each: evidence, never a promise."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any

from tokensieve.algebra.budget import Keep
from tokensieve.cost.explanation import reads_question
from tokensieve.cost.geometry import layer_costs, pruned_prefill_flops, visual_per_layer
from tokensieve.cost.language_model import LayerCost, prefill_flops
from tokensieve.errors import FormulaError, RefusedError, UnknownNameError
from tokensieve.measure.latency import Latency, Progress, measure_latency
from tokensieve.measure.prompts import Prompts
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import find_errors
from tokensieve.recipes.source import kind_of
from tokensieve.recipes.studied import CountedOperators, Studied, read_operators, read_studies

KEEPS = tuple(Keep.of(part) for part in ("1/3", "2/9", "1/9", "1/18", "1/36"))
"""The budgets that are measured where a latency is asked for, the largest first: those of the shipped studies."""
_NEAR = math.log(1.5)
"""How far a studied budget may be from the one asked for, as the logarithm of their ratio."""


@dataclass(frozen=True)
class Candidate:
    """A recipe that the model can run, and what is known of it.

    Attributes:
        recipe: with the budget that it would have.
        question: whether what stays depends on the question.
        per_layer: mean visual tokens per layer of the language model, if they can be counted.
        flops: the part of the language model's prefill FLOPs that is left, if it can be counted.
        operators: what choosing tokens adds, counted when it was shipped; None if it was not.
        studied: results of shipped studies at the nearest budget.
        first_ms: time to the first token, measured here; None if it was not.
        selection_ms: of it, choosing tokens.
    """

    recipe: Recipe
    question: bool
    per_layer: float | None = None
    flops: float | None = None
    operators: CountedOperators | None = None
    studied: tuple[Studied, ...] = ()
    first_ms: float | None = None
    selection_ms: float | None = None

    @property
    def keep(self) -> str:
        """The budgets, stage by stage."""
        return ", ".join(dict.fromkeys(str(stage.keep) for stage in self.recipe.stages))

    def verdicts(self, kind: str) -> int:
        """Return on how many models studies found it `better` or `worse` than the best control, or `undecided`."""
        return sum(one.verdict == kind for one in self.studied)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        return {
            "recipe": self.recipe.name,
            "sites": [str(stage.at) for stage in self.recipe.stages],
            "keep": self.keep,
            "depends_on_question": self.question,
            "visual_tokens_per_layer": self.per_layer,
            "prefill_flops_of_unpruned": self.flops,
            "operators_counted": None if self.operators is None else asdict(self.operators),
            "studied": [asdict(one) | {"keep": str(one.keep), "verdict": one.verdict} for one in self.studied],
            "first_token_ms": self.first_ms,
            "selection_ms": self.selection_ms,
        }


@dataclass
class Recommendation:
    """An answer to "which recipe?".

    Attributes:
        candidates: what fits; the recipes with the most evidence first.
        refused: by recipe, why the model cannot run it.
        aside: by recipe, why it is no answer to what was asked.
        unpruned_ms: the time to the first token without pruning, if it was measured.
    """

    candidates: list[Candidate] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    unpruned_ms: float | None = None

    def sort(self) -> None:
        """Put first what most studies found better than the best control, then what keeps most right answers."""
        self.candidates.sort(key=_evidence)


def _evidence(one: Candidate) -> tuple[bool, int, float, float, str]:
    relative = sum(row.relative for row in one.studied) / len(one.studied) if one.studied else 0.0
    operators = one.operators.operators if one.operators is not None else math.inf
    return not one.studied, one.verdicts("worse") - one.verdicts("better"), -relative, operators, one.recipe.name


@dataclass(eq=False)
class Adviser:
    """Looks up and counts what is known.

    Attributes:
        adapter: of the model.
        registry: where names are looked up.
        visual: visual tokens of a prompt, if known; FLOPs are counted for them.
        text: text tokens of it.
    """

    adapter: Adapter
    registry: Registry
    visual: int | None = None
    text: int = 64

    def __post_init__(self) -> None:
        self._studies = read_studies(self.registry)
        self._operators = read_operators(self.registry)
        self._known: dict[str, Recipe] = {}
        for name in dict.fromkeys([*(one.recipe for one in self._studies), *self._operators]):
            # A study may have had recipes that are not shipped.
            with contextlib.suppress(UnknownNameError, FormulaError):
                self._known[name] = self._load(name)
        self._layers: tuple[LayerCost, ...] = layer_costs(self.adapter) if self.visual is not None else ()

    def with_budget(self, names: Iterable[str], keep: Keep) -> Recommendation:
        """Return the recipes with a budget."""

        def budgeted(recipe: Recipe) -> Recipe:
            if len(recipe.stages) > 1:
                raise RefusedError(
                    f"it has {len(recipe.stages)} stages with budgets of their own; `tokensieve cost` counts it"
                )
            return recipe.replace(keep=keep)

        return self._answer(names, budgeted)

    def with_speedup(self, names: Iterable[str], speedup: float) -> Recommendation:
        """Return the recipes with the largest budget that divides the prefill's FLOPs by at least `speedup`."""
        if self.visual is None:
            raise RefusedError(
                "a speed-up is counted in FLOPs, and these for a number of visual tokens: say --visual N"
            )
        return self._answer(names, lambda recipe: self._fast(recipe, speedup))

    def runnable(self, names: Iterable[str]) -> tuple[list[Recipe], dict[str, str]]:
        """Return the recipes that the model can run, and why it cannot run the others."""
        found, refused = [], {}
        for name in dict.fromkeys(names):
            recipe = self._load(name)
            errors = find_errors(recipe, self.adapter)
            if errors:
                refused[recipe.name] = str(errors[0])
            else:
                found.append(recipe)
        return found, refused

    def candidate(self, recipe: Recipe) -> Candidate:
        """Return what is known of a recipe, whatever its name, file or formula."""
        known = self._known_as(recipe)
        found = Candidate(recipe, reads_question(recipe), studied=self._near(known, recipe))
        found = replace(found, operators=self._operators.get(known) if known is not None else None)
        if self.visual is None:
            return found
        try:
            counts = self._counts(recipe)
        except RefusedError:
            # What stays depends on the picture.
            return found
        return replace(found, per_layer=sum(counts) / len(counts), flops=self._left(recipe))

    def _load(self, name: str) -> Recipe:
        return Recipe.load(name, self.registry, keep=1 if kind_of(name, self.registry) == "formula" else None)

    def _known_as(self, recipe: Recipe) -> str | None:
        """Return the name under which a recipe was studied or counted, with whatever budget."""
        keeps = [stage.keep for stage in recipe.stages]
        alike = {name: one for name, one in self._known.items() if one.positions == recipe.positions}
        same = (
            name
            for name, one in alike.items()
            if [keep.mean for keep in keeps] == [stage.demand is not None for stage in one.stages]
            and one.replace(keep=keeps).stages == recipe.stages
        )
        return next(same, None)

    def _answer(self, names: Iterable[str], budgeted: Callable[[Recipe], Recipe]) -> Recommendation:
        found, refused = self.runnable(names)
        answer = Recommendation(refused=refused)
        for recipe in found:
            try:
                answer.candidates.append(self.candidate(budgeted(recipe)))
            except RefusedError as error:
                answer.aside[recipe.name] = str(error)
        answer.sort()
        return answer

    def _counts(self, recipe: Recipe) -> list[int]:
        return visual_per_layer(recipe, [self.visual or 0], len(self._layers), self._encoder_prunes)

    @property
    def _encoder_prunes(self) -> bool:
        return self.adapter.encoder is not None and self.adapter.encoder.prunes_prompt

    def _left(self, recipe: Recipe) -> float:
        """Return the part of the prefill's FLOPs that is left."""
        visual = self.visual or 0
        pruned = pruned_prefill_flops(recipe, self._layers, [visual], self.text, self._encoder_prunes)
        return pruned / prefill_flops(self._layers, [visual + self.text] * len(self._layers))

    def _fast(self, recipe: Recipe, speedup: float) -> Recipe:
        """Return a recipe with the largest count of tokens that is fast enough; a recipe of several stages as it is."""
        if len(recipe.stages) > 1:
            if self._left(recipe) * speedup > 1:
                raise RefusedError(f"with its own budgets {self._left(recipe):.1%} of the FLOPs are left")
            return recipe
        low, high = 1, self.visual or 1
        if self._left(recipe.replace(keep=1)) * speedup > 1:
            raise RefusedError(
                f"with a single token left {self._left(recipe.replace(keep=1)):.1%} of the FLOPs are left"
            )
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._left(recipe.replace(keep=middle)) * speedup <= 1 else (low, middle - 1)
        return recipe.replace(keep=low)

    def _near(self, name: str | None, recipe: Recipe) -> tuple[Studied, ...]:
        """Return what was measured of a recipe at the budget nearest to its own, if that is near."""
        part = self._part(recipe)
        own = [one for one in self._studies if one.recipe == name]
        if part is None or not own:
            return ()
        distances = {one.keep: abs(math.log(one.keep / part)) for one in own}
        nearest = min(distances, key=distances.__getitem__)
        return tuple(one for one in own if one.keep == nearest) if distances[nearest] <= _NEAR else ()

    def _part(self, recipe: Recipe) -> Fraction | None:
        """Return the part of the tokens that a recipe of one stage keeps, if it is known."""
        keep = recipe.stages[0].keep
        if len(recipe.stages) > 1 or keep.auto or keep.mean or keep.less is not None:
            return None
        if keep.fraction is not None:
            return keep.fraction
        return Fraction(keep.count or 1, self.visual) if self.visual else None


def within_latency(
    adviser: Adviser,
    names: Iterable[str],
    prompts: Prompts,
    latency_ms: float,
    *,
    repeats: int = 5,
    progress: Progress | None = None,
) -> Recommendation:
    """Measure which recipes give the first token in time, each with the largest of `KEEPS` that does.

    Args:
        adviser: of the model.
        names: the recipes.
        prompts: makes requests for the model.
        latency_ms: milliseconds from the request to the first token's logits; a median.
        repeats: how often each is measured.
        progress: is told how far the work is, for one budget after the other.
    """
    left, refused = adviser.runnable(names)
    answer = Recommendation(refused=refused)
    for keep in KEEPS:
        tried = [recipe if len(recipe.stages) > 1 else recipe.replace(keep=keep) for recipe in left]
        if not tried:
            break
        latency = _measured(prompts, tried, adviser, repeats, progress)
        answer.unpruned_ms = answer.unpruned_ms or _unpruned(latency)
        left = []
        for recipe in tried:
            one = _timed(adviser.candidate(recipe), latency)
            if one.first_ms is not None and one.first_ms <= latency_ms:
                answer.candidates.append(one)
                answer.aside.pop(recipe.name, None)
                continue
            answer.aside[recipe.name] = f"took {one.first_ms:.1f} ms to the first token at keep {one.keep}"
            if len(recipe.stages) == 1:
                left.append(recipe)
    answer.sort()
    return answer


def add_times(
    answer: Recommendation,
    adviser: Adviser,
    prompts: Prompts,
    *,
    repeats: int = 5,
    progress: Progress | None = None,
) -> None:
    """Measure all candidates, and write their times into the answer."""
    if not answer.candidates:
        return
    latency = _measured(prompts, [one.recipe for one in answer.candidates], adviser, repeats, progress)
    answer.unpruned_ms = _unpruned(latency)
    answer.candidates = [_timed(one, latency) for one in answer.candidates]


def _measured(
    prompts: Prompts, recipes: Sequence[Recipe], adviser: Adviser, repeats: int, progress: Progress | None
) -> Latency:
    return measure_latency(
        prompts,
        recipes,
        text=(adviser.text,),
        tokens=1,
        repeats=repeats,
        warmup=1,
        registry=adviser.registry,
        progress=progress,
    )


def _unpruned(latency: Latency) -> float:
    return next(row.first.median for row in latency.rows if row.role == "unpruned")


def _timed(one: Candidate, latency: Latency) -> Candidate:
    row = next(row for row in latency.rows if row.role == "recipe" and row.name == one.recipe.name)
    return replace(one, first_ms=row.first.median, selection_ms=row.selection.median)
