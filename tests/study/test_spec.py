"""Reading a study: what is said, where mistakes are, and overrides."""

import pytest

import tokensieve as ts
from tokensieve.errors import StudyError, TokensieveError
from tokensieve.recipes.overrides import apply_override
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.entries import ModelEntry
from tokensieve.study.spec.study import Study

from .conftest import PLUGIN

GOOD = f"""\
name: a study
plugins: [{PLUGIN}]
models:
  - some/folder
  - {{path: other, name: second, device: cpu, dtype: bfloat16, keep: [32, 1/8]}}
recipes:
  - script
  - use: sparsevlm
    keep: [192, [100, 50, 20], own]
    models: [second]
  - name: mine
    strategies: {{edge: {{use: gsp, tau: 0.5}}}}
    select: edge & qcsp
    rest: merge
  - name: two
    stages:
      - {{at: decoder.0, select: gsp, keep: 1/2}}
      - {{at: decoder.2, select: fastv, keep: 1/2}}
keep: [1/3, 64, 0.25, 10%]
tasks:
  - colours
  - {{name: many, use: colours, questions: 100, models: second}}
seeds: [5]
batch: 3
limit: 10
share: false
controls: {{inverted: 64}}
"""


def test_a_study_says_what_it_says(registry):
    study = Study.loads(GOOD, registry)
    assert [model.name for model in study.models] == ["folder", "second"]
    assert (study.models[1].device, study.models[1].dtype) == ("cpu", "bfloat16")
    assert [method.name for method in study.recipes] == ["script", "sparsevlm", "mine", "two"]
    assert study.recipes[0].recipe == ts.Recipe.load("script", registry)
    assert [str(budget) for budget in study.recipes[1].keep] == ["192", "100, 50, 20", "own"]
    (stage,) = study.recipes[2].recipe.stages
    assert (str(stage.at), stage.rest, study.recipes[2].recipe.formula(stage.select)) == (
        "decoder.0",
        "merge",
        "(edge & qcsp)",
    )
    assert [str(budget) for budget in study.keep] == ["1/3", "64", "1/4", "1/10"]
    assert [model.keep for model in study.models] == [None, (Budget.of(32), Budget.of("1/8"))]
    assert study.tasks[1].build(registry).questions == 100
    assert [task.models for task in study.tasks] == [None, ("second",)]
    assert (study.seeds, study.batch, study.limit, study.share) == ((5,), 3, 10, False)
    assert study.controls.inverted == (Budget.of(64),)


def test_formulas_and_names_of_recipes(registry, tmp_path):
    own, other = tmp_path / "file.yaml", tmp_path / "plain.yaml"
    stages = "stages:\n- {at: decoder.0, select: norm, keep: 3}\n"
    own.write_text("name: my own\n" + stages, encoding="utf-8")
    other.write_text(stages, encoding="utf-8")
    entries = f"""[gsp & qcsp, "(gsp | norm)[9]", qcsp, {own}, {other}, {{use: {own}, name: said}},
        {{use: ~norm, keep: 9}}, "quota(gsp, norm, share=3/4)"]"""
    lines = f"models: [some/folder]\nrecipes: {entries}\nkeep: [64]\ntasks: [colours]\nplugins: [{PLUGIN}]\n"
    study = Study.loads(lines, registry)
    assert [method.name for method in study.recipes] == [
        "gsp & qcsp",
        "(gsp | norm)[9]",
        "qcsp",
        "my own",
        "plain",
        "said",
        "~norm",
        "quota(gsp, norm, share=3/4)",
    ]
    for method in (study.recipes[0], study.recipes[6]):
        assert method.recipe == ts.Recipe.load(method.name, registry, keep=1)
    assert Study.loads(study.dump(), registry) == study
    with pytest.raises(TokensieveError, match=r"'qscp'.*Did you mean 'qcsp'.*s\.yaml:2"):
        Study.loads(lines.replace("gsp & qcsp", "gsp & qscp"), registry, "s.yaml")


def test_what_is_dumped_reads_back_equal(registry):
    study = Study.loads(GOOD, registry)
    again = Study.loads(study.dump(), registry)
    assert again == study
    assert hash(again) == hash(study)
    assert again.dump() == study.dump()
    assert again.recipes[1].recipe.budgets == study.recipes[1].recipe.budgets
    assert Study.loads(GOOD.replace("limit: 10", "limit: 11"), registry) != study


def test_defaults(registry):
    study = Study.loads(f"plugins: {PLUGIN}\nmodels: m\nkeep: 64\ntasks: colours\n", registry)
    assert (study.seeds, study.limit, study.share, study.recipes) == ((0, 1, 2), None, True, ())
    assert study.controls.inverted is None


