"""The models, recipes, tasks and controls of a study."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from tokensieve.checkpoints.devices import device_of
from tokensieve.composers.settings import Value
from tokensieve.errors import RefusedError, SettingError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.study.spec.budget import Budget, own_budgets
from tokensieve.tasks.base import Task

NAME = r"^[\w][\w .+&|~()/-]*$"
METHOD_NAME = r"^[\w~(][\w .+&|~()/^>,=\[\]-]*$"
"""A recipe that is written as a formula has it as its name."""


class ModelEntry(Value):
    """A model of a study.

    Attributes:
        path: the name of a shipped checkpoint, a folder, or the id of a repository on the Hugging Face hub.
        name: the name in reports; the last part of the path by default.
        revision: the revision of the hub's repository.
        query_encoder: the CLIP or SigLIP model whose vision encoder the model has, given like `path`. By default that
            of the shipped checkpoint, if it has one.
        device: the device that the model runs on; an accelerator by default, if there is one.
        dtype: the data type of the weights; as they were saved by default.
        geometry: the name of a registered geometry. A dry run counts with it while the checkpoint is not downloaded.
        keep: budgets of this model, instead of the study's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str = Field(min_length=1)
    name: str = Field(default="", pattern=f"{NAME}|^$")
    revision: str | None = None
    query_encoder: str | None = None
    device: str | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    geometry: str | None = None
    keep: tuple[Budget, ...] | None = Field(default=None, min_length=1)

    _read_budgets = field_validator("keep", mode="before")(own_budgets)

    @field_validator("device")
    @classmethod
    def _check_device(cls, name: str | None) -> str | None:
        # Whether it is there, the machine that runs a cell will say.
        try:
            return name if name is None else str(device_of(name))
        except RefusedError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _set_default_name(cls, data: object) -> object:
        data = {"path": data} if isinstance(data, str) else data
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("path"), str):
            return {**data, "name": data["path"].rstrip("/").rpartition("/")[2]}
        return data


class MethodEntry(Value):
    """A recipe of a study.

    Attributes:
        name: the name in reports.
        recipe: the recipe.
        keep: budgets of this recipe, instead of those of the study and of any model.
        models: the names of the models that it runs on; all by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(pattern=METHOD_NAME)
    recipe: Recipe
    keep: tuple[Budget, ...] | None = None
    models: tuple[str, ...] | None = None

    _read_budgets = field_validator("keep", mode="before")(own_budgets)

    @model_validator(mode="before")
    @classmethod
    def _set_default_name(cls, data: object) -> object:
        data = {"recipe": data} if isinstance(data, Recipe) else data
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("recipe"), Recipe):
            return {**data, "name": data["recipe"].name}
        return data


class TaskEntry(Value):
    """A task of a study.

    Attributes:
        name: the name in reports; that of the task by default.
        use: the name of the task.
        settings: the settings of the task.
        models: the names of the models that are asked; all by default.
        part: which of the task's pictures are asked about, as a part of all of them; see `sampling.part_of`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(pattern=NAME)
    use: str
    settings: Mapping[str, Any] = {}
    models: tuple[str, ...] | None = None
    part: tuple[Fraction, Fraction] | None = None

    @model_validator(mode="before")
    @classmethod
    def _set_default_name(cls, data: object) -> object:
        data = {"use": data} if isinstance(data, str) else data
        return {**data, "name": data.get("name") or str(data.get("use"))} if isinstance(data, dict) else data

    @classmethod
    def refused(cls, error: ValidationError) -> TokensieveError:
        """Return the error for fields that are wrong."""
        unknown = error.errors()[0]["type"] == "extra_forbidden"
        return SettingError(
            f"{super().refused(error)}{' Settings of the task go into settings={...}' if unknown else ''}"
        )

    @field_validator("part", mode="before")
    @classmethod
    def _read_part(cls, value: object) -> object:
        return value if value is None else part_ends(value)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """Read an entry of a study: `use`, `name`, `models` and `part`; all other keys are settings of the task.

        Raises:
            SettingError: if `name`, `models` or `part` is not valid.
        """
        return cls(**cls.fields_of(entry))

    @staticmethod
    def fields_of(entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that an entry of a study gives."""
        own = ("use", "name", "models", "part")
        settings = {key: _plain(value) for key, value in entry.items() if key not in own}
        given = {key: entry[key] for key in ("use", "name", "part") if key in entry}
        return given | {"settings": settings} | models_field(entry)

    def build(self, registry: Registry) -> Task:
        """Return the task with its settings.

        Raises:
            UnknownTaskError: if no such task is registered.
            SettingError: if a setting is not valid; pydantic's error is its cause.
        """
        kind = registry.task(self.use)
        try:
            # Not strict, because YAML has lists where fields are tuples.
            return kind.model_validate(dict(self.settings), strict=False)
        except ValidationError as error:
            raise kind.refused(error) from error


class ControlSettings(Value):
    """Which controls of a study are left out; by default, none.

    Attributes:
        inverted: the budgets at which every method is also run with inverted scores; all by default.
        at_every_site: whether methods that cut elsewhere than at `decoder.0` get controls that cut at the same sites.
            Without these, such a method has no control of the same cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    inverted: tuple[Budget, ...] | None = None
    at_every_site: bool = True

    _read_budgets = field_validator("inverted", mode="before")(own_budgets)


def part_ends(value: object) -> tuple[Fraction, Fraction]:
    """Return both ends of a part of a task's pictures, such as `[0, 1/2]`.

    Raises:
        ValueError: if the value is no part.
    """
    what = "part is two ends of all pictures, such as [0, 1/2] for the first half"
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(what)
    try:
        # Texts, because a decimal is meant as it is written.
        low, high = (end if isinstance(end, Fraction) else Fraction(getattr(end, "text", str(end))) for end in value)
    except (ValueError, ZeroDivisionError):
        raise ValueError(what) from None
    if not 0 <= low < high <= 1:
        raise ValueError(f"{what}; from {low} to {high} there is none")
    return low, high


def _plain(value: Any) -> Any:
    """Return a value of YAML with decimals as floats: only budgets need to know how they were written."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return float(value) if isinstance(value, float) else value


def models_field(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return `models` of an entry as a field; nothing if the entry does not have it."""
    models = entry.get("models")
    return {} if models is None else {"models": [models] if isinstance(models, str) else models}
