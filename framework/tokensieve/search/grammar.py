"""The grammar of recipes that a search draws from, made of what a registry has.

A recipe is written as genes: choices by name, always of the same names, so that two recipes can be crossed. Genes that
a recipe does not use, such as the operands of what is a strategy alone, have no effect. So many genes mean one recipe;
equal recipes are found by their hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

from tokensieve.algebra.budget import Keep
from tokensieve.composers.expression import Best, Composer, Expression, Then
from tokensieve.errors import RefusedError, TokensieveError
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.search.settings import composer_variants, strategy_values
from tokensieve.search.trial import Candidate
from tokensieve.sites import Site
from tokensieve.stage import Stage
from tokensieve.strategy import Strategy
from tokensieve.study.planning.hashing import content_hash
from tokensieve.study.spec.budget import Budget

Choice: TypeAlias = str | int
Choices: TypeAlias = tuple[Choice, ...] | range
Genes: TypeAlias = Mapping[str, Choice]

DEPTH = 2
"""How many composers stand inside each other at most, not counting those of one operand."""
SIZES = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
"""The parts that `a[m]` and the first of two cuts keep."""
MOST_SETTINGS = 4
"""The most settings of a strategy that are searched; of others the default stays."""
_PLAIN = "plain"
_ROOT = "f"


@dataclass(frozen=True)
class Variant:
    """A composer with settings.

    Attributes:
        composer: the composer.
        settings: its settings.
    """

    composer: type[Composer]
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Return the name of its choice."""
        return " ".join([self.composer.name, *(f"{key}={value}" for key, value in self.settings.items())])

    def of(self, *operands: Expression) -> Expression:
        """Return operands joined.

        Raises:
            FormulaError: if the composer does not take them.
        """
        return self.composer.of(*operands, **self.settings)


