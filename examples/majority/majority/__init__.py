"""The composer majority, and recipes with it."""

from collections.abc import Sequence
from importlib.resources import files

from tokensieve import Chain, Composer, Registry, hookimpl
from tokensieve.composers import at_least


class Majority(Composer):
    """What more than half of the operands hold, or `more` of them beyond that."""

    name = "majority"
    examples = ({}, {"more": 1})
    more: int = 0

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Return the chain of the operands' chains."""
        return at_least(min(len(chains), len(chains) // 2 + 1 + self.more), chains)


@hookimpl
def register_composers(registry: Registry) -> None:
    """Add the composer."""
    registry.add_composer(Majority)


@hookimpl
def register_recipes(registry: Registry) -> None:
    """Add every recipe in `recipes/`."""
    for file in files(__name__).joinpath("recipes").iterdir():
        if file.name.endswith(".yaml"):
            registry.add_recipe(file)
