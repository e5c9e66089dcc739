"""Recipes on the Hugging Face hub: `hub://owner/name`, and `push`."""

import os
import subprocess
import sys

import pytest
import yaml

import tokensieve as ts
from tokensieve.errors import RecipeError
from tokensieve.plugins.registry import default_registry
from tokensieve.recipes.hub import HubAddress, card_text, foreign_origins
from tokensieve.recipes.source import kind_of

from .hub_server import Hub


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("hub://me/script", "me/script", None),
        ("hub://me/my.recipe-2@v1", "me/my.recipe-2", "v1"),
        ("hub://me/x@refs/pr/3", "me/x", "refs/pr/3"),
    ],
)
def test_an_address_is_read_and_written(text, repo, revision):
    assert HubAddress.parse(text) == HubAddress(repo, revision)
    assert str(HubAddress(repo, revision)) == text
    assert kind_of(text, default_registry()) == "hub"


@pytest.mark.parametrize("text", ["hub://", "hub://me", "hub://me/", "hub://me/x/y", "hub://me/x@", "hub://m e/x"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(RecipeError, match="write hub://owner/name"):
        ts.Recipe.load(text)


def test_without_a_network_it_says_so():
    with pytest.raises(RecipeError, match=r"hub://me/none: the hub cannot be reached.*name the recipe's file"):
        ts.Recipe.load("hub://me/none")


def test_the_card_shows_the_recipe_as_it_is():
    recipe = ts.Recipe.load("gsp | qcsp", keep=12)
    card = card_text(
        HubAddress("me/both"),
        recipe.dump(),
        [("decoder.0", "gsp | qcsp", "keep 12")],
        title="Both",
        paper="https://example.org/x",
        digest=recipe.hash(),
        plugins=["mine (mine 1.0)"],
    )
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(head) == {"library_name": "tokensieve", "tags": ["tokensieve", "visual-token-pruning"]}
    text = body.split("```yaml\n")[1].split("```")[0]
    assert ts.Recipe.loads(text) == recipe
    assert "| `decoder.0` | `gsp \\| qcsp` | keep 12 |" in body
    assert 'ts.prune(model, "hub://me/both")' in body
    for said in ("# Both", "It needs mine (mine 1.0), installed beside", "Paper: https://example.org/x", recipe.hash()):
        assert said in body


class Mine(ts.Scorer):
    """Score by size."""

    name = "mine"

    def score(self, tokens):
        """Return the largest feature of each token, `[n]`."""
        return tokens.features.amax(dim=-1)


def test_what_is_of_a_plugin_is_named():
    registry = default_registry()

    class Plugin:
        @ts.hookimpl
        def register_strategies(self, registry):
            registry.add_strategy(Mine)

    registry.register(Plugin(), "mine", "mine 1.0")
    recipe = ts.Recipe.load("gsp & ~mine", registry, keep=4)
    assert foreign_origins([recipe.stages[0].select], registry) == ["mine (mine 1.0)"]
    assert foreign_origins([ts.Recipe.load("script").stages[0].select], registry) == []


SCRIPT = """
import sys
import tokensieve as ts
from tokensieve.errors import TokensieveError

def said(call):
    try:
        print(call())
    except TokensieveError as error:
        print(f"{type(error).__name__}: {error}")

recipe = ts.Recipe.load("gsp & qcsp", keep=12).replace(name="both")
first = recipe.push("me/both", private=True, token="good")
print(first)
second = recipe.replace(keep=24).push("me/both", token="good", message="Keep more")
print(second)
for address in ("hub://me/both", first, second, first[: first.index("@") + 8]):
    loaded = ts.Recipe.load(address)
    print(loaded == recipe, loaded == recipe.replace(keep=24))
print(ts.Recipe.load("hub://me/both", keep=7).stages[0].keep)
said(lambda: ts.Recipe.load("hub://me/nothing"))
said(lambda: ts.Recipe.load("hub://me/both@v9"))
said(lambda: ts.Recipe.load("hub://me/weights"))
said(lambda: ts.Recipe.load("hub://me/broken"))
said(lambda: recipe.push("me/both", token="bad"))
said(lambda: recipe.push("me/both@v1", token="good"))
said(lambda: recipe.push("both", token="good"))
"""


def test_a_recipe_goes_to_the_hub_and_comes_back(tmp_path):
    hub = Hub()
    hub.repositories["me/weights"] = [("a" * 40, {"model.safetensors": b"x"})]
    broken = b"stages:\n- {at: decoder.0, select: gspp, keep: 4}\n"
    hub.repositories["me/broken"] = [("b" * 40, {"recipe.yaml": broken, "recipe.py": b"raise SystemExit(9)"})]
    settings = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    # The hub's address is read when its library is imported.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )
    hub.close()
    assert done.returncode == 0, done.stderr
    first, second, *lines = done.stdout.splitlines()
    commits = hub.repositories["me/both"]
    assert [first, second] == [f"hub://me/both@{commit}" for commit, _ in commits]
    assert hub.private["me/both"] is True
    assert lines[:5] == ["False True", "True False", "False True", "True False", "7"]
    nothing, revision, weights, wrong, refused, named, bare = lines[5:]
    assert "the hub has no such repository, or it is private; log in with `hf auth login`" in nothing
    assert revision == "RecipeError: hub://me/both@v9: the repository has no revision 'v9'"
    assert weights == "RecipeError: hub://me/weights: the repository has no file recipe.yaml, so it is no recipe"
    assert wrong.startswith("UnknownStrategyError: ")
    assert wrong.endswith("(hub://me/broken/recipe.yaml:2)")
    assert refused.startswith("RecipeError: nothing is pushed to hub://me/both: ")
    assert "names a revision; write push('me/both', revision='v1')" in named
    assert "write hub://owner/name" in bare
    # Nothing but recipes is downloaded: no code, no weights.
    assert {path.rpartition("/")[2] for _, path in hub.requests if "/resolve/" in path} == {"recipe.yaml"}
    assert set(commits[-1][1]) == {"recipe.yaml", "README.md"}
    assert "# both" in commits[-1][1]["README.md"].decode()
    assert ts.Recipe.loads(commits[-1][1]["recipe.yaml"].decode()).stages[0].keep.written() == 24
