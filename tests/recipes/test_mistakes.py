"""Mistakes that people make in recipes and in calls: each message names the place and the cure, in one paragraph."""

from pathlib import Path

import pytest
from torch.nn import Linear

import tokensieve as ts
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.entries import ControlSettings, MethodEntry, ModelEntry, TaskEntry
from tokensieve.study.spec.study import Study
from tokensieve.tasks.jsonl import VqaJsonl
from tokensieve.tasks.world import World
from tokensieve_strategies import GSP, QCSP, Norm, VisPruner

# The recipe, what the message says to do, and the line that it names.
WRITTEN = [
    ("name: x\nstages:\n- at: decoder.0\n  select: gsp\n keep: 4\n", "align the keys", 5),
    ("stages:\n\t- at: decoder.0\n", "indent by spaces", 2),
    ("stages:\n- at: decoder.0\n\tselect: gsp\n", "indent by spaces", 3),
    ("stages:\n- at: decoder.0\n  select: | gsp\n  keep: 4\n", "quote it: select: '...'", 3),
    ("stages:\n- at: decoder.0\n  select: &gsp qcsp\n  keep: 4\n", "quote it if it is a formula", 3),
    ("stages:\n- at: decoder.0\n  select: & gsp\n  keep: 4\n", "quote the formula", 3),
    ("stages:\n- at: decoder.0\n  select: ~\n  keep: 4\n", "needs 'select' (it is empty; a ~", 3),
    ("stages:\n- at: @decoder.0\n  select: gsp\n  keep: 4\n", "quote it: '@...'", 2),
    ("stages:\n- at: decoder.0\n  select: gsp\n  keep: %25\n", "quote it: '%...'", 4),
    ("stages:\n- at: decoder.0\n  select: gsp: qcsp\n  keep: 4\n", "align the keys, and quote", 3),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 4\n", "not closed, or a comma", 3),
    ("stages:\n- at: decoder.0\n  select: 'gsp\n  keep: 4\n", "a quote is not closed", 5),
    ("stages:\n- {at: decoder.0, select: quota(gsp, qcsp, share=3/4), keep: 4}\n", "quote the formula", 2),
    ("stages:\n- at: decoder.0\n  select: *gsp\n  keep: 4\n", "write it out", 3),
    (
        "stages:\n- at: decoder.0\n  select: gsp\n  keep: 4\n  keep: 5\n",
        "a second time (first at line 4); remove one of the two",
        5,
    ),
    ("", "the file is empty; write at least `stages:`", 1),
    ("# nothing\n", "the file is empty; write at least `stages:`", 1),
    ("name: x\nstages: \0\n", "U+0000 cannot stand in YAML; remove it", 2),
    (
        "stages:\n- {at: decoder.0, at: decoder.2, select: gsp, keep: 4}\n",
        "(first at line 2); remove one of the two",
        2,
    ),
    ("- at: decoder.0\n", "a mapping with the keys name", 1),
    ("gsp & qcsp\n", "stands behind `select:`", 1),
    ("stages:\n  at: decoder.0\n  select: gsp\n  keep: 4\n", "each begins with a dash", 1),
    ("name: x\n", "needs 'stages'", 1),
    (
        "stages:\n- {at: decoder.0, select: 'gsp(quantile=0.75)', keep: 4}\n",
        "strategies: {mine: {use: gsp, quantile: 0.75}}",
        2,
    ),
    ("stages:\n- {at: decoder.0, select: 'script & cdpruner', keep: 4}\n", "here `gsp & qcsp`", 2),
    ("stages:\n- {at: decoder.0, select: 'script', keep: 4}\n", "'script' is a recipe", 2),
    ("strategies: {a: {use: script}}\nstages:\n- {at: decoder.0, select: 'a', keep: 4}\n", "'script' is a recipe", 1),
    ("stages:\n- {at: decoder.0, select: 'per_group(gsp, 8)', keep: 4}\n", "by=8 or share=8 or size=8", 2),
    ("stages:\n- {at: decoder.0, select: 'at_least(gsp, qcsp, norm, 2)', keep: 4}\n", "write j=2", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: [192, 128, 64]}\n", "in the keep of a study", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: -4}\n", "-4 is not between 1 and", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 0}\n", "0 is not between 1 and", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: many}\n", "'many' cannot be read: a budget is a count (64)", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 1.5}\n", "not in (0, 1]", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 200%}\n", "not in (0, 1]", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: true}\n", "is a truth value", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: yes}\n", "'yes' cannot be read", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: }\n", "needs 'keep' (it is empty", 2),
    ("stages:\n- {at: decoder.0, select: gsp}\n", "needs 'keep'", 2),
    ("stages:\n- {at: decoder.0, select: gsp, ratio: 0.5}\n", "It is called 'keep'", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 4, per: tiles}\n", "Did you mean 'tile'?", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 4, rest: merged}\n", "Did you mean 'merge'?", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 4, newlines: true}\n", "one of judge, keep, drop", 2),
    ("positions: compacted\nstages:\n- {at: decoder.0, select: gsp, keep: 4}\n", "Did you mean 'compact'?", 1),
    ("stages:\n- {at: decoder2, select: gsp, keep: 4}\n", "Did you mean 'decoder.2'?", 2),
    ("stages:\n- {at: llm.2, select: gsp, keep: 4}\n", "a site is decoder.K or encoder.K", 2),
    ("stages:\n- {at: decoder.-1, select: gsp, keep: 4}\n", "a site is decoder.K", 2),
    ("stages:\n- {at: 2, select: gsp, keep: 4}\n", "Did you mean 'decoder.2'?", 2),
    ("stages:\n- {at: decoder.4..2, select: gsp, keep: 4}\n", "write the first site before the last", 2),
    ("stages:\n- {at: [decoder.0], select: gsp, keep: 4}\n", "Did you mean 'decoder.0'?", 2),
    ("stages:\n- {at: decoder.1-3, select: norm, keep: 4}\n", "A range has two dots: decoder.1..3", 2),
    (
        "stages:\n- {at: decoder.0, select: gsp, keep: 4}\n- {at: decoder.0, select: norm, keep: 3}\n",
        "join both stages into one formula",
        3,
    ),
    ("stages:\n- {at: decoder.0, select: gsp and qcsp, keep: 4}\n", "Write & for and", 2),
    ("stages:\n- {at: decoder.0, select: gsp && qcsp, keep: 4}\n", "write & and | once", 2),
    ("stages:\n- {at: decoder.0, select: 'gsp || qcsp', keep: 4}\n", "write & and | once", 2),
    ("stages:\n- {at: decoder.0, select: gsp + qcsp, keep: 4}\n", "fuse ranks by borda", 2),
    ("stages:\n- {at: decoder.0, select: 0.5*gsp + 0.5*qcsp, keep: 4}\n", "weighted(a, b, weights=[2, 1])", 2),
    ("stages:\n- {at: decoder.0, select: '!gsp', keep: 4}\n", "write ~ for not", 2),
    ("stages:\n- {at: decoder.0, select: '(gsp & qcsp', keep: 4}\n", "it has 1 '(' and 0 ')'", 2),
    ("stages:\n- {at: decoder.0, select: 'gsp & qcsp)', keep: 4}\n", "it has 0 '(' and 1 ')'", 2),
    ("stages:\n- {at: decoder.0, select: '', keep: 4}\n", "it is empty; name a strategy", 2),
    ("stages:\n- {at: decoder.0, select: 'gsp &', keep: 4}\n", "ends where an operand is missing", 2),
    ("stages:\n- {at: decoder.0, select: 'gsp qcsp', keep: 4}\n", "join them by an operator", 2),
    ("stages:\n- {at: decoder.0, select: 'GSP', keep: 4}\n", "Did you mean 'gsp'?", 2),
    ("stages:\n- {at: decoder.0, select: 'Union(gsp, qcsp)', keep: 4}\n", "Did you mean 'union'?", 2),
    ("stages:\n- {at: decoder.0, select: 'gps', keep: 4}\n", "Did you mean 'gsp'?", 2),
    ("stages:\n- {at: decoder.0, select: 'unoin(gsp, qcsp)', keep: 4}\n", "Did you mean 'union'?", 2),
    ("stages:\n- {at: decoder.0, select: 'quota(gsp, qcsp, shre=1/2)', keep: 4}\n", "Did you mean 'share'?", 2),
    ("stages:\n- {at: decoder.0, select: [gsp, qcsp], keep: 4}\n", "one formula as text", 2),
    ("stages:\n- {at: decoder.0, select: {use: gsp}, keep: 4}\n", "settings go under strategies:", 2),
    ("strategies: [gsp]\nstages:\n- {at: decoder.0, select: gsp, keep: 4}\n", "a mapping from names to {use: ...}", 1),
    ("strategies: {a: {quantile: 0.3}}\nstages:\n- {at: decoder.0, select: a, keep: 4}\n", "{use: gsp}", 1),
    (
        "strategies: {a: {use: gsp, quantil: 0.3}}\nstages:\n- {at: decoder.0, select: a, keep: 4}\n",
        "Did you mean 'quantile'?",
        1,
    ),
    (
        "strategies: {a: {use: gsp, quantile: high}}\nstages:\n- {at: decoder.0, select: a, keep: 4}\n",
        "quantile is 'high': write a number",
        1,
    ),
    (
        "strategies: {a: {use: gsp, quantile: 1.5}}\nstages:\n- {at: decoder.0, select: a, keep: 4}\n",
        "it is at most 1.0",
        1,
    ),
    (
        "strategies: {a: {use: gsp, low_degree: 1.5}}\nstages:\n- {at: decoder.0, select: a, keep: 4}\n",
        "write a whole number",
        1,
    ),
    (
        "strategies: {a: {use: gsp, quantile: '0.5'}}\nstages:\n- {at: decoder.0, select: a, keep: 4}\n",
        "write a number, without quotes",
        1,
    ),
    (
        "strategies: {my-gsp: {use: gsp}}\nstages:\n- {at: decoder.0, select: my-gsp, keep: 4}\n",
        "write letters, digits and _",
        1,
    ),
    ("strategies: {a: {use: gsp}}\nstages:\n- {at: decoder.0, select: qcsp, keep: 4}\n", "use it or remove it", 1),
    ("nam: x\nstages:\n- {at: decoder.0, select: gsp, keep: 4}\n", "Did you mean 'name'?", 1),
    ("stage:\n- {at: decoder.0, select: gsp, keep: 4}\n", "Did you mean 'stages'?", 1),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 4, r: 2}\n", "not both", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: auto}\n", "so give a budget", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 64-128}\n", "'64-128' cannot be read", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 0/9}\n", "'0/9' cannot be read", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 9/1}\n", "9 is not in (0, 1]", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: 4, by: normm}\n", "Did you mean 'norm'?", 2),
    ("budgets: [64]\nstages:\n- {at: decoder.0, select: gsp, keep: 4}\n", "{192: [300, 200, 110]}", 1),
    ("stages:\n- {at: decoder.0, select: '~vispruner', keep: 4}\n", "such as vispruner[64]", 2),
    *(
        (f"stages:\n- at: decoder.0\n  select: {formula}\n  keep: 4\n", cure, 3)
        for formula, cure in (
            ("gsp ∩ norm", "write & for ∩"),
            ("gsp \N{UNION} ¬norm", "write | for \N{UNION}, ~ for ¬"),
            (r"gsp \ norm", "write - for \\"),
            ("gsp AND norm", "write & for and"),
            ("gsp xor norm", "^ for xor"),
            ("gsp{64}", "a size stands in brackets, such as gsp[64]"),
            ("gsp[]", "a size stands in brackets, such as gsp[64]"),
            ("union(gsp; norm)", "operands are separated by commas"),
            ("gsp?", "it is made of names of strategies, & | ^"),
            ("gsp, norm", "Join operands by & or |"),
            ("gsp > norm", "a[64] >> b lets b judge what a keeps"),
            ("quota(gsp, norm, 3/4)", "3/4 is no operand; write share=3/4"),
            ("weighted(gsp, norm, [2, 1])", "[2, 1] is no operand; write weights=[2, 1]"),
        )
    ),
    ("stages:\n- {at: decoder.0, select: gsp[1/2] >> norm, keep: 4}\n", "quote it: select: '...'", 2),
    ("stages:\n- {at: decoder.0, select: gsp, keep: '64, 32'}\n", "several stand in a list: [64, 32]", 2),
    ("name: 3\nstages:\n- {at: decoder.0, select: gsp, keep: 4}\n", "a number is one in quotes: '3'", 1),
    (
        "strategies: {a: {use: quota}}\nstages:\n- {at: decoder.0, select: a, keep: 4}\n",
        "'quota' is a composer, which a formula calls",
        1,
    ),
    (
        "strategies: {a: {use: gsp, gamma: .nan}}\nstages:\n- {at: decoder.0, select: a, keep: 4}\n",
        "gamma is nan: write a finite number",
        1,
    ),
    ("models: [world-llava]\nrecipes: [script]\nkeep: [64]\ntasks: [world]\n", "tokensieve compare runs it", 1),
]


