"""A cell's rows are what the model does, sample by sample."""

import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

import tokensieve as ts
from tokensieve.checkpoints.loaded_model import LoadedModel, quiet
from tokensieve.checkpoints.loading import load
from tokensieve.errors import StudyError, TaskError
from tokensieve.study.planning.controls import recipe_of_cell
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.running import session
from tokensieve.study.running.pictures import FIRST_PAGE_NOTE
from tokensieve.study.running.runner import SHARED_IMAGES_NOTE, Runner
from tokensieve.study.sampling import sample_key

from . import fake
from .made import timeless


@pytest.fixture(scope="module")
def shared():
    """One runner for all tests, so that a model is loaded once."""
    registry = ts.default_registry()
    registry.register(fake, fake.__name__)
    return Runner(registry)


@pytest.fixture
def ran(planned, shared):
    """Run the cells of a study, and give cell and rows by method, keep and seed."""

    def run(*args, only=None, **kwargs):
        jobs = [job for job in planned(*args, **kwargs).jobs if only is None or job.cell.method in only]
        return {(job.cell.method, job.cell.keep, job.cell.seed): (job, *shared.run(job)) for job in jobs}

    return run


@pytest.fixture(scope="module")
def ready(checkpoint):
    return load(checkpoint, ts.default_registry(), (), "cpu")


def asked(ready, sample, recipe=None, most=1, task=None):
    """Ask one sample alone, as a user would."""
    task = task or fake.Colours()
    inputs = ready.inputs(task.picture(sample), sample.question)
    settings = {"max_new_tokens": most, "do_sample": False}
    with torch.no_grad(), quiet():
        if recipe is None:
            written, run = ready.model.generate(**inputs, **settings), None
        else:
            with ts.prune(ready.model, recipe, processor=ready.processor, keys=[sample_key(sample.id)]) as run:
                written = ready.model.generate(**inputs, **settings)
    new = written[0, inputs["input_ids"].shape[1] :]
    return ready.processor.decode(new, skip_special_tokens=True).strip(), run


def test_rows_are_what_each_sample_alone_gives(ran, ready, registry):
    found = ran(
        "[script, fastv, {name: merged, select: gsp, rest: merge}]",
        "[9]",
        "[{use: colours, questions: 4}]",
        more="seeds: [1]",
    )
    samples = fake.Colours(questions=4).samples()
    kinds = set()
    for _, cell, rows in found.values():
        if cell.role in ("text_only", "oracle", "anti_oracle"):
            continue
        kinds.add(cell.role)
        recipe = recipe_of_cell(cell, registry)
        for sample, row in zip(samples, rows, strict=True):
            text, run = asked(ready, sample, recipe)
            assert (row.sample, row.kind, row.image, row.answer) == (sample.id, sample.kind, sample.image, text)
            assert row.grades == {"exact": row.correct, "length": len(text)}
            assert row.visual == 36
            if run is None:
                assert row.per_layer == (36,) * 4
                assert (row.kept, row.shares, row.recall) == ((), (), 1.0)
                assert row.flops == row.flops_unpruned
                continue
            assert row.per_layer == tuple(run.visual_per_layer(0))
            assert row.kept == tuple(tuple(stage.samples[0].kept.tolist()) for stage in run.latest.stages)
            assert row.shares == tuple(stage.samples[0].shares for stage in run.latest.stages)
            assert (row.flops_unpruned, row.flops) == run.flops(0)
            needed = fake.Colours().needed(sample, 6, 6)
            assert row.needed == len(needed)
            assert row.recall == len(needed & set(row.kept[-1])) / len(needed)
        assert cell.grid == (6, 6)
        assert cell.adapter == "llava"
        assert cell.versions["device"] == "cpu"
    assert kinds == {"unpruned", "random", "uniform", "pool", "method", "inverted"}


