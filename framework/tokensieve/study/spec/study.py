"""A study: models × recipes × budgets × tasks × seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from tokensieve.composers.settings import Value
from tokensieve.errors import RecipeError, StudyError
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes import yaml_lines
from tokensieve.recipes.overrides import apply_override
from tokensieve.study.spec.budget import Budget, own_budgets
from tokensieve.study.spec.entries import NAME, ControlSettings, MethodEntry, ModelEntry, TaskEntry
from tokensieve.study.spec.reader import StudyReader

_LEAST = "`models: [world-llava]`, `recipes: [gsp]`, `keep: [64]` and `tasks: [world]`"
CELL_TIMEOUT = 86_400.0
"""The seconds that a cell may take where a study says nothing: a day.

A cell of 10,000 samples of a large model without an accelerator takes hours, and must not be killed. One that hangs
must not keep the others waiting for ever.
"""


class Study(Value):
    """Models × recipes × budgets × tasks × seeds.

    Attributes:
        name: the study's name.
        models: the models that are pruned.
        recipes: the methods that are compared.
        keep: the budgets of all models that have no budgets of their own. `planning.budgets.with_budget` says what a
            budget means for a recipe of several stages.
        tasks: the tasks that the models are asked.
        seeds: the seeds of random draws. What draws at random is run once for each seed.
        batch: the number of samples in a forward pass.
        limit: the number of samples of each task, evenly spaced within each type of question; all by default.
        share: whether an image is encoded once for all cells that ask about it. The encoder's time is then measured
            separately, and added to the time of every cell.
        cell_timeout: the seconds that a cell may take, with loading its model; infinity for no limit.
        controls: which controls are left out.
        plugins: the names of modules with plugins that are not installed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(default="study", pattern=NAME)
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    recipes: tuple[MethodEntry, ...] = ()
    keep: tuple[Budget, ...] = ()
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    batch: int = Field(default=16, ge=1)
    limit: int | None = Field(default=None, ge=1)
    share: bool = True
    cell_timeout: Annotated[float, Field(gt=0, strict=True), AfterValidator(float)] = CELL_TIMEOUT
    controls: ControlSettings = ControlSettings()
    plugins: tuple[str, ...] = ()

    _locations: dict[tuple[str, int], str] = PrivateAttr(default_factory=dict)

    _read_budgets = field_validator("keep", mode="before")(own_budgets)

    @model_validator(mode="after")
    def _check_budgets(self) -> Self:
        if not self.keep and any(model.keep is None for model in self.models):
            raise ValueError("a study needs 'keep', or each of its models does")
        return self

    def location(self, key: str, index: int) -> str:
        """Return the file and line of an entry as `  (PATH:LINE)`; empty if the study was not read from YAML."""
        return self._locations.get((key, index), "")

    def __eq__(self, other: object) -> bool:
        """Return whether both studies have the same content; locations do not count."""
        return isinstance(other, Study) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Return a hash of the content."""
        return hash(self.dump())

    @classmethod
    def load(cls, path: str | Path, registry: Registry | None = None, settings: Sequence[str] = ()) -> Study:
        """Read a study from a file. `settings` are overrides such as `keep=64,128`; see `apply_override`.

        Raises:
            TokensieveError: a `StudyError` or another kind, which names the mistake with file and line.
        """
        try:
            text = yaml_lines.file_text(Path(path))
        except FileNotFoundError:
            known = (registry or default_registry()).recipes
            recipe = f"; '{path}' is a recipe, which a study names under recipes" if str(path) in known else ""
            raise StudyError(
                f"there is no study {path}; name a YAML file of models, recipes, keep and tasks{recipe}"
            ) from None
        except RecipeError as error:
            raise StudyError(str(error)) from None
        return cls.loads(text, registry, str(path), settings)

    @classmethod
    def loads(
        cls, text: str, registry: Registry | None = None, source: str = "<text>", settings: Sequence[str] = ()
    ) -> Study:
        """Read a study from YAML text.

        The plugins that the study names are registered in `registry`.

        Raises:
            TokensieveError: a `StudyError` or another kind, which names the mistake with file and line.
        """
        try:
            document = yaml_lines.read(text, source, _LEAST)
            if isinstance(document.data, dict):
                changed = {apply_override(document.data, setting): f"--set {setting}" for setting in settings}
                document = replace(document, changed=changed)
        except RecipeError as error:
            raise StudyError(str(error)) from None
        reader = StudyReader(document, registry or default_registry(), source)
        fields = reader.fields(list(cls.model_fields))
        try:
            study = cls.model_validate(fields)
        except ValidationError as error:
            raise reader.invalid(error) from None
        reader.check_names(study.models, study.recipes, study.tasks)
        study._locations = reader.locations()
        return study

    def to_dict(self) -> dict[str, Any]:
        """Return the study as plain data for YAML, with its recipes written out."""
        data: dict[str, Any] = {"name": self.name}
        if self.plugins:
            data["plugins"] = list(self.plugins)
        data["models"] = [_model_data(model) for model in self.models]
        data["recipes"] = [_method_data(method) for method in self.recipes]
        if self.keep:
            data["keep"] = [budget.to_data() for budget in self.keep]
        data["tasks"] = [_task_data(task) for task in self.tasks]
        data |= {"seeds": list(self.seeds), "batch": self.batch}
        if self.limit is not None:
            data["limit"] = self.limit
        if not self.share:
            data["share"] = False
        if self.cell_timeout != CELL_TIMEOUT:
            data["cell_timeout"] = self.cell_timeout
        controls: dict[str, Any] = {"at_every_site": self.controls.at_every_site}
        if self.controls.inverted is not None:
            controls["inverted"] = [budget.to_data() for budget in self.controls.inverted]
        return data | {"controls": controls}

    def dump(self) -> str:
        """Return the study as YAML; `loads` reads it back equal."""
        return yaml_lines.write(self.to_dict())


def _model_data(model: ModelEntry) -> dict[str, Any]:
    own = {} if model.keep is None else {"keep": [budget.to_data() for budget in model.keep]}
    return model.model_dump(exclude_defaults=True, exclude={"keep"}) | own


def _task_data(task: TaskEntry) -> dict[str, Any]:
    own: dict[str, Any] = {} if task.models is None else {"models": list(task.models)}
    if task.part is not None:
        own["part"] = [str(end) for end in task.part]
    return {"name": task.name, "use": task.use, **own, **task.settings}


def _method_data(method: MethodEntry) -> dict[str, Any]:
    data = {**method.recipe.to_dict(), "name": method.name}
    # In a study, the counts of `budgets` are keys as text; only a recipe's own file has them as numbers.
    data.pop("budgets", None)
    if method.recipe.budgets:
        data["budgets"] = {str(n): [keep.written() for keep in keeps] for n, keeps in method.recipe.budgets.items()}
    if method.keep is not None:
        data["keep"] = [budget.to_data() for budget in method.keep]
    if method.models is not None:
        data["models"] = list(method.models)
    return data
