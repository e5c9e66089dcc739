"""Signs, clips, several pictures and second questions say the truth about themselves."""

import math

import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from tokensieve.tasks.world import World, WorldPictures, WorldText, WorldTurns, WorldVideo
from tokensieve.tasks.world.clips import CLIP_SIDE, FRAMES, clip
from tokensieve.tasks.world.questions import SIGN_TYPES, questions
from tokensieve.tasks.world.scenes import FINE, SIDE, scene
from tokensieve.tasks.world.several import CLIP_TYPES, PICTURES_TYPES, questions_about_clip, questions_about_pictures
from tokensieve.tasks.world.signs import NUMBERS, signs
from tokensieve.tasks.world.words import COLORS, COUNTS, DIGITS, ORDINALS, SHAPES, SIGNS, VOCABULARY, WIDER_VOCABULARY

numbers = st.integers(0, 10_000)
DENSITIES = st.sampled_from(sorted(NUMBERS))


def nearest(shade):
    return min(COLORS, key=lambda name: math.dist(COLORS[name], shade))


def test_new_words_stand_behind_the_old_ones_and_none_twice():
    assert WIDER_VOCABULARY[: len(VOCABULARY)] == VOCABULARY
    assert len(set(WIDER_VOCABULARY)) == len(WIDER_VOCABULARY)


@settings(max_examples=examples(25), deadline=None)
@given(number=numbers, density=DENSITIES)
def test_a_sign_is_a_plate_of_its_colour_with_ink_on_it(number, density):
    one, again = signs("test", number, density), signs("test", number, density)
    assert np.array_equal(one.pixels, again.pixels)
    assert one.things == again.things
    assert one.pixels.shape == (SIDE, SIDE, 3)
    assert len(one.things) <= NUMBERS[density][1]
    for index, thing in enumerate(one.things):
        rows, columns = np.nonzero(one.owner == index + 1)
        # A rectangle, nowhere covered by another sign, around the centre that the thing says.
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert abs((rows.min() + rows.max() + 1) / 2 / FINE - thing.y) <= 1 / FINE
        assert abs((columns.min() + columns.max() + 1) / 2 / FINE - thing.x) <= 1 / FINE
        own = one.pixels[one.owner[::2, ::2] == index + 1].reshape(-1, 3).astype(float)
        shades = [nearest(shade) for shade in own]
        assert max(set(shades), key=shades.count) == thing.color
        far = np.abs(own.mean(axis=1) - np.median(own.mean(axis=1)))
        assert (far > 40).mean() > 0.05


def test_every_word_is_drawn_and_longer_ones_are_wider():
    drawn = {}
    for number in range(400):
        one = signs("train", number, "sparse")
        for thing in one.things:
            drawn.setdefault(thing.kind, []).append(thing.radius)
    assert set(drawn) == set(SIGNS)
    widths = {word: np.median(found) for word, found in drawn.items()}
    assert widths["coffee"] > widths["fish"] > 0
    assert widths["bread"] > widths["tea"]


@settings(max_examples=examples(25), deadline=None)
@given(number=numbers)
def test_objects_of_a_clip_go_where_they_say_and_appear_when_they_say(number):
    one = clip("test", number)
    assert np.array_equal(one.frames, clip("test", number).frames)
    assert one.frames.shape == (FRAMES, CLIP_SIDE, CLIP_SIDE, 3)
    assert 1 <= len(one.things) == len(one.events) <= 5
    for index, (thing, event) in enumerate(zip(one.things, one.events, strict=True)):
        masks = [one.owner[time] == index + 1 for time in range(FRAMES)]
        sizes = [int(mask.sum()) for mask in masks]
        assert all(size == 0 for size in sizes[: event.since])
        # It is whole in every later frame: never covered, never beyond a border.
        assert len(set(sizes[event.since :])) == 1
        assert sizes[-1] > 0
        centres = np.array([np.argwhere(mask).mean(axis=0) for mask in masks[event.since :]])
        down, right = centres[-1] - centres[0]
        wanted = {"left": right < -8, "right": right > 8, "up": down < -8, "down": down > 8}
        if event.direction == "nowhere":
            assert abs(down) == abs(right) == 0
        else:
            assert wanted[event.direction]
            assert min(abs(down), abs(right)) == 0
        own = one.frames[-1][one.owner[-1][::2, ::2] == index + 1]
        assert nearest(np.median(own.reshape(-1, 3), axis=0)) == thing.color


def test_splits_share_no_sign_and_no_clip():
    for draw in (lambda split: signs(split, 5).pixels, lambda split: clip(split, 5).frames):
        assert len({draw(split).tobytes() for split in ("train", "validation", "test")}) == 3


def told(things, text):
    """Answer a question by reading it, over a list of (colour, kind)."""
    words = text.split()
    if text.startswith("what color is"):
        (color,) = [c for c, k in things if k == words[4]]
        return color
    if text.startswith("what"):
        group = {"shape": SHAPES, "digit": DIGITS, "word": SIGNS}[words[1]]
        (kind,) = [k for c, k in things if c == words[3] and k in group]
        return kind
    if text.startswith("is there"):
        return "yes" if (words[3], words[4]) in things else "no"
    assert text.startswith("how many")
    return COUNTS[sum(words[2] in pair for pair in things)]


@settings(max_examples=examples(40), deadline=None)
@given(number=numbers, density=DENSITIES)
def test_every_question_about_signs_is_answered_as_they_say(number, density):
    one = signs("train", number, density)
    things = [(t.color, t.kind) for t in one.things]
    for asked in questions(one, str(number), 40, SIGN_TYPES):
        assert told(things, asked.text) == asked.answer
        assert {*asked.text.split(), asked.answer} <= set(WIDER_VOCABULARY)
        assert bool(asked.things) == (asked.answer != "none") or asked.type == "exist"


