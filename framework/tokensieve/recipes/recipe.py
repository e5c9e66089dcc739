"""Recipes: which composition cuts where, and to how many tokens."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from tokensieve import marked
from tokensieve.budget import LONGEST as LONGEST_BUDGET
from tokensieve.budget import Keep
from tokensieve.composers import Expression
from tokensieve.errors import (
    BudgetError,
    FormulaError,
    RecipeError,
    TokensieveError,
    UnknownStrategyError,
    did_you_mean,
    listing,
)
from tokensieve.evidence import Evidence
from tokensieve.formula import LONGEST as LONGEST_FORMULA
from tokensieve.formula import parse
from tokensieve.registry import Registry, broken, default_registry, usable
from tokensieve.sites import Site
from tokensieve.strategy import Chooser, Strategy

Group = Literal["image", "tile", "frame", "sample"]
Positions = Literal["original", "compact"]


class Stage(BaseModel):
    """A cut at a site.

    Attributes:
        at: the site.
        select: the composition.
        keep: how many tokens of each group stay. Written as `r` instead, all but so many, and at most half of
            the group go.
        per: what a group is.
        rest: whether the other tokens vanish or are folded into their most similar kept token.
        by: whose order breaks ties, instead of the composition's own (see `Chain.cut`).
        newlines: what happens to newline and separator tokens: judged like others, always kept
            (within the budget) or always dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    at: Site
    select: Expression
    keep: Keep
    per: Group = "image"
    rest: Literal["drop", "merge"] = "drop"
    by: Expression | None = None
    newlines: Literal["judge", "keep", "drop"] = "judge"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The evidence that selecting reads."""
        return self.select.needs | (self.by.needs if self.by is not None else frozenset())

    @model_validator(mode="before")
    @classmethod
    def _taken(cls, data: object) -> object:
        """Read `r` as a budget."""
        if not isinstance(data, dict) or "r" not in data:
            return data
        rest = {key: value for key, value in data.items() if key != "r"}
        if rest.get("keep") is not None:
            raise ValueError("a stage has keep, how many tokens stay, or r, how many go; not both")
        if isinstance(data["r"], bool) or not isinstance(data["r"], int):
            raise ValueError(f"r is how many tokens go, a whole number, not {data['r']!r}")
        return {**rest, "keep": Keep(less=data["r"])}

    @classmethod
    def each(cls, **settings: Any) -> tuple[Stage, ...]:
        """Give the stages of a range of sites, `at="encoder.0..11"`; one stage for one site.

        Args:
            settings: those of a stage; `keep` and `r` may be lists, with one entry for each site.

        Raises:
            RecipeError: if `at` is no site and no range, or a list has another length.
        """
        sites = Site.each(settings.get("at"))
        ranged = ".." in str(settings["at"])
        lists = {key: settings[key] for key in ("keep", "r") if ranged and isinstance(settings.get(key), (list, tuple))}
        for key, values in lists.items():
            if len(values) != len(sites):
                raise RecipeError(
                    f"{key} lists {len(values)} numbers for {len(sites)} sites ({settings['at']}); give one for each, "
                    "or one for all"
                )
        return tuple(
            cls.model_validate(settings | {"at": site} | {key: values[i] for key, values in lists.items()})
            for i, site in enumerate(sites)
        )

    @field_validator("at", mode="before")
    @classmethod
    def _site(cls, value: object) -> Site:
        try:
            return Site.of(value)
        except RecipeError as error:
            raise ValueError(str(error)) from None

    @field_validator("keep", mode="before")
    @classmethod
    def _budget(cls, value: object) -> Keep:
        return Keep.of(value.text if isinstance(value, marked.Decimal) else value)


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Frozen(Mapping[_Key, _Value]):
    """A mapping that never changes: it has a hash, and equals a dict of the same."""

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


class Recipe(BaseModel):
    """A composition of strategies, where it cuts and to how many tokens.

    Attributes:
        name: what it is called.
        paper: where it was published.
        positions: whether kept tokens keep their positions or are renumbered without gaps.
        strategies: operands by the name under which formulas know them; those that are given no
            name get one made up.
        stages: cuts at strictly deeper sites.
        budgets: lists of budgets, one for each of several stages, by the count under which `replace` knows
            them. A method that counts its budget otherwise has its own numbers here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = "unnamed"
    paper: str | None = None
    positions: Positions = "original"
    strategies: Mapping[str, Strategy] = {}
    stages: tuple[Stage, ...]
    budgets: Mapping[int, tuple[Keep, ...]] = {}

    @field_validator("budgets", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return {n: _list(n, entry) for n, entry in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _sound(self) -> Self:
        problem = _problem(self.strategies, self.stages, self.budgets)
        if problem is not None:
            raise ValueError(problem[1])
        named = {name: leaf for leaf, name in self.names().items() if isinstance(leaf, Strategy)}
        # A frozen model can only set a derived value this way.
        object.__setattr__(self, "strategies", Frozen(named))
        object.__setattr__(self, "budgets", Frozen(self.budgets))
        return self

    # Reading

    @classmethod
    def load(cls, source: str | Path, registry: Registry | None = None) -> Recipe:
        """Load a recipe: a name without suffix or slash is a shipped one, anything else a path.

        Raises:
            UnknownRecipeError: if no shipped recipe has the name.
            RecipeError: if it cannot be read, with file and line.
        """
        registry = registry or default_registry()
        text = str(source)
        if isinstance(source, str) and "/" not in text and "\\" not in text and "." not in text:
            file = registry.recipe(text)
            return cls.loads(file.read_text(encoding="utf-8"), registry, source=str(file))
        path = Path(source)
        try:
            with path.open(encoding="utf-8") as opened:
                # One more than is read, so that an endless file is too large and not endless.
                content = opened.read(marked.LARGEST + 1)
        except FileNotFoundError:
            near = f" Shipped recipes: {listing(registry.recipes)}." if path.parent == Path() else ""
            raise RecipeError(f"there is no file {path}.{near}") from None
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path} cannot be read: {error}") from None
        return cls.loads(content, registry, source=str(path))

    @classmethod
    def loads(cls, text: str, registry: Registry | None = None, source: str = "<text>") -> Recipe:
        """Read a recipe from YAML text.

        Raises:
            RecipeError: or a kind of `TokensieveError` that names the mistake, with file and line.
        """
        return cls.read(marked.read(text, source), registry, source)

    @classmethod
    def read(cls, document: marked.Marked, registry: Registry | None = None, source: str = "<text>") -> Recipe:
        """Read a recipe from data whose lines are known, such as a part of another document.

        Raises:
            RecipeError: or a kind of `TokensieveError` that names the mistake, with file and line.
        """
        return _Reader(document, registry or default_registry(), source).recipe()

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
        """Give the recipe of a bare expression with a budget (`keep` or `r`), at one site or a range of them."""
        budget = {"r": stage.pop("r")} if keep is None and "r" in stage else {"keep": keep}
        try:
            return cls(name=name, positions=positions, stages=Stage.each(at=at, select=select, **budget, **stage))
        except ValidationError as error:
            raise RecipeError(_first(error)) from None

    def replace(self, *, keep: object = None, **changes: Any) -> Recipe:
        """Give a changed copy.

        Args:
            keep: a budget for a recipe of one stage, a list with one for each stage, or a count that names such
                a list among the recipe's own `budgets`.
            changes: other fields of the recipe. Other stages leave its own budgets behind.

        Raises:
            RecipeError: if the number of budgets is not the number of stages, or a field is unknown.
        """
        fields: dict[str, Any] = {field: getattr(self, field) for field in type(self).model_fields}
        for field in changes:
            if field not in fields:
                hint = did_you_mean(field, ("keep", *fields))
                raise RecipeError(f"a recipe has no '{field}'; replace takes keep, {', '.join(fields)}.{hint}")
        stages = tuple(changes.pop("stages", self.stages))
        # Names outlive a change of the stages where they still name something.
        leaves = _leaves(stages)
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
                    f"'{self.name}' has {len(stages)} stages ({', '.join(str(s.at) for s in stages)}), so keep "
                    f"takes {len(stages)} budgets, not {len(keeps)}{own}"
                )
            stages = tuple(
                stage.model_copy(update={"keep": Keep.of(budget)}) for stage, budget in zip(stages, keeps, strict=True)
            )
        try:
            return type(self)(**{**fields, **changes, "stages": stages})
        except ValidationError as error:
            raise RecipeError(_first(error)) from None

    # Writing

    def names(self) -> dict[Expression, str]:
        """Give the name of every strategy: its own under `strategies`, or one made up."""
        return _names(self.strategies, self.stages)

    def ranges(self) -> list[tuple[str, Stage]]:
        """Give the stages with their sites as they are written, those alike at one site after the other as one."""
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
        """Give the formula of an expression of this recipe."""
        return written(expression, self.names())

    def to_dict(self) -> dict[str, Any]:
        """Give the recipe as plain data, as YAML holds it; defaults are left out, and stages alike are a range."""
        strategies = {}
        for name, leaf in self.strategies.items():
            settings = leaf.model_dump(mode="json", exclude_defaults=True)
            if settings or name != leaf.name:
                strategies[name] = {"use": leaf.name, **settings}
        stages = []
        for at, stage in self.ranges():
            entry: dict[str, Any] = {"at": at, "select": _bare(self.formula(stage.select))}
            entry |= {"keep": stage.keep.written()} if stage.keep.less is None else {"r": stage.keep.less}
            for field in ("per", "rest", "newlines"):
                if getattr(stage, field) != Stage.model_fields[field].default:
                    entry[field] = getattr(stage, field)
            if stage.by is not None:
                entry["by"] = _bare(self.formula(stage.by))
            stages.append(entry)
        head: dict[str, Any] = {"name": self.name}
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
        """Give the recipe as YAML, and write it to `path` if given; `loads` reads it back equal."""
        text = marked.write(self.to_dict())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def hash(self) -> str:
        """Give 16 hexadecimal digits that change with anything that changes a result.

        Every setting counts, defaults too; names of recipe and operands do not, nor do budgets not taken.
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
                for stage in self.stages
            ],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class _Reader:
    """Turns marked data into a recipe, and every error into one with a line."""

    def __init__(self, document: marked.Marked, registry: Registry, source: str) -> None:
        self._document = document
        self._registry = registry
        self._source = source

    def recipe(self) -> Recipe:
        data = self._mapping(self._document.data, (), Recipe, required=("stages",))
        operands = self._operands(data.get("strategies"))
        entries = data["stages"]
        if not isinstance(entries, list) or not entries:
            raise self._error(RecipeError, "stages is a list with at least one stage", ("stages",))
        expanded = [(i, stage) for i, entry in enumerate(entries) for stage in self._stages(entry, i, operands)]
        stages = tuple(stage for _, stage in expanded)
        budgets = self._budgets(data.get("budgets"))
        problem = _problem(operands, stages, budgets)
        if problem is not None:
            path, said = problem
            if path[0] == "stages" and len(path) > 1:
                # A range of sites is one entry of the file.
                path = ("stages", expanded[int(path[1])][0], *path[2:])
            raise self._error(RecipeError, said, path)
        try:
            return Recipe.model_validate({**data, "strategies": operands, "stages": stages, "budgets": budgets})
        except ValidationError as error:
            raise self._error(RecipeError, _first(error), error.errors()[0]["loc"]) from None

    def _operands(self, data: object) -> dict[str, Strategy]:
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise self._error(RecipeError, "strategies is a mapping from names to {use: ...}", ("strategies",))
        operands = {}
        for name, entry in data.items():
            path = ("strategies", name)
            if not usable(name):
                raise self._error(RecipeError, _unusable(name), path)
            if name in self._registry.composers:
                raise self._error(RecipeError, f"'{name}' is a composer; name the operand otherwise", path)
            settings = {"use": entry} if isinstance(entry, str) else entry
            if not isinstance(settings, dict) or not isinstance(settings.get("use"), str):
                raise self._error(RecipeError, f"'{name}' says which strategy it uses: {{use: gsp}}", (*path, "use"))
            operands[name] = self._strategy(settings, path)
        return operands

    def _budgets(self, data: object) -> dict[int, tuple[Keep, ...]]:
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise self._error(RecipeError, f"budgets is a mapping from counts to lists: {_LISTS}", ("budgets",))
        budgets = {}
        for number, entry in data.items():
            try:
                budgets[number] = _list(number, entry)
            except BudgetError as error:
                raise self._error(type(error), str(error), ("budgets", number)) from None
        return budgets

    def _strategy(self, settings: dict[str, Any], path: marked.Path) -> Strategy:
        try:
            strategy = self._registry.strategy(settings["use"])
        except UnknownStrategyError as error:
            raise self._error(type(error), str(error), (*path, "use")) from None
        given = {key: value for key, value in settings.items() if key != "use"}
        try:
            # As JSON, because YAML too has lists for tuples and words for enumerations.
            return strategy.model_validate_json(json.dumps(given))
        except ValidationError as error:
            detail = error.errors()[0]
            at = (*path, *detail["loc"])
            if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
                fields = list(strategy.model_fields)
                key = str(detail["loc"][0])
                message = (
                    f"'{strategy.name}' has no parameter '{key}'; it has {listing(fields)}.{did_you_mean(key, fields)}"
                )
                raise self._error(RecipeError, message, at) from None
            raise self._error(RecipeError, f"{strategy.name}: {_first(error)}", at) from None

    def _stages(self, entry: object, index: int, operands: dict[str, Strategy]) -> tuple[Stage, ...]:
        path: marked.Path = ("stages", index)
        budget = "r" if isinstance(entry, dict) and entry.get("r") is not None else "keep"
        data = dict(self._mapping(entry, path, Stage, required=("at", "select", budget)))
        for key in ("select", "by"):
            if data.get(key) is None:
                continue
            if not isinstance(data[key], str):
                raise self._error(RecipeError, f"{key} is a formula, such as gsp & qcsp", (*path, key))
            try:
                data[key] = parse(data[key], lambda name: self._named(name, operands), self._registry.composers)
            except TokensieveError as error:
                raise self._error(type(error), str(error), (*path, key)) from None
        try:
            Site.each(data["at"])
        except RecipeError as error:
            raise self._error(RecipeError, str(error), (*path, "at")) from None
        try:
            return Stage.each(**data)
        except RecipeError as error:
            raise self._error(RecipeError, str(error), (*path, budget)) from None
        except ValidationError as error:
            at = error.errors()[0]["loc"][:1] or (budget,)
            raise self._error(_kind(error), _first(error), (*path, *at)) from None

    def _named(self, name: str, operands: dict[str, Strategy]) -> Strategy:
        if name in operands:
            return operands[name]
        if name in self._registry.strategies:
            strategy = self._registry.strategy(name)
            try:
                return strategy()
            except ValidationError as error:
                raise FormulaError(
                    f"'{name}' has no default for every parameter ({_first(error)}); "
                    f"set it under strategies: {{use: {name}, ...}}"
                ) from None
        if operands:
            known = {*operands, *self._registry.strategies}
            raise FormulaError(
                f"the formula uses '{name}', which is neither under strategies: ({listing(operands)}) nor a "
                f"registered strategy ({listing(self._registry.strategies)}).{did_you_mean(name, known)}"
                f"{broken(self._registry.plugins)}"
            )
        return self._registry.strategy(name)()

    def _mapping(
        self, data: object, path: marked.Path, model: type[BaseModel], required: tuple[str, ...]
    ) -> dict[str, Any]:
        what = model.__name__.lower()
        keys = list(model.model_fields)
        if model is Stage:
            keys.insert(keys.index("keep") + 1, "r")
        if not isinstance(data, dict):
            raise self._error(RecipeError, f"a {what} is a mapping with the keys {', '.join(keys)}", path)
        for key in data:
            if key not in keys:
                message = f"a {what} has no key '{key}'; it has {', '.join(keys)}.{did_you_mean(key, keys)}"
                raise self._error(RecipeError, message, (*path, key))
        for key in required:
            if data.get(key) is None:
                raise self._error(RecipeError, f"a {what} needs '{key}'", (*path, key))
        return data

    def _error(self, kind: type[TokensieveError], message: str, path: marked.Path) -> TokensieveError:
        return kind(f"{message[:1800]}  ({self._source}:{self._document.line(tuple(path))})")


_LISTS = "{192: [300, 200, 110]}"


def _list(number: object, entry: object) -> tuple[Keep, ...]:
    """Read one entry of `budgets`."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise BudgetError(f"budgets are named by counts, as in {_LISTS}; {number!r} is none")
    if not isinstance(entry, (list, tuple)):
        raise BudgetError(f"budget {number} is a list with a budget for each stage, as in {_LISTS}, not {entry!r}")
    return tuple(Keep.of(value.text if isinstance(value, marked.Decimal) else value) for value in entry)