def test_batches_change_nothing(written, registry, shared):
    def rows(batch):
        study = written("[script, fastv]", "[9]", more="seeds: [0]\nlimit: 5").model_copy(update={"batch": batch})
        asked = [job for job in plan_study(study, registry).jobs if "oracle" not in job.cell.role]
        return {job.cell.method: shared.run(job)[1] for job in asked}

    one, four = rows(1), rows(4)
    for method, found in one.items():
        for a, b in zip(timeless(found), timeless(four[method]), strict=True):
            assert {**a, "batch": 0} == {**b, "batch": 0}, method
    assert [row.batch for row in four["unpruned"]] == [4, 4, 4, 4, 1]


def test_random_draws_anew_for_every_sample_and_seed(ran):
    found = ran(keep="[9]", more="seeds: [1, 2]", only=["random"])
    kept = {seed: [row.kept[0] for row in rows] for (_, _, seed), (_, _, rows) in found.items()}
    assert len(set(kept[1])) == len(set(kept[2])) == 6
    assert not set(kept[1]) & set(kept[2])


def test_text_only_sees_no_picture(ran, ready):
    ((_, cell, rows),) = ran(only=["text_only"]).values()
    for sample, row in zip(fake.Colours().samples(), rows, strict=True):
        inputs = ready.batch_inputs(None, [sample.question])
        assert set(inputs) == {"input_ids", "attention_mask"}
        with torch.no_grad():
            token = ready.model(**inputs).logits[0, -1].argmax()
        assert row.answer == ready.processor.decode([token]).strip()
        assert (row.text, row.visual, row.per_layer) == (inputs["input_ids"].shape[1], 0, (0,) * 4)
        assert (row.needed, row.recall) == (2, 0.0)
        assert row.flops == row.flops_unpruned
    assert cell.recipe is None


def test_the_oracle_keeps_what_is_needed_and_its_opposite_drops_it(ran):
    found = ran("[fastv]", "[9, 35, 1]", only=["oracle", "anti_oracle", "oracle at decoder.2"])
    recall = {(name, keep): {row.recall for row in rows} for (name, keep, _), (_, _, rows) in found.items()}
    assert recall["oracle", "9"] == recall["oracle", "35"] == recall["oracle at decoder.2", "9"] == {1.0}
    # One place for two tokens.
    assert recall["oracle", "1"] == {0.5}
    assert recall["anti_oracle", "9"] == {0.0}
    # One of 36 goes, and it is a needed one.
    assert recall["anti_oracle", "35"] == {0.5}
    for _, _, rows in found.values():
        # What is not needed is drawn anew for every sample.
        assert len({row.kept for row in rows}) > 3
    assert [row.per_layer for row in found["oracle at decoder.2", "9", None][2]] == [(36, 36, 9, 9)] * 6


def test_smaller_pictures_have_as_many_tokens_as_the_budget(planned, shared, flexible):
    jobs = planned(models=f"[{flexible}]", keep="[16, 1/6, 10]", tasks="[{use: colours, side: 96}]").jobs
    for job in jobs:
        if job.cell.role != "downsampled":
            continue
        cell, rows = shared.run(job)
        whole = 144
        wanted = {"16": 16, "1/6": 24, "10": 10}[cell.keep]
        for row in rows:
            assert row.visual == whole
            assert len(set(row.per_layer)) == 1
            assert 0.8 * wanted <= row.per_layer[0] <= wanted
            assert row.flops < row.flops_unpruned
            assert (row.needed, row.recall) == (None, None)
        if wanted == 16:
            assert {row.per_layer[0] for row in rows} == {16}
            assert len({row.answer for row in rows}) > 1


def test_another_family_in_batches(planned, shared, flexible, registry):
    ready = load(flexible, ts.default_registry(), (), "cpu")
    task = fake.Colours(side=40)
    found = planned("[gsp, fastv]", "[9]", "[{use: colours, side: 40}]", f"[{flexible}]", "seeds: [0]")
    for job in found.jobs:
        if job.cell.role in ("unpruned", "method"):
            cell, rows = shared.run(job)
            assert cell.grid == (5, 5)
            for sample, row in zip(task.samples(), rows, strict=True):
                assert row.answer == asked(ready, sample, recipe_of_cell(cell, registry), task=task)[0]
                assert row.visual == 25