def a_study(**changed):
    return Study(**{"models": ["world-llava"], "keep": [64], "tasks": ["world"]} | changed)


CALLED = [
    (lambda: ts.Recipe.of(GSP, 4), "write GSP()"),
    (lambda: ts.Stage(at="decoder.0", select=GSP, keep=4), "write GSP()"),
    (lambda: ts.Stage(at="decoder.0", select=GSP(), by=Norm, keep=4), "write Norm()"),
    (lambda: GSP & QCSP, "write GSP()"),
    (lambda: GSP() & QCSP, "write QCSP()"),
    (lambda: GSP & QCSP(), "write GSP()"),
    (lambda: ~GSP, "write GSP()"),
    (lambda: GSP() - QCSP, "write QCSP()"),
    (lambda: GSP >> QCSP(), "write GSP()"),
    (lambda: ts.explain(GSP, keep=4), "write GSP()"),
    (lambda: GSP() & "qcsp", "a formula as text is read where a recipe is wanted"),
    (lambda: GSP() + QCSP(), "by the composers borda and weighted"),
    (lambda: 0.5 * GSP(), "by the composers borda and weighted"),
    (lambda: GSP() and QCSP(), "write a & b for and"),
    (lambda: GSP(quantile=3), "gsp: quantile is 3: it is at most 1.0"),
    (lambda: GSP(quantile=-1), "gsp: quantile is -1: it is at least 0.0"),
    (lambda: GSP(quantil=0.3), "Did you mean 'quantile'?"),
    (lambda: GSP(quantile="a"), "write a number"),
    (lambda: GSP(low_degree=1.5), "write a whole number"),
    (lambda: GSP(0.4), "takes its settings by name: gamma, low_degree, quantile, tau"),
    (lambda: VisPruner(order="id"), "order is 'id': it is one of"),
    (lambda: ~VisPruner(), "such as vispruner[64]"),
    (lambda: GSP()[0], "0 is not between 1 and"),
    (lambda: GSP()["a"], "'a' cannot be read"),
    (lambda: ts.Stage(at="decoder.0", select=GSP(), keep=0), "0 is not between 1 and"),
    (lambda: ts.Stage(at="decoder", select=GSP(), keep=4), "Did you mean 'decoder.2'?"),
    (lambda: ts.Stage(at="decoder.0", select="gsp", keep=4), "Recipe.load and Recipe.loads read text"),
    (lambda: ts.Stage(at="decoder.0", select=GSP(), keep=4, kep=4), "Did you mean 'keep'?"),
    (lambda: ts.Recipe(stages=[]), "at least one stage"),
    (lambda: ts.Recipe.of(GSP(), 4, positions="x"), "one of original, compact"),
    (lambda: ts.Recipe.of(GSP(), 4, per="tiles"), "Did you mean 'tile'?"),
    (lambda: ts.Recipe.of(GSP(), 4, perr="tile"), "a stage has no parameter 'perr'"),
    (lambda: ts.Recipe.load("gsp").replace(keeps=4), "Did you mean 'keep'?"),
    (lambda: ts.Recipe.load("scirpt"), "Did you mean 'script'?"),
    (lambda: ts.Recipe.load(None), "no recipe's name, no path and no formula"),
    (lambda: ts.Recipe.load("no/such.yaml"), "there is no file no/such.yaml"),
    (lambda: ts.Recipe.load("gsp & qcsp"), "needs a budget: keep=64"),
    (lambda: ts.review("gsp"), "Recipe.load reads names"),
    (lambda: ts.explain("gsp", "world-llava"), "takes a model or its adapter"),
    (lambda: ts.Keep.of(None), "a budget is a count"),
    (lambda: ts.Site.of(None), "a site is decoder.K"),
    (lambda: ts.prune("gsp", Linear(2, 2)), "Linear is a model where a recipe is wanted; the model comes first"),
    (lambda: ts.prune("gsp & qcsp", Linear(2, 2), keep=4), "the model comes first"),
    (lambda: ts.install("gsp", Linear(2, 2)), "the model comes first"),
    (lambda: ts.explain(Linear(2, 2), "gsp"), "the model comes first"),
    (lambda: ts.prune("gsp", object()), "The model comes first: prune(model, recipe)"),
    (lambda: ts.prune(Linear(2, 2), ["gsp"]), "['gsp'] is no recipe; pass a Recipe"),
    (lambda: ts.prune("/no/dir", "gsp"), "load it first: AutoModelForImageTextToText.from_pretrained('/no/dir')"),
    (lambda: ts.prune(Path("dir"), "gsp"), "load it first: AutoModelForImageTextToText.from_pretrained('dir')"),
    (lambda: ts.prune("world-llava", "gsp"), "from_pretrained(default_registry().checkpoint('world-llava').folder)"),
    (lambda: ts.prune(Linear, "gsp"), "the class Linear is no model"),
    (lambda: ts.prune(None, "gsp"), "None is no model"),
    (lambda: ts.prune(Linear(2, 2), "gsp", keep=-4), "-4 is not between 1 and"),
    (lambda: ts.review(ts.Recipe.load("gsp"), "world-llava"), "default_registry().adapter_for(model)"),
    (lambda: ts.review(ts.Recipe.load("gsp"), Linear(2, 2)), "default_registry().adapter_for(model)"),
    (lambda: World(pictres=3), "Did you mean 'pictures'?"),
    (lambda: World(pictures="a"), "the task 'world': pictures is 'a': write a whole number"),
    (lambda: World(pictures=0), "it is at least 1"),
    (lambda: World(split="tests"), "Did you mean 'test'?"),
    (lambda: World(types=["colour"]), "there are"),
    (lambda: World(3), "takes its settings by name: density, first"),
    (lambda: VqaJsonl(), "the task 'vqa_jsonl': path: it has no default, so give a value"),
    (lambda: VqaJsonl(path="x.jsonl", metric="exakt"), "Did you mean 'exact'?"),
    (lambda: setattr(GSP(), "quantile", 0.3), "quantile of a GSP cannot be set: it does not change; make another GSP"),
    (lambda: setattr(ts.Recipe.load("gsp"), "name", "x"), "replace(keep=...) makes a changed copy"),
    (lambda: setattr(ts.Recipe.load("gsp").stages[0], "keep", 4), "recipe.replace(keep=...)"),
    (lambda: delattr(GSP() & QCSP(), "operands"), "operands of a Intersection cannot be deleted"),
    (lambda: ts.Recipe(stages=[GSP()]), "give a Stage: Recipe.of makes a recipe of one stage"),
    (lambda: ts.Recipe(stages=ts.Recipe.load("gsp").stages, strategies={"a": GSP}), "write GSP(...)"),
    (lambda: ts.Stage(at="decoder.0", select=3, keep=4), "select is 3: give a strategy or a formula of them"),
    (lambda: ts.Keep(count="64"), "Keep.of reads texts"),
    (lambda: ts.Site("decodr", 2), "Site.of('decoder.2') reads one from text"),
    (lambda: a_study(bacth=4), "Study has no parameter 'bacth'"),
    (lambda: a_study(batch=0), "batch is 0: it is at least 1"),
    (lambda: a_study(keep=["many"]), "keep 'many' cannot be read"),
    (lambda: a_study(models=[3]), "models.0 is 3: give a ModelEntry"),
    (lambda: a_study(recipes=["gsp"]), "Recipe.load reads names, files and formulas"),
    (lambda: a_study(controls={"invertd": 3}), "controls.invertd: there is no setting of this name"),
    (lambda: Study("study.yaml"), "takes its settings by name"),
    (lambda: ModelEntry(path="m", dtyp="auto"), "Did you mean 'dtype'?"),
    (lambda: ModelEntry(path="m", dtype="float31"), "Did you mean 'float32'?"),
    (lambda: ModelEntry(path="m", device="gpu"), "there is no device 'gpu'"),
    (lambda: ModelEntry(path="m", name="-"), "name is '-': write a text that matches"),
    (lambda: MethodEntry(name="x", recipe=GSP()), "give a recipe: Recipe.load reads"),
    (lambda: TaskEntry(use="world", pictures=3), "Settings of the task go into settings={...}"),
    (lambda: TaskEntry(name="x"), "use: it has no default"),
    (lambda: TaskEntry.of({"use": "world", "part": [1, 0]}), "from 1 to 0 there is none"),
    (lambda: ControlSettings(at_every_site="no"), "at_every_site is 'no': write true or false"),
    (lambda: Budget(keeps=[64]), "keeps.0 is 64: give a budget: Keep.of reads"),
    (lambda: TaskEntry.of({"use": "world", "pictres": 3}).build(ts.default_registry()), "Did you mean 'pictures'?"),
]


