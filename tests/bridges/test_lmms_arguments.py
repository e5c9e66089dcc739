"""What of the bridge to lmms-eval needs no lmms-eval: arguments, the content of a recipe, documents, the ledger."""

import json
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

import tokensieve as ts
from tokensieve import bridges
from tokensieve.errors import BudgetError, PluginError, RefusedError, SettingError, TaskError, TokensieveError
from tokensieve.ledger.records import Prefill, SampleRecord, StageRecord
from tokensieve.lmms.arguments import ModelArguments, WrapArguments, content_of, reads_questions
from tokensieve.lmms.ledger import UNKNOWN, Document, Ledger
from tokensieve.lmms.media import frames_of, picture_of
from tokensieve.lmms.watching import Seen, WatchedTasks
from tokensieve.tasks.lmms.grading import cut
from tokensieve.tasks.lmms.loading import refuse_kind

REGISTRY = ts.default_registry()
GIVEN = {"pretrained": "world-llava", "batch_size": "4", "device": "cpu"}


def loaded(**more):
    return ModelArguments.read(GIVEN | more).load_recipe(REGISTRY)


def checked(more):
    """Read all arguments of a model."""
    arguments = ModelArguments.read(GIVEN | more)
    return arguments.load_recipe(REGISTRY), arguments.find_query_encoder(None)


@pytest.mark.parametrize(
    ("more", "keep"),
    [
        ({"recipe": "script", "keep": "1/9"}, ["1/9"]),
        ({"recipe": "norm", "keep": 16}, ["16"]),
        ({"recipe": "norm", "keep": 0.25}, ["1/4"]),
        # lmms-eval splits its arguments at commas, but not inside quotes, which it leaves there.
        ({"recipe": '"quota(gsp, divprune, share=1/2)"', "keep": "'25%'"}, ["1/4"]),
        ({"recipe": "feather", "keep": "[64, 16]"}, ["64", "16"]),
    ],
)
def test_recipes_and_budgets_are_read_as_lmms_eval_gives_them(more, keep):
    assert [str(stage.keep) for stage in loaded(**more).stages] == [str(ts.Keep.of(one)) for one in keep]


