"""The registry as a value, and plugins that register wrongly."""

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torch import nn

import tokensieve as ts
from tokensieve import Adapter, Composer, Registry, Scorer, hookimpl
from tokensieve.algebra.chain import at_least
from tokensieve.errors import (
    PluginError,
    UnknownCheckpointError,
    UnknownComposerError,
    UnknownRecipeError,
    UnknownStrategyError,
    UnknownTaskError,
    UnsupportedModelError,
)
from tokensieve.plugins.rivals import rivals_by_type
from tokensieve.tasks import Sample, Task
from tokensieve_adapters.llava import LlavaAdapter


class First(Scorer):
    """Keeps the first."""

    name = "first"

    def score(self, tokens):
        return -tokens.ids.double()


class Majority(Composer):
    """What more than half hold."""

    name = "majority"

    def combine(self, chains):
        return at_least(len(chains) // 2 + 1, chains)


class ToyAdapter(Adapter):
    """For no model at all."""

    name = "toy"

    @classmethod
    def matches(cls, model):
        return isinstance(model, nn.Linear)

    @classmethod
    def tiny(cls):
        return nn.Linear(1, 1)


def plugin(*, strategies=(), composers=(), recipes=(), adapters=()):
    class Plugin:
        @hookimpl
        def register_strategies(self, registry):
            for item in strategies:
                registry.add_strategy(item)

        @hookimpl
        def register_composers(self, registry):
            for item in composers:
                registry.add_composer(item)

        @hookimpl
        def register_recipes(self, registry):
            for item in recipes:
                registry.add_recipe(item)

        @hookimpl
        def register_adapters(self, registry):
            for item in adapters:
                registry.add_adapter(item)

    return Plugin()


def test_registries_do_not_know_of_each_other():
    one, other = Registry(), Registry()
    one.register(plugin(strategies=[First]), "p")
    assert "first" in one.strategies
    assert "first" not in other.strategies
    with pytest.raises(TypeError):
        one.strategies["x"] = First


def test_what_is_registered_is_everywhere_at_once():
    registry = Registry()
    registry.register(plugin(strategies=[First], composers=[Majority]), "p", "p 1.0")
    assert registry.origin("strategy", "first") == "p (p 1.0)"
    recipe = ts.Recipe.loads(
        "stages: [{at: decoder.0, select: 'majority(first, ~first, first[3])', keep: 2}]", registry
    )
    assert recipe.stages[0].select == Majority.of(First(), ~First(), First()[3])
    schema = ts.schema(registry)
    assert "majority" in schema["properties"]["stages"]["items"]["properties"]["select"]["description"]
    assert schema["properties"]["strategies"]["additionalProperties"]["oneOf"][0]["enum"] == ["first"]
    chosen = ts.select(recipe.stages[0].select, ts.Tokens.of(torch.zeros(1, 9, 1)), recipe.stages[0].keep)
    assert chosen.mask.sum() == 2


@pytest.mark.parametrize("kind", ["strategies", "composers", "recipes", "adapters"])
def test_two_plugins_with_one_name(kind, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("stages: []")
    item = {"strategies": First, "composers": Majority, "recipes": file, "adapters": ToyAdapter}[kind]
    registry = Registry()
    registry.register(plugin(**{kind: [item]}), "one", "one 1.0")
    with pytest.raises(PluginError, match=r"two plugins bring a .*: one \(one 1\.0\) and two \(two 2\.0\)"):
        registry.register(plugin(**{kind: [item]}), "two", "two 2.0")
    assert [p.name for p in registry.plugins] == ["one"]


def test_everything_or_nothing():
    registry = Registry()
    with pytest.raises(PluginError):
        registry.register(plugin(strategies=[First], composers=[object]), "p")
    assert "first" not in registry.strategies
    registry.register(plugin(strategies=[First]), "p")
    assert "first" in registry.strategies


class Abstract(Scorer):
    """Cannot score."""

    name = "abstract"


class Nameless(Scorer):
    """Has no name."""

    def score(self, tokens):
        return tokens.features[..., 0]


class Dashed(First):
    """Has a name formulas cannot say."""

    name = "my-norm"


class Keyword(First):
    """Has a name Python keeps."""

    name = "lambda"


class LikeAComposer(First):
    """Has a composer's name."""

    name = "union"


class LikeAStrategy(Majority):
    """Has a strategy's name."""

    name = "first"


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"strategies": [Abstract]}, "does not implement score"),
        ({"strategies": [Nameless]}, "has no name"),
        ({"strategies": [Dashed]}, "'my-norm'"),
        ({"strategies": [Keyword]}, "'lambda'"),
        ({"strategies": [LikeAComposer]}, "is named like the composer"),
        ({"strategies": [First], "composers": [LikeAStrategy]}, "is named like the strategy 'first' of p"),
        ({"strategies": [First()]}, "as strategy, which is no subclass of Strategy"),
        ({"strategies": [Majority]}, "as strategy, which is no subclass of Strategy"),
        ({"composers": [First]}, "as composer, which is no subclass of Composer"),
        ({"adapters": [First]}, "as adapter, which is no subclass of Adapter"),
        ({"recipes": ["nowhere.yaml"]}, "which does not exist; a wheel carries files of a package only"),
        ({"recipes": [__file__]}, "which is no .yaml file"),
        ({"recipes": [str(Path(__file__).parent)]}, "which is a folder; add the files in it"),
    ],
)
def test_what_cannot_be_registered(given, part):
    with pytest.raises(PluginError) as raised:
        Registry().register(plugin(**given), "p")
    assert part in str(raised.value)


