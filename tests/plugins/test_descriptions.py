"""Everything registered is described where people look: each fact has one source, and reaches every place."""

import inspect
import json
import pydoc
import re

import pytest
from pydantic import Field, ValidationError

import tokensieve as ts
from tokensieve.plugins.parameters import NOT_DESCRIBED, meanings, parameters, sentence
from tokensieve.recipes.cards import cards, recipe_sentence
from tokensieve.tasks import Task

REGISTRY = ts.default_registry()
CLASSES = [*REGISTRY.strategies.values(), *REGISTRY.composers.values(), *REGISTRY.tasks.values()]
NAMED = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)


@NAMED
def test_every_parameter_has_a_meaning_and_a_type(cls):
    assert sentence(cls) != NOT_DESCRIBED
    for one in parameters(cls):
        assert one.meaning != NOT_DESCRIBED, one
        assert one.values not in ("", "value"), one


def test_all_else_has_a_sentence():
    for name, file in REGISTRY.recipes.items():
        assert recipe_sentence(file.read_text(encoding="utf-8")).endswith("."), name
    kinds = [*REGISTRY.adapters, *ts.Evidence, *REGISTRY.checkpoints, *REGISTRY.geometries]
    for name in kinds:
        assert all(card.what != NOT_DESCRIBED for card in cards(str(name), REGISTRY)), name
    assert [name for name, one in REGISTRY.strategies.items() if one.complexity is None] == []


@NAMED
def test_docstrings_speak_of_no_other_parameters(cls):
    assert set(meanings(cls)) - set(cls.model_fields) <= {name for one in cls.__mro__ for name in vars(one)}


@pytest.mark.parametrize("strategy", REGISTRY.strategies.values(), ids=lambda cls: cls.name)
def test_meanings_reach_the_schema_and_help(strategy):
    operands = ts.schema(REGISTRY)["properties"]["strategies"]["additionalProperties"]["oneOf"]
    (entry,) = (one for one in operands if one.get("title") == strategy.name)
    assert entry["description"] == sentence(strategy)
    text = pydoc.render_doc(strategy, renderer=pydoc.plaintext)
    shown = " ".join(" ".join(line.removeprefix(" |") for line in text.splitlines()).split())
    for one in parameters(strategy):
        assert entry["properties"][one.name]["description"] == one.meaning
        assert f"{one.name}: {one.meaning}" in shown
        # Type, range and default stand in the signature.
        assert str(inspect.signature(strategy).parameters[one.name]) in shown


BOUND = re.compile(r"(number|whole number) (from|at least|above|at most|below) (-?[\d.]+)(?: to (-?[\d.]+))?")


def probes(values):
    """Numbers inside a range in words at its ends, and outside of it just beyond."""
    found = BOUND.search(values)
    inside, outside = [], []
    if found is None:
        return inside, outside
    number = int if found[1] == "whole number" else float
    step = number(1) if number is int else 1e-6
    lowest = number(found[3]) if found[2] in ("from", "at least") else None
    highest = found[4] or (re.findall(r"at most ([\d.]+)", values) or [None])[0]
    if lowest is not None:
        inside.append(lowest)
        outside.append(lowest - step)
    if found[2] == "above":
        inside.append(number(found[3]) + step)
        outside.append(number(found[3]))
    if highest is not None:
        inside.append(number(highest))
        outside.append(number(highest) + step)
    return inside, outside


def refused(cls, name, value):
    try:
        # Where pydantic says which field it was.
        cls.model_validate({name: value})
    except ValidationError as error:
        return any(one["loc"][:1] == (name,) for one in error.errors())
    return False


@pytest.mark.parametrize("cls", [*REGISTRY.strategies.values(), *REGISTRY.tasks.values()], ids=lambda cls: cls.name)
def test_ranges_are_those_that_validation_has(cls):
    for one in parameters(cls):
        inside, outside = probes(one.values)
        assert [value for value in inside if refused(cls, one.name, value)] == [], one
        assert [value for value in outside if not refused(cls, one.name, value)] == [], one
        assert bool(inside) == any(word in one.values for word in ("number from", "number at", "number above")), one
        if "number" not in one.values and "text" not in one.values:
            assert refused(cls, one.name, "no such value"), one
        # The default is one of the values.
        if one.default is not None:
            assert not refused(cls, one.name, cls.model_fields[one.name].get_default())


@pytest.mark.parametrize("name", ["norm", "qcsp", "tome", "fastv"])
def test_places_are_those_that_the_review_accepts(name):
    (card,) = (one for one in cards(name, REGISTRY) if one.kind == "strategy")
    for site, said in (("encoder.3", "encoder.K"), ("decoder.0", "decoder.0"), ("decoder.1", "decoder.1 and deeper")):
        recipe = ts.Recipe.of(REGISTRY.strategies[name](), 3, at=site)
        missing = any(finding.missing_evidence for finding in ts.review(recipe))
        assert missing == (said not in card.facts["can stand at"].split(", ")), site


class Quiet(ts.Scorer):
    name = "quiet"
    examples = ({"strength": 1},)

    strength: int
    said: float = Field(default=0.5, ge=0, description="how much.")
    below: bool = True
    """whether so."""

    def score(self, tokens):
        return tokens.features.sum(dim=-1)


class Silent(Task):
    name = "silent"
    metric: str = "right"

    def samples(self):
        return []

    def picture(self, sample):
        raise NotImplementedError

    def grade(self, sample, answer, unpruned):
        return {"right": 0.0}


def test_who_describes_nothing_is_registered_all_the_same():
    registry = ts.Registry()
    registry.add_strategy(Quiet)
    registry.add_task(Silent)
    (card,) = cards("quiet", registry)
    assert card.what == NOT_DESCRIBED == card.facts["time"]
    assert [(one.values, one.default, one.meaning) for one in card.parameters] == [
        ("whole number", None, NOT_DESCRIBED),
        ("number at least 0", "0.5", "how much."),
        ("true or false", "true", "whether so."),
    ]
    properties = ts.schema(registry)["properties"]["strategies"]["additionalProperties"]["oneOf"][1]["properties"]
    assert "description" not in properties["strength"]
    assert cards("silent", registry)[0].what == NOT_DESCRIBED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# One\n# sentence.\n#\n# More.\nname: a\n", "One sentence."),
        ("name: a\n# No.\n", NOT_DESCRIBED),
        ("", NOT_DESCRIBED),
    ],
)
def test_the_sentence_of_a_recipe(text, said):
    assert recipe_sentence(text) == said


def test_a_name_may_be_that_of_two_things():
    assert [card.kind for card in cards("gsp", REGISTRY)] == ["strategy", "recipe"]
    assert cards("vqa-jsonl", REGISTRY) == cards("vqa_jsonl", REGISTRY)
    with pytest.raises(ts.TokensieveError, match=r"nothing is named 'gps'.*Did you mean 'gsp'\?"):
        cards("gps", REGISTRY)


def test_a_card_is_json():
    for name in ("gsp", "script", "union", "llava", "world", "query", "world-llava", "llava-1_5-7b"):
        for card in cards(name, REGISTRY):
            assert json.loads(json.dumps(dict(card.facts))) == card.facts
            assert card.facts
