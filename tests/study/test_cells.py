"""The product of a study: its cells, its controls, and what makes a key."""

import itertools
import shutil
from pathlib import Path

import pytest

import tokensieve as ts
from tokensieve.errors import BudgetError, StudyError, TokensieveError
from tokensieve.study.planning import versions
from tokensieve.study.planning.budgets import with_budget
from tokensieve.study.planning.controls import (
    Needed,
    cut_shape,
    draws_at_random,
    inverted_recipe,
    recipe_of_cell,
    with_seed,
)
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.sampling import sample_key, select_samples
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.study import Study
from tokensieve.tasks import Sample

from . import fake
from .conftest import PLUGIN


def listed(plan, role=None):
    return [
        (job.cell.role, job.cell.method, job.cell.keep, job.cell.seed)
        for job in plan.jobs
        if role in (None, job.cell.role)
    ]


def test_controls_are_always_there(planned):
    found = planned("[gsp]", "[9, 1/9]", more="seeds: [4, 5]")
    at = [
        *[("random", "random", None, seed) for seed in (4, 5)],
        ("uniform", "uniform", None, None),
        ("pool", "pool", None, None),
        ("oracle", "oracle", None, None),
        ("anti_oracle", "anti_oracle", None, None),
    ]
    both = [(role, name, keep, seed) for keep in ("9", "1/9") for role, name, _, seed in at]
    methods = [
        (role, name, keep, None)
        for keep in ("9", "1/9")
        for role, name in (("method", "gsp"), ("inverted", "inverted gsp"))
    ]
    once = [("unpruned", "unpruned", None, None), ("text_only", "text_only", None, None)]
    assert listed(found) == once + both + methods
    assert {job.cell.of for job in found.jobs if job.cell.role == "inverted"} == {"gsp"}
    # The processor makes pictures of one size.
    assert {one.role for one in found.skipped} == {"downsampled"}
    assert "the processor makes no picture of about 9 tokens of one that has 36" in found.skipped[0].reason


def test_without_a_task_that_knows_what_is_needed_there_is_no_oracle(planned):
    assert not {"oracle", "anti_oracle"} & {job.cell.role for job in planned(tasks="[alike]").jobs}
    both = planned(tasks="[alike, colours]")
    assert {job.cell.task for job in both.jobs if job.cell.role == "oracle"} == {"colours"}


def test_models_have_budgets_and_tasks_of_their_own(planned, checkpoint, flexible):
    models = f"[{{path: {checkpoint}, name: small, keep: [4, 6]}}, {{path: {flexible}, name: large}}]"
    found = planned(
        "[gsp, {use: norm, keep: 5}]",
        "[9]",
        "[{name: all, use: colours}, {name: some, use: colours, questions: 2, models: large}]",
        models,
        "controls: {inverted: [6]}",
    )
    cells = [job.cell for job in found.jobs]
    assert {(cell.model, cell.task) for cell in cells} == {("small", "all"), ("large", "all"), ("large", "some")}
    keeps = {}
    for cell in cells:
        keeps.setdefault((cell.model, cell.method), set()).add(cell.keep)
    for model, own in (("small", {"4", "6"}), ("large", {"9"})):
        assert keeps[model, "gsp"] == own
        # A recipe's own budgets go before any model's, and bring controls with them.
        assert keeps[model, "norm"] == {"5"}
        assert keeps[model, "random"] == keeps[model, "uniform"] == own | {"5"}
    assert keeps["small", "inverted gsp"] == {"6"}
    assert ("large", "inverted gsp") not in keeps


def test_a_model_that_no_task_asks_is_not_even_looked_for(planned, checkpoint):
    models = f"[{checkpoint}, {{path: no/where/at/all, name: other}}]"
    found = planned(tasks=f"[{{use: colours, models: [{checkpoint.name}]}}]", models=models)
    assert {job.cell.model for job in found.jobs} == {checkpoint.name}
    assert found.not_downloaded == ()
    assert "no task asks the model 'other', so it has no cells" in found.notes
    with pytest.raises(StudyError, match=r"model 'other': .* is no shipped checkpoint"):
        planned(models=models)


