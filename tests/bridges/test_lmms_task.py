"""A task of lmms-eval as a task of a study: the same grades, a card that says what is not known, and refusals."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

import tokensieve as ts
from tokensieve.cli import app
from tokensieve.errors import SettingError, TaskError
from tokensieve.study.store import Store
from tokensieve.tasks.base import Answer, columns
from tokensieve.tasks.lmms.grading import results
from tokensieve.tasks.lmms.task import LmmsEvalTask
from tokensieve.testing import TaskConformance

pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]
# As POPE: five metrics of one dict, of which accuracy alone is a mean; and as MME: each document has one of two.
YES_NO = """\
include: world_local.yaml
task: NAME
doc_to_target: yes_no
process_results: !function asked.RESULTS
metric_list:
  - {metric: of_all_f1, aggregation: !function asked.f1, higher_is_better: true}
  - {metric: of_all_accuracy, aggregation: !function asked.accuracy, higher_is_better: true}
"""
ASKED = """\
def pope(doc, results):
    right = doc["yes_no"]
    told = {"score": float(results[0].lower() == right), "prediction": results[0], "ground_truth": right}
    return {"of_all_accuracy": told, "of_all_f1": told}

def accuracy(results):
    return 100 * sum(one["score"] for one in results) / len(results)

def f1(results):
    hits = sum(one["prediction"] == one["ground_truth"] == "yes" for one in results)
    told = sum(one["prediction"] == "yes" for one in results) + sum(one["ground_truth"] == "yes" for one in results)
    return 2 * hits / told if told else 0.0

def mme(doc, results):
    score = float(results[0].lower() == doc["yes_no"])
    return {"of_all_accuracy" if doc["category"] == "cognition" else "of_all_f1": {"score": score}}

def summed(results):
    return sum(one["score"] for one in results) + 1