class Grammar:
    """Recipes of one or two cuts, each of strategies with settings, joined by composers.

    Args:
        registry: where strategies, composers and shipped recipes are looked up.
        sites: where a recipe may cut, in the order of the forward pass.
        budgets: the budgets of the last cut.
        recipes: recipes whose settings are tried, too.
    """

    def __init__(
        self, registry: Registry, sites: Sequence[Site], budgets: Sequence[Budget], recipes: Sequence[Recipe] = ()
    ) -> None:
        self._sites = {str(site): site for site in sorted(sites)}
        self._budgets = {str(budget): budget for budget in budgets}
        leaves = [leaf for recipe in recipes for leaf in recipe.names()]
        self._strategies: dict[str, tuple[type[Strategy], dict[str, tuple[Any, ...]]]] = {}
        for name, cls in registry.strategies.items():
            values = strategy_values(cls, [leaf for leaf in leaves if isinstance(leaf, cls)])
            if values is not None:
                self._strategies[name] = (cls, dict(list(values.items())[:MOST_SETTINGS]))
        if not (self._strategies and self._sites and self._budgets):
            raise RefusedError(
                "a search takes strategies, sites and budgets; there are "
                f"{len(self._strategies)}, {len(self._sites)} and {len(self._budgets)}"
            )
        probe = [cls() for cls, _ in self._strategies.values()]
        self._joins = _variants(registry, probe, 2)
        self._wraps = _variants(registry, probe, 1)

    @cached_property
    def genes(self) -> dict[str, Choices]:
        """Return the choices of every gene."""
        genes: dict[str, Choices] = {
            "cuts": ("one", "two"),
            "at": tuple(self._sites),
            "keep": tuple(self._budgets),
            "rest": ("drop", "merge"),
            "first at": tuple(self._sites),
            "first keep": tuple(map(str, SIZES)),
            **self._leaf_genes("first"),
        }
        for place in _places(_ROOT, DEPTH):
            genes |= self._leaf_genes(place)
            # Most operands stand as they are.
            wraps = [_PLAIN, *self._wraps]
            genes[f"{place} as"] = tuple(wraps) + tuple(f"{_PLAIN} {i}" for i in range(2, 2 * len(wraps)))
            if len(place) - len(_ROOT) < DEPTH:
                genes[f"{place} is"] = ("strategy", "composition")
                genes[f"{place} by"] = (*self._joins, Then.name)
                genes[f"{place} size"] = tuple(map(str, SIZES))
        return genes

    @property
    def hash(self) -> str:
        """Return the hash of all that genes mean."""
        settings = {
            name: {key: list(map(repr, own[key])) for key in own} for name, (_, own) in self._strategies.items()
        }
        return content_hash([{name: list(map(str, choices)) for name, choices in self.genes.items()}, settings])

    # From genes to recipes

    def candidate(self, genes: Genes, name: str = "trial") -> Candidate:
        """Return the recipe that genes mean, at its budget.

        Raises:
            TokensieveError: if they mean none: a composer does not take these operands, or the budget does not fit.
        """
        at, first = self._sites[str(genes["at"])], self._sites[str(genes["first at"])]
        budget = self._budgets[str(genes["keep"])]
        if genes["rest"] not in ("drop", "merge"):
            raise RefusedError(f"{genes['rest']!r} is no choice of 'rest'")
        last = Stage(at=max(at, first), select=self._expression(genes, _ROOT), keep=Keep(count=1), rest=genes["rest"])
        if genes["cuts"] == "one" or at == first:
            last = last.model_copy(update={"at": at})
            stages = [last]
        else:
            keep = Keep.of(str(genes["first keep"]))
            stages = [Stage(at=min(at, first), select=self._leaf(genes, "first"), keep=keep), last]
        return Candidate.of(Recipe(name=name, stages=tuple(stages)), budget)

    def _expression(self, genes: Genes, place: str) -> Expression:
        made = self._bare(genes, place)
        wrap = self._wraps.get(str(genes[f"{place} as"]))
        return made if wrap is None else wrap.of(made)

    def _bare(self, genes: Genes, place: str) -> Expression:
        if genes.get(f"{place} is", "strategy") == "strategy":
            return self._leaf(genes, place)
        left, right = self._expression(genes, f"{place}l"), self._expression(genes, f"{place}r")
        by = str(genes[f"{place} by"])
        if by == Then.name:
            return Then.of(Best.of(left, m=Keep.of(str(genes[f"{place} size"]))), right)
        return self._joins[by].of(left, right)

    def _leaf(self, genes: Genes, place: str) -> Expression:
        cls, values = self._strategies[str(genes[f"{place} use"])]
        number, chosen = int(genes[f"{place} set"]), {}
        for name, some in values.items():
            number, place_of_value = divmod(number, len(some))
            chosen[name] = some[place_of_value]
        return cls(**chosen)

    def _leaf_genes(self, place: str) -> dict[str, Choices]:
        # One number says all settings: that of the first is its remainder by the number of values, and so on.
        most = max(prod(len(some) for some in values.values()) for _, values in self._strategies.values())
        return {f"{place} use": tuple(self._strategies), f"{place} set": range(most)}

    # From recipes to genes

    def genes_of(self, candidate: Candidate) -> dict[str, Choice] | None:
        """Return genes that mean a candidate; none if the grammar does not have it."""
        found = {name: choices[0] for name, choices in self.genes.items()}
        try:
            found |= self._read(candidate)
            return found if self.candidate(found).hash == candidate.hash else None
        except (_AbsentError, TokensieveError):
            return None

    def _read(self, candidate: Candidate) -> dict[str, Choice]:
        *first, last = candidate.recipe.stages
        if len(first) > 1 or str(candidate.budget) not in self._budgets:
            raise _AbsentError
        found: dict[str, Choice] = {"at": str(last.at), "keep": str(candidate.budget), "rest": last.rest}
        for stage in first:
            found |= {"cuts": "two", "first at": str(stage.at), "first keep": str(stage.keep)}
            found |= self._read_leaf(stage.select, "first")
        if not {found["at"], found.get("first at", found["at"])} <= set(self._sites):
            raise _AbsentError
        return found | self._read_expression(last.select, _ROOT, DEPTH)

    def _read_expression(self, expression: Expression, place: str, depth: int) -> dict[str, Choice]:
        found: dict[str, Choice] = {}
        label = next((name for name, one in self._wraps.items() if _is(expression, one)), None)
        if label is not None:
            found[f"{place} as"] = label
            (expression,) = expression.parts
        if not expression.parts:
            return found | self._read_leaf(expression, place)
        if depth == 0:
            raise _AbsentError
        *left, right = expression.parts
        found[f"{place} is"] = "composition"
        if isinstance(expression, Then) and isinstance(left[0], Best):
            found |= {f"{place} by": Then.name, f"{place} size": str(left[0].m)}
            left = list(left[0].parts)
        else:
            found[f"{place} by"] = next((name for name, one in self._joins.items() if _is(expression, one)), "")
        if found[f"{place} by"] not in self.genes[f"{place} by"]:
            raise _AbsentError
        # What is associative holds any number of operands, drawn in any two parts; the others have two.
        operands = (*left, right)
        for cut in range(len(left), 0, -1):
            both = zip("lr", (operands[:cut], operands[cut:]), strict=True)
            try:
                sides = [
                    self._read_expression(_with_operands(expression, part), f"{place}{side}", depth - 1)
                    for side, part in both
                ]
            except _AbsentError:
                continue
            return found | sides[0] | sides[1]
        raise _AbsentError

    def _read_leaf(self, leaf: Expression, place: str) -> dict[str, Choice]:
        name, values = next(
            ((name, values) for name, (cls, values) in self._strategies.items() if type(leaf) is cls), ("", {})
        )
        found: dict[str, Choice] = {f"{place} use": name}
        number, weight = 0, 1
        for setting, some in values.items():
            if getattr(leaf, setting) not in some:
                raise _AbsentError
            number, weight = number + weight * some.index(getattr(leaf, setting)), weight * len(some)
        if not name:
            raise _AbsentError
        return found | {f"{place} set": number}


