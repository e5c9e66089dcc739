"""The strategy far_from_mean, and recipes with it."""

from importlib.resources import files

from tokensieve import Registry, Scorer, Tokens, hookimpl
from torch import Tensor


class FarFromMean(Scorer):
    """Keep the tokens that are farthest from the mean of their image."""

    name = "far_from_mean"
    examples = ({}, {"p": 1.0})
    p: float = 2.0

    def score(self, tokens: Tokens) -> Tensor:
        """Return a number for every token, `[rows, n]`; the highest are kept."""
        x = tokens.features.float().masked_fill(~tokens.valid.unsqueeze(-1), 0)
        count = tokens.universe.counts.clamp(min=1).view(-1, 1, 1)
        return (x - x.sum(dim=1, keepdim=True) / count).norm(self.p, dim=-1)


@hookimpl
def register_strategies(registry: Registry) -> None:
    """Add the strategy."""
    registry.add_strategy(FarFromMean)


@hookimpl
def register_recipes(registry: Registry) -> None:
    """Add every recipe in `recipes/`."""
    for file in files(__name__).joinpath("recipes").iterdir():
        if file.name.endswith(".yaml"):
            registry.add_recipe(file)