@pytest.mark.parametrize(
    ("old", "new", "said", "line"),
    [
        ("name: a study", "nmae: a study", "a study has no key 'nmae'", 1),
        ("path: other", "pth: other", "a model has no key 'pth'", 5),
        ("dtype: bfloat16", "dtype: int3", "dtype is 'int3'", 5),
        ("  - script", "  - scirpt", "no shipped recipe is named 'scirpt'", 7),
        ("use: sparsevlm", "use: sparsvlm", "Did you mean 'sparsevlm'?", 8),
        ("[192, [100", "[lots, [100", "keep 'lots' cannot be read", 9),
        ("[100, 50, 20], own", "[], own", "a study's budget", 9),
        ("models: [second]", "models: [third]", "the study has no model 'third'", 10),
        ("models: second", "models: secnd", "no model 'secnd'; it has folder, second. Did you mean 'second'?", 22),
        ("keep: [32, 1/8]", "keep: [32, 0/8]", "keep", 5),
        ("keep: [32, 1/8]", "keep: [auto]", "a study's budget", 5),
        ("keep: [32, 1/8]", "keep: []", "keep is ()", 5),
        ("name: mine", "name: script", "two of the recipes are named 'script'", 11),
        ("  - name: mine\n    strategies", "  - strategies", "needs a name", 11),
        ("tau: 0.5", "tua: 0.5", "'gsp' has no parameter 'tua'", 12),
        ("select: edge & qcsp", "select: edge & gps", "the formula uses 'gps'", 13),
        ("rest: merge", "rest: fold", "rest", 14),
        ("select: fastv, keep", "select: fastv, kep", "a stage has no key 'kep'", 18),
        ("    stages:", "    at: decoder.1\n    stages:", "'at' stands beside stages", 16),
        ("keep: [1/3, 64", "keep: [1/3, auto", "a study's budget", 19),
        ("  - colours", "  - colors", "no task is named 'colors'", 21),
        ("questions: 100", "questions: many", "questions is 'many': write a whole number", 22),
        ("questions: 100", "question: 100", "Did you mean 'questions'?", 22),
        ("name: many", "name: colours", "two of the tasks are named 'colours'", 22),
        ("seeds: [5]", "seeds: []", "seeds is []", 23),
        ("batch: 3", "batch: 0", "batch is 0", 24),
        ("inverted: 64", "invert: 64", "controls has no key 'invert'", 27),
        ("inverted: 64", "inverted: [64, x]", "keep 'x' cannot be read", 27),
        (PLUGIN, "no.such_module", "the plugin 'no.such_module' cannot be imported", 2),
        ("limit: 10", "limit: 10\nlimit: 11", "stands here a second time", 26),
    ],
)
def test_a_mistake_is_named_with_its_line(registry, old, new, said, line):
    assert old in GOOD
    with pytest.raises(TokensieveError) as caught:
        Study.loads(GOOD.replace(old, new, 1), registry, "dir/s.yaml")
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"(dir/s.yaml:{line})")


@pytest.mark.parametrize("key", ["models", "keep", "tasks"])
def test_what_a_study_needs(registry, key):
    lines = {"models": "models: [m]", "keep": "keep: 64", "tasks": "tasks: [colours]"}
    text = f"plugins: [{PLUGIN}]\n" + "\n".join(line for name, line in lines.items() if name != key) + "\n"
    with pytest.raises(StudyError, match=f"a study needs '{key}'"):
        Study.loads(text, registry)


def test_budgets_of_models_are_enough(registry):
    text = f"plugins: [{PLUGIN}]\nmodels: [{{path: m, keep: 64}}, {{path: n, keep: 32}}]\ntasks: [colours]\n"
    study = Study.loads(text, registry)
    assert (study.keep, study.models[1].keep) == ((), (Budget.of(32),))
    assert Study.loads(study.dump(), registry) == study
    with pytest.raises(StudyError, match="a study needs 'keep'"):
        Study.loads(text.replace(", keep: 32", ""), registry)
    with pytest.raises(ValueError, match="a study needs 'keep', or each of its models does"):
        Study(models=(ModelEntry(path="m"),), tasks=study.tasks)


def test_files_that_are_none(registry, tmp_path):
    with pytest.raises(StudyError, match="there is no study"):
        Study.load(tmp_path / "none.yaml", registry)
    with pytest.raises(StudyError, match="is a folder: name a file in it"):
        Study.load(tmp_path, registry)
    for text in ("- a list\n", "models: [\n", ""):
        (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(StudyError, match=r"s\.yaml:[12]"):
            Study.load(tmp_path / "s.yaml", registry)


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("keep=64,1/9", lambda s: [str(b) for b in s.keep] == ["64", "1/9"]),
        ("keep=32", lambda s: [str(b) for b in s.keep] == ["32"]),
        ("keep=[32]", lambda s: [str(b) for b in s.keep] == ["32"]),
        ("tasks.many.questions=7", lambda s: s.tasks[1].settings["questions"] == 7),
        ("tasks.colours.questions=7", lambda s: s.tasks[0].settings == {"questions": 7}),
        ("models.0.device=cpu", lambda s: s.models[0].device == "cpu"),
        ("models.second.dtype=auto", lambda s: s.models[1].dtype == "auto"),
        ("recipes=gsp,tome", lambda s: [m.name for m in s.recipes] == ["gsp", "tome"]),
        ("recipes.mine.select=edge", lambda s: s.recipes[2].recipe.formula(s.recipes[2].recipe.stages[0].select)),
        ("limit=null", lambda s: s.limit is None),
        ("controls.at_every_site=false", lambda s: not s.controls.at_every_site),
        ("name=other", lambda s: s.name == "other"),
    ],
)
def test_overrides(registry, setting, seen):
    assert seen(Study.loads(GOOD, registry, settings=[setting]))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("keep", "is no setting"),
        ("=3", "is no setting"),
        ("tasks.few.questions=7", "tasks has no entry 'few'; it has colours, many"),
        ("name.x=7", "has no 'x'|nothing inside"),
        ("name.x.y=7", "nothing inside name"),
        ("tasks.9=x", "tasks has no '9'"),
        ("keep=[1", "this is not YAML"),
    ],
)
def test_overrides_that_lead_nowhere(registry, setting, said):
    with pytest.raises(StudyError, match=said):
        Study.loads(GOOD, registry, settings=[setting])


def test_an_override_is_checked_like_the_rest(registry):
    with pytest.raises(TokensieveError, match="keep 'x' cannot be read"):
        Study.loads(GOOD, registry, settings=["keep=x"])


def test_override_makes_what_is_not_there():
    data = {"tasks": ["a"]}
    apply_override(data, "controls.inverted=3")
    apply_override(data, "tasks.a.b=1")
    assert data == {"controls": {"inverted": 3}, "tasks": [{"use": "a", "b": 1}]}
