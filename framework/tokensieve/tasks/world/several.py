"""Questions about several scenes in one prompt, and about clips."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from tokensieve.tasks.world.clips import Clip
from tokensieve.tasks.world.questions import ASK, ATTRIBUTES, Question, in_turn
from tokensieve.tasks.world.scenes import Thing
from tokensieve.tasks.world.words import COUNTS, ORDINALS, SHAPES

PICTURES_TYPES = (*ATTRIBUTES, "exist", "in_picture", "which_picture")
"""All types of questions about several pictures."""
CLIP_TYPES = (*ATTRIBUTES, "direction", "first", "last", "count_appear")
"""All types of questions about clips."""


def questions_about_pictures(
    scenes: Sequence[Sequence[Thing]], seed: str, most: int, types: Sequence[str] = PICTURES_TYPES
) -> list[Question]:
    """Draw questions about the pictures of one prompt, in turn of every type that has some left.

    Attributes and existence are asked of all pictures together, without saying which.

    Args:
        scenes: the objects of each picture; at most as many pictures as there are `ORDINALS`.
        seed: which draw.
        most: how many at most.
        types: those to ask.
    """
    rng = random.Random(seed)  # noqa: S311 - pictures and questions are no secrets
    every = [thing for things in scenes for thing in things]
    own = {"in_picture": partial(_in_picture, scenes), "which_picture": partial(_which_picture, scenes)}
    return in_turn({kind: own.get(kind) or partial(ASK[kind], every) for kind in types}, rng, most)


def questions_about_clip(clip: Clip, seed: str, most: int, types: Sequence[str] = CLIP_TYPES) -> list[Question]:
    """Draw questions about a clip, in turn of every type that has some left.

    Args:
        clip: the clip.
        seed: which draw.
        most: how many at most.
        types: those to ask.
    """
    rng = random.Random(seed)  # noqa: S311 - pictures and questions are no secrets
    own = {
        "direction": partial(_direction, clip),
        "first": partial(_appears, clip, "first"),
        "last": partial(_appears, clip, "last"),
        "count_appear": partial(_count_appear, clip),
    }
    return in_turn({kind: own.get(kind) or partial(ASK[kind], clip.things) for kind in types}, rng, most)


def _in_picture(scenes: Sequence[Sequence[Thing]], rng: random.Random) -> list[Question]:
    """Ask for the colour of what every picture has once, in another colour than asked for anywhere else."""
    found = []
    before = 0
    for ordinal, things in zip(ORDINALS, scenes, strict=False):
        for kind in SHAPES:
            these = [number for number, thing in enumerate(things) if thing.kind == kind]
            others = [thing.color for other in scenes if other is not things for thing in other if thing.kind == kind]
            if len(these) == 1 and others and things[these[0]].color not in others:
                text = f"in the {ordinal} picture what color is the {kind} ?"
                found.append(Question("in_picture", text, things[these[0]].color, (before + these[0],)))
        before += len(things)
    return found


def _which_picture(scenes: Sequence[Sequence[Thing]], rng: random.Random) -> list[Question]:
    """Ask for the picture of an object whose colour and kind are in no other one."""
    found = []
    before = 0
    for ordinal, things in zip(ORDINALS, scenes, strict=False):
        elsewhere = {(thing.color, thing.kind) for other in scenes if other is not things for thing in other}
        for color, kind in sorted({(thing.color, thing.kind) for thing in things} - elsewhere):
            these = [n for n, thing in enumerate(things) if (thing.color, thing.kind) == (color, kind)]
            text = f"which picture has the {color} {kind} ?"
            found.append(Question("which_picture", text, ordinal, tuple(before + n for n in these)))
        before += len(things)
    return found


def _direction(clip: Clip, rng: random.Random) -> list[Question]:
    """Ask about what is there from the start; what appears later stays where it is."""
    return [
        Question("direction", f"which way does the {thing.color} {thing.kind} go ?", event.direction, (number,))
        for number, (thing, event) in enumerate(zip(clip.things, clip.events, strict=True))
        if not event.since
    ]


def _appears(clip: Clip, which: str, rng: random.Random) -> list[Question]:
    """Ask for the colour of what appears first or last, where at least two objects appear."""
    later = sorted((event.since, number) for number, event in enumerate(clip.events) if event.since)
    if len(later) < 2:
        return []
    number = later[0 if which == "first" else -1][1]
    asked = tuple(number for _, number in later)
    return [Question(which, f"what color appears {which} ?", clip.things[number].color, asked)]


def _count_appear(clip: Clip, rng: random.Random) -> list[Question]:
    these = tuple(number for number, event in enumerate(clip.events) if event.since)
    return [Question("count_appear", "how many things appear ?", COUNTS[len(these)], these)]