def test_longer_answers(ran, ready, registry):
    for _, cell, rows in ran("[gsp]", "[9]", "[long]", only=["unpruned", "gsp"]).values():
        for sample, row in zip(fake.Long().samples(), rows, strict=True):
            assert row.answer == asked(ready, sample, recipe_of_cell(cell, registry), 3)[0]
            assert row.ms > 0


def test_tasks_that_compare_get_the_unpruned_answer(ran, ready, registry):
    found = ran("[gsp]", "[9, 36]", "[alike]", only=["unpruned", "gsp", "text_only"])
    for (_, keep, _), (_, cell, rows) in found.items():
        for sample, row in zip(fake.Alike().samples(), rows, strict=True):
            before = asked(ready, sample)[0]
            after = row.answer
            assert row.correct == float(before == after)
            if cell.role == "unpruned" or keep == "36":
                assert row.grades["apart"] < 1e-4
            else:
                assert row.grades["apart"] > 1e-2


def test_stages_in_the_vision_encoder(ran):
    stage = "{at: encoder.0..1, select: t, r: 8, rest: merge}"
    recipe = f"[{{name: merged, strategies: {{t: {{use: tome, metric: keys}}}}, stages: [{stage}], keep: [own]}}]"
    found = ran(recipe, "[9]", more="seeds: [0]")
    _, cell, rows = found["merged", "own", None]
    assert cell.role == "method"
    for row in rows:
        assert row.per_layer == (20,) * 4
        assert row.tower_flops > 0
        assert row.recall is None
        assert [len(ids) for ids in row.kept] == [28, 20]
    control = next(rows for _, cell_, rows in found.values() if cell_.role == "random" and cell_.shape == cell.shape)
    assert {row.per_layer for row in control} == {(20,) * 4}


def test_the_limit_is_kept(ran):
    ((_, _, rows),) = ran(more="limit: 2", only=["unpruned"]).values()
    assert [row.sample for row in rows] == ["s0", "s3"]


def test_notes_of_the_ledger(ran):
    _, cell, _ = ran("[qcsp]", only=["qcsp"])["qcsp", "9", None]
    assert "relevance: the model's own text embeddings" in cell.notes


def test_a_cell_notes_that_only_the_first_page_was_read(ran, tmp_path):
    pages = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "b.gif")
    task = f"[{{use: fidelity, images: '{tmp_path}', prompts: ['Why?']}}]"
    _, cell, rows = ran(tasks=task, only=["unpruned"])["unpruned", None, None]
    assert len(rows) == 2
    assert cell.notes.count(FIRST_PAGE_NOTE) == 1


def test_a_model_is_loaded_once(planned, registry, monkeypatch, checkpoint):
    loads = []
    monkeypatch.setattr("tokensieve.study.running.runner.load", lambda *args: loads.append(args) or load(*args))
    runner = Runner(registry)
    jobs = planned(tasks="[colours, {use: colours, name: other, questions: 3}]").jobs
    for job in (jobs[0], jobs[1], jobs[-1]):
        runner.run(job)
    assert len(loads) == 1
    runner.free()
    runner.run(planned().jobs[0])
    assert len(loads) == 2


@pytest.mark.parametrize("most", [0, 2**20])
def test_cells_of_a_task_share_what_the_processor_made(planned, registry, monkeypatch, most):
    """With and without room for it, rows are the same, and no cell changes what the next one gets."""
    monkeypatch.setattr(session, "MOST_INPUT_BYTES", most)
    made, runner = [], Runner(registry)
    process = LoadedModel.processor_inputs
    monkeypatch.setattr(
        LoadedModel, "processor_inputs", lambda self, *args: made.append(process(self, *args)) or made[-1]
    )
    jobs = [job for job in planned(recipes="[gsp, fastv]").jobs if job.cell.role in ("unpruned", "method", "random")]
    rows = [timeless(runner.run(job)[1]) for job in jobs[:2]]
    counted = len(made)
    assert [timeless(runner.run(job)[1]) for job in jobs[:2]] == rows
    assert (len(made) == counted) == (most > 0)
    kept = runner._session.processed
    assert bool(kept) == (most > 0)
    before = {key: {name: value.clone() for name, value in one.items()} for key, one in kept.items()}
    for job in jobs:
        runner.run(job)
    for key, tensors in before.items():
        assert all(torch.equal(kept[key][name], value) for name, value in tensors.items())


