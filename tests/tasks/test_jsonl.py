"""`vqa_jsonl`: what a file of questions gives, what is refused with its line, and what the card holds."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tokensieve.errors import SettingError, TaskError, UnknownTaskError
from tokensieve.tasks import Answer
from tokensieve.tasks.base import columns
from tokensieve.tasks.jsonl import SHORT, VqaJsonl
from tokensieve.tasks.jsonl_lines import LONGEST_QUESTION
from tokensieve.tasks.metric_table import METRICS

RED = {"image": "a.png", "question": "Which colour?", "answer": "red"}
BLUE = {"image": "b.jpg", "question": "Which colour is {it}?", "answers": ["blue", "navy"], "id": "x", "kind": "colour"}
DOG = {"image": "a.png", "question": "What is it?", "choices": ["cat", "dog"], "answer": "dog"}
YES = {"image": "a.png", "question": "Is it red?", "answer": "Yes"}


def test_its_name(registry):
    assert registry.task("vqa_jsonl") is VqaJsonl
    assert registry.task("vqa-jsonl") is VqaJsonl
    with pytest.raises(UnknownTaskError, match=r"no task is named 'vqa-json'.*Did you mean 'vqa_jsonl'"):
        registry.task("vqa-json")


def test_samples(write):
    task = VqaJsonl(path=write(RED, "", BLUE))
    one, other = task.samples()
    assert (one.id, one.image, one.answers, one.kind) == ("1", "a.png", ("red",), "")
    assert one.question == "Which colour?\nAnswer the question using a single word or phrase."
    assert (other.id, other.answers, other.kind) == ("x", ("blue", "navy"), "colour")
    # Braces in a question are its own.
    assert other.question.startswith("Which colour is {it}?\n")


def test_an_id_is_the_line_if_there_is_none(write):
    assert [sample.id for sample in VqaJsonl(path=write("", RED, RED)).samples()] == ["2", "3"]


def test_numbers_are_answers_too(write):
    task = VqaJsonl(path=write({**RED, "answer": 3, "id": 7}, {**BLUE, "answers": [2.5, "many"]}))
    assert [sample.answers for sample in task.samples()] == [("3",), ("2.5", "many")]
    assert task.samples()[0].id == "7"


def test_a_prompt_of_ones_own(write):
    task = VqaJsonl(path=write({**DOG, "ocr": ["EXIT", "now"]}), metric="choice", ocr=True,
                    prompt="{{Q}} {question} [{ocr}]\n{choices}")  # fmt: skip
    assert task.samples()[0].question == "{Q} What is it? [EXIT, now]\nA. cat\nB. dog"


def test_the_usual_prompts(write):
    choice = VqaJsonl(path=write(DOG), metric="choice").samples()[0].question
    assert choice == "What is it?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    path = write({**RED, "ocr": "EXIT"}, {**DOG, "ocr": []})
    ocr = VqaJsonl(path=path, ocr=True).samples()[0].question
    assert "\nReference OCR token: EXIT\n" in ocr
    # OCR text is not looked at unless it is asked for.
    assert "EXIT" not in VqaJsonl(path=path).samples()[0].question
    both = VqaJsonl(path=write({**DOG, "ocr": ["a", "b"]}), metric="choice", ocr=True).samples()[0].question
    assert "\nA. cat\nB. dog\nReference OCR token: a, b\n" in both


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"metric": "anlz"}, "no metric is named 'anlz'. There are: anls, choice.*Did you mean 'anls'?"),
        ({"prompt": "{question} {answer}"}, "holds more than {question}, {choices} and {ocr}"),
        ({"prompt": "{question.__class__}"}, "holds more than"),
        ({"prompt": "{question!r}"}, "holds more than"),
        ({"prompt": "{question:>9}"}, "holds more than"),
        ({"prompt": "{question"}, "cannot be read"),
        ({"prompt": "What?"}, "does not hold {question}"),
        ({"ocr": True, "prompt": "{question}"}, "ocr is True, and the prompt '{question}' says otherwise"),
        ({"prompt": "{question}{ocr}"}, "ocr is False"),
        ({"prompt": "{question}{choices}"}, "lists choices, but the metric is 'exact'"),
        ({"subset": 0}, "it is at least 1"),
        ({"longest": 0}, "it is at least 1"),
        ({"pfad": "x"}, "the task 'vqa_jsonl' has no parameter 'pfad'; it has frames, images"),
    ],
)
def test_settings_that_do_not_fit(given, part):
    with pytest.raises(SettingError) as raised:
        VqaJsonl(**{"path": "asked.jsonl", **given})
    assert all(piece in str(raised.value) for piece in part.split(".*"))


LINES = [
    ("{", {}, "this is not a JSON object: "),
    ("[" * 100_000, {}, "this is not a JSON object: "),
    ('{"image": "\\ud800"', {}, "this is not a JSON object: "),
    ('{"image": "a.png", "image": "b.jpg"}', {}, "this is not a JSON object: 'image' stands there twice"),
    ('{"image": "\\ud800", "question": "?", "answer": "x"}', {}, "this is not a JSON object: 'utf-8' codec"),
    ("[1]", {}, "a line is a JSON object, not list"),
    ({"question": "What?", "answer": "x"}, {}, "a line needs 'image' or 'video', one of them, and this one has none"),
    ({**RED, "anser": "x"}, {}, "a line has no 'anser'; it has answer, answers, choices, id, image, kind, meta, ocr, "
     "question, turns, video. Did you mean 'answer'?"),
    ({**RED, "source": "web"}, {}, "a line has no 'source'; it has answer, answers, choices, id, image, kind, meta, "
     "ocr, question, turns, video. What is only yours can stand under 'meta'."),
    ({**RED, "answer": True}, {}, "'answer' cannot be True: "),
    ({**RED, "answer": {"answer": "red"}}, {}, "'answer' cannot be {'answer': 'red'}: "),
    ({**RED, "answer": None, "answers": [{"text": "red"}]}, {}, "'answers' cannot be {'text': 'red'}: "),
    ({**RED, "answer": None, "answers": [{"answer": ["red"]}]}, {}, "'answers' cannot be ['red']: "),
    ({**RED, "answer": None, "answers": "red"}, {}, "'answers' cannot be 'red': "),
    ({**RED, "choices": ["a", 1]}, {}, "'choices' cannot be 1: "),
    ({**RED, "answers": ["red"]}, {}, "a line has answer or answers, not both"),
    ({**RED, "answer": None}, {}, "a line has answer, or answers, at least one"),
    ({**RED, "image": "/a.png"}, {}, "an image is named by its place under "),
    ({**RED, "image": "../a.png"}, {}, "an image is named by its place under "),
    ({**RED, "image": "a\0.png"}, {}, "an image is named by its place under "),
    ({**RED, "image": ""}, {}, "an image is named by its place under "),
    ({**RED, "id": "x"}, {}, "the id 'x' is that of line 1, too"),
    (RED, {"ocr": True}, "ocr is in the prompt, and this line has none; an empty one is []"),
    (RED, {"metric": "vqa"}, "VQA accuracy needs what 10 people answered, and there are 1; with one right answer, "
     "take the metric 'exact'"),
    (RED, {"metric": "yes_no"}, "the right answer is yes or no here, not 'red'"),
    (RED, {"metric": "choice"}, "choices are 2 to 26 different texts"),
    ({**DOG, "choices": ["dog", "Dog."]}, {"metric": "choice"}, "choices are 2 to 26 different texts"),
    ({**DOG, "choices": ["dog", ""]}, {"metric": "choice"}, "choices are 2 to 26 different texts"),
    ({**DOG, "choices": ["dog", "A"]}, {"metric": "choice"}, "choice B is 'A', the letter of another"),
    ({**DOG, "answer": "cow"}, {"metric": "choice"}, "the answer 'cow' is none of the choices, and no letter of one"),
    ({**DOG, "answer": "C"}, {"metric": "choice"}, "the answer 'C' is none of the choices"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "given", "said"), LINES)
def test_what_is_wrong_is_said_with_its_line(write, line, given, said):
    first = {
        **(DOG if given.get("metric") == "choice" else YES),
        "id": "x",
        "ocr": [],
        **({"answer": None, "answers": ["a"] * 10} if given.get("metric") == "vqa" else {}),
    }
    path = write(first, "", line)
    with pytest.raises(TaskError) as raised:
        VqaJsonl(path=path, **given).samples()
    assert str(raised.value).startswith(said)
    assert str(raised.value).endswith(f"  ({path}:3)")


@pytest.mark.parametrize("key", ["answer", "answers"])
def test_the_right_form_of_an_answer_is_said(write, key):
    path = write({**RED, "answer": None, key: [{"text": "red"}]})
    with pytest.raises(TaskError, match=r"; a right answer is a text or a number.*VQAv2.*\(.*:1\)"):
        VqaJsonl(path=path).samples()


PEOPLE = ["red"] * 3 + ["dark red"] * 6 + ["blue"]
CONFIDENT = ["yes", "no", "maybe", *["yes"] * 7]
OBJECTS = {
    "VQAv2": [{"answer": text, "answer_confidence": CONFIDENT[i], "answer_id": i + 1} for i, text in enumerate(PEOPLE)],
    "answers alone": [{"answer": text} for text in PEOPLE],
    "key by key": {"answer": PEOPLE, "answer_confidence": CONFIDENT, "answer_id": list(range(1, 11))},
    "mixed": [*PEOPLE[:4], *({"answer": text} for text in PEOPLE[4:])],
}


@pytest.mark.parametrize("form", OBJECTS)
def test_answer_objects_are_read_as_their_answers(write, form):
    line = {key: value for key, value in RED.items() if key != "answer"}
    read = VqaJsonl(path=write({**line, "answers": OBJECTS[form]}), metric="vqa")
    [sample] = read.samples()
    plain = VqaJsonl(path=write({**line, "answers": PEOPLE}), metric="vqa")
    assert list(sample.answers) == PEOPLE
    for said in ("red", "dark red", "blue", "green"):
        assert read.grade(sample, Answer(said), None) == plain.grade(plain.samples()[0], Answer(said), None)


def test_what_is_no_text(folder):
    (folder / "asked.jsonl").write_bytes(b'\xef\xbb\xbf{"image": "a.png", "question": "?", "answer": "\xff"}\n')
    with pytest.raises(TaskError, match=r"this is not a JSON object: 'utf-8' codec .* \(.*asked.jsonl:1\)"):
        VqaJsonl(path=str(folder / "asked.jsonl")).samples()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_of_json(folder, number):
    (folder / "asked.jsonl").write_text(f'{{"image": "a.png", "question": "?", "answer": {number}}}\n')
    with pytest.raises(TaskError, match=r"\(.*asked.jsonl:1\)"):
        VqaJsonl(path=str(folder / "asked.jsonl")).samples()


@pytest.mark.parametrize(
    "part",
    ["<image>", "<video>", "<|image_pad|>", "<|vision_start|>", "<IMG_CONTEXT>", "<img>", "</img>", "[IMG]",
     "<image_soft_token>", "<start_of_image>"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["question", "choices", "ocr"])
def test_what_stands_for_a_picture_is_refused_with_its_line(write, part, place):
    line = {**DOG, "ocr": "none"}
    line[place] = ["cat", "dog", f"a {part}"] if place == "choices" else f"Look: {part} is it?"
    task = VqaJsonl(path=write({**DOG, "ocr": ""}, line), metric="choice", ocr=True)
    with pytest.raises(
        TaskError, match=r"the question holds '.*', which stands for a picture .* \(.*asked.jsonl:2\)"
    ) as e:
        task.samples()
    assert f"'{part}'" in str(e.value)


def test_marks_that_stand_for_no_picture(write):
    asked = [
        "Is a < b > c?",
        "What does <image source> mean?",
        "Which of <1> and <2>?",
        "imagine <video",
        "a[0] [img2]?",
    ]
    assert len(VqaJsonl(path=write(*({**RED, "question": text} for text in asked))).samples()) == 5


def test_a_question_has_a_length(write):
    longest = "x" * (LONGEST_QUESTION - len(SHORT.format(question="")))
    assert len(VqaJsonl(path=write({**RED, "question": longest})).samples()) == 1
    for text in (longest + "x", "x" * 2**20):
        with pytest.raises(TaskError, match=r"at most 32768 characters, .* this one has .* \(.*asked.jsonl:1\)"):
            VqaJsonl(path=write({**RED, "question": text})).samples()


def test_a_pipe_is_no_file(folder):
    os.mkfifo(folder / "pipe.jsonl")
    with pytest.raises(TaskError, match="is a folder, a pipe or a device"):
        VqaJsonl(path=str(folder / "pipe.jsonl")).samples()


def test_a_byte_order_mark_and_windows_lines(folder):
    text = "\ufeff" + json.dumps(RED) + "\r\n\r\n" + json.dumps(BLUE)
    (folder / "asked.jsonl").write_bytes(text.encode())
    assert [sample.id for sample in VqaJsonl(path=str(folder / "asked.jsonl")).samples()] == ["1", "x"]


def test_no_file_and_no_line(write, folder):
    with pytest.raises(TaskError, match=r"the file .*nowhere.jsonl cannot be read: No such file"):
        VqaJsonl(path=str(folder / "nowhere.jsonl")).samples()
    with pytest.raises(TaskError, match=r"there is no sample in this file  \(.*asked.jsonl:1\)"):
        VqaJsonl(path=write("", " ")).samples()


# subsets


MANY = [{**RED, "id": f"n{number}"} for number in range(40)]


def ids(task):
    return [sample.id for sample in task.samples()]


def test_a_draw(write):
    path = write(*MANY)
    few, more = ids(VqaJsonl(path=path, subset=5)), ids(VqaJsonl(path=path, subset=20))
    assert len(few) == 5
    assert set(few) < set(more)
    assert more == [name for name in ids(VqaJsonl(path=path)) if name in more]
    assert more != [f"n{number}" for number in range(20)]
    assert set(ids(VqaJsonl(path=path, subset=20, subset_seed=1))) != set(more)
    # What is drawn does not depend on the order of the file.
    assert set(ids(VqaJsonl(path=write(*reversed(MANY), name="turned.jsonl"), subset=20))) == set(more)
    with pytest.raises(TaskError, match=r"subset is 41, and .* holds 40 samples"):
        VqaJsonl(path=path, subset=41).samples()


def test_a_list_of_ids(write, folder):
    path = write(*MANY)
    (folder / "ids.txt").write_text("n7\n\n n3 \nn7\n")
    task = VqaJsonl(path=path, subset=str(folder / "ids.txt"))
    assert ids(task) == ["n3", "n7"]
    (folder / "again.txt").write_text("n3\nn7\n")
    assert VqaJsonl(path=path, subset=str(folder / "again.txt")).hash() == task.hash()
    (folder / "wrong.txt").write_text("n3\nn77\n")
    with pytest.raises(TaskError, match=r"no sample of .* has the id 'n77'  \(.*wrong.txt:2\)"):
        VqaJsonl(path=path, subset=str(folder / "wrong.txt")).samples()
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(TaskError, match=r"there is no id in this file  \(.*empty.txt:1\)"):
        VqaJsonl(path=path, subset=str(folder / "empty.txt")).samples()


def test_a_copy_reads_for_itself(write):
    task = VqaJsonl(path=write(*MANY))
    assert len(task.samples()) == 40
    few = task.model_copy(update={"subset": 5})
    assert few == VqaJsonl(path=task.path, subset=5)
    assert ids(few) == ids(VqaJsonl(path=task.path, subset=5))
    assert few.hash() == VqaJsonl(path=task.path, subset=5).hash()


# pictures


def test_pictures(write, folder):
    task = VqaJsonl(path=write(RED, {**RED, "image": "in/c.png"}))
    assert [task.picture(sample).getpixel((0, 0)) for sample in task.samples()] == [(255, 0, 0), (0, 255, 0)]


def test_a_folder_of_pictures_elsewhere(write, folder):
    task = VqaJsonl(path=write({**RED, "image": "c.png"}), images=str(folder / "in"))
    assert task.picture(task.samples()[0]).size == (5, 5)


def test_large_pictures_are_shrunk_and_small_ones_left(write):
    task = VqaJsonl(path=write(RED, BLUE), longest_side=10)
    assert [task.picture(sample).size for sample in task.samples()] == [(8, 6), (10, 5)]


def test_a_picture_is_upright_and_without_transparency(write, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (8, 4), (255, 0, 0, 10)).save(folder / "a.png", exif=exif)
    task = VqaJsonl(path=write(RED))
    image = task.picture(task.samples()[0])
    assert (image.size, image.mode) == ((4, 8), "RGB")


def test_pictures_that_cannot_be_read(write, folder):
    whole = (folder / "b.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    names = ["none.png", "text.png", "half.jpg", "in"]
    task = VqaJsonl(path=write(*({**RED, "image": name} for name in names)))
    for sample in task.samples():
        with pytest.raises(TaskError, match=r"there is no picture|cannot be read") as raised:
            task.picture(sample)
        assert sample.image in str(raised.value)


# grades


def test_grades_by_metric(write):
    line = {"image": "a.png", "question": "?", "answers": ["12"] * 3 + ["dozen"] * 7}
    said = {"exact": 0, "vqa": 0, "anls": 0.8, "relaxed": 0}
    assert set(said) | {"choice", "yes_no"} == set(METRICS)
    for metric, grade in said.items():
        task = VqaJsonl(path=write(line), metric=metric)
        assert task.grade(task.samples()[0], Answer("dozn"), None) == {metric: pytest.approx(grade)}
        assert task.grade(task.samples()[0], Answer("12"), None)[metric] == (0.9 if metric == "vqa" else 1)
    relaxed = VqaJsonl(path=write(line), metric="relaxed")
    assert relaxed.grade(relaxed.samples()[0], Answer("12.5"), None) == {"relaxed": 1}


def test_the_grade_of_a_choice_says_whether_it_was_understood(write):
    task = VqaJsonl(path=write(DOG, {**DOG, "answer": "B"}, {**DOG, "answer": "a"}), metric="choice")
    assert [sample.answers for sample in task.samples()] == [("dog",), ("dog",), ("cat",)]
    one = task.samples()[0]
    assert task.grade(one, Answer("B"), None) == {"choice": 1, "understood": 1}
    assert task.grade(one, Answer("cat"), None) == {"choice": 0, "understood": 1}
    assert task.grade(one, Answer("cow"), None) == {"choice": 0, "understood": 0}


def test_yes_and_no_sum_up_as_in_pope(write):
    right = ["yes", "yes", "yes", "no", "no"]
    said = ["Yes", "No", "a dog", "yes", "No."]
    task = VqaJsonl(path=write(*({**YES, "answer": answer} for answer in right)), metric="yes_no")
    grades = [task.grade(sample, Answer(text), None) for sample, text in zip(task.samples(), said, strict=True)]
    assert [grade["yes_no"] for grade in grades] == [1, 0, 0, 0, 1]
    assert task.summary(columns(grades)) == pytest.approx(
        {"yes_no": 0.4, "understood": 0.8, "precision": 1 / 2, "recall": 1 / 3, "f1": 0.4, "yes_ratio": 0.4}
    )


def test_other_metrics_sum_up_to_means(write):
    task = VqaJsonl(path=write(RED, RED))
    grades = [task.grade(sample, Answer("red"), None) for sample in task.samples()]
    assert task.summary(columns([*grades, {"exact": 0.0}])) == {"exact": pytest.approx(2 / 3)}


# the card


def test_the_card(write):
    card = VqaJsonl(path=write(RED, BLUE), metric="anls", subset=1).card()
    assert card["definition"].startswith("average normalised Levenshtein similarity")
    assert card["prompt"] == "{question}\nAnswer the question using a single word or phrase."
    assert (card["samples"], card["subset"], card["subset_seed"]) == (1, 1, 0)
    assert {"path", "images"}.isdisjoint(card)
    assert len(card["lines"]) == len(card["pictures"]) == 64


def test_the_card_does_not_depend_on_where_files_are(write, folder, tmp_path_factory, monkeypatch):
    task = VqaJsonl(path=write(RED, BLUE))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "set"
    shutil.copytree(folder, elsewhere)
    assert VqaJsonl(path=str(elsewhere / "asked.jsonl")).hash() == task.hash()
    assert VqaJsonl(path=task.path, images=str(elsewhere)).hash() == task.hash()
    assert VqaJsonl(path=task.path, prompt=task.template).hash() == task.hash()
    monkeypatch.chdir(elsewhere)
    near = VqaJsonl(path="asked.jsonl")
    assert near.hash() == task.hash()
    # A worker in another folder finds the file.
    assert near.path == str(elsewhere / "asked.jsonl")
    monkeypatch.setenv("HOME", str(elsewhere))
    assert VqaJsonl(path="~/asked.jsonl").path == near.path


def test_the_card_tells_files_apart(write, folder):
    path = write(RED, BLUE)
    before = VqaJsonl(path=path)
    hashes = {before.hash()}
    # Another seed says nothing as long as nothing is drawn.
    assert VqaJsonl(path=path, subset_seed=1).hash() in hashes
    for change in (
        lambda: (folder / "c.png").write_bytes(b"not asked for"),
        lambda: (folder / "a.png").write_bytes((folder / "a.png").read_bytes() + b"\0"),
        lambda: (folder / "a.png").unlink(),
        lambda: write(RED, {**BLUE, "answers": ["blue"]}),
    ):
        change()
        hashes.add(VqaJsonl(path=path).hash())
    assert len(hashes) == 4
    # What was read once does not change under a running study.
    assert before.samples()[1].answers == ("blue", "navy")


def test_a_missing_picture_costs_no_other_cell(write, folder):
    Path(folder / "a.png").unlink()
    task = VqaJsonl(path=write(RED, BLUE))
    assert len(task.samples()) == 2
    assert len(task.hash()) == 12
    assert task.picture(task.samples()[1]).size == (40, 20)


# Videos

CLIP = {"video": "clip", "question": "What happens?", "answer": "rain"}


@pytest.fixture
def clip(folder):
    """A folder of twelve frames, each of another red, and what is none."""
    (folder / "clip").mkdir()
    for number in range(12):
        Image.new("RGB", (9, 4), (number, 0, 0)).save(folder / "clip" / f"frame{number}.png")
    (folder / "clip" / ".frame3.png").write_bytes(b"hidden")
    (folder / "clip" / "notes.txt").write_text("nothing to see")
    return folder / "clip"


def reds(video):
    return [frame.getpixel((0, 0))[0] for frame in video.frames]


def test_a_folder_of_frames_is_a_video(write, clip):
    task = VqaJsonl(path=write(CLIP, {**CLIP, "question": "And then?"}))
    sample, other = task.samples()
    assert (sample.image, sample.video, other.image) == ("clip", ("clip",), "clip")
    # By number: frame2 comes before frame10.
    assert reds(task.shown(sample)) == list(range(12))
    assert {frame.mode for frame in task.video(sample).frames} == {"RGB"}
    # The one that stands for it.
    assert task.picture(sample).getpixel((0, 0))[0] == 6


@pytest.mark.parametrize(
    ("frames", "seen"),
    # By hand: from the first to the last, at i (n - 1) / (frames - 1), rounded down.
    [(1, [0]), (2, [0, 11]), (3, [0, 5, 11]), (8, [0, 1, 3, 4, 6, 7, 9, 11]), (12, list(range(12)))],
)
def test_as_many_frames_as_are_asked_for(write, clip, frames, seen):
    task = VqaJsonl(path=write(CLIP), frames=frames)
    assert reds(task.shown(task.samples()[0])) == seen
    assert VqaJsonl(path=write(CLIP)).hash() != task.hash()


def test_a_list_of_frames_is_a_video_in_its_own_order(write, clip):
    names = ["clip/frame7.png", "clip/frame2.png", "clip/frame7.png"]
    task = VqaJsonl(path=write({**CLIP, "video": names}))
    (sample,) = task.samples()
    assert sample.image == "clip/frame7.png + clip/frame2.png + clip/frame7.png"
    assert reds(task.shown(sample)) == [7, 2, 7]
    # A short one is shown in as many frames as a model wants.
    few = VqaJsonl(path=write({**CLIP, "video": names[:2]}), frames=4)
    assert reds(few.shown(few.samples()[0])) == [7, 7, 7, 2]
    one = VqaJsonl(path=write({**CLIP, "video": names[:1]}))
    assert reds(one.shown(one.samples()[0])) == [7]


def test_a_picture_is_no_video(write):
    task = VqaJsonl(path=write(RED))
    (sample,) = task.samples()
    assert task.video(sample) is None
    assert task.shown(sample).size == (8, 6)


def test_a_card_knows_the_frames(write, clip):
    before = VqaJsonl(path=write(CLIP)).hash()
    assert VqaJsonl(path=write(CLIP)).hash() == before
    Image.new("RGB", (90, 40), "blue").save(clip / "frame12.png")
    assert VqaJsonl(path=write(CLIP)).hash() != before


def test_frames_that_cannot_be_shown(write, clip, folder):
    Image.new("RGB", (4, 9)).save(clip / "frame11.png")
    (folder / "empty").mkdir()
    lines = [CLIP, {**CLIP, "video": "empty"}, {**CLIP, "video": "gone"}]
    task = VqaJsonl(path=write(*lines), longest_side=8)
    for sample, said in zip(
        task.samples(), ("of several sizes: 4 x 8, 8 x 4", "no picture in .*empty", "gone"), strict=True
    ):
        with pytest.raises(TaskError, match=said):
            task.shown(sample)
    # What is not looked at does not count.
    assert len(VqaJsonl(path=write(CLIP), frames=1).shown(task.samples()[0]).frames) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question": "Eh?", "answer": "a"}, "a line needs 'image' or 'video', one of them, and this one has none"),
        ({**RED, "video": "clip"}, "one of them, and this one has both"),
        ({**CLIP, "video": []}, "a video has at least one frame"),
        ({**CLIP, "video": 3}, "'video' cannot be 3"),
        ({**CLIP, "video": "../clip"}, "a video's folder or frame is named by its place under"),
        ({**CLIP, "video": ["clip/frame1.png", "/etc/x.png"]}, "not '/etc/x.png'"),
        ({**CLIP, "video": [""]}, "not ''"),
        (RED, "a file is all of pictures or all of videos, and line 1 has video"),
    ],
)
def test_mistakes_in_lines_of_videos(write, clip, line, said):
    with pytest.raises(TaskError) as caught:
        VqaJsonl(path=write(CLIP, line)).samples()
    assert said in str(caught.value)
    assert str(caught.value).endswith(":2)")


# Several pictures, and talks

BOTH = {"image": ["b.jpg", "a.png"], "question": "Which is red?", "answer": "the second"}
TALK = {**RED, "turns": [["What is it?", "A plate."], ["Whose?", "Mine."]]}


def test_a_list_of_pictures_is_one_prompt_in_its_order(write):
    task = VqaJsonl(path=write(BOTH, RED))
    both, one = task.samples()
    assert (both.image, both.images, one.images) == ("b.jpg + a.png", ("b.jpg", "a.png"), ())
    shown = task.shown(both)
    assert [image.size for image in shown.images] == [(40, 20), (8, 6)]
    assert shown.size == (40, 20, 8, 6)
    assert task.several_images(one) is None
    assert task.video(both) is None
    # The one that stands for them.
    assert task.picture(both).size == (8, 6)
    assert VqaJsonl(path=write({**RED, "image": ["a.png"]})).samples()[0].image == "a.png"


def test_a_card_knows_all_pictures(write, folder):
    before = VqaJsonl(path=write(BOTH)).hash()
    Image.new("RGB", (90, 40), "blue").save(folder / "a.png")
    assert VqaJsonl(path=write(BOTH)).hash() != before


def test_turns_come_before_the_question_as_they_stand(write):
    task = VqaJsonl(path=write(TALK), prompt="{question} Say it.")
    (sample,) = task.samples()
    assert [(turn.question, turn.answer) for turn in sample.turns] == [("What is it?", "A plate."), ("Whose?", "Mine.")]
    assert sample.first_question == "What is it?"
    assert sample.question == "Which colour? Say it."
    assert task.hash() != VqaJsonl(path=write(RED), prompt="{question} Say it.").hash()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({**BOTH, "image": []}, "image is empty"),
        ({**BOTH, "image": ["a.png", "/etc/x.png"]}, "not '/etc/x.png'"),
        ({**BOTH, "image": ["a.png", 3]}, "'image' cannot be"),
        ({**TALK, "turns": [["What is it?"]]}, "turns are pairs of a question and its answer"),
        ({**TALK, "turns": "What?"}, "'turns' cannot be 'What?'"),
        ({**TALK, "turns": [["What is <image>?", "A plate."]]}, "the question holds '<image>'"),
    ],
)
def test_mistakes_in_lines_of_several_pictures_and_of_talks(write, line, said):
    with pytest.raises(TaskError) as caught:
        VqaJsonl(path=write(RED, line)).samples()
    assert said in str(caught.value)
    assert str(caught.value).endswith(":2)")