def _problem(
    strategies: Mapping[str, Strategy], stages: Sequence[Stage], budgets: Mapping[int, Sequence[Keep]]
) -> tuple[marked.Path, str] | None:
    """Find what is wrong with a recipe as a whole, and where."""
    if not stages:
        return ("stages",), "a recipe has at least one stage"
    for i, (before, after) in enumerate(itertools.pairwise(stages), start=1):
        if before.at == after.at:
            return ("stages", i, "at"), f"the site {after.at} stands twice; join both stages into one formula"
        if not before.at < after.at:
            return ("stages", i, "at"), (
                f"stages out of order: {after.at} comes before {before.at} in the model; a token once gone "
                "never returns, so list stages from the first site to the deepest"
            )
    names = _names(strategies, stages)
    leaves = _leaves(stages)
    for name, strategy in strategies.items():
        path = ("strategies", name)
        if not usable(name):
            return path, _unusable(name)
        if strategy not in leaves:
            return path, f"'{name}' stands under strategies, but no formula uses it; use it or remove it"
        if names[strategy] != name:
            return path, f"'{name}' is the same strategy with the same settings as '{names[strategy]}'; use one of them"
    for i, stage in enumerate(stages):
        if stage.by is not None and not stage.by.is_nested:
            formula = written(stage.by, names)
            return ("stages", i, "by"), (
                f"by: '{_bare(formula)}' chooses another set for every budget, which is no order to break ties by"
            )
        if stage.keep.auto and not isinstance(stage.select, Chooser):
            formula = written(stage.select, names)
            return ("stages", i, "keep"), (
                f"keep: auto at {stage.at} is the size of a lone Chooser's own set; "
                f"'{_bare(formula)}' is none, so give a budget"
            )
    for number, keeps in budgets.items():
        if len(stages) == 1:
            return ("budgets",), "budgets is for recipes of several stages; the budget of one stage is what keep says"
        if len(keeps) != len(stages):
            sites = ", ".join(str(stage.at) for stage in stages)
            return ("budgets", number), f"budget {number} has {len(keeps)} entries for {len(stages)} stages ({sites})"
        if any(keep.auto for keep in keeps):
            return ("budgets", number), f"budget {number} has auto for an entry; give numbers"
    return None


