"""Questions about a scene, with answers of one word, and the objects that an answer needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tokensieve.tasks.world.scenes import SIDE, Scene, Thing
from tokensieve.tasks.world.words import COLORS, COUNTS, DIGITS, KINDS, PLACES, SHAPES, SIGNS

ATTRIBUTES = ("color_of_shape", "shape_of_color", "digit_of_color", "color_of_digit")
"""Questions about one attribute of the one object that another attribute singles out."""
TYPES = (*ATTRIBUTES, "exist", "count_color", "count_kind", "where", "what_at")
"""All types of questions about objects in one picture."""
SIGN_TYPES = ("word_of_color", "color_of_word", "exist", "count_color")
"""All types of questions about signs."""


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        type: one of `TYPES`, or of those of another task.
        text: words of the vocabulary, between spaces.
        answer: one word.
        things: the objects that must be seen to answer: the asked ones; where the answer is `no`, those that
            share the colour or the kind, of which each must be seen to be another; none where the answer is
            `none`.
    """

    type: str
    text: str
    answer: str
    things: tuple[int, ...]


def questions(scene: Scene, seed: str, most: int, types: Sequence[str] = TYPES) -> list[Question]:
    """Draw questions about a scene, in turn of every type that has some left.

    Args:
        scene: the scene.
        seed: which draw.
        most: how many at most.
        types: those to ask.
    """
    rng = random.Random(seed)  # noqa: S311 - pictures and questions are no secrets
    return in_turn({kind: partial(ASK[kind], scene.things) for kind in types}, rng, most)


def in_turn(
    ask: Mapping[str, Callable[[random.Random], list[Question]]], rng: random.Random, most: int
) -> list[Question]:
    """Draw questions, in turn of every type that has some left.

    Args:
        ask: by type, what returns all questions of it.
        rng: the random generator.
        most: how many at most.
    """
    left = {}
    for kind, all_of in ask.items():
        asked = all_of(rng)
        rng.shuffle(asked)
        left[kind] = asked
    chosen: list[Question] = []
    while len(chosen) < most and any(left.values()):
        turn = [kind for kind in ask if left[kind]]
        rng.shuffle(turn)
        chosen += [left[kind].pop() for kind in turn]
    return chosen[:most]


def place_of(thing: Thing) -> str | None:
    """Return the ninth of the picture that an object is in, or none where it is too near a border to say."""
    third = SIDE / 3
    row, column = (int(value // third) for value in (thing.y, thing.x))
    near = any(min(value % third, third - value % third) <= 3 for value in (thing.y, thing.x))
    return None if near else PLACES[3 * row + column]


def _of(
    things: Sequence[Thing], color: str | None = None, kind: str | None = None, kinds: Sequence[str] = ()
) -> tuple[int, ...]:
    """Return the numbers of the objects of a colour, a kind, or a sort of kinds; of any, where nothing is said."""
    return tuple(
        number
        for number, thing in enumerate(things)
        if color in (None, thing.color) and kind in (None, thing.kind) and (not kinds or thing.kind in kinds)
    )


def _color_of(kinds: Sequence[str], name: str) -> Callable[[Sequence[Thing], random.Random], list[Question]]:
    def ask(things: Sequence[Thing], rng: random.Random) -> list[Question]:
        found = []
        for kind in kinds:
            these = _of(things, kind=kind)
            if len(these) == 1:
                found.append(Question(name, f"what color is the {kind} ?", things[these[0]].color, these))
        return found

    return ask


def _kind_of(kinds: Sequence[str], noun: str) -> Callable[[Sequence[Thing], random.Random], list[Question]]:
    def ask(things: Sequence[Thing], rng: random.Random) -> list[Question]:
        found = []
        for color in COLORS:
            these = _of(things, color=color, kinds=kinds)
            if len(these) == 1:
                text = f"what {noun} is {color} ?"
                found.append(Question(f"{noun}_of_color", text, things[these[0]].kind, these))
        return found

    return ask


def exist(things: Sequence[Thing], rng: random.Random) -> list[Question]:
    """Ask as often for what is there as for what is not, though its colour and its kind both are."""
    have = {(thing.color, thing.kind) for thing in things}
    colors, kinds = (sorted({pair[axis] for pair in have}) for axis in (0, 1))
    there, missing = sorted(have), [(c, k) for c in colors for k in kinds if (c, k) not in have]
    rng.shuffle(there)
    rng.shuffle(missing)
    found = []
    for (color, kind), (other, its) in zip(there[:3], missing[:3], strict=False):
        these = _of(things, color, kind)
        found.append(Question("exist", f"is there a {color} {kind} ?", "yes", these))
        near = tuple(sorted({*_of(things, color=other), *_of(things, kind=its)}))
        found.append(Question("exist", f"is there a {other} {its} ?", "no", near))
    return found


def _count_color(things: Sequence[Thing], rng: random.Random) -> list[Question]:
    return _few(
        "count_color",
        [(f"how many {color} things ?", _of(things, color=color)) for color in COLORS],
        rng,
    )


def _count_kind(things: Sequence[Thing], rng: random.Random) -> list[Question]:
    return _few(
        "count_kind",
        [(f"how many {kind} ?", _of(things, kind=kind)) for kind in KINDS],
        rng,
    )


def _few(name: str, counted: list[tuple[str, tuple[int, ...]]], rng: random.Random) -> list[Question]:
    """Take one question of each answer, so that guessing the most frequent answer gains little."""
    rng.shuffle(counted)
    by_answer: dict[int, Question] = {}
    for text, these in counted:
        if len(these) < len(COUNTS):
            by_answer.setdefault(len(these), Question(name, text, COUNTS[len(these)], these))
    return list(by_answer.values())


def _where_is(things: Sequence[Thing], rng: random.Random) -> list[Question]:
    found = []
    for number, thing in enumerate(things):
        place = place_of(thing)
        same = _of(things, thing.color, thing.kind)
        if place is not None and same == (number,):
            found.append(Question("where", f"where is the {thing.color} {thing.kind} ?", place, same))
    return found


def _what_at(things: Sequence[Thing], rng: random.Random) -> list[Question]:
    third = SIDE / 3
    found = []
    for number, thing in enumerate(things):
        place = place_of(thing)
        ninth = (thing.y // third, thing.x // third)
        others = [o for o in things if o is not thing and (o.y // third, o.x // third) == ninth]
        if place is not None and not others:
            found.append(Question("what_at", f"what is at the {place} ?", thing.kind, (number,)))
    return found


ASK: dict[str, Callable[[Sequence[Thing], random.Random], list[Question]]] = {
    "color_of_shape": _color_of(SHAPES, "color_of_shape"),
    "shape_of_color": _kind_of(SHAPES, "shape"),
    "digit_of_color": _kind_of(DIGITS, "digit"),
    "color_of_digit": _color_of(DIGITS, "color_of_digit"),
    "word_of_color": _kind_of(SIGNS, "word"),
    "color_of_word": _color_of(SIGNS, "color_of_word"),
    "exist": exist,
    "count_color": _count_color,
    "count_kind": _count_kind,
    "where": _where_is,
    "what_at": _what_at,
}
"""By type, what returns all questions of it about some objects."""
