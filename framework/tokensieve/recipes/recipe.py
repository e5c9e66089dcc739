"""`Recipe`: which formula selects tokens at which sites, and how many tokens stay."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import ConfigDict, PrivateAttr, ValidationError, field_validator, model_validator

from tokensieve.algebra.budget import Keep
from tokensieve.algebra.markup import table
from tokensieve.composers.expression import Expression
from tokensieve.composers.settings import Value, error_class, unknown_setting
from tokensieve.errors import (
    RecipeError,
    TokensieveError,
    did_you_mean,
    first_mistake,
    listing,
)
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes import yaml_lines
from tokensieve.recipes.formulas import (
    distinct_strategies,
    format_budget,
    format_formula,
    strategy_names,
    strip_outer_parentheses,
)
from tokensieve.recipes.hub import FILE, HubAddress, card_text, fetch_recipe, foreign_origins, push_files
from tokensieve.recipes.overrides import changed_recipe
from tokensieve.recipes.reader import RecipeReader, read_formula
from tokensieve.recipes.source import kind_of
from tokensieve.recipes.validation import find_problem, read_budget_list
from tokensieve.sites import Site
from tokensieve.stage import Stage
from tokensieve.strategy import Strategy

Positions = Literal["original", "compact"]
_NO_FILE = "<text>"
"""Where text comes from that was not in a file."""


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


class FrozenDict(Mapping[_Key, _Value]):
    """An immutable mapping: it has a hash, and equals a dict with the same content."""

    def __init__(self, content: Mapping[_Key, _Value]) -> None:
        self._content = dict(content)

    def __getitem__(self, key: _Key) -> _Value:
        return self._content[key]

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __hash__(self) -> int:
        return hash(frozenset(self._content.items()))

    def __repr__(self) -> str:
        return repr(self._content)


@dataclasses.dataclass(frozen=True)
class _Places:
    """Where stages stand in a file. All are equal, so that a recipe equals one that was read from another file."""

    by_site: Mapping[Site, str] = dataclasses.field(default_factory=dict, compare=False)


class Recipe(Value):
    """Stages, each with a site, a formula of strategies and a budget.

    Attributes:
        name: the name of the recipe.
        title: the name as papers write it, for their tables.
        paper: the link to the paper.
        positions: whether kept tokens keep their position ids (`original`) or get new ones without gaps (`compact`).
        strategies: the strategies by the names that formulas use; strategies without a name get one.
        stages: the stages, at strictly deeper sites.
        budgets: lists of budgets, one for each of several stages, by the count that `replace(keep=...)` takes. They
            hold the numbers of a paper that counts its budget in another way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = "unnamed"
    title: str | None = None
    paper: str | None = None
    positions: Positions = "original"
    strategies: Mapping[str, Strategy] = {}
    stages: tuple[Stage, ...]
    budgets: Mapping[int, tuple[Keep, ...]] = {}

    _places: _Places = PrivateAttr(default_factory=_Places)

    @classmethod
    def refused(cls, error: ValidationError) -> TokensieveError:
        """Return the error for fields that are wrong."""
        return error_class(error)(unknown_setting("a recipe", cls.model_fields, error) or first_mistake(error))

    def _changed_copy(self) -> str:
        return "it does not change; replace(keep=...) makes a changed copy"

    @field_validator("budgets", mode="before")
    @classmethod
    def _read_budgets(cls, value: object) -> object:
        return {n: read_budget_list(n, entry) for n, entry in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _validate(self) -> Self:
        problem = find_problem(self.strategies, self.stages, self.budgets)
        if problem is not None:
            raise ValueError(problem[1])
        named = {name: leaf for leaf, name in self.names().items() if isinstance(leaf, Strategy)}
        # A frozen model can only set a derived value this way.
        object.__setattr__(self, "strategies", FrozenDict(named))
        object.__setattr__(self, "budgets", FrozenDict(self.budgets))
        return self

    # Showing

    def __repr__(self) -> str:
        lines = "; ".join(f"{at}: {formula}, {budget}" for at, formula, budget in self._plan())
        return f"<Recipe '{self.name}': {lines}>"

    def _repr_html_(self) -> str:
        rows = [
            [at, f"<code>{html.escape(formula)}</code>", html.escape(budget)] for at, formula, budget in self._plan()
        ]
        return table(self.name, ["at", "select", "budget"], rows, self.paper or "")

    def _plan(self) -> list[tuple[str, str, str]]:
        """Return site, formula and budget of every stage as text; a range of sites is one."""
        entries = self.to_dict()["stages"]
        return [
            (entry["at"], entry["select"], ("" if "r" in entry else "keep ") + format_budget(entry))
            for entry in entries
        ]

    # Reading

    @classmethod
    def load(
        cls,
        source: str | Path,
        registry: Registry | None = None,
        *,
        keep: object = None,
        settings: Sequence[str] = (),
    ) -> Recipe:
        """Load a recipe: the name of a shipped one, a path to YAML, `hub://owner/name`, or a formula like `gsp & qcsp`.

        Args:
            source: a text is the name of a shipped recipe if one has it, else the path of a file if there is one,
                else a formula if it has operators or is the name of a strategy. `hub://owner/name[@revision]` is the
                file `recipe.yaml` of a repository on the Hugging Face hub; it is data, and no code is downloaded.
            registry: where names are looked up.
            keep: the budget; needed for a formula, and an override otherwise (one for each stage).
            settings: changes such as `graph.quantile=0.5` and `stages.0.rest=merge`, as `--set` of commands has them.

        Raises:
            UnknownRecipeError: if a text is none of these.
            RecipeError: if it cannot be read, with file and line; or another `TokensieveError` for its parts.
        """
        if not isinstance(source, (str, Path)):
            raise RecipeError(
                f"{source!r} is no recipe's name, no path and no formula; Recipe.load reads text and paths"
            )
        registry = registry or default_registry()
        kind = kind_of(source, registry) if isinstance(source, str) else "path"
        if kind == "formula":
            return cls._of_formula(str(source), registry, keep, settings)
        if kind == "name":
            file = registry.recipe(str(source))
            recipe = cls.loads(file.read_text(encoding="utf-8"), registry, str(file), settings)
            # What is found in a shipped recipe is not cured in its file.
            recipe._places = _Places()
        elif kind == "hub":
            address = HubAddress.parse(str(source))
            recipe = cls._from_file(fetch_recipe(address), registry, settings, f"{address}/{FILE}")
        else:
            recipe = cls._from_file(Path(source), registry, settings)
        return recipe if keep is None else recipe.replace(keep=keep)

    @classmethod
    def _of_formula(cls, text: str, registry: Registry, keep: object, settings: Sequence[str]) -> Recipe:
        name = " ".join(text.split())
        stage: dict[str, Any] = {"at": "decoder.0", "select": text} | ({} if keep is None else {"keep": 1})
        document = yaml_lines.Document({"name": name, "stages": [stage]}, {})
        if settings:
            document = changed_recipe(document, settings, registry, list(cls.model_fields))
        if not {"keep", "r"} & stage.keys():
            # What is wrong with the formula comes first.
            read_formula(text, registry, {})
            raise RecipeError(f"'{name}' is a formula, which needs a budget: keep=64, or --keep 64 in a command")
        recipe = cls.read(document, registry, "")
        return recipe if keep is None else recipe.replace(keep=keep)

    @classmethod
    def _from_file(cls, path: Path, registry: Registry, settings: Sequence[str], source: str | None = None) -> Recipe:
        try:
            content = yaml_lines.file_text(path)
        except FileNotFoundError:
            near = f" Shipped recipes: {listing(registry.recipes)}." if path.parent == Path() else ""
            raise RecipeError(f"there is no file {path}.{near}") from None
        return cls.loads(content, registry, source or str(path), settings)

    @classmethod
    def loads(
        cls, text: str, registry: Registry | None = None, source: str = _NO_FILE, settings: Sequence[str] = ()
    ) -> Recipe:
        """Read a recipe from YAML text, with changes as `load` takes them.

        Raises:
            RecipeError: or another `TokensieveError`, with file and line.
        """
        document, registry = yaml_lines.read(text, source), registry or default_registry()
        if settings:
            document = changed_recipe(document, settings, registry, list(cls.model_fields))
        return cls.read(document, registry, source)

    @classmethod
    def read(cls, document: yaml_lines.Document, registry: Registry | None = None, source: str = _NO_FILE) -> Recipe:
        """Read a recipe from a YAML document with lines, such as a part of a study's document.

        Raises:
            RecipeError: or another `TokensieveError`, with file and line.
        """
        reader = RecipeReader(document, registry or default_registry(), source)
        fields = reader.fields(tuple(cls.model_fields))
        try:
            recipe = cls.model_validate(fields)
        except ValidationError as error:
            raise reader.error(RecipeError, first_mistake(error), error.errors()[0]["loc"]) from None
        if source not in ("", _NO_FILE):
            recipe._places = _Places(reader.places)
        return recipe

    @classmethod
    def of(
        cls,
        select: Expression,
        keep: object = None,
        *,
        at: str = "decoder.0",
        name: str = "unnamed",
        positions: Positions = "original",
        **stage: Any,
    ) -> Recipe:
        """Return a recipe of one expression with one budget (`keep` or `r`), at one site or a range of sites."""
        budget = {"r": stage.pop("r")} if keep is None and "r" in stage else {"keep": keep}
        try:
            return cls(name=name, positions=positions, stages=Stage.each(at=at, select=select, **budget, **stage))
        except ValidationError as error:
            raise Stage.refused(error) from None

    def replace(self, *, keep: object = None, **changes: Any) -> Recipe:
        """Return a changed copy.

        Args:
            keep: a budget for a recipe of one stage, a list with one for each stage, or a count that names such
                a list in the recipe's `budgets`.
            changes: other fields of the recipe. New stages remove the recipe's `budgets`.

        Raises:
            RecipeError: if the number of budgets is not the number of stages, or a field is unknown.
        """
        fields: dict[str, Any] = {field: getattr(self, field) for field in type(self).model_fields}
        for field in changes:
            if field not in fields:
                hint = did_you_mean(field, ("keep", *fields))
                raise RecipeError(f"a recipe has no '{field}'; replace takes keep, {', '.join(fields)}.{hint}")
        stages = tuple(changes.pop("stages", self.stages))
        # A name stays if the new stages still use its strategy.
        leaves = distinct_strategies(stages)
        fields["strategies"] = {name: leaf for name, leaf in self.strategies.items() if leaf in leaves}
        fields["budgets"] = changes.pop("budgets", self.budgets if stages == self.stages else {})
        if keep is not None:
            keeps = list(keep) if isinstance(keep, Sequence) and not isinstance(keep, str) else [keep]
            if len(keeps) == 1:
                named = Keep.of(keeps[0]).count
                keeps = list(fields["budgets"].get(named, keeps))
            if len(keeps) != len(stages):
                own = f", or one of its own: {listing(map(str, fields['budgets']))}" if fields["budgets"] else ""
                raise RecipeError(
                    f"'{self.name}' has {_number(len(stages), 'stage')} ({', '.join(str(s.at) for s in stages)}), so "
                    f"keep takes {_number(len(stages), 'budget')}, not {len(keeps)}{own}"
                )
            stages = tuple(stage.with_keep(budget) for stage, budget in zip(stages, keeps, strict=True))
        changed = type(self)(**{**fields, **changes, "stages": stages})
        if [stage.at for stage in stages] == [stage.at for stage in self.stages]:
            changed._places = self._places
        return changed

    def place(self, site: Site) -> str:
        """Return file and line of the stage at a site; empty if the recipe was not read from a file."""
        return self._places.by_site.get(site, "")

    # Writing

    def names(self) -> dict[Expression, str]:
        """Return the name of every strategy in formulas: the key under `strategies`, or a generated one."""
        return strategy_names(self.strategies, self.stages)

    def ranges(self) -> list[tuple[str, Stage]]:
        """Return the stages with their sites as text; equal stages at consecutive sites are one entry with a range."""
        found: list[tuple[str, Stage]] = []
        first = last = self.stages[0].at
        for stage in self.stages:
            if found and stage.model_copy(update={"at": first}) == found[-1][1] and stage.at == last.next:
                found[-1] = (f"{first}..{stage.at.block}", found[-1][1])
            else:
                found.append((str(stage.at), stage))
                first = stage.at
            last = stage.at
        return found

    def formula(self, expression: Expression) -> str:
        """Return an expression of this recipe as a formula."""
        return format_formula(expression, self.names())

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data for YAML, without defaults; equal consecutive stages are a range."""
        strategies = {}
        for name, leaf in self.strategies.items():
            settings = leaf.model_dump(mode="json", exclude_defaults=True)
            if settings or name != leaf.name:
                strategies[name] = {"use": leaf.name, **settings}
        stages = []
        for at, stage in self.ranges():
            entry: dict[str, Any] = {"at": at, "select": strip_outer_parentheses(self.formula(stage.select))}
            entry |= {"keep": stage.keep.written()} if stage.keep.less is None else {"r": stage.keep.less}
            for field in ("per", "rest", "newlines", "over"):
                if getattr(stage, field) != Stage.model_fields[field].default:
                    entry[field] = getattr(stage, field)
            for field in ("by", "demand"):
                if (formula := getattr(stage, field)) is not None:
                    entry[field] = strip_outer_parentheses(self.formula(formula))
            stages.append(entry)
        head: dict[str, Any] = {"name": self.name}
        if self.title is not None:
            head["title"] = self.title
        if self.paper is not None:
            head["paper"] = self.paper
        head["positions"] = self.positions
        if strategies:
            head["strategies"] = strategies
        head["stages"] = stages
        if self.budgets:
            head["budgets"] = {n: [keep.written() for keep in keeps] for n, keeps in self.budgets.items()}
        return head

    def dump(self, path: str | Path | None = None) -> str:
        """Return the recipe as YAML, and write it to `path` if given. `loads` of this text returns an equal recipe."""
        text = yaml_lines.write(self.to_dict())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def push(
        self,
        repo: str,
        registry: Registry | None = None,
        *,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Write the recipe",
        token: str | None = None,
    ) -> str:
        """Write the recipe, and a card that shows it, into a repository of the Hugging Face hub.

        Args:
            repo: the repository, as `owner/name`; it is made if it is not there.
            registry: where the origin of strategies is looked up, for the card.
            private: whether a new repository is private; what its owner's settings say by default.
            revision: the branch; the main one by default.
            message: the commit message.
            token: an access token; by default, that of `hf auth login`.

        Returns:
            The address with the commit, as `Recipe.load` reads it.

        Raises:
            RecipeError: if `repo` is no name of a repository, or the hub refuses.
        """
        plugins = foreign_origins([stage.select for stage in self.stages], registry or default_registry())
        about: dict[str, Any] = {"title": self.title or self.name, "paper": self.paper, "digest": self.hash()}

        def files(address: HubAddress) -> dict[str, str]:
            text = self.dump()
            return {FILE: text, "README.md": card_text(address, text, self._plan(), plugins=plugins, **about)}

        done = push_files(repo, files, private=private, revision=revision, message=message, token=token)
        return str(done)

    def hash(self) -> str:
        """Return 16 hexadecimal digits that differ for any two recipes that may give different results.

        Every setting counts, also defaults. The names of the recipe and its strategies do not count, nor do `title`,
        `paper` and `budgets`.
        """

        def leaf(strategy: Expression) -> str:
            settings = strategy.model_dump() if isinstance(strategy, Strategy) else {}
            name = getattr(strategy, "name", "?")
            return f"{name}({json.dumps(settings, sort_keys=True, default=_canonical)})"

        content = {
            "positions": self.positions,
            "stages": [
                {
                    "at": str(stage.at),
                    "select": stage.select.written(leaf),
                    "keep": str(stage.keep),
                    "per": stage.per,
                    "rest": stage.rest,
                    "by": stage.by.written(leaf) if stage.by is not None else None,
                    "newlines": stage.newlines,
                }
                | ({"demand": stage.demand.written(leaf), "over": stage.over} if stage.demand is not None else {})
                for stage in self.stages
            ],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _canonical(value: object) -> object:
    """Return a setting that is no JSON value in a form that is the same in every process."""
    return sorted(value, key=repr) if isinstance(value, (set, frozenset)) else str(value)