@settings(max_examples=examples(40), deadline=None)
@given(number=st.integers(0, 3000), together=st.sampled_from([2, 3]))
def test_every_question_about_several_pictures_is_answered_as_they_say(number, together):
    scenes = [scene("train", number * together + place, "sparse").things for place in range(together)]
    each = [[(t.color, t.kind) for t in things] for things in scenes]
    every = [pair for pairs in each for pair in pairs]
    for asked in questions_about_pictures(scenes, str(number), 60):
        words = asked.text.split()
        assert {*words, asked.answer} <= set(WIDER_VOCABULARY)
        shown = {every[place] for place in asked.things}
        if asked.type == "in_picture":
            own = each[ORDINALS.index(words[2])]
            assert told(own, " ".join(words[4:])) == asked.answer
            # Without reading which picture is meant, another answer is as good.
            others = [c for pairs in each if pairs is not own for c, k in pairs if k == words[8]]
            assert others
            assert asked.answer not in others
            assert shown == {(asked.answer, words[8])}
        elif asked.type == "which_picture":
            (place,) = [place for place, pairs in enumerate(each) if (words[4], words[5]) in pairs]
            assert ORDINALS[place] == asked.answer
            assert shown == {(words[4], words[5])}
        else:
            assert told(every, asked.text) == asked.answer


@settings(max_examples=examples(40), deadline=None)
@given(number=numbers)
def test_every_question_about_a_clip_is_answered_as_its_frames_show(number):
    """Read off the owners of pixels, not off what the clip says of itself."""
    one = clip("train", number)
    began = [min(t for t in range(FRAMES) if (one.owner[t] == n + 1).any()) for n in range(len(one.things))]
    later = sorted((time, n) for n, time in enumerate(began) if time)
    things = [(t.color, t.kind) for t in one.things]
    for asked in questions_about_clip(one, str(number), 60):
        words = asked.text.split()
        assert {*words, asked.answer} <= set(WIDER_VOCABULARY)
        if asked.type == "direction":
            (n,) = asked.things
            assert things[n] == (words[4], words[5])
            a, b = (np.argwhere(one.owner[t] == n + 1).mean(axis=0) for t in (0, FRAMES - 1))
            down, right = np.sign(b - a)
            way = {(0, -1): "left", (0, 1): "right", (-1, 0): "up", (1, 0): "down", (0, 0): "nowhere"}
            assert way[int(down), int(right)] == asked.answer
        elif asked.type in ("first", "last"):
            assert len(later) > 1
            assert things[later[0 if asked.type == "first" else -1][1]][0] == asked.answer
        elif asked.type == "count_appear":
            assert COUNTS[len(later)] == asked.answer
        else:
            assert told(things, asked.text) == asked.answer


def test_every_type_is_asked_and_guessing_gains_little():
    for task, types in (
        (WorldText(pictures=60), SIGN_TYPES),
        (WorldPictures(pictures=60, per_picture=14), PICTURES_TYPES),
        (WorldVideo(pictures=90), CLIP_TYPES),
    ):
        by_type = {}
        for sample in task.samples():
            by_type.setdefault(sample.kind, []).append(sample.answers[0])
        assert set(by_type) == set(types)
        for kind, answers in by_type.items():
            most = max(map(answers.count, set(answers))) / len(answers)
            assert most < (0.6 if kind in ("exist", "which_picture") else 0.45)


def test_a_second_question_asks_for_other_objects_than_the_first():
    task = WorldTurns(pictures=20)
    plain = World(pictures=20, types=task.types)
    known = {(one.image, one.question): one for one in plain.samples()}
    samples = task.samples()
    assert len(samples) > 100
    for sample in samples:
        (turn,) = sample.turns
        assert sample.first_question == turn.question
        second, first = known[sample.image, sample.question], known[sample.image, turn.question]
        assert (first.answers, second.answers) == ((turn.answer,), sample.answers)
        # Objects do not overlap, and share at most the cells at their borders.
        needs = [task.needed(sample, 96, 96), plain.needed(first, 96, 96)]
        assert needs[0] == plain.needed(second, 96, 96)
        assert not needs[0] & needs[1]


def test_several_pictures_are_the_scenes_of_their_numbers():
    task = WorldPictures(pictures=2, together=3, first=4)
    sample = task.samples()[0]
    images = task.several_images(sample).images
    for place, image in enumerate(images):
        assert np.array_equal(np.asarray(image), scene("test", 12 + place, "sparse").pixels)
    assert task.picture(sample).size == (3 * SIDE, SIDE)
    assert task.shown(sample).size == (SIDE, SIDE) * 3
    with pytest.raises(ValueError, match="together is 4: it is at most 3"):
        WorldPictures(together=4)


@pytest.mark.parametrize("cls", [World, WorldText])
def test_a_half_asks_what_needs_objects_of_that_half(cls):
    every = cls(pictures=12, per_picture=60)
    known = {(one.image, one.question): one for one in every.samples()}
    found = {}
    for half, rows in (("top", range(48)), ("bottom", range(48, 96))):
        task = cls(pictures=12, half=half)
        samples = task.samples()
        assert len(samples) > 24
        assert max(len([one for one in samples if one.image == image]) for image in {one.image for one in samples}) <= 9
        for sample in samples:
            assert known[sample.image, sample.question].answers == sample.answers
            needed = task.needed(sample, 96, 96)
            # Objects are assigned by their centres, so at least half of what is needed is there.
            assert sum(place // 96 in rows for place in needed) >= len(needed) / 2
        found[half] = {(one.image, one.question) for one in samples}
        assert task.card()["half"] == half
    assert not found["top"] & found["bottom"]
    assert "half" not in every.card()
