"""The recipe agree-earliest. Every other .yaml file in `recipes/` is a recipe, too."""

from importlib.resources import files

from tokensieve import Registry, hookimpl


@hookimpl
def register_recipes(registry: Registry) -> None:
    """Add every recipe in `recipes/`."""
    for file in files(__name__).joinpath("recipes").iterdir():
        if file.name.endswith(".yaml"):
            registry.add_recipe(file)