def test_smaller_pictures_where_the_processor_makes_them(planned, flexible):
    found = planned(models=f"[{flexible}]", keep="[4, 1/9]", tasks="[{use: colours, side: 96}]")
    assert listed(found, "downsampled") == [
        ("downsampled", "downsampled", "4", None),
        ("downsampled", "downsampled", "1/9", None),
    ]
    assert not [one for one in found.skipped if one.role == "downsampled"]


def test_controls_cut_where_methods_cut(planned, registry):
    found = planned(
        "[fastv, {use: divprune-fastv, keep: [4]}, {name: two, stages: [{at: decoder.0, select: gsp, keep: 12}, "
        "{at: decoder.3, select: fastv, keep: 6}]}]",
        "[9]",
        more="seeds: [0]",
    )
    methods = {job.cell.method: job.cell for job in found.jobs if job.cell.role == "method"}
    randoms = {job.cell.shape: job.cell for job in found.jobs if job.cell.role == "random"}
    assert {cell.method for cell in randoms.values()} == {
        "random",
        "random at decoder.2",
        "random at decoder.0 + decoder.3",
    }
    for name, cell in methods.items():
        control = recipe_of_cell(randoms[cell.shape], registry)
        own = recipe_of_cell(cell, registry)
        assert [(s.at, s.keep) for s in control.stages] == [(s.at, s.keep) for s in own.stages], name
    assert {cell.keep for cell in methods.values()} == {"9", "4"}
    fewer = planned("[fastv]", "[9]", more="controls: {at_every_site: false}")
    assert {job.cell.method for job in fewer.jobs if job.cell.role == "random"} == {"random"}


def test_shapes_tell_apart_what_costs_differently(registry):
    one = ts.Recipe.of(Needed(), 9)
    assert cut_shape(one) == cut_shape(ts.Recipe.of(Needed(first=False), 9, rest="merge"))
    for other in (
        ts.Recipe.of(Needed(), 8),
        ts.Recipe.of(Needed(), 9, at="decoder.1"),
        ts.Recipe.of(Needed(), 9, per="sample"),
        ts.Recipe.of(Needed(), 9, newlines="drop"),
        ts.Recipe.of(Needed(), 9, positions="compact"),
    ):
        assert cut_shape(other) != cut_shape(one)


def test_inverted_where_it_can_be(planned):
    found = planned("[gsp, visionzip, {use: hiprune, name: h}]", "[4, 9]", more="controls: {inverted: 9}")
    assert listed(found, "inverted") == [("inverted", "inverted gsp", "9", None)]
    said = [(one.of, one.keep) for one in found.skipped if one.role == "inverted"]
    assert said == [("visionzip", "9"), ("h", "9")]
    assert all("no order" in one.reason for one in found.skipped if one.role == "inverted")


def test_inverting_twice_is_nothing(registry):
    recipe = ts.Recipe.load("prumerge-plus", registry).replace(keep=9)
    once = inverted_recipe(recipe)
    assert once.stages[0].by is not None
    assert once.hash() != recipe.hash()
    assert inverted_recipe(once).stages[0].select.operands[0].operands[0] == recipe.stages[0].select
    with pytest.raises(TokensieveError, match="a set of its own size"):
        inverted_recipe(ts.Recipe.loads("stages:\n  - {at: decoder.0, select: prumerge, keep: auto}\n", registry))


def test_what_draws_runs_for_every_seed(planned, registry):
    mixed = "{name: mixed, strategies: {chance: {use: random, seed: 9}}, select: 'quota(gsp, chance)'}"
    found = planned(f"[{mixed}]", more="seeds: [3, 4]")
    cells = [job.cell for job in found.jobs if job.cell.role == "method"]
    assert [cell.seed for cell in cells] == [3, 4]
    assert [cell.recipe["strategies"]["chance"]["seed"] for cell in cells] == [3, 4]
    recipe = ts.Recipe.load("random", registry)
    assert draws_at_random(recipe)
    assert not draws_at_random(ts.Recipe.load("gsp", registry))
    assert with_seed(with_seed(recipe, 7), 0) == recipe


