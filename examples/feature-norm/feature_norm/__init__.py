"""The strategy feature_norm, and recipes with it."""

from importlib.resources import files

from tokensieve import Registry, Scorer, Tokens, hookimpl
from torch import Tensor


class FeatureNorm(Scorer):
    """Keep the tokens with the largest features."""

    name = "feature_norm"
    examples = ({}, {"p": 1.0})
    p: float = 2.0

    def score(self, tokens: Tokens) -> Tensor:
        """Return a number for every token, `[rows, n]`: those with higher ones are kept."""
        return tokens.features.float().norm(self.p, dim=-1)


@hookimpl
def register_strategies(registry: Registry) -> None:
    """Add the strategy."""
    registry.add_strategy(FeatureNorm)


@hookimpl
def register_recipes(registry: Registry) -> None:
    """Add every recipe in `recipes/`."""
    for file in files(__name__).joinpath("recipes").iterdir():
        if file.name.endswith(".yaml"):
            registry.add_recipe(file)