def _leaves(stages: Sequence[Stage]) -> dict[Expression, None]:
    """Give the distinct strategies of all formulas, in the order they are written."""
    formulas = [formula for stage in stages for formula in (stage.select, stage.by) if formula is not None]
    return dict.fromkeys(leaf for formula in formulas for leaf in formula.strategies())


def _names(strategies: Mapping[str, Strategy], stages: Sequence[Stage]) -> dict[Expression, str]:
    """Give the name of every strategy: the one it has, or one made up."""
    names: dict[Expression, str] = {}
    for name, strategy in strategies.items():
        names.setdefault(strategy, name)
    taken = set(strategies)
    for leaf in _leaves(stages):
        if leaf not in names and isinstance(leaf, Strategy):
            free = itertools.chain([leaf.name], (f"{leaf.name}_{i}" for i in itertools.count(2)))
            names[leaf] = next(name for name in free if name not in taken)
            taken.add(names[leaf])
    return names


def _unusable(name: str) -> str:
    return f"'{name}' is no name a formula can use; write letters, digits and _, but none of Python's own words"


def _canonical(value: object) -> object:
    """Give a setting that JSON does not know in a form that is the same in every process."""
    return sorted(value, key=repr) if isinstance(value, (set, frozenset)) else str(value)


def _first(error: ValidationError) -> str:
    """Say the first mistake pydantic found."""
    detail = error.errors()[0]
    message = str(detail["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "value_error" or not where:
        return message
    shown = repr(detail.get("input"))
    return f"{where} is {shown if len(shown) <= 60 else shown[:57] + '...'}: {message}"


def _kind(error: ValidationError) -> type[TokensieveError]:
    """Give the kind of our own error inside pydantic's, if there is one."""
    cause = error.errors()[0].get("ctx", {}).get("error")
    return type(cause) if isinstance(cause, BudgetError) else RecipeError


def written(expression: Expression, names: Mapping[Expression, str]) -> str:
    """Give the formula of an expression whose strategies have these names."""
    return expression.written(lambda leaf: names.get(leaf, repr(leaf)))


def budget_of(entry: Mapping[str, Any]) -> str:
    """Say the budget of a stage of `to_dict`."""
    return f"r {entry['r']}" if "r" in entry else str(entry["keep"])


def _bare(formula: str) -> str:
    """Leave out parentheses around the whole formula."""
    if not (formula.startswith("(") and formula.endswith(")")):
        return formula
    depth = 0
    for place, sign in enumerate(formula):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return formula[1:-1] if place == len(formula) - 1 else formula
    return formula


_BUDGET = "^(auto|[1-9][0-9]*|[1-9][0-9]* */ *[1-9][0-9]*|([0-9]+\\.?[0-9]*|\\.[0-9]+) *%|0?\\.[0-9]+|1\\.0*)$"


def schema(registry: Registry | None = None) -> dict[str, Any]:
    """Give the JSON Schema of recipe files, with the parameters of every registered strategy."""
    registry = registry or default_registry()
    operands: list[dict[str, Any]] = [
        {"type": "string", "enum": sorted(registry.strategies), "description": "a strategy with its defaults"}
    ]
    definitions: dict[str, Any] = {}
    for name, strategy in sorted(registry.strategies.items()):
        # Two plugins may use one name for different things inside.
        own = strategy.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{inner}": content for inner, content in own.pop("$defs", {}).items()}
        operands.append(
            {
                "type": "object",
                "title": name,
                "description": (strategy.__doc__ or name).strip().split("\n")[0],
                "properties": {"use": {"const": name}, **own.get("properties", {})},
                "required": ["use", *own.get("required", [])],
                "additionalProperties": False,
            }
        )
    formula = {
        "type": "string",
        "minLength": 1,
        "maxLength": LONGEST_FORMULA,
        "description": f"operands joined by & | ^ - ~ >> [m] and {listing(registry.composers)}",
    }
    budget = {
        "description": "a count, a fraction p/q, a decimal in (0, 1], a percentage, or auto",
        "oneOf": [
            {"type": "integer", "minimum": 1},
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            {"type": "string", "pattern": _BUDGET, "maxLength": LONGEST_BUDGET},
        ],
    }
    choices = {
        field: {"enum": list(Stage.model_fields[field].annotation.__args__)}  # type: ignore[union-attr]
        for field in ("per", "rest", "newlines")
    }
    fewer = {"type": "integer", "minimum": 0}
    stage = {
        "type": "object",
        "properties": {
            "at": {
                "description": "a site, or a range of them",
                "type": "string",
                "pattern": r"^(encoder|decoder)\.(0|[1-9][0-9]{0,3})(\.\.(0|[1-9][0-9]{0,3}))?$",
            },
            "select": formula,
            "keep": {"oneOf": [budget, {"type": "array", "items": budget}]},
            "r": {
                "description": "how many tokens go, at most half of them, instead of how many stay",
                "oneOf": [fewer, {"type": "array", "items": fewer}],
            },
            "by": formula,
            **choices,
        },
        "required": ["at", "select"],
        "oneOf": [{"required": ["keep"]}, {"required": ["r"]}],
        # Lists are for ranges, with one entry for each site.
        "if": {"properties": {"at": {"pattern": r"\.\."}}},
        "else": {"properties": {"keep": {"not": {"type": "array"}}, "r": {"not": {"type": "array"}}}},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tokensieve recipe",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "paper": {"type": ["string", "null"]},
            "positions": {"enum": ["original", "compact"]},
            "strategies": {
                "type": "object",
                "propertyNames": {"not": {"enum": sorted(registry.composers)}},
                "additionalProperties": {"oneOf": operands},
            },
            "stages": {"type": "array", "minItems": 1, "items": stage},
            "budgets": {
                "description": "a list of budgets, one for each of several stages, by the count that stands for it",
                "type": "object",
                "propertyNames": {"pattern": "^[1-9][0-9]{0,8}$"},
                "additionalProperties": {"type": "array", "minItems": 2, "items": budget},
            },
        },
        "required": ["stages"],
        "additionalProperties": False,
        "$defs": definitions,
    }


__all__ = ["Group", "Recipe", "Stage", "schema"]