def test_a_recipe_that_is_a_control_runs_once(planned):
    found = planned("[random, uniform, gsp, {name: twin, select: gsp}]")
    assert {job.cell.method for job in found.jobs if job.cell.role == "method"} == {"gsp"}
    assert len({job.cell.key for job in found.jobs}) == len(found.jobs)
    assert "recipe 'random' is a control at keep 9; it runs once, as that control" in found.notes
    assert any("'twin' is" in note and "'gsp' at keep 9" in note for note in found.notes)


# Keys


def keys(plan):
    return [job.cell.key for job in plan.jobs]


def test_a_key_is_of_what_decides_the_rows_and_of_nothing_else(
    planned, written, registry, checkpoint, tmp_path, monkeypatch
):
    base = keys(planned("[gsp]"))
    assert keys(planned("[gsp]", more="name: other")) == base
    copy = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, copy)
    (copy / "README.md").write_text("a card", encoding="utf-8")
    assert keys(planned("[gsp]", models=f"[{{path: {copy}, name: other, device: cpu}}]")) == base
    assert keys(planned("[{use: gsp, name: other}]", tasks="[{use: colours, name: another}]")) == base
    everything = (
        planned("[gsp]", tasks="[{use: colours, questions: 7}]"),
        planned("[gsp]", models=f"[{{path: {checkpoint}, dtype: bfloat16}}]"),
        planned("[gsp]", more="limit: 3"),
        planned("[gsp]", more="share: false"),
    )
    for other in everything:
        assert not set(keys(other)) & set(base)
    text = written("[gsp]").dump()
    assert not set(keys(plan_study(Study.loads(text.replace("batch: 4", "batch: 5"), registry), registry))) & set(base)
    changed = keys(planned("[{name: gsp, strategies: {g: {use: gsp, tau: 0.9}}, select: g}]"))
    assert changed[:-2] == base[:-2]
    assert not set(changed[-2:]) & set(base)
    config = (copy / "generation_config.json").read_text(encoding="utf-8")
    (copy / "generation_config.json").write_text(config.replace("{", '{"top_k": 7,', 1), encoding="utf-8")
    assert not set(keys(planned("[gsp]", models=f"[{copy}]"))) & set(base)
    monkeypatch.setattr(versions, "_package", lambda name: "changed")
    assert not set(keys(planned("[gsp]"))) & set(base)


def test_models_that_differ_in_their_query_encoder_have_cells_of_their_own(planned, checkpoint, flexible):
    """Else the controls of one would be the other's."""
    both = planned("[gsp, qcsp]", models=f"[{checkpoint}, {{path: {checkpoint}, name: b, query_encoder: {flexible}}}]")
    cells = {name: [job.cell for job in both.jobs if (job.cell.model == "b") == name] for name in (False, True)}
    assert [cell.method for cell in cells[False]] == [cell.method for cell in cells[True]]
    assert len({job.cell.key for job in both.jobs}) == 2 * len(cells[True])


def test_the_same_twice_is_refused(planned, checkpoint):
    with pytest.raises(StudyError, match=r"the models 'small0' and 'b' are the same.*\(study.yaml:2\)"):
        planned(models=f"[{checkpoint}, {{path: {checkpoint}, name: b}}]")
    with pytest.raises(StudyError, match=r"the tasks 'colours' and 'b' ask the same.*\(study.yaml:5\)"):
        planned(tasks="[colours, {use: colours, name: b}]")