def test_a_query_encoder_of_the_hub_is_known_by_its_name(planned, ready, tmp_path):
    """Whether its patches are turned around is known of the release, whatever folder its copy lies in."""
    from transformers import CLIPConfig, CLIPModel

    vision = ready.model.config.vision_config.to_dict()
    text = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    with quiet():
        CLIPModel(config).save_pretrained(tmp_path)
        ready.processor.tokenizer.save_pretrained(tmp_path)
    job = planned().jobs[0]
    signs = {}
    for name in (str(tmp_path), "openai/clip-vit-large-patch14-336"):
        named = replace(job, model=job.model.model_copy(update={"query_encoder": name}))
        pair = session.load_query_encoder(tmp_path, named, ready)
        signs[name] = ready.adapter.decoder.load_text_tower(pair).sign
    assert list(signs.values()) == [1, -1]


class Slow:
    """Lets a model's encoder take its time, and counts the pictures that it sees."""

    seconds = 0.02

    def __init__(self, monkeypatch):
        self.pictures = 0

        def load_slow(*args):
            ready = load(*args)
            ready.model.model.vision_tower.register_forward_pre_hook(self.wait, with_kwargs=True)
            return ready

        monkeypatch.setattr("tokensieve.study.running.runner.load", load_slow)

    def wait(self, _, args, kwargs):
        number = len(args[0] if args else kwargs["pixel_values"])
        self.pictures += number
        time.sleep(number * self.seconds)


def test_pictures_are_encoded_once_and_every_cell_bears_it(planned, registry, monkeypatch):
    """Three pictures for six questions; `fastervlm` looks into the tower, for which they are encoded once more."""
    slow, runner = Slow(monkeypatch), Runner(registry)
    jobs = planned("[gsp, fastervlm]", more="seeds: [0]").jobs
    jobs = [job for job in jobs if job.cell.role in ("unpruned", "text_only", "random", "method")]
    shared = {job.cell.method: runner.run(job) for job in jobs}
    # The first batch of four, and a blank one for where tokens are, come before anything is measured.
    assert slow.pictures == 3 + 3 + 1 + 3
    slow.pictures, runner = 0, Runner(registry)
    apart = {job.cell.method: runner.run(replace(job, share=False)) for job in jobs}
    assert slow.pictures == 4 + 1 + 6 * 4
    for method, (cell, rows) in shared.items():
        assert timeless(rows) == timeless(apart[method][1]), method
        assert (SHARED_IMAGES_NOTE in cell.notes) == (method != "text_only")
        assert SHARED_IMAGES_NOTE not in apart[method][0].notes
        for row in (*rows, *apart[method][1]):
            assert (row.ms > 1000 * slow.seconds) == (method != "text_only"), method
            assert row.ms < 8000 * slow.seconds


def test_a_picture_that_cannot_be_read(planned, registry, shared):
    job = planned(tasks="[{use: colours, unreadable: 2}]").jobs[0]
    with pytest.raises(TaskError, match="the picture of 's2' cannot be read: UnidentifiedImageError"):
        shared.run(job)


def test_a_checkpoint_that_has_gone(planned, registry):
    job = planned().jobs[0]
    gone = replace(job, model=job.model.model_copy(update={"path": "/nowhere/at/all"}))
    with pytest.raises(StudyError, match="no shipped checkpoint"):
        Runner(registry).run(gone)


def test_a_grade_that_is_missing(planned, shared, monkeypatch):
    monkeypatch.setattr(fake.Colours, "grade", lambda *_: {"other": 1.0})
    with pytest.raises(TaskError, match="gives no grade 'exact'"):
        shared.run(planned().jobs[0])
