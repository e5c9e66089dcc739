"""The review of a recipe before it runs: what cannot work, and what has no effect."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tokensieve.algebra.budget import Keep, count
from tokensieve.algebra.chain import Chain
from tokensieve.algebra.universe import Universe, draw
from tokensieve.composers.expression import Best, Expression, Reading, Then
from tokensieve.composers.selection import select
from tokensieve.composers.streaming import Stream
from tokensieve.errors import RecipeError, brief, listing
from tokensieve.evidence import GRID_COLUMNS, Evidence, Tokens
from tokensieve.models.adapter import Adapter
from tokensieve.models.offers import (
    DECODER_EVIDENCE,
    ENCODER_EVIDENCE,
    PIXEL_EVIDENCE,
    VISION_EVIDENCE,
    decoder_evidence,
)
from tokensieve.recipes.findings import Finding, by_range
from tokensieve.recipes.formulas import distinct_strategies, format_formula
from tokensieve.recipes.recipe import Recipe
from tokensieve.sites import Site
from tokensieve.stage import Stage
from tokensieve.strategy import Chooser, Scorer, Strategy

Writer = Callable[[Expression], str]
"""Writes an expression as a formula."""
_MAX_SIZE = 8192
"""The largest group size that is tried."""


def find_errors(recipe: Recipe, adapter: Adapter) -> list[Finding]:
    """Return the errors of `review` without its slow checks: why a recipe cannot run on a model.

    Args:
        recipe: the recipe.
        adapter: the adapter of the model.
    """
    written = _writer(recipe)
    findings = [finding for stage in recipe.stages for finding in _evidence_findings(written, stage, adapter)]
    return _told(recipe, [*findings, *_refusal_findings(recipe, adapter)])


def review(recipe: Recipe, adapter: Adapter | None = None) -> list[Finding]:
    """Return findings about a recipe, without running a model.

    Missing evidence and sites that do not exist are errors. Formulas in which an operand has no effect are warnings;
    they are found by running the algebra on random orders.

    Args:
        recipe: the recipe.
        adapter: the adapter of the model; without one, what depends on the model is a note.

    Raises:
        RecipeError: if it is given no recipe, or no adapter.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"review takes a Recipe, not {brief(recipe)}; Recipe.load reads names, paths and formulas")
    if adapter is not None and not isinstance(adapter, Adapter):
        raise RecipeError(
            f"review takes the adapter of a model, not {brief(adapter)}: default_registry().adapter_for(model)"
        )
    findings = []
    written = _writer(recipe)
    budgets = [
        found or beyond
        for found, beyond in zip(_budget_findings(recipe), _findings_of_sizes(recipe, adapter), strict=True)
    ]
    # Formulas are tried once, however many sites they stand at.
    formulas: dict[Stage, list[Finding]] = {}
    for stage, budget in zip(recipe.stages, budgets, strict=True):
        findings += _evidence_findings(written, stage, adapter)
        findings += budget
        if stage.keep.mean and stage.over == stage.per == "sample":
            said = f"over: sample shares keep: {stage.keep} between groups of a prompt, and per: sample makes one"
            findings.append(Finding("warning", str(stage.at), f"{said}; it is {stage.keep.each} of each prompt"))
        if isinstance(stage.select, Stream) and 0 < stage.select.memory < (stage.keep.count or 0):
            said = f"keeps {stage.keep}, and the memory of stream holds {stage.select.memory}: the rest had left it"
            findings.append(Finding("warning", str(stage.at), f"{said}; keep no more, or leave memory out"))
        anywhere = stage.model_copy(update={"at": recipe.stages[0].at})
        if anywhere not in formulas:
            formulas[anywhere] = _formula_findings(written, stage)
        findings += [replace(finding, site=str(stage.at)) for finding in formulas[anywhere]]
    findings += _problem_findings(recipe)
    if adapter is not None:
        findings += _refusal_findings(recipe, adapter, lambda leaf: leaf.problem() is None)
    return _told(recipe, findings)


