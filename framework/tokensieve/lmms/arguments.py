"""What `--model_args` of lmms-eval says, checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError

from tokensieve.algebra.budget import Keep
from tokensieve.composers.settings import Value, unknown_setting
from tokensieve.errors import BudgetError, SettingError, first_mistake
from tokensieve.evidence import Evidence
from tokensieve.models.pretrained import local_checkpoint
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Strategy

UNPRUNED = "none"
"""The recipe by which nothing is pruned."""


class RecipeArguments(Value):
    """The arguments that say how a model is pruned.

    Attributes:
        recipe: the name of a shipped recipe, a file, a formula, or `none`.
        keep: the budget, or a list with one for each stage, as text.
        positions: whether kept tokens keep their positions.
        query_encoder: the CLIP or SigLIP model whose vision encoder the model has: a folder, or an id in the hub's
            cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    who: ClassVar[str]

    recipe: str | int | float | None = None
    keep: str | int | float | None = None
    positions: Literal["original", "compact"] | None = None
    query_encoder: str | None = None

    @classmethod
    def refused(cls, error: ValidationError) -> SettingError:
        """Return the error for arguments that are wrong."""
        return SettingError(
            unknown_setting(f"--model {cls.who}", cls.model_fields, error)
            or f"--model {cls.who}: {first_mistake(error)}"
        )

    def load_recipe(self, registry: Registry) -> Recipe | None:
        """Return the recipe with its budget, or none where nothing is pruned.

        Raises:
            SettingError: if there is no recipe, recipe and budget are swapped, or nothing is pruned to a budget.
            TokensieveError: if the recipe or the budget cannot be read.
        """
        who, recipe = f"--model {self.who}", unquoted(self.recipe)
        if recipe is None or recipe == "":
            raise SettingError(
                f"{who} has no recipe: give recipe=script (a shipped one), recipe=FILE.yaml, or a formula with a "
                f"budget, recipe=gsp&qcsp,keep=64; recipe={UNPRUNED} runs the model unpruned"
            )
        if recipe == UNPRUNED:
            if self.keep is not None or self.positions is not None:
                raise SettingError(
                    f"{who}: recipe={UNPRUNED} keeps all tokens where they are: leave keep and positions out"
                )
            return None
        keep = budgets(self.keep)
        if is_budget(recipe) and keep is not None and not is_budget(keep):
            raise SettingError(
                f"{who}: recipe is {recipe}, a budget, and keep is '{keep}': they are swapped, "
                f"recipe={keep},keep={recipe} was meant"
            )
        loaded = Recipe.load(str(recipe), registry, keep=keep)
        return loaded if self.positions is None else loaded.replace(positions=self.positions)

    def find_query_encoder(self, shipped: Path | None) -> QueryEncoderPlace | None:
        """Return where the query encoder is: the given one, or else that of the shipped checkpoint.

        Raises:
            RefusedError: if it is not there.
        """
        if self.query_encoder is not None:
            return QueryEncoderPlace(local_checkpoint(self.query_encoder, "query_encoder"), self.query_encoder)
        return None if shipped is None else QueryEncoderPlace(shipped, str(shipped))


class ModelArguments(RecipeArguments):
    """The arguments of `--model tokensieve`.

    Attributes:
        pretrained: the name of a shipped checkpoint, a folder, or the id of a repository in the hub's cache.
        batch_size: how many prompts are asked at once.
        device: the device; an accelerator by default, if there is one.
        dtype: the data type of the weights; as they were saved by default.
        frames: how many frames of a video are shown, at even distances.
        max_batch_size: what lmms-eval passes to every model; it is not used.
    """

    who = "tokensieve"

    pretrained: str = Field(min_length=1)
    batch_size: int = Field(default=1, ge=1)
    device: str | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    frames: int = Field(default=8, ge=1)
    max_batch_size: int | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> ModelArguments:
        """Read arguments as lmms-eval gives them, the batch size maybe as text.

        Raises:
            SettingError: if one is wrong or missing.
        """
        size = given.get("batch_size", 1)
        if isinstance(size, str) and size.isdecimal():
            size = int(size)
        if not isinstance(size, int):
            raise SettingError(
                f"--model {cls.who}: batch_size is {size!r}; write a whole number, there is no search for one"
            )
        return cls(**{**given, "batch_size": size})


class WrapArguments(RecipeArguments):
    """The arguments of `--model tokensieve_wrap`; all others are those of the class that it wraps.

    Attributes:
        base: the name of a model of lmms-eval.
    """

    who = "tokensieve_wrap"

    base: str = Field(min_length=1)

    @classmethod
    def split(cls, given: Mapping[str, Any]) -> tuple[WrapArguments, dict[str, Any]]:
        """Return the own arguments, and those of the wrapped class.

        Raises:
            SettingError: if an own one is wrong or missing.
        """
        own = {name: value for name, value in given.items() if name in cls.model_fields}
        if "base" not in own:
            raise SettingError(
                f"--model {cls.who} has no base: give the name of a model of lmms-eval, as base=llava_hf"
            )
        return cls(**own), {name: value for name, value in given.items() if name not in own}


@dataclass(frozen=True)
class QueryEncoderPlace:
    """Where a query encoder is.

    Attributes:
        folder: its folder.
        name: what it was called, by which releases are recognised.
    """

    folder: Path
    name: str


def unquoted(value: object) -> object:
    """Return text without the quotes that keep lmms-eval from splitting it at commas; all else as it is."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def budgets(keep: str | int | float | None) -> object:
    """Return the budget, or a list of budgets where the text is one, such as `[64, 16]`."""
    given = unquoted(keep)
    if isinstance(given, str) and (found := re.fullmatch(r"\s*\[(.*)\]\s*", given)):
        return [one.strip() for one in found[1].split(",")]
    return given


def is_budget(value: object) -> bool:
    """Return whether a value is a budget, or a list of budgets."""
    try:
        for one in value if isinstance(value, list) else [value]:
            Keep.of(one)
    except BudgetError:
        return False
    return True


def reads_questions(recipe: Recipe) -> bool:
    """Return whether a strategy of a recipe judges tokens by the question, in the space of a query encoder."""
    return any(Evidence.QUERY in leaf.needs for leaf in recipe.names() if isinstance(leaf, Strategy))


def content_of(recipe: Recipe | None, registry: Registry) -> dict[str, Any]:
    """Return what decides answers beside lmms-eval's other arguments: a recipe's content, and whose code runs it."""
    if recipe is None:
        return {"recipe": UNPRUNED}
    leaves = [leaf for leaf in recipe.names() if isinstance(leaf, Strategy)]
    code = sorted({registry.origin("strategy", leaf.name) for leaf in leaves})
    return {"recipe": recipe.hash(), "tokensieve": metadata.version("tokensieve"), "strategies": code}
