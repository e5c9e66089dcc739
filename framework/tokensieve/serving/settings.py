"""What a server is told of pruning, as data: in vLLM the entry `tokensieve` of `--hf-overrides`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError

from tokensieve.composers.settings import Value, unknown_setting
from tokensieve.errors import SettingError, first_mistake
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe


class ServedSettings(Value):
    """The settings of a server.

    Attributes:
        recipe: the name of a shipped recipe, a file, a formula, or the content of a recipe file.
        keep: the budget, where the recipe has none or another one is wanted.
        positions: whether kept tokens keep their positions, in place of what the recipe says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    recipe: str | dict[str, Any]
    keep: str | int | float | None = None
    positions: Literal["original", "compact"] | None = None

    @classmethod
    def read(cls, given: object) -> ServedSettings:
        """Read settings as a server hands them on.

        Raises:
            SettingError: if they are none.
        """
        if not isinstance(given, Mapping):
            raise SettingError(
                f"the settings of tokensieve are {given!r}; a mapping is wanted, such as "
                '{"recipe": "divprune", "keep": "1/9", "positions": "compact"}'
            )
        return cls(**{str(name): value for name, value in given.items()})

    @classmethod
    def refused(cls, error: ValidationError) -> SettingError:
        """Return the error for settings that are wrong."""
        who = "the settings of tokensieve"
        return SettingError(unknown_setting(who, cls.model_fields, error) or f"{who}: {first_mistake(error)}")

    def load(self, registry: Registry) -> Recipe:
        """Return the recipe with its budget and positions.

        Raises:
            TokensieveError: if it cannot be read.
        """
        if isinstance(self.recipe, str):
            recipe = Recipe.load(self.recipe, registry, keep=self.keep)
        else:
            # JSON is YAML.
            recipe = Recipe.loads(json.dumps(self.recipe), registry)
            recipe = recipe if self.keep is None else recipe.replace(keep=self.keep)
        return recipe if self.positions is None else recipe.replace(positions=self.positions)


def written(recipe: Recipe) -> dict[str, Any]:
    """Return settings that hold the whole content of a recipe, so that no process has to find its file again."""
    return {"recipe": recipe.to_dict()}