class Riddles(Task):
    """Asks riddles."""

    name = "riddles"
    metric: str = "solved"

    def samples(self):
        return [Sample("1", "?", "1", ("!",))]

    def picture(self, sample):
        return Image.new("RGB", (1, 1))

    def grade(self, sample, answer, unpruned):
        return {"solved": 0.0}


def tasks(*classes, checkpoints=()):
    class Plugin:
        @hookimpl
        def register_tasks(self, registry):
            for cls in classes:
                registry.add_task(cls)
            for name, *folders in checkpoints:
                registry.add_checkpoint(name, *folders)

    return Plugin()


def test_tasks_and_checkpoints(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    registry = Registry()
    registry.register(tasks(Riddles, checkpoints=[("sphinx", tmp_path)]), "p", "p 1.0")
    assert registry.task("riddles") is Riddles
    assert registry.origin("task", "riddles") == "p (p 1.0)"
    assert registry.checkpoint("sphinx").folder == tmp_path
    with pytest.raises(UnknownTaskError, match=r"no task is named 'ridles'\. Registered: riddles\. Did you mean"):
        registry.task("ridles")
    with pytest.raises(UnknownCheckpointError, match=r"no shipped checkpoint is named 'sfinx'\. Registered: sphinx"):
        registry.checkpoint("sfinx")
    with pytest.raises(PluginError, match="two plugins bring a task named 'riddles'"):
        registry.register(tasks(Riddles), "q")


class NoMetric(Riddles):
    """Does not say what counts."""

    metric: str


class FixedMetric(Riddles):
    """Says it once for all."""

    metric: ClassVar[str] = "solved"


class UsesUse(Riddles):
    """Has a field with a name that studies need."""

    use: str = "x"


class TasksWithoutGrade(Task):
    """Grades nothing."""

    name = "without"
    metric: str = "solved"


@pytest.mark.parametrize(
    ("cls", "part"),
    [
        (NoMetric, 'does not say which grade counts; give it a default: metric: str = "..."'),
        (UsesUse, "has a field 'use', which names the task itself"),
        (TasksWithoutGrade, "does not implement grade, picture, samples"),
        (First, "as task, which is no subclass of Task"),
    ],
)
def test_tasks_that_cannot_be_registered(cls, part):
    with pytest.raises(PluginError) as raised:
        Registry().register(tasks(cls), "p")
    assert part in str(raised.value)


def test_a_task_may_have_one_metric_for_all():
    registry = Registry()
    registry.register(tasks(FixedMetric), "p")
    assert registry.task("riddles")().metric == "solved"


def test_a_checkpoint_without_a_config(tmp_path):
    with pytest.raises(PluginError, match=r"adds the checkpoint 'sphinx', but .* has no config.json"):
        Registry().register(tasks(checkpoints=[("sphinx", tmp_path)]), "p")


def test_a_misspelt_hook():
    class Plugin:
        @hookimpl
        def register_strategie(self, registry):
            raise AssertionError("never called")

    with pytest.raises(PluginError, match=r"implements a hook that does not fit.*register_strategies") as raised:
        Registry().register(Plugin(), "acme", "acme 2.1")
    assert "'acme' (acme 2.1)" in str(raised.value)


def test_a_hook_with_an_argument_it_does_not_have():
    class Plugin:
        @hookimpl
        def register_strategies(self, registry, model):
            raise AssertionError("never called")

    with pytest.raises(PluginError, match="does not fit"):
        Registry().register(Plugin(), "acme")


def entry_point(name, load):
    dist = SimpleNamespace(name=name, version="1.0")
    return SimpleNamespace(name=name, value=name, dist=dist, load=load)


def broken_import():
    raise ModuleNotFoundError("No module named 'acme_ops'")


class Raises:
    """Adds a strategy, a recipe that is not there and a composer; its tasks fail, and its adapter is none."""

    @hookimpl
    def register_strategies(self, registry):
        registry.add_strategy(First)
        registry.add_strategy(Nameless)

    @hookimpl
    def register_composers(self, registry):
        registry.add_composer(Majority)

    @hookimpl
    def register_recipes(self, registry):
        registry.add_recipe("nowhere.yaml")

    @hookimpl
    def register_tasks(self, registry):
        registry.add_task(Riddles)
        raise RuntimeError("bad day")


def test_a_broken_plugin_is_reported_and_the_others_go_on(monkeypatch):
    real = tuple(importlib.metadata.entry_points(group="tokensieve"))
    points = [entry_point("acme", broken_import), entry_point("moody", Raises), *real]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    registry = ts.default_registry()
    errors = {p.name: p.error for p in registry.plugins if p.error}
    assert errors == {"acme": "ModuleNotFoundError: No module named 'acme_ops'"}
    assert "gsp" in registry.strategies
    with pytest.raises(UnknownStrategyError) as raised:
        registry.strategy("gps")
    message = str(raised.value)
    assert f"Registered: {', '.join(sorted(registry.strategies))}" in message
    assert "Did you mean 'gsp'?" in message
    assert "The plugin 'acme' did not load (ModuleNotFoundError: No module named 'acme_ops')." in message
    with pytest.raises(UnknownComposerError, match="Did you mean 'union'"):
        registry.composer("unoin")


def test_a_broken_thing_costs_a_plugin_that_thing(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry_point("moody", Raises)])
    registry = ts.default_registry()
    assert (*registry.strategies, *registry.tasks) == ("first", "riddles")
    assert registry.origin("composer", "majority") == "moody (moody 1.0)"
    [moody] = registry.plugins
    assert moody.error is None
    nameless, recipe, tasks = moody.left_out
    assert nameless.startswith("strategy Nameless of moody (moody 1.0) has no name")
    assert recipe.startswith("moody (moody 1.0) adds the recipe nowhere.yaml, which does not exist")
    assert tasks == "the rest of register_tasks of moody (moody 1.0), which raised RuntimeError: bad day"
    with pytest.raises(
        UnknownRecipeError, match=r"Registered: none\. Not added: .*nowhere\.yaml, which does not exist"
    ):
        registry.recipe("nowhere")
    # Afterwards, what is registered by hand is right as a whole, or an error.
    with pytest.raises(PluginError):
        registry.add_recipe("nowhere.yaml")