def sites_of(adapters: Sequence[Adapter | None], recipes: Sequence[Recipe]) -> tuple[Site, ...]:
    """Return where a search cuts: at the language model's first layers, at its quarters, and where recipes cut.

    Cuts inside a vision encoder are left out: they change none of the costs, which are of the language model.

    Args:
        adapters: of the models; none where a model is not known.
        recipes: recipes that are given.
    """
    depths = [len(one.decoder.layers) for one in adapters if one is not None and one.decoder is not None]
    depth = min(depths, default=1)
    blocks = {0, 1, 2, depth // 4, depth // 2, 3 * depth // 4}
    blocks |= {stage.at.block for recipe in recipes for stage in recipe.stages if stage.at.part == "decoder"}
    return tuple(Site("decoder", block) for block in sorted(blocks) if block < depth)


class _AbsentError(Exception):
    """The grammar does not have a recipe."""


def _variants(registry: Registry, probe: Sequence[Strategy], operands: int) -> dict[str, Variant]:
    """Return the composers that take a number of operands, with settings, by label.

    What needs a size is left out: sizes are genes of their own.
    """
    taken = tuple(next((one for one in probe if one.nested), probe[0]) for _ in range(operands))
    distinct = (*taken[:-1], next((one for one in probe if one.nested and one != taken[0]), taken[0]))
    found = [
        Variant(composer, settings)
        for composer in registry.composers.values()
        if composer not in (Best, Then)
        for settings in composer_variants(composer, distinct)
    ]
    if operands == 1:
        found += [Variant(Best, {"m": Keep(fraction=size)}) for size in SIZES]
    return {one.label: one for one in found}


def _is(expression: Expression, variant: Variant) -> bool:
    """Return whether an expression is a composer with these settings."""
    return type(expression) is variant.composer and all(
        getattr(expression, key) == value for key, value in variant.settings.items()
    )


def _with_operands(expression: Expression, operands: Sequence[Expression]) -> Expression:
    """Return a composer with other operands, or the only one."""
    if len(operands) == 1:
        return operands[0]
    if not isinstance(expression, Composer):
        raise _AbsentError
    return expression.model_copy(update={"operands": tuple(operands)})


def _places(place: str, depth: int) -> Iterator[str]:
    """Yield a place of the tree of composers, and those below it."""
    yield place
    if depth:
        for side in "lr":
            yield from _places(place + side, depth - 1)
