"""Several pictures and second questions in a study: rows like those of the same prompts run by hand."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import tokensieve as ts
from tokensieve.checkpoints.loading import load
from tokensieve.errors import RefusedError, StudyError
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.running.runner import Runner
from tokensieve.study.spec.study import Study
from tokensieve.tasks import Images, Video
from tokensieve.tasks.world import WorldPictures, WorldTurns

NAMES = ("world-llava", "world-qwen")
TURNS = "{use: world_turns, pictures: 2, per_picture: 3}"
PICTURES = "{use: world_pictures, pictures: 2, per_picture: 3, types: [color_of_shape, shape_of_color, digit_of_color]}"
STUDY = "models: [{model}]\nkeep: [1/9]\nrecipes: [{recipe}]\ntasks: [{task}]\nbatch: {batch}\nshare: {share}\n"


def rows_of(model, task, recipe="qcsp", batch=3, share="true"):
    """Return by role the cells of a small study, each with its rows."""
    study = Study.loads(STUDY.format(model=model, recipe=recipe, task=task, batch=batch, share=share))
    registry = ts.default_registry()
    runner = Runner(registry)
    return {job.cell.role: runner.run(job) for job in plan_study(study, registry).jobs}


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(name):
    checkpoint = ts.default_registry().checkpoint(name)
    return (
        AutoModelForImageTextToText.from_pretrained(checkpoint.folder).eval(),
        AutoProcessor.from_pretrained(checkpoint.folder),
        checkpoint,
    )


@pytest.fixture(scope="module")
def talks(name):
    return rows_of(name, TURNS)


@torch.no_grad()
def word(loaded, inputs):
    model, processor, _ = loaded
    return processor.decode(model(**inputs).logits[0, -1].argmax()).strip()


def prompt(loaded, text, pictures):
    """Write a prompt by hand: neither chat template knows more than pictures, words and ends of answers."""
    _, processor, checkpoint = loaded
    mark = "<image> " if "llava" in checkpoint.name else "<|vision_start|><|image_pad|><|vision_end|> "
    return processor(text=[mark * len(pictures) + text], images=pictures, return_tensors="pt")


def test_an_unpruned_second_answer_is_that_of_the_whole_talk(loaded, talks):
    task = WorldTurns(pictures=2, per_picture=3)
    _, rows = talks["unpruned"]
    assert len(rows) == len(task.samples()) > 3
    assert len({row.answer for row in rows}) > 1
    for sample, row in zip(task.samples(), rows, strict=True):
        (turn,) = sample.turns
        inputs = prompt(loaded, f"{turn.question} {turn.answer} </s> {sample.question}", [task.picture(sample)])
        assert row.answer == word(loaded, inputs)
        assert row.text + row.visual == inputs["input_ids"].shape[1]
        assert (row.visual, row.batch) == (144, 1)


def test_what_stays_is_chosen_at_the_first_question(loaded, talks):
    """And the second is answered from that: as of one prompt in which the recipe is told to read the first question."""
    task = WorldTurns(pictures=2, per_picture=3)
    model, processor, checkpoint = loaded
    _, rows = talks["method"]
    moved = 0
    for sample, row in zip(task.samples(), rows, strict=True):
        (turn,) = sample.turns
        given = {"processor": processor, "query_encoder": checkpoint.query_encoder}
        with torch.no_grad(), ts.prune(model, "qcsp", keep="1/9", **given) as run:
            model(**prompt(loaded, turn.question, [task.picture(sample)]))
        assert row.kept == (tuple(run.kept("decoder.0")[0].tolist()),)
        assert row.per_layer == (16,) * len(row.per_layer)
        with ts.prune(model, "qcsp", keep="1/9", query=[sample.question], **given) as other:
            word(loaded, prompt(loaded, sample.question, [task.picture(sample)]))
        moved += row.kept != (tuple(other.kept("decoder.0")[0].tolist()),)
        if checkpoint.query_encoder is None:
            # Judged by the words of the prompt itself, which a longer prompt has more of.
            continue
        with ts.prune(model, "qcsp", keep="1/9", query=[turn.question], **given):
            talk = f"{turn.question} {turn.answer} </s> {sample.question}"
            assert row.answer == word(loaded, prompt(loaded, talk, [task.picture(sample)]))
    assert moved


def test_a_talk_without_a_picture_has_no_picture(name, talks):
    blind, whole = talks["text_only"][1], talks["unpruned"][1]
    assert {(row.visual, row.per_layer[0]) for row in blind} == {(0, 0)}
    # Qwen2-VL has a token before and one behind a picture.
    around = {"world-llava": 0, "world-qwen": 2}[name]
    assert [row.text + around for row in blind] == [row.text for row in whole]


def test_several_pictures_are_one_prompt(loaded, name):
    task = WorldPictures(pictures=2, per_picture=3, types=["color_of_shape", "shape_of_color", "digit_of_color"])
    model, processor, checkpoint = loaded
    cells = rows_of(name, PICTURES)
    for role, recipe in (("unpruned", None), ("method", "qcsp")):
        cell, rows = cells[role]
        assert cell.grid is None
        for sample, row in zip(task.samples(), rows, strict=True):
            inputs = prompt(loaded, sample.question, list(task.several_images(sample).images))
            if recipe is None:
                assert row.answer == word(loaded, inputs)
                assert (row.visual, row.text) == (288, inputs["input_ids"].shape[1] - 288)
                continue
            given = {"processor": processor, "query_encoder": checkpoint.query_encoder}
            with ts.prune(model, recipe, keep="1/9", **given) as run:
                assert row.answer == word(loaded, inputs)
            assert row.kept == (tuple(run.kept("decoder.0")[0].tolist()),)
            # The budget is of each picture.
            assert [sum(place < 144 for place in row.kept[0]), len(row.kept[0])] == [16, 32]


def test_sharing_pictures_changes_no_answer(name, talks):
    apart = rows_of(name, TURNS, share="false")
    for role, (_, rows) in talks.items():
        assert [(row.sample, row.answer, row.kept) for row in rows] == [
            (row.sample, row.answer, row.kept) for row in apart[role][1]
        ]


def test_smaller_pictures_have_each_its_budget():
    cells = rows_of("world-qwen", PICTURES)
    assert {row.per_layer[0] for row in cells["downsampled"][1]} == {32}


def test_what_cannot_go_on_is_refused(checkpoint):
    ready = load(checkpoint, ts.default_registry(), ())
    picture = Image.new("RGB", (8, 8))
    ready.processor.chat_template = None
    with pytest.raises(RefusedError, match="processor has no chat template; ask single questions"):
        ready.later_turns(picture, [("Why?", "So.")], "How?")
    ready.processor.chat_template = "{{ messages | length }} {{ messages[-1]['content'][-1]['text'] }}"
    with pytest.raises(RefusedError, match="writes that prompt otherwise when the talk goes on"):
        ready.later_turns(picture, [("Why?", "So.")], "How?")


def test_talks_are_answered_one_at_a_time():
    runner, registry = Runner(ts.default_registry()), ts.default_registry()
    study = Study.loads(STUDY.format(model="world-qwen", recipe="divprune", task=TURNS, batch=3, share="true"))
    job = plan_study(study, registry).jobs[0]
    runner.run(job)
    samples = WorldTurns(pictures=2, per_picture=3).samples()
    with pytest.raises(StudyError, match="answered one at a time"):
        runner._session.later_turns(None, samples[:2])


def test_pictures_and_videos_stand_in_no_batch_together(checkpoint):
    ready = load(checkpoint, ts.default_registry(), ())
    picture = Image.new("RGB", (8, 8))
    with pytest.raises(RefusedError, match="not asked about in one batch"):
        ready.processor_inputs([Images((picture, picture)), Video((picture,))], ["Why?", "Why?"])


def test_a_talk_may_stand_behind_single_questions(tmp_path):
    """The first batch is one sample then, too."""
    task = WorldTurns(pictures=1, per_picture=2)
    lines = []
    for sample in task.samples():
        task.picture(sample).save(tmp_path / f"{sample.image}.png")
        line = {"image": f"{sample.image}.png", "question": sample.question, "answer": sample.answers[0]}
        turns = [[turn.question, turn.answer] for turn in sample.turns]
        lines += [line, {**line, "turns": turns}]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = f"{{use: vqa_jsonl, path: {tmp_path / 'asked.jsonl'}, prompt: '{{question}}', longest: 1}}"
    rows = rows_of("world-qwen", asked)["unpruned"][1]
    assert [row.batch for row in rows] == [1] * len(lines)
    assert [one.text < other.text for one, other in zip(rows[::2], rows[1::2], strict=True)] == [True] * 2