def is_one_paragraph(said):
    """In this library's words, without those of pydantic and of YAML's parser."""
    strangers = ("pydantic", "Input should", "validation error", "block mapping", "cannot start any token", "[type=")
    return len(said) < 2_000 and "\n" not in said and not any(one in said for one in strangers)


@pytest.mark.parametrize(("text", "cure", "line"), WRITTEN)
def test_a_mistake_in_a_recipe(text, cure, line):
    with pytest.raises(ts.TokensieveError) as raised:
        ts.Recipe.loads(text, source="mine.yaml")
    said = str(raised.value)
    assert cure in said
    assert said.endswith(f"  (mine.yaml:{line})")
    assert is_one_paragraph(said)


@pytest.mark.parametrize(
    ("changed", "cure"),
    [
        ({"controls": "none"}, "controls is a mapping of at_every_site, inverted"),
        ({"models": "[{name: x}]"}, "path: it has no default, so give a value"),
        ({"models": "[{path: m, device: gpu}]"}, "there is no device 'gpu'"),
        ({"keep": "64, 32"}, "several stand in a list: [64, 32]"),
    ],
)
def test_a_mistake_in_a_study(changed, cure):
    keys = {"models": "[world-llava]", "recipes": "[gsp]", "keep": "[64]", "tasks": "[world]"} | changed
    text = "".join(f"{key}: {value}\n" for key, value in keys.items())
    with pytest.raises(ts.TokensieveError) as raised:
        Study.loads(text, source="s.yaml")
    said = str(raised.value)
    assert cure in said
    assert said.endswith(f"  (s.yaml:{1 + list(keys).index(next(iter(changed)))})")
    assert is_one_paragraph(said)


