"""`fidelity`: agreement with the unpruned model, without labels."""

import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokensieve.errors import SettingError, TaskError
from tokensieve.tasks import Answer
from tokensieve.tasks.fidelity import Fidelity, divergence


def test_every_prompt_is_asked_of_every_picture(folder):
    (folder / ".hidden").mkdir()
    Image.new("RGB", (2, 2)).save(folder / ".hidden" / "d.png")
    (folder / "notes.txt").write_text("no picture")
    Image.new("RGB", (2, 2)).save(folder / "Z.JPG", format="JPEG")
    task = Fidelity(images=str(folder), prompts=["What?", "Where?"])
    found = [(sample.id, sample.image, sample.question, sample.answers) for sample in task.samples()]
    assert found == [
        (f"{name}#{number}", name, prompt, ())
        for name in ("Z.JPG", "a.png", "b.jpg", "in/c.png")
        for number, prompt in ((1, "What?"), (2, "Where?"))
    ]
    assert task.picture(task.samples()[-1]).getpixel((0, 0)) == (0, 255, 0)
    assert Fidelity(images=str(folder), longest_side=10).picture(task.samples()[4]).size == (10, 5)
    assert task.compares


def test_a_draw_is_of_pictures(folder):
    task = Fidelity(images=str(folder), prompts=["What?", "Where?"], subset=2)
    names = [sample.image for sample in task.samples()]
    assert len(names) == 4
    assert len(set(names)) == 2
    one = {Fidelity(images=str(folder), subset=1, subset_seed=seed).samples()[0].image for seed in range(20)}
    assert one == {"a.png", "b.jpg", "in/c.png"}
    with pytest.raises(TaskError, match="subset is 4, and 'fidelity' has 3 pictures"):
        Fidelity(images=str(folder), subset=4).samples()


def test_folders_without_pictures(tmp_path):
    with pytest.raises(TaskError, match="there is no picture in"):
        Fidelity(images=str(tmp_path)).samples()
    with pytest.raises(TaskError, match=r"there is no folder .*nowhere"):
        Fidelity(images=str(tmp_path / "nowhere")).samples()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (
            {"metric": "top1_agree"},
            "answer_agreement or top1_agreement, not 'top1_agree'. Did you mean 'top1_agreement'?",
        ),
        ({"metric": "kl"}, "not 'kl'"),
        ({"prompts": []}, "it has at least 1 entry"),
        ({"prompts": [""]}, "it has at least 1 sign"),
    ],
)
def test_settings_that_do_not_fit(given, part):
    with pytest.raises(SettingError) as raised:
        Fidelity(images="pictures", **given)
    assert part in str(raised.value)


@pytest.fixture
def graded(folder):
    task = Fidelity(images=str(folder))
    return lambda answer, unpruned: task.grade(task.samples()[0], answer, unpruned)


def test_grades(graded):
    logits = torch.tensor([0.0, 1.0, 3.0])
    same = Answer("red", logits)
    assert graded(same, same) == {"top1_agreement": 1, "answer_agreement": 1, "kl": 0}
    # The same likeliest token, and another text after it.
    near = graded(Answer("red dog", torch.tensor([0.0, 2.0, 3.0])), same)
    assert (near["top1_agreement"], near["answer_agreement"]) == (1, 0)
    far = graded(Answer("red", torch.tensor([3.0, 1.0, 0.0])), same)
    assert (far["top1_agreement"], far["answer_agreement"]) == (0, 1)
    assert far["kl"] > near["kl"] > 0


def test_what_cannot_be_compared(graded):
    logits = torch.zeros(3)
    for answer, unpruned in (
        (Answer("x", logits), None),
        (Answer("x"), Answer("x", logits)),
        (Answer("x", logits), Answer("x")),
    ):
        with pytest.raises(TaskError, match="'fidelity' compares with the unpruned model"):
            graded(answer, unpruned)


# the divergence


def by_loops(unpruned, pruned):
    """KL(unpruned || pruned) in Python's floats, straight from its definition."""

    def distribution(logits):
        top = max(logits)
        weights = [math.exp(one - top) for one in logits]
        return [weight / math.fsum(weights) for weight in weights]

    pairs = zip(distribution(unpruned), distribution(pruned), strict=True)
    return math.fsum(p * (math.log(p) - math.log(q)) for p, q in pairs if p > 0)


LOGITS = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(-20, 20, width=32), min_size=n, max_size=n)] * 2)
)


@given(LOGITS)
def test_the_divergence_is_its_formula(pair):
    unpruned, pruned = pair
    found = divergence(torch.tensor(unpruned), torch.tensor(pruned))
    assert found == pytest.approx(by_loops(unpruned, pruned), rel=1e-9, abs=1e-12)
    assert found >= 0
    assert divergence(torch.tensor(unpruned), torch.tensor(unpruned)) == 0


def test_the_divergence_by_hand():
    # (3/4, 1/4) from (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2.
    unpruned, pruned = torch.tensor([3.0, 1.0]).log(), torch.zeros(2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergence(unpruned, pruned) == pytest.approx(expected, abs=1e-7)
    # The other way round it is another number.
    assert divergence(pruned, unpruned) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-7)


def test_a_constant_changes_nothing_and_large_logits_do_not_overflow():
    one, other = torch.tensor([1e4, 0.0, -1e4]), torch.tensor([0.0, 5.0, 1.0])
    assert divergence(one + 7, other - 3) == pytest.approx(divergence(one, other))
    assert math.isfinite(divergence(other, one))


def test_tokens_that_are_ruled_out():
    ruled_out = torch.tensor([0.0, 0.0, -math.inf])
    assert divergence(ruled_out, torch.zeros(3)) == pytest.approx(math.log(3 / 2))
    assert divergence(torch.zeros(3), ruled_out) == math.inf
    assert divergence(ruled_out, ruled_out) == 0


@pytest.mark.parametrize("bad", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_what_is_no_distribution(bad):
    good = torch.zeros(2)
    with pytest.raises(TaskError, match="the pruned model's logits are no numbers"):
        divergence(good, torch.tensor(bad))
    with pytest.raises(TaskError, match="the unpruned model's logits are no numbers"):
        divergence(torch.tensor(bad), good)


def test_other_vocabularies():
    with pytest.raises(TaskError, match=r"one vocabulary are compared, not \[2\] and \[3\]"):
        divergence(torch.zeros(2), torch.zeros(3))
    with pytest.raises(TaskError, match="one token and one vocabulary"):
        divergence(torch.zeros(1, 2), torch.zeros(1, 2))


# the card


def test_the_card(folder, tmp_path_factory):
    task = Fidelity(images=str(folder), prompts=["What?"])
    card = task.card()
    assert "images" not in card
    assert (card["samples"], card["prompts"], card["subset_seed"]) == (3, ["What?"], None)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "set"
    shutil.copytree(folder, elsewhere)
    assert Fidelity(images=str(elsewhere), prompts=["What?"]).hash() == task.hash()
    (elsewhere / "a.png").unlink()
    assert Fidelity(images=str(elsewhere), prompts=["What?"]).hash() != task.hash()
