"""The tasks that come with tokensieve keep the laws of tasks; and each law catches what breaks it."""

import json
import re
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from tokensieve.tasks import Sample, Task, Video
from tokensieve.tasks.fidelity import Fidelity
from tokensieve.tasks.jsonl import VqaJsonl
from tokensieve.tasks.lmms.task import LmmsEvalTask
from tokensieve.tasks.photographs import Photographs
from tokensieve.tasks.world import World, WorldPictures, WorldText, WorldTurns, WorldVideo
from tokensieve.testing import TaskConformance
from tokensieve.testing.tasks import TASK_LAWS, Trial

# What each metric is tried on.
QUESTIONS = {
    "exact": [{"answer": "red"}, {"answers": ["navy", "blue"]}],
    "vqa": [{"answers": ["red"] * 7 + ["pink"] * 3}, {"answers": ["two"] * 2 + ["2"] * 8}],
    "anls": [{"answer": "coca cola"}],
    "relaxed": [{"answer": 12}, {"answer": "red"}],
    "choice": [{"choices": ["cat", "dog"], "answer": "dog"}, {"choices": ["cat", "dog", "cow"], "answer": "A"}],
    "yes_no": [{"answer": "yes"}, {"answer": "no"}],
}


class OfFiles(TaskConformance):
    """Makes the files that a task reads."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def files(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("files")
        for name, size in (("a.png", (8, 6)), ("b.png", (5, 5))):
            Image.new("RGB", size, "red").save(folder / name)
        cls.make(folder)


class TestFidelity(OfFiles):
    others: ClassVar[dict[str, object]] = {
        "metric": "answer_agreement",
        "prompts": ("What?",),
        "longest_side": 4,
        "subset": 2,
    }
    unmarked: ClassVar[dict[str, object]] = {
        "images": "it says where the pictures are, and their names and sizes are in the card",
        "subset_seed": "it counts where something is drawn",
    }

    @classmethod
    def make(cls, folder):
        cls.task = Fidelity(images=str(folder), prompts=("What?", "Where?"))


class TestFidelityOfADraw(TestFidelity):
    unmarked: ClassVar[dict[str, object]] = {"images": "as above"}

    @classmethod
    def make(cls, folder):
        cls.task = Fidelity(images=str(folder), prompts=("What?", "Where?"), subset=1)


class TestPhotographs(TaskConformance):
    task = Photographs(longest_side=64)
    others: ClassVar[dict[str, object]] = {
        "metric": "answer_agreement",
        "prompts": ("What?",),
        "longest_side": 4,
        "subset": 2,
    }
    unmarked: ClassVar[dict[str, object]] = {"subset_seed": "it counts where something is drawn"}


def of_metric(metric):
    class OfMetric(OfFiles):
        others: ClassVar[dict[str, object]] = {
            "metric": "anls" if metric == "exact" else "exact",
            "prompt": "{question} Say it.",
            "longest_side": 4,
            "frames": 2,
            "subset": 1,
            "ocr": True,
        }
        unmarked: ClassVar[dict[str, object]] = {
            "path": "it says where the file is, and its hash is in the card",
            "images": "it says where the pictures are, and their names and sizes are in the card",
            "subset_seed": "it counts where something is drawn",
        }

        @classmethod
        def make(cls, folder):
            lines = [{"image": "a.png", "question": "Eh?", "ocr": [], **question} for question in QUESTIONS[metric]]
            path = folder / "asked.jsonl"
            path.write_text("\n".join(json.dumps(line) for line in lines))
            # As many as there are: a draw of its own, and yet everything is graded.
            cls.task = VqaJsonl(path=str(path), metric=metric)

    return OfMetric


TestExact, TestVqa, TestAnls, TestRelaxed, TestChoice, TestYesNo = map(of_metric, QUESTIONS)


class TestADraw(TestExact):
    others: ClassVar[dict[str, object]] = {**TestExact.others, "subset": 2}
    unmarked: ClassVar[dict[str, object]] = {
        name: reason for name, reason in TestExact.unmarked.items() if name != "subset_seed"
    }

    @classmethod
    def make(cls, folder):
        super().make(folder)
        cls.task = cls.task.model_copy(update={"subset": 1})


class TestVideos(TestExact):
    @classmethod
    def make(cls, folder):
        (folder / "clip").mkdir()
        for number in range(3):
            Image.new("RGB", (6, 4), (number, 0, 0)).save(folder / "clip" / f"{number}.png")
        lines = [
            {"video": "clip", "question": "Eh?", "answer": "red", "ocr": []},
            {"video": ["a.png", "a.png"], "question": "Eh?", "answer": "blue", "ocr": []},
        ]
        path = folder / "asked.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in lines))
        cls.task = VqaJsonl(path=str(path))


class TestWorld(TaskConformance):
    task = World(pictures=6, per_picture=4)
    others: ClassVar[dict[str, object]] = {
        "split": "validation",
        "density": "sparse",
        "types": World().types[:2],
        "half": "top",
    }


class TestWorldText(TestWorld):
    task = WorldText(pictures=6, per_picture=4)
    others: ClassVar[dict[str, object]] = TestWorld.others | {"types": WorldText().types[:2]}


class TestWorldTurns(TestWorld):
    task = WorldTurns(pictures=6, per_picture=4)
    others: ClassVar[dict[str, object]] = TestWorld.others | {"types": WorldTurns().types[:2]}


class TestWorldPictures(TestWorld):
    task = WorldPictures(pictures=6, per_picture=4)
    others: ClassVar[dict[str, object]] = {
        "split": "validation",
        "density": "dense",
        "types": WorldPictures().types[:2],
    }


class TestWorldVideo(TestWorld):
    task = WorldVideo(pictures=6, per_picture=4)
    others: ClassVar[dict[str, object]] = {"split": "validation", "types": WorldVideo().types[:2]}


# Each law bites


class Counts(Task):
    """Sound: what the others spoil. Asks how many pixels a grey picture has."""

    name = "counts"
    metric: str = "right"
    side: int = 2

    def samples(self):
        return [Sample(id=str(n), question="How many?", image=str(n), answers=(str(n),)) for n in range(1, 5)]

    def picture(self, sample):
        return Image.new("RGB", (int(sample.image), self.side))

    def grade(self, sample, answer, unpruned):
        return {"right": float(answer.text in sample.answers), "length": float(len(answer.text))}

    def needed(self, sample, rows, columns):
        return range(min(int(sample.image), rows * columns))


class Shuffles(Counts):
    turns: ClassVar[list[int]] = []

    def samples(self):
        self.turns.append(0)
        return super().samples()[:: 1 if len(self.turns) % 2 else -1]


class OwnMemory(Counts):
    """Gives other samples from another instance."""

    def samples(self):
        return [Sample(f"{id(self)}", "?", "1", ("1",))]


class NoSample(Counts):
    def samples(self):
        return []


class Twins(Counts):
    def samples(self):
        return [Sample("one", sample.question, sample.image, sample.answers) for sample in super().samples()]


class Nameless(Counts):
    def samples(self):
        return [Sample("", "?", "1", ("1",))]


class TuplesInTheCard(Counts):
    def card(self):
        return {**super().card(), "sides": (1, 2)}


class NoMetricInTheCard(Counts):
    def card(self):
        return {key: value for key, value in super().card().items() if key != "metric"}


class ForgetsAField(Counts):
    def card(self):
        return {key: value for key, value in super().card().items() if key != "side"}


class OtherGrades(Counts):
    def grade(self, sample, answer, unpruned):
        grades = super().grade(sample, answer, unpruned)
        return grades if answer.text else {"right": grades["right"]}


class Percent(Counts):
    def grade(self, sample, answer, unpruned):
        return {"right": 100 * super().grade(sample, answer, unpruned)["right"]}


class NoNumber(Counts):
    def grade(self, sample, answer, unpruned):
        return {**super().grade(sample, answer, unpruned), "length": float("nan")}


class AnyAnswer(Counts):
    def grade(self, sample, answer, unpruned):
        return {"right": float(answer.text != "")}


class NothingIsRight(Counts):
    def grade(self, sample, answer, unpruned):
        return {"right": 0.0}


class Unlabelled(Counts):
    def samples(self):
        return [Sample("1", "?", "1")]


class LastCounts(Counts):
    def summary(self, grades):
        return {**super().summary(grades), "last": float(grades["length"][-1])}


class SumsUp(Counts):
    def summary(self, grades):
        return {name: float(values.sum()) for name, values in grades.items()}


class Deviates(Counts):
    def summary(self, grades):
        spread = np.nan if len(grades["right"]) < 2 else 1.0
        return super().summary(grades) | ({} if np.isnan(spread) else {"spread": spread})


class Grey(Counts):
    def picture(self, sample):
        return super().picture(sample).convert("L")


class Noise(Counts):
    turns: ClassVar[list[int]] = []

    def picture(self, sample):
        self.turns.append(0)
        return Image.new("RGB", (2, 2), (len(self.turns), 0, 0))


class OnePictureForAll(Counts):
    """Says that all have one picture, and shows each another."""

    def needed(self, sample, rows, columns):
        return None

    def samples(self):
        return [Sample(sample.id, "?", "same", sample.answers) for sample in super().samples()]

    def picture(self, sample):
        return Image.new("RGB", (int(sample.id), 1))


class Flickers(Counts):
    def video(self, sample):
        return Video((self.picture(sample), Image.new("RGB", (1, 9))))


class Beyond(Counts):
    def needed(self, sample, rows, columns):
        return [rows * columns]


class NeedsTwice(Counts):
    def needed(self, sample, rows, columns):
        return [0, 0]


class Nailed(Counts):
    def __reduce__(self):
        return (type(self), (), {"__dict__": {"side": 9, "metric": "right", "longest": 1}})


def test_every_task_that_comes_along_is_tried(registry):
    tried = {
        Fidelity: TestFidelity,
        Photographs: TestPhotographs,
        VqaJsonl: TestExact,
        World: TestWorld,
        WorldPictures: TestWorldPictures,
        WorldText: TestWorldText,
        WorldTurns: TestWorldTurns,
        WorldVideo: TestWorldVideo,
    }
    # tests/bridges tries it, with lmms-eval.
    assert set(registry.tasks.values()) - {LmmsEvalTask} == set(tried)


def failures(cls, **given):
    """What is said of the laws that a task breaks, by law."""
    found = {}
    for law in TASK_LAWS:
        try:
            law(Trial(cls(), **given))
        except Exception as error:
            found[law.__name__] = "\n".join([f"{type(error).__name__}: {error}", *error.__notes__])
    return found


def broken(cls, **given):
    """The laws that a task breaks."""
    return set(failures(cls, **given))


def test_what_is_sound_passes():
    assert broken(Counts) == set()


CAUGHT = [
    ("same_samples", Shuffles, ""),
    ("same_samples", OwnMemory, ""),
    ("same_samples", NoSample, "right_is_one summary_has_the_metric"),
    ("unique_ids", Twins, ""),
    ("unique_ids", Nameless, ""),
    ("card_is_json", TuplesInTheCard, ""),
    ("card_is_json", NoMetricInTheCard, ""),
    ("card_changes", ForgetsAField, ""),
    ("grades_are_alike", OtherGrades, "summary_has_the_metric"),
    ("grades_are_alike", Percent, "right_is_one"),
    ("grades_are_alike", NoNumber, "summary_has_the_metric"),
    ("right_is_one", AnyAnswer, ""),
    ("right_is_one", NothingIsRight, ""),
    ("right_is_one", Unlabelled, ""),
    ("summary_has_the_metric", LastCounts, ""),
    ("summary_has_the_metric", SumsUp, ""),
    ("summary_has_the_metric", Deviates, ""),
    ("pictures_are_rgb", Grey, ""),
    ("pictures_are_rgb", Noise, ""),
    ("pictures_are_rgb", Flickers, ""),
    ("pictures_are_rgb", OnePictureForAll, ""),
    ("needed_within_grid", Beyond, ""),
    ("needed_within_grid", NeedsTwice, ""),
    ("travels", Nailed, ""),
]


@pytest.mark.parametrize(("law", "mutant", "also"), CAUGHT, ids=[mutant.__name__ for _, mutant, _ in CAUGHT])
def test_a_law_catches_what_breaks_it(law, mutant, also):
    found = failures(mutant)
    assert set(found) == {law, *also.split()}
    # Each says what was found, which law that breaks, and the usual cure.
    for name, message in found.items():
        broken = rf"AssertionError: .+\n(?:.*\n)*the law {name}: [A-Z`].+\nusual cure: .{{20,}}"
        raised = rf"\w+Error: .+\n(?:.*\n)*raised while the law {name} was tried: [A-Z`].+(\nusual cure: .{{20,}})?"
        assert re.fullmatch(f"{broken}|{raised}", message), message
    assert "\nusual cure: " in found[law]


def test_every_law_is_shown_to_bite():
    assert {law for law, *_ in CAUGHT} == {law.__name__ for law in TASK_LAWS}


def test_what_is_unmarked_has_a_reason():
    assert broken(ForgetsAField, unmarked={"side": "it says nothing"}) == set()
    assert broken(ForgetsAField, unmarked={"side": " "}) == {"card_changes"}
    assert broken(Counts, others={"side": 2}) == {"card_changes"}