def behind(doc, lmms_eval_specific_kwargs=None):
    return [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image", "url": doc["image"]}]}]

def twice(doc, lmms_eval_specific_kwargs=None):
    image = {"type": "image", "url": doc["image"]}
    turned = {"type": "image", "url": doc["image"].rotate(180)}
    return [{"role": "user", "content": [image, turned, {"type": "text", "text": doc["question"]}]}]
"""
JUDGED = "import openai\n\ndef results(doc, results):\n    return {'correct': 1.0}\n"


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    """The task names its documents by a relative path."""
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def more(folder):
    """More tasks on the same documents."""
    (folder / "asked.py").write_text(ASKED)
    (folder / "judge.py").write_text(JUDGED)
    for name in ("pope", "mme"):
        text = YES_NO.replace("NAME", f"{name}_local").replace("RESULTS", name)
        (folder / f"{name}_local.yaml").write_text(text if name == "pope" else text.replace("asked.f1", "asked.summed"))
    for name, line in {
        "rounds": "output_type: generate_until_multi_round",
        "scored": "output_type: loglikelihood",
        "judged": "process_results: !function judge.results",
        "sampled": "generation_kwargs: {temperature: 0.7, do_sample: true}",
        "shown": "num_fewshot: 2",
        "turned": "doc_to_messages: !function asked.behind",
        "twice": "doc_to_messages: !function asked.twice",
        "lost": "dataset_path: nowhere/at-all",
    }.items():
        (folder / f"{name}_local.yaml").write_text(f"include: world_local.yaml\ntask: {name}_local\n{line}\n")
    return folder


def task_of(folder, name="world_local", **settings):
    return LmmsEvalTask(task=name, include_path=str(folder), **settings)


def test_a_study_asks_and_grades_as_lmms_eval_does(folder, evaluate, tmp_path, world):
    text = f"""\
models: [world-llava]
recipes: [norm]
keep: [16]
seeds: [0]
controls: {{inverted: []}}
tasks:
  - {{use: lmms_eval, task: world_local, include_path: {folder}}}
"""
    (tmp_path / "study.yaml").write_text(text)
    told = CliRunner().invoke(
        app, ["compare", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "run"), "--in-process"]
    )
    assert told.exit_code == 0, told.output
    store = Store(str(tmp_path / "run"))
    cells = {(cell.role, cell.method): store.read(cell.key)[1] for cell in store.cells()}
    for recipe, rows in (("none", cells["unpruned", "unpruned"]), ("norm,keep=16", cells["method", "norm"])):
        theirs = evaluate("tokensieve", f"pretrained=world-llava,recipe={recipe}", "--batch_size", "4")
        own = {row.sample: row for row in rows}
        assert [own[str(number)].answer for number in range(len(world[1]))] == theirs.answers
        graded = [row["correct"] for row in sorted(theirs.rows("samples"), key=lambda row: row["doc_id"])]
        assert [own[str(number)].grades["correct"] for number in range(len(graded))] == graded
        assert theirs.score() == pytest.approx(sum(graded) / len(graded))
        if recipe != "none":
            assert [list(own[str(n)].kept[0]) for n in range(len(graded))] == theirs.kept


def test_documents_are_samples_and_pictures_are_known_by_their_content(folder, world):
    task, (drawn, samples) = task_of(folder), world
    assert [one.question for one in task.samples()] == [one.question for one in samples]
    assert [one.answers for one in task.samples()] == [one.answers[:1] for one in samples]
    assert len({one.image for one in task.samples()}) == len({one.image for one in samples})
    assert task.picture(task.samples()[5]).tobytes() == drawn.picture(samples[5]).tobytes()
    assert (task.metric, task.longest) == ("correct", 2)
    # Cut where the task ends answers, as lmms-eval's models do.
    right = task.samples()[0].answers[0]
    assert task.grade(task.samples()[0], Answer(f" {right}\n\nand more"), None) == {"correct": 1.0}


def test_a_document_of_several_pictures_is_asked_with_all_of_them(more, evaluate, tmp_path):
    """As `--model tokensieve` is asked: the same answers and the same kept tokens."""
    task = task_of(more, "twice_local")
    sample = task.samples()[3]
    first, second = task.several_images(sample).images
    assert second.tobytes() == first.rotate(180).tobytes() != first.tobytes()
    assert task.picture(sample).tobytes() == first.tobytes()
    assert task_of(more).several_images(sample) is None
    text = f"""\
models: [world-llava]
recipes: [norm]
keep: [16]
seeds: [0]
tasks:
  - {{use: lmms_eval, task: twice_local, include_path: {more}}}
"""
    (tmp_path / "study.yaml").write_text(text)
    command = ["compare", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "run"), "--in-process"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    store = Store(str(tmp_path / "run"))
    (rows,) = (store.read(cell.key)[1] for cell in store.cells() if cell.role == "method")
    own = {row.sample: row for row in rows}
    theirs = evaluate(
        "tokensieve", "pretrained=world-llava,recipe=norm,keep=16", "--batch_size", "4", task="twice_local"
    )
    said = {row["doc_id"]: row["filtered_resps"] for row in theirs.rows("samples", "twice_local")}
    assert {number: row.answer for number, row in ((int(name), row) for name, row in own.items())} == said
    assert {row.visual for row in rows} == {288}


def test_the_card_names_version_flags_and_how_metrics_are_aggregated(folder, more):
    card = task_of(folder).card()
    assert (card["task"], card["of"], card["lmms_eval"], card["task_version"]) == (
        "lmms_eval",
        "world_local",
        "0.7.3",
        1.0,
    )
    assert card["flags"] == {"pre_prompt": "", "post_prompt": ""}
    assert card["ocr"] == "the task has no such flag"
    assert card["aggregated"] == {"correct": "mean"}
    assert card["generation"]["max_new_tokens"] == 2
    assert (card["samples"], card["left_out"], card["dataset"]) == (12, 0, ["parquet", None, "test"])
    assert str(folder) not in json.dumps(card)


def test_a_metric_that_is_no_mean_is_not_taken_for_one(folder, more):
    task = task_of(folder, "pope_local")
    # The first metric is F1, and no mean of answers.
    assert task.metric == "of_all_accuracy"
    said = {"of_all_f1": "not computed: f1 of all answers, no mean", "of_all_accuracy": "100 x mean"}
    assert task.card()["aggregated"] == said
    grades = [task.grade(one, Answer("yes"), None) for one in task.samples()]
    assert set(grades[0]) == {"of_all_accuracy", "said_yes", "is_yes"}
    found = task.summary(columns(grades))
    share = sum(one.answers == ("yes",) for one in task.samples()) / len(grades)
    assert found["of_all_accuracy"] == pytest.approx(share)
    assert found["f1"] == pytest.approx(2 * share / (1 + share))


def test_documents_of_another_metric_are_left_out_and_counted(folder, more):
    cognition = task_of(folder, "mme_local")
    assert cognition.metric == "of_all_accuracy"
    perception = task_of(folder, "mme_local", metric="of_all_f1.score")
    assert {one.kind for one in perception.samples()} == {"perception"}
    assert {one.kind for one in cognition.samples()} == {"cognition"}
    assert perception.card()["left_out"] == len(cognition.samples())
    assert perception.card()["aggregated"]["of_all_f1"] == "not computed: summed of all answers, no mean"
    assert set(perception.grade(perception.samples()[0], Answer("no"), None)) == {"of_all_f1.score"}


SHIPPED = """\
include: PATH
task: NAME
dataset_path: parquet
dataset_name: null
dataset_kwargs: {data_files: {test: FILE.parquet}}
validation_split: null
test_split: test
"""


@pytest.fixture(scope="module")
def shipped(folder):
    """POPE, MME and TextVQA as lmms-eval ships them, on documents of our own."""
    import lmms_eval.tasks

    tasks = Path(lmms_eval.tasks.__file__).parent
    for name, path, file in (
        ("pope_here", "pope/pope.yaml", "asked"),
        ("mme_here", "mme/mme.yaml", "asked"),
        ("textvqa_here", "textvqa/textvqa_val.yaml", "read"),
    ):
        text = SHIPPED.replace("PATH", str(tasks / path)).replace("NAME", name).replace("FILE", file)
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_the_card_of_pope_says_that_f1_is_of_all_answers(shipped):
    task = task_of(shipped, "pope_here")
    card = task.card()
    assert task.metric == "pope_accuracy"
    assert card["aggregated"] == {
        "pope_accuracy": "mean",
        **{
            f"pope_{name}": f"not computed: pope_aggregate_{name} of all answers, no mean"
            for name in ("precision", "recall", "f1_score", "yes_ratio")
        },
    }
    assert card["flags"]["post_prompt"] == "\nAnswer the question using a single word or phrase."
    assert task.samples()[0].question.endswith("a cross?\nAnswer the question using a single word or phrase.")
    # POPE's own function, on the same answers.
    grades = [task.grade(one, Answer("Yes"), None) for one in task.samples()]
    given = [results("pope_here", task._harness, int(one.id), "Yes")["pope_f1_score"] for one in task.samples()]
    assert task.summary(columns(grades))["f1"] == pytest.approx(task._harness.aggregation()["pope_f1_score"](given))


def test_the_card_of_mme_says_which_of_its_parts_and_that_it_is_no_sum(shipped):
    perception = task_of(shipped, "mme_here")
    assert perception.metric == "mme_perception_score.score"
    assert {one.kind for one in perception.samples()} == {"existence"}
    cognition = task_of(shipped, "mme_here", metric="mme_cognition_score.score")
    assert {one.kind for one in cognition.samples()} == {"code_reasoning"}
    said = "not computed: mme_aggregate_results of all answers, no mean"
    assert set(perception.card()["aggregated"].values()) == {said}
    assert (perception.card()["metric"], perception.card()["left_out"]) == (perception.metric, len(cognition.samples()))


def test_the_card_of_textvqa_says_whether_the_prompt_has_ocr(shipped):
    task = task_of(shipped, "textvqa_here")
    assert (task.metric, task.card()["ocr"]) == ("exact_match", False)
    assert task.card()["aggregated"] == {"exact_match": "mean", "submission": "not computed: no number for an answer"}
    assert "STOP" not in task.samples()[0].question
    first = task.samples()[0]
    assert len(first.answers) == 10
    assert task.grade(first, Answer(first.answers[0].upper()), None) == {"exact_match": 1.0}
    text = (shipped / "textvqa_here.yaml").read_text().replace("textvqa_here", "textvqa_ocr")
    flags = "lmms_eval_specific_kwargs: {default: {pre_prompt: '', post_prompt: '', ocr: true}}\n"
    (shipped / "textvqa_ocr.yaml").write_text(text + flags)
    other = task_of(shipped, "textvqa_ocr")
    assert other.card()["ocr"] is True
    assert other.samples()[0].question.endswith("Reference OCR token: STOP")
    assert other.hash() != task.hash()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rounds_local", "it asks in several rounds, and a study asks once"),
        ("scored_local", "it scores given answers, and a study generates them"),
        ("sampled_local", "its answers are sampled, and those of a study are greedy"),
        ("shown_local", "it shows 2 examples in a prompt"),
        ("judged_local", r"may ask another model over the network \(.*judge.py names openai\)"),
        ("turned_local", "is not pictures and then a text, as a study asks: text, image"),
        ("wrld_local", "lmms-eval has no task 'wrld_local'. Did you mean 'world_local'"),
        ("textvqa", "is no single task but a group"),
    ],
)
def test_what_cannot_be_a_task_of_a_study_is_refused_with_the_reason(name, said, folder, more):
    with pytest.raises(TaskError, match=said):
        task_of(folder, name).samples()


def test_a_wrong_metric_names_those_that_there_are(folder, more):
    with pytest.raises(SettingError, match=r"has no metric 'of_all'; it has of_all_accuracy, of_all_f1\.score"):
        task_of(folder, "pope_local", metric="of_all")
    with pytest.raises(TaskError, match="there is no folder /nowhere to take tasks"):
        LmmsEvalTask(task="world_local", include_path="/nowhere")


class TestConformance(TaskConformance):
    others: ClassVar = {"task": "again_local"}
    unmarked: ClassVar = {"include_path": "a folder is where a task is read from; its content is in the card"}

    @pytest.fixture(autouse=True)
    def made(self, here, more):
        type(self).task = task_of(more)
        (more / "again_local.yaml").write_text("include: world_local.yaml\ntask: again_local\n")


def test_the_registry_has_it_without_importing_lmms_eval():
    assert ts.default_registry().task("lmms_eval") is LmmsEvalTask