def _told(recipe: Recipe, findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with file and line of their stages, each once: also that of an operand that occurs twice."""
    return by_range(replace(finding, place=recipe.place(Site.of(finding.site))) for finding in findings)


def _writer(recipe: Recipe) -> Writer:
    """Return what writes the recipe's formulas; its names are collected once, for all stages."""
    names = recipe.names()
    return lambda expression: format_formula(expression, names)


def _problem_findings(recipe: Recipe) -> list[Finding]:
    """Return what strategies know of themselves that a run will refuse, on any model."""
    found = []
    for stage in recipe.stages:
        for formula in (stage.select, stage.by, stage.demand):
            for leaf, left in _judges(formula, None) if formula is not None else ():
                problem = leaf.problem()
                if problem is not None:
                    found.append(Finding("error", str(stage.at), problem))
                elif left is not None and (problem := leaf.problem(left)) is not None:
                    # Pictures of one prompt may together have as many tokens as it wants.
                    found.append(Finding("warning", str(stage.at), problem))
    return found


def _judges(expression: Expression, left: Keep | None) -> Iterator[tuple[Strategy, Keep | None]]:
    """Return the strategies of a formula, each with how many tokens of a group are left for it; none for all."""
    if isinstance(expression, Strategy):
        yield expression, left
        return
    first, *judges = expression.parts
    yield from _judges(first, left)
    if isinstance(expression, Then) and isinstance(first, Best):
        left = first.m
    for judge in judges:
        yield from _judges(judge, left)


def _refusal_findings(
    recipe: Recipe, adapter: Adapter, asked: Callable[[Strategy], bool] = lambda leaf: True
) -> list[Finding]:
    """Return why a model, and the strategies that are `asked`, refuse stages."""
    found = [Finding("error", str(stage.at), reason) for stage in recipe.stages for reason in adapter.refusals(stage)]
    for stage in recipe.stages:
        leaves = distinct_strategies([stage])
        reasons = [leaf.refusal(adapter.name) for leaf in leaves if isinstance(leaf, Strategy) and asked(leaf)]
        found += [Finding("error", str(stage.at), reason) for reason in reasons if reason is not None]
    return found


def _evidence_findings(written: Writer, stage: Stage, adapter: Adapter | None) -> list[Finding]:
    at = str(stage.at)
    if adapter is not None and stage.at not in adapter.sites():
        reason = f": {adapter.pixel_refusal}" if stage.at.part == "pixel" else ""
        said = f"{adapter.name} has no such site{reason}; it offers {_site_ranges(adapter)}"
        return [Finding("error", at, said)]
    offered = adapter.offers(stage.at) if adapter is not None else _evidence_of_any_model(stage.at)
    findings = []
    for expression in (stage.select, stage.by, stage.demand):
        for part in expression.walk() if expression is not None else ():
            missing = part.needs - offered - frozenset().union(*(inner.needs for inner in part.parts))
            for kind in sorted(missing):
                who = written(part) if isinstance(part, Strategy) else getattr(part, "name", "it")
                where = _sites_with(kind, adapter)
                said = f"'{who}' needs {kind}, which is not offered there; {where}"
                findings.append(Finding("error", at, said, missing_evidence=True))
    if adapter is None and Evidence.QUERY in stage.needs:
        findings.append(
            Finding("note", at, "relevance is judged in a query encoder's space if one is given, else by text vectors")
        )
    if adapter is None and stage.at.part == "decoder" and stage.needs & VISION_EVIDENCE:
        findings.append(Finding("note", at, "whether what the vision tower saw can be had: say --model"))
    return findings


def _evidence_of_any_model(site: Site) -> frozenset[Evidence]:
    """Return all evidence that some model may offer at a site."""
    if site.part == "pixel":
        return PIXEL_EVIDENCE
    if site.part == "encoder":
        return ENCODER_EVIDENCE
    return decoder_evidence(site.block) | VISION_EVIDENCE


def _sites_with(kind: Evidence, adapter: Adapter | None) -> str:
    if adapter is None:
        return "decoder.1 and deeper offer it" if kind in DECODER_EVIDENCE else "decoder sites offer it"
    sites = [site for site in adapter.sites() if kind in adapter.offers(site)]
    if not sites:
        return f"{adapter.name} offers it nowhere"
    return f"{adapter.name} offers it at {sites[0]}" + (f" ... {sites[-1]}" if len(sites) > 1 else "")


def _site_ranges(adapter: Adapter) -> str:
    parts = []
    for part in ("pixel", "encoder", "decoder"):
        sites = [site for site in adapter.sites() if site.part == part]
        if sites:
            parts.append(f"{sites[0]} ... {sites[-1]}" if len(sites) > 1 else str(sites[0]))
    return listing(parts)


def _budget_findings(recipe: Recipe) -> list[list[Finding]]:
    """Return the findings about the budget of every stage."""
    found: list[list[Finding]] = []
    # Of stages alike, those that keep fewer than all before them, by falling count.
    smaller: dict[tuple[bool, str, str], list[Stage]] = {}
    for stage in recipe.stages:
        # Of a mean, nobody knows beforehand what a group keeps.
        at, count = str(stage.at), 0 if stage.keep.mean else stage.keep.count or 0
        # What leaves before the vision tower is a token of the language model.
        earlier = smaller.setdefault((stage.at.part == "encoder", stage.per, stage.newlines), [])
        first = bisect.bisect_left(earlier, -count, key=lambda before: -(before.keep.count or 0))
        if stage.keep.each in (Keep.of(1.0), Keep(less=0)):
            found.append([Finding("note", at, "keeps all tokens, so it changes nothing")])
        elif first < len(earlier):
            before = earlier[first]
            said = f"keeps {stage.keep} of the {before.keep} that {before.at} leaves, so it changes nothing"
            # As many is what a range of sites says, and is no mistake.
            if stage.keep == before.keep:
                found.append([Finding("note", at, said)])
            else:
                found.append([Finding("warning", at, f"{said}; a later stage keeps less than an earlier one")])
        else:
            found.append([])
        if count and (not earlier or count < (earlier[-1].keep.count or 0)):
            earlier.append(stage)
    return found


def _findings_of_sizes(recipe: Recipe, adapter: Adapter | None) -> list[list[Finding]]:
    """Return, for every stage, that it keeps all tokens, where the model has equally many of every picture."""
    decoder = adapter.decoder if adapter is not None else None
    # How many tokens of a picture enter the next stage, as far as that is known.
    entering = decoder.tokens_per_image if decoder is not None else None
    prunes_prompt = adapter is not None and adapter.encoder is not None and adapter.encoder.prunes_prompt
    found: list[list[Finding]] = []
    for stage in recipe.stages:
        known = entering if stage.per != "sample" and (stage.at.part != "encoder" or prunes_prompt) else None
        found.append(_findings_of_size(stage, known))
        if stage.at.part != "encoder" or prunes_prompt:
            is_open = stage.keep.auto or stage.keep.mean
            entering = None if known is None or is_open else count(stage.keep, known)
    return found


def _findings_of_size(stage: Stage, entering: int | None) -> list[Finding]:
    kept = stage.keep.count
    if entering is None or kept is None or kept < entering:
        return []
    at, said = str(stage.at), f"keeps {kept} of the {entering} visual tokens that a picture has there"
    if kept == entering:
        return [Finding("note", at, f"{said}, so it changes nothing")]
    return [Finding("warning", at, f"{said}, so nothing is pruned; keep fewer, such as {max(1, entering // 9)} or 1/9")]


def _formula_findings(written: Writer, stage: Stage) -> list[Finding]:
    """Return warnings from running the algebra on random orders: operands whose order never matters have no effect."""
    alone = isinstance(stage.select, Strategy)
    sizes = _group_sizes(stage)
    if stage.keep.auto or stage.keep.each in (Keep.of(1.0), Keep(less=0)) or (alone and stage.by is None) or not sizes:
        return []
    steps = [part.frames for formula in _formulas(stage) for part in formula.walk() if isinstance(part, Stream)]
    tokens = _random_tokens(sizes, max(steps, default=1))
    leaves = [leaf for formula in _formulas(stage) for leaf in formula.strategies()]
    orders = {leaf: seed for seed, leaf in enumerate(dict.fromkeys(leaves))}
    outcome = _kept_mask(stage.select, stage, tokens, orders)
    found = [] if alone else _operand_findings(written, stage, tokens, orders, outcome)
    if not found and stage.by is not None:
        unguided = stage.model_copy(update={"by": None})
        if torch.equal(outcome, _kept_mask(stage.select, unguided, tokens, orders)):
            said = f"by: {written(stage.by)} has no effect; the same tokens stay without it"
            found = [Finding("warning", str(stage.at), said)]
    return found


def _operand_findings(
    written: Writer, stage: Stage, tokens: Tokens, orders: dict[Expression, int], outcome: Tensor
) -> list[Finding]:
    """Return warnings about operands of a formula that do not change what is kept."""
    at = str(stage.at)
    formula = written(stage.select)
    strategies = [leaf for leaf in stage.select.strategies() if isinstance(leaf, Strategy)]
    for leaf in strategies:
        trivial = isinstance(stage.select, Best) and stage.select.operands == (leaf,)
        if not trivial and torch.equal(outcome, _kept_mask(leaf, stage, tokens, orders)):
            alone = written(leaf)
            others = [written(other) for other in strategies if other != leaf]
            effect = f"{listing(others)} has no effect" if others else "the rest of it has no effect"
            said = f"the formula collapses: '{formula}' always keeps what '{alone}' alone keeps; {effect}"
            return [Finding("warning", at, said)]
    inert = [
        leaf
        for leaf in strategies
        if torch.equal(outcome, _kept_mask(stage.select, stage, tokens, orders | {leaf: 1000 + orders[leaf]}))
    ]
    if len(inert) == len(strategies):
        return [Finding("warning", at, f"the formula is vacuous: what '{formula}' keeps depends on no operand")]
    found = [Finding("warning", at, f"'{written(leaf)}' has no effect on what '{formula}' keeps") for leaf in inert]
    if stage.by is None and not inert:
        # By default operands also break ties. With another tie-breaker, only their effect on the set is left.
        other_ties, orders = stage.model_copy(update={"by": _NO_PREFERENCE}), orders | {_NO_PREFERENCE: -1}
        outcome = _kept_mask(stage.select, other_ties, tokens, orders)
        for leaf in strategies:
            if torch.equal(outcome, _kept_mask(stage.select, other_ties, tokens, orders | {leaf: 1000 + orders[leaf]})):
                said = f"'{written(leaf)}' does no more than break ties in '{formula}'"
                found.append(Finding("warning", at, said))
    return found


class _NoPreference(Scorer):
    """A tie-breaker that is none of the operands."""

    name = "no_preference"

    def score(self, tokens: Tokens) -> Tensor:
        """Return equal scores for all tokens."""
        return torch.zeros(tokens.valid.shape)


_NO_PREFERENCE: Expression = _NoPreference()


def _formulas(stage: Stage) -> list[Expression]:
    """Return the formula of a stage, and that which breaks its ties."""
    return [stage.select] if stage.by is None else [stage.select, stage.by]


def _group_sizes(stage: Stage) -> list[int]:
    """Return the group sizes that are tried; a finding must hold at all of them.

    Some are slightly larger than every size in the formula, where all operands matter, and some much larger, where they
    rarely do. The list is empty if the sizes in the formula are too large to be tried.
    """
    sizes = [part.m.count or 0 for formula in _formulas(stage) for part in formula.walk() if isinstance(part, Best)]
    largest = max([stage.keep.count or 0, *sizes])
    if not largest:
        return [16, 36, 64, 144, 576]
    tried = [largest + largest // 4 + 1, largest + largest // 2 + 1, 2 * largest + 1, max(64, 4 * largest)]
    if stage.keep.fraction is not None:
        # Large enough that the budget, a fraction, is also larger than every size in the formula.
        tried.append(min(math.ceil(2 * largest / stage.keep.fraction), _MAX_SIZE))
    return tried if max(tried) <= _MAX_SIZE else [n for n in tried[:2] if n <= _MAX_SIZE]


def _random_tokens(sizes: list[int], frames: int) -> Tokens:
    """Return several groups of every size; columns of the grid split one into four, of `frames` frames each."""
    width = max(sizes)
    counts = torch.tensor(sizes).repeat_interleave(max(3, min(16, 2048 // sum(sizes))))
    ids = torch.arange(width).expand(len(counts), width)
    parts = torch.tensor([4 * frames if column == "frame" else 4 for column in GRID_COLUMNS])
    grid = ids.unsqueeze(2) * parts // counts.reshape(-1, 1, 1)
    universe = Universe(ids < counts.unsqueeze(1), ids)
    x = torch.randn(len(counts), width, 8, generator=torch.Generator().manual_seed(0))
    return Tokens(universe, {Evidence.GRID: grid, Evidence.FEATURES: x}, keys=torch.arange(len(counts)))


def _kept_mask(expression: Expression, stage: Stage, tokens: Tokens, orders: dict[Expression, int]) -> Tensor:
    return select(expression, tokens, stage.keep.each, stage.by, _random_reader(orders)).mask


def _random_reader(orders: dict[Expression, int]) -> Callable[[Expression, Reading, int], Chain]:
    def read(leaf: Expression, reading: Reading, depth: int) -> Chain:
        """Return a random order or set in place of the strategy's own: another one among other tokens."""
        tokens = reading.tokens
        among = ((tokens.ids + 1) ** 2 * tokens.valid).sum(dim=1)
        scores = draw(orders[leaf], tokens.keys + 1_000_003 * among, tokens.ids)
        if isinstance(leaf, Chooser):
            return Chain.from_set(tokens.universe, (scores < 0.5) & tokens.valid, leaf)
        return Chain.from_scores(tokens.universe, scores, leaf)

    return read