def test_none_is_no_recipe_and_positions_are_an_override():
    assert loaded(recipe="none") is None
    assert loaded(recipe="norm", keep=16, positions="compact").positions == "compact"


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({}, SettingError, "--model tokensieve has no recipe: give recipe=script"),
        ({"recipe": "none", "keep": 16}, SettingError, "recipe=none keeps all tokens"),
        ({"recipe": 16, "keep": "script"}, SettingError, "recipe=script,keep=16 was meant"),
        ({"recipe": "1/9", "keep": "norm"}, SettingError, "recipe=norm,keep=1/9 was meant"),
        ({"recipe": "script", "keep": "many"}, BudgetError, "many"),
        ({"recipe": "scrip", "keep": 16}, TokensieveError, "Did you mean 'script'"),
        ({"recipe": "script", "kep": 16}, SettingError, "no parameter 'kep'.*Did you mean 'keep'"),
        ({"recipe": "script", "dtype": "half"}, SettingError, "--model tokensieve: dtype is 'half': it is one of"),
        ({"recipe": "script", "batch_size": "auto"}, SettingError, "batch_size is 'auto'; write a whole number"),
        ({"recipe": "script", "query_encoder": "nowhere"}, TokensieveError, "query_encoder is 'nowhere'"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_loaded(more, error, said):
    with pytest.raises(error, match=said):
        checked(more)


def test_what_a_wrapped_class_gets_is_all_but_our_own():
    own, others = WrapArguments.split({"base": "llava_hf", "recipe": "script", "keep": 16, "pretrained": "x", "a": 1})
    assert (own.base, own.recipe, others) == ("llava_hf", "script", {"pretrained": "x", "a": 1})
    with pytest.raises(SettingError, match="--model tokensieve_wrap has no base"):
        WrapArguments.split({"recipe": "script"})


def test_content_is_that_of_the_recipe_and_not_its_name(tmp_path):
    script = loaded(recipe="script", keep=16)
    file = tmp_path / "mine.yaml"
    script.dump(file)
    assert content_of(loaded(recipe=str(file)), REGISTRY) == content_of(script, REGISTRY)
    assert content_of(loaded(recipe="script", keep=17), REGISTRY) != content_of(script, REGISTRY)
    assert content_of(None, REGISTRY) == {"recipe": "none"}
    assert content_of(script, REGISTRY)["strategies"] == [REGISTRY.origin("strategy", "gsp")]
    assert reads_questions(script)
    assert not reads_questions(loaded(recipe="norm", keep=16))


def run_of(rows, notes=()):
    """A ledger of one prefill whose prompts keep the first tokens."""
    run = ts.Run(loaded(recipe="norm", keep=2), "family")
    samples = tuple(SampleRecord(9, torch.arange(kept), {}, 1) for kept in rows)
    stage = StageRecord("decoder.0", "norm", "2", samples, 0.0, ["a stage's note"])
    size = len(rows)
    run.add(Prefill([0] * size, [5] * size, [9] * size, [9] * size, stages=[stage], notes=list(notes)))
    return run


def test_the_ledger_is_a_file_for_each_task_in_the_order_of_documents(tmp_path):
    ledger = Ledger()
    ledger.add(run_of([2, 1], ["a note"]), [Document("b", 7), Document("a", 3)], "b")
    ledger.add(run_of([2]), [Document("b", 4)], "b")
    first, second = ledger.write(tmp_path, "20261128")
    assert [first.name, second.name] == ["20261128_ledger_b.jsonl", "20261128_ledger_a.jsonl"]
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == [4, 7]
    assert rows[1]["kept_ids"] == {"decoder.0": [0, 1]}
    assert rows[1]["notes"] == ["a note", "a stage's note"]
    assert (rows[1]["visual_tokens"], rows[1]["kept"]) == (9, {"decoder.0": 2})


def test_where_it_is_not_known_which_document_a_prompt_is_of_the_ledger_says_so():
    ledger = Ledger()
    ledger.add(run_of([2, 2]), [Document("a", 0), Document("a", 1), Document("a", 2)], "a")
    assert [(row["doc_id"], row["notes"][-1]) for row in ledger.rows["a"]] == [(None, UNKNOWN)] * 2


def test_documents_are_seen_as_they_are_read():
    splits = {"test": ["zero", "one", "two"]}
    seen = Seen()
    watched = WatchedTasks({"a": SimpleNamespace(keys=splits.keys, __getitem__=None), "b": splits}, seen)
    assert [watched["b"]["test"][number] for number in (2, 0, 2)] == ["two", "zero", "two"]
    assert watched["b"]["test"].count("one") == 1
    assert (len(watched), list(watched["a"].keys())) == (2, ["test"])
    assert seen.take() == [Document("b", 2), Document("b", 0)]
    assert seen.take() == []


@pytest.mark.parametrize(
    ("until", "left"), [(None, "a b\nc\n\nd"), ("\n\n", "a b\nc"), (["\n\n"], "a b\nc"), (["", "\n\n", " "], "a")]
)
def test_answers_end_at_the_texts_of_a_task(until, left):
    """One text is one end, and not its letters."""
    assert cut(" \na b\nc\n\nd\n".lstrip(), until) == left


def test_pictures_and_frames_of_messages(tmp_path):
    from PIL import Image

    shades = [Image.new("L", (4, 4), shade) for shade in range(9)]
    assert [frame.getpixel((0, 0)) for frame in frames_of(shades, 3)] == [(0,) * 3, (4,) * 3, (8,) * 3]
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert picture_of(clear).getpixel((0, 0)) == frames_of([clear], 1)[0].getpixel((0, 0)) == (255, 255, 255)
    shades[3].save(tmp_path / "three.png")
    assert picture_of(str(tmp_path / "three.png")).getpixel((0, 0)) == (3, 3, 3)
    for read, value in ((picture_of, "https://x/y.png"), (picture_of, 3), (lambda one: frames_of(one, 2), {"a": 1})):
        with pytest.raises(RefusedError, match="a document's"):
            read(value)
    with pytest.raises(RefusedError, match="cannot be read"):
        frames_of(str(tmp_path / "none.mp4"), 2)


def test_a_study_says_what_its_task_needs(monkeypatch):
    monkeypatch.setattr(bridges, "_requirements", lambda package, extra: [Requirement("lmms-eval>=0.7.3,<0.8")])
    monkeypatch.setattr(bridges, "_version", lambda name: None)
    with pytest.raises(PluginError, match=r"lmms-eval is not installed: pip install 'tokensieve\[lmms\]'"):
        REGISTRY.task("lmms_eval")(task="gqa")
    with pytest.raises(SettingError, match="the task 'lmms_eval': task: it has no default"):
        REGISTRY.task("lmms_eval")()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"output_type": "multiple_choice"}, "it scores given answers"),
        ({"output_type": "generate_until_agentic"}, "several rounds with tools"),
        ({"output_type": "something_new"}, "it is of the kind something_new"),
        ({"repeats": 4}, "it asks every question 4 times"),
        ({"num_fewshot": 3}, "it shows 3 examples"),
        ({"generation_kwargs": {"temperature": 0.2}}, "its answers are sampled"),
        ({"generation_kwargs": {"num_beams": 5}}, "searched with 5 beams"),
    ],
)
def test_tasks_of_other_kinds_are_refused(config, said):
    refuse_kind("some", {"generation_kwargs": {"temperature": 0, "num_beams": 1}, "repeats": 1})
    with pytest.raises(TaskError, match=f"'some' of lmms-eval cannot be a task of a study: .*{said}"):
        refuse_kind("some", config)