def test_code_that_writes_reports_is_in_no_key(tmp_path, monkeypatch):
    package = tmp_path / "tokensieve"
    for name in ("__init__.py", "study/running/runner.py", "study/report/writing.py", "cli/app.py", "engine/prune.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("", encoding="utf-8")
    monkeypatch.setattr(
        versions.importlib, "import_module", lambda name: type("M", (), {"__file__": package / "__init__.py"})
    )

    def hash_with(name):
        (package / name).write_text("changed", encoding="utf-8")
        versions._package.cache_clear()
        found = versions.code_hash([])
        (package / name).write_text("", encoding="utf-8")
        return found

    versions._package.cache_clear()
    before = versions.code_hash([])
    assert hash_with("study/report/writing.py") == before
    assert hash_with("cli/app.py") == before
    assert hash_with("study/running/runner.py") != before
    assert hash_with("engine/prune.py") != before
    versions._package.cache_clear()


def test_the_subset_is_in_the_card(planned):
    whole, some = planned(more="limit: 100"), planned(more="limit: 3")
    assert "samples" not in whole.jobs[0].cell.card
    assert some.jobs[0].cell.card["samples"] == 3
    assert some.jobs[0].cell.card_hash != whole.jobs[0].cell.card_hash


def test_samples_are_spread_evenly():
    samples = [Sample(str(i), "", "") for i in range(10)]
    assert [sample.id for sample in select_samples(samples, 4)] == ["0", "2", "5", "7"]
    assert select_samples(samples, None) == select_samples(samples, 10) == select_samples(samples, 11) == samples


@pytest.mark.parametrize("limit", [9, 10, 24, 100, 215])
def test_a_limit_takes_every_type_that_is_asked_in_turn(limit):
    # Of 216 questions of nine types in turn, every ninth is of one type alone.
    samples = [Sample(str(i), "", "", kind=str(i % 9)) for i in range(216)]
    some = select_samples(samples, limit)
    assert len({sample.id for sample in some}) == len(some) == limit
    assert some == [sample for sample in samples if sample in some]
    counts = [sum(sample.kind == str(kind) for sample in some) for kind in range(9)]
    assert max(counts) - min(counts) <= 1
    # And all over the task: no type is taken from one end of it.
    for kind in range(9):
        places = [int(sample.id) for sample in some if sample.kind == str(kind)]
        assert all(b - a <= 2 * 216 / len(places) for a, b in itertools.pairwise(places))


def test_every_sample_has_a_key_of_its_own():
    found = {sample_key(f"s{i}") for i in range(1000)}
    assert len(found) == 1000
    assert all(0 <= key < 2**63 for key in found)
    assert sample_key("s1") == sample_key("s1")


# Budgets


SEVERAL = """
stages:
  - {at: decoder.0, select: gsp, keep: 1/2}
  - {at: decoder.2, select: gsp, keep: 1/2}
  - {at: decoder.3, select: gsp, keep: 1/2}
"""
COUNTS = "stages:\n  - {at: decoder.0, select: gsp, keep: 20}\n  - {at: decoder.2, select: gsp, keep: 10}\n"


@pytest.mark.parametrize(
    ("recipe", "budget", "keeps"),
    [
        ("gsp", 9, "9"),
        ("gsp", "1/9", "1/9"),
        ("gsp", "own", "64"),
        ("sparsevlm", 128, "303, 110, 36"),
        ("sparsevlm", 50, "300, 200, 50"),
        ("sparsevlm", [30, 20, 10], "30, 20, 10"),
        ("sparsevlm", "own", "300, 200, 110"),
        ("tome-encoder", "own", "all but 16"),
        # A fraction is of the picture: half of half of it is left, so 4/9 of that is a ninth.
        (SEVERAL, "1/9", "1/2, 1/2, 4/9"),
        (SEVERAL, 5, "1/2, 1/2, 5"),
        (COUNTS, 19, "20, 19"),
    ],
)
def test_what_a_budget_means_for_a_recipe(registry, recipe, budget, keeps):
    loaded = ts.Recipe.loads(recipe, registry) if "\n" in recipe else ts.Recipe.load(recipe, registry)
    found = [str(stage.keep) for stage in with_budget(loaded, Budget.of(budget)).stages]
    assert ", ".join(dict.fromkeys(found) if recipe == "tome-encoder" else found) == keeps


@pytest.mark.parametrize(
    ("recipe", "budget", "said"),
    [
        ("gsp", [9, 4], "cannot have 2 budgets"),
        ("sparsevlm", "1/9", "counts in earlier stages"),
        ("sparsevlm", 250, "keeps only 200 before its last stage"),
        ("tome-encoder", 9, "how many tokens go in each of 23 stages"),
        (SEVERAL, "1/4", "keeps only 1/4 before"),
        (COUNTS, 20, "keeps only 20 before"),
    ],
)
def test_budgets_that_mean_nothing(registry, recipe, budget, said):
    loaded = ts.Recipe.loads(recipe, registry) if "\n" in recipe else ts.Recipe.load(recipe, registry)
    with pytest.raises(BudgetError, match=said):
        with_budget(loaded, Budget.of(budget))


# What cannot run is said before anything does


@pytest.mark.parametrize(
    ("changes", "said", "line"),
    [
        ({"recipes": "[sparsevlm]", "keep": "[[20, 10, 5]]"}, "recipe 'sparsevlm' cannot run on model", 3),
        ({"recipes": "[sparsevlm]", "keep": "[1/9]"}, "counts in earlier stages", 3),
        ({"recipes": "[{name: x, at: decoder.0, select: fastv}]"}, "'fastv' needs decoder_attention", 3),
        ({"recipes": "\n- name: x\n  at: decoder.0\n  select: fastv"}, "'fastv' needs decoder_attention", 6),
        ({"models": "[no/where/at/all]"}, "no shipped checkpoint", 2),
        ({"tasks": "[{use: colours, questions: 0}]"}, "has no samples", 5),
    ],
)
def test_refused_before_any_work(planned, changes, said, line):
    with pytest.raises(TokensieveError, match=said) as caught:
        planned(**changes)
    assert str(caught.value).endswith(f"(study.yaml:{line})")


def test_a_folder_that_is_no_checkpoint(planned, tmp_path):
    with pytest.raises(TokensieveError, match=f"model '{tmp_path.name}': .*no config.json"):
        planned(models=f"[{tmp_path}]")


def test_two_samples_of_one_id(planned, monkeypatch):
    monkeypatch.setattr(fake.Colours, "samples", lambda self: [Sample("a", "", "p0"), Sample("a", "", "p1")])
    with pytest.raises(StudyError, match="two samples of one id"):
        planned()


def test_recipes_run_on_the_models_that_they_name(planned, checkpoint, flexible):
    found = planned(f"[{{use: gsp, models: [{Path(flexible).name}]}}]", models=f"[{checkpoint}, {flexible}]")
    assert {job.cell.model for job in found.jobs if job.cell.role == "method"} == {Path(flexible).name}


def test_a_checkpoint_of_the_hub_that_is_not_here(written, registry):
    """It is planned by its geometry, or unchecked, and fetched only when it runs."""
    models = "[{path: nobody/no-such-model, geometry: llava-1_5-7b}, {path: nobody/other}]"
    found = plan_study(written("[fastv]", models=models), registry)
    assert found.not_downloaded == ("no-such-model", "other")
    assert {job.cell.adapter for job in found.jobs} == {"llava", ""}
    with pytest.raises(TokensieveError, match="cannot be fetched"):
        plan_study(written("[fastv]", models=models), registry, download=True)


def test_warnings_of_the_review_are_notes(planned):
    found = planned("[{name: twice, strategies: {a: {use: gsp}, b: {use: qcsp}}, select: 'a[9] & b[9]', by: b}]", "[9]")
    assert any(note.startswith("recipe 'twice': warning at decoder.0") for note in found.notes)


def test_what_a_composition_lacks_is_said_once(planned):
    def lacking(recipes, keep="[9, 4]", **more):
        return [note for note in planned(recipes, keep, **more).notes if "so the report cannot say" in note]

    [said] = lacking("['gsp & qcsp', gsp]")
    assert "recipe 'gsp & qcsp': no recipe of the study has qcsp alone at decoder.0" in said
    assert lacking("['gsp & qcsp', gsp, qcsp]") == []
    # At another site it is another thing.
    elsewhere = "[{name: q, stages: [{at: decoder.1, select: qcsp, keep: 9}]}, {name: both, select: 'gsp & qcsp'}, gsp]"
    assert len(lacking(elsewhere)) == 1
    # Controls are there, with every seed.
    assert lacking("['gsp & random', gsp, 'uniform | gsp']", more="seeds: [3, 4]") == []


def test_plans_are_the_same_everywhere(planned):
    assert planned("[gsp]") == planned("[gsp]")
    assert PLUGIN in planned("[gsp]").jobs[0].plugins
