"""The embedded world says the truth about its own pictures."""

import collections
import math

import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from tokensieve.tasks import Answer
from tokensieve.tasks.world import World
from tokensieve.tasks.world.questions import ATTRIBUTES, TYPES, questions
from tokensieve.tasks.world.scenes import OBJECTS, SIDE, scene
from tokensieve.tasks.world.words import COLORS, COUNTS, DIGITS, KINDS, PLACES, SHAPES, VOCABULARY

numbers = st.integers(0, 10_000)
densities = st.sampled_from(sorted(OBJECTS))


@settings(max_examples=examples(25), deadline=None)
@given(number=numbers, density=densities)
def test_a_scene_is_its_seed_and_things_stand_where_they_say(number, density):
    one, again = scene("test", number, density), scene("test", number, density)
    assert np.array_equal(one.pixels, again.pixels)
    assert one.things == again.things
    assert one.pixels.shape == (SIDE, SIDE, 3)
    low, high = OBJECTS[density]
    # Where there is no room left, fewer are placed.
    assert low - 3 <= len(one.things) <= high
    for index, thing in enumerate(one.things):
        own = np.argwhere(one.owner == index + 1) / 2
        assert len(own)
        far = np.hypot(own[:, 0] - thing.y, own[:, 1] - thing.x)
        # A digit's corners and strokes reach beyond the radius.
        assert far.max() <= 1.6 * thing.radius
        shade = np.median(one.pixels[one.owner[::2, ::2] == index + 1].reshape(-1, 3), axis=0)
        nearest = min(COLORS, key=lambda name: math.dist(COLORS[name], shade))
        assert nearest == thing.color


def test_splits_and_densities_share_no_scene():
    seen = [scene(split, 5, density).pixels for split in ("train", "validation", "test") for density in OBJECTS]
    assert len({pixels.tobytes() for pixels in seen}) == len(seen)


@settings(max_examples=examples(40), deadline=None)
@given(number=numbers, density=densities, rows=st.sampled_from([4, 6, 12, 24]))
def test_cells_are_those_that_things_cover_by_a_loop(number, density, rows):
    one = scene("test", number, density)
    side = one.owner.shape[0] // rows
    for index in range(len(one.things)):
        expected = set()
        for row in range(rows):
            for column in range(rows):
                block = one.owner[row * side : (row + 1) * side, column * side : (column + 1) * side]
                if sum(1 for value in block.ravel().tolist() if value == index + 1) / block.size >= 0.12:
                    expected.add(row * rows + column)
        assert one.cells([index], rows, rows) == expected


def test_a_grid_that_does_not_divide_the_picture_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        scene("test", 0).coverage(7, 12)


def answered(things, text):
    """Answer a question by reading it, word by word, over a list of (color, kind, y, x)."""
    words = text.split()
    ninth = [PLACES[3 * int(y // (SIDE / 3)) + int(x // (SIDE / 3))] for _, _, y, x in things]
    if text.startswith("what color"):
        (color,) = [c for c, k, _, _ in things if k == words[4]]
        return color
    if text.startswith("what is at"):
        (kind,) = [k for (_, k, _, _), place in zip(things, ninth, strict=True) if place == words[4]]
        return kind
    if text.startswith("what"):
        group = SHAPES if words[1] == "shape" else DIGITS
        (kind,) = [k for c, k, _, _ in things if c == words[3] and k in group]
        return kind
    if text.startswith("is there"):
        return "yes" if any((c, k) == (words[3], words[4]) for c, k, _, _ in things) else "no"
    if text.startswith("how many"):
        return COUNTS[sum(words[2] in (c, k) for c, k, _, _ in things)]
    assert text.startswith("where")
    (place,) = [p for (c, k, _, _), p in zip(things, ninth, strict=True) if (c, k) == (words[3], words[4])]
    return place


@settings(max_examples=examples(60), deadline=None)
@given(number=numbers, density=densities)
def test_every_question_is_answered_as_the_things_say(number, density):
    one = scene("train", number, density)
    things = [(t.color, t.kind, t.y, t.x) for t in one.things]
    for asked in questions(one, str(number), 40):
        assert answered(things, asked.text) == asked.answer
        assert set(asked.text.split()) | {asked.answer} <= set(VOCABULARY)
        # What is needed to answer suffices: without it the answer could be another.
        if asked.type not in ("exist", "count_color", "count_kind"):
            assert len(asked.things) == 1
        if asked.type.startswith("count"):
            assert len(asked.things) == COUNTS.index(asked.answer)


def test_answers_are_balanced_enough_that_guessing_gains_little():
    task = World(pictures=120, per_picture=18)
    by_type = collections.defaultdict(collections.Counter)
    for sample in task.samples():
        by_type[sample.kind][sample.answers[0]] += 1
    assert set(by_type) == set(TYPES)
    for kind, answers in by_type.items():
        most = max(answers.values()) / sum(answers.values())
        assert most < (0.56 if kind == "exist" else 0.45 if kind.startswith("count") else 0.33)


def test_the_task_keeps_its_promises():
    task = World(pictures=3, per_picture=5, types=list(ATTRIBUTES))
    samples = task.samples()
    assert samples == task.samples()
    assert len({sample.id for sample in samples}) == len(samples)
    assert {sample.kind for sample in samples} <= set(ATTRIBUTES)
    for sample in samples:
        assert sample.question.endswith("?")
        assert " ?" not in sample.question
        assert task.grade(sample, Answer(f" {sample.answers[0].upper()} "), None) == {"correct": 1.0}
        assert task.grade(sample, Answer("red 5"), None) == {"correct": 0.0}
        needed = task.needed(sample, 12, 12)
        assert needed
        assert max(needed) < 144
        assert task.picture(sample).size == (SIDE, SIDE)
    assert task.hash() != World(pictures=3, per_picture=5).hash()
    with pytest.raises(ValueError, match="no type of question"):
        World(types=["colour"])


def test_what_an_absence_needs_is_all_that_could_be_it():
    task = World(pictures=6, per_picture=20, types=["exist", "count_kind"])
    for sample in task.samples():
        needed = task.needed(sample, 12, 12)
        if sample.answers == ("none",):
            assert needed is None
        else:
            assert needed
    assert {"0", "9"} < set(KINDS)