def test_of_two_things_of_one_name_neither_can_be_used(monkeypatch):
    class Clash(First):
        """Takes a built-in's name."""

        name = "gsp"

    class Late(Clash):
        """Comes third."""

    class Sum(Majority):
        """Is no union."""

        name = "union"

    class Norm(Majority):
        """Is named like a strategy."""

        name = "norm"

    class Other(Majority):
        """Has somebody's symbol."""

        name = "other"
        symbol = "&"

    points = [
        entry_point("acme", lambda: plugin(strategies=[Clash, First])),
        entry_point("zeta", lambda: plugin(strategies=[Late], composers=[Sum, Norm, Other])),
        *importlib.metadata.entry_points(group="tokensieve"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    registry = ts.default_registry()
    said = [text for one in registry.plugins for text in one.left_out]
    ours = "strategies (tokensieve " + importlib.metadata.version("tokensieve") + ")"
    neither = "neither can be used: uninstall one of them, or"
    assert said == [
        f"two plugins bring a strategy named 'gsp': acme (acme 1.0) and {ours}; {neither} rename it",
        f"two plugins bring a strategy named 'gsp': acme (acme 1.0) and zeta (zeta 1.0); {neither} rename it",
        "two plugins bring a composer named 'union': tokensieve and zeta (zeta 1.0); uninstall one of them, or "
        "rename it",
        f"composer 'norm' of zeta (zeta 1.0) is named like the strategy 'norm' of {ours}; {neither} name it otherwise",
        "composer 'other' of zeta (zeta 1.0) has the symbol &, as has the composer 'intersection' of tokensieve; "
        "uninstall one of them, or name it otherwise",
    ]
    # All else is there, and what is refused is refused with the reason.
    assert registry.strategy("first") is First
    assert "qcsp" in registry.strategies
    assert registry.composer("union").__module__.startswith("tokensieve")
    for text, name in (("script", "gsp"), ("gsp", "gsp"), ("norm", "norm")):
        with pytest.raises(ts.TokensieveError, match=f"Not added: .*'{name}'.*neither can be used"):
            ts.Recipe.load(text, registry, keep=3)


def test_a_hook_that_does_not_fit_costs_its_plugin_alone(monkeypatch):
    class Misspelt:
        @ts.hookimpl
        def register_stratgies(self, registry):
            """Is no hook."""

    points = [entry_point("acme", Misspelt), *importlib.metadata.entry_points(group="tokensieve")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    registry = ts.default_registry()
    (broken,) = (one for one in registry.plugins if one.error is not None)
    assert broken.name == "acme"
    assert "implements a hook that does not fit" in broken.error
    assert "gsp" in registry.strategies


def test_adapters_that_take_the_same_models_are_said():
    class One(ToyAdapter):
        """Takes every model of a type."""

        name = "one"
        model_types = frozenset({"toy"})
        matches = Adapter.matches

    class Two(One):
        """Takes the same."""

        name = "two"

    [said] = rivals_by_type([ToyAdapter, One, Two], lambda kind, name: f"plugin of {kind} {name}")
    assert "'one' (plugin of adapter one) and 'two' (plugin of adapter two) both take models of type 'toy'" in said
    assert "uninstall one of the plugins" in said


def test_models_need_exactly_one_adapter():
    class Twin(ToyAdapter):
        """Matches the same."""

        name = "twin"

    registry = Registry()
    registry.register(plugin(adapters=[ToyAdapter, Twin]), "p")
    with pytest.raises(UnsupportedModelError, match=r"'toy' .* and 'twin' .* both match Linear"):
        registry.adapter_for(nn.Linear(1, 1))
    assert not list(rivals_by_type(registry.adapters.values(), registry.origin))
    with pytest.raises(UnsupportedModelError, match=r"no adapter matches Conv2d\. Registered: toy, twin"):
        registry.adapter_for(nn.Conv2d(1, 1, 1))


def test_the_settled_hook_sees_every_stage():
    seen = []

    class Watcher:
        @hookimpl
        def stage_settled(self, run, stage):
            seen.append((run.recipe.name, stage.site, len(stage.samples[0].kept)))

    registry = ts.default_registry()
    registry.register(Watcher(), "watcher")
    registry.register(plugin(strategies=[First]), "p")
    model = LlavaAdapter.tiny()
    ids = torch.tensor([[1, *[63] * 36, 5, 6]])
    with torch.no_grad(), ts.prune(model, First(), keep=7, registry=registry):
        model(input_ids=ids, pixel_values=torch.randn(1, 3, 48, 48))
    assert seen == [("unnamed", "decoder.0", 7)]