@pytest.mark.parametrize(("call", "cure"), CALLED)
def test_a_mistake_in_a_call(call, cure):
    with pytest.raises(ts.TokensieveError) as raised:
        call()
    assert cure in str(raised.value)
    assert is_one_paragraph(str(raised.value))


def test_what_is_no_mistake():
    """Forms that look like some of the mistakes and are fine."""
    study = a_study(recipes=[ts.Recipe.load("gsp")], keep=["1/9"])
    assert Study.loads(study.dump()) == study
    assert study == Study.loads("{models: world-llava, recipes: gsp, keep: 1/9, tasks: world}")
    for text in (
        "\ufeffstages:\n- {at: decoder.0, select: gsp, keep: 4}\n",
        "stages:\r\n- {at: decoder.0, select: gsp, keep: 4}\r\n",
    ):
        assert ts.Recipe.loads(text).stages[0].keep == ts.Keep.of(4)
    [share] = ts.Recipe.loads("stages: [{at: decoder.0, select: 'quota(gsp, qcsp, share=75%)', keep: 4}]").stages
    assert share.select == ts.Recipe.load("quota(gsp, qcsp, share=3/4)", keep=4).stages[0].select
    [half] = ts.Recipe.loads("stages: [{at: decoder.0, select: 'gsp[12.5%] | qcsp', keep: 4}]").stages
    assert half.select == ts.Recipe.load("gsp[1/8] | qcsp", keep=4).stages[0].select


def test_a_later_stage_that_keeps_more_is_a_warning():
    text = "stages:\n- {at: decoder.0, select: gsp, keep: 64}\n- {at: decoder.2, select: fastv, keep: 128}\n"
    [warning] = ts.review(ts.Recipe.loads(text))
    assert (warning.level, warning.site) == ("warning", "decoder.2")
    assert "keeps 128 of the 64 that decoder.0 leaves" in warning.message


def test_a_class_in_an_annotation_is_no_operand():
    assert GSP | None == (GSP | None)
