"""The closed vocabulary of the embedded world."""

from __future__ import annotations

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35),
    "green": (40, 175, 50),
    "blue": (40, 70, 230),
    "yellow": (245, 225, 40),
    "purple": (140, 40, 190),
    "cyan": (50, 215, 230),
    "orange": (250, 135, 20),
    "pink": (250, 130, 190),
}
"""Colours by name, as RGB before each object's own deviation."""
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
KINDS = SHAPES + DIGITS
"""What an object can be."""
PLACES = tuple(f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "center", "right"))
"""The ninths of a picture, row by row."""
COUNTS = ("none", "one", "two", "three", "four")
_PLAIN = "what color shape digit is the there a how many things where at of photo and ? . yes no background"
VOCABULARY: tuple[str, ...] = (*_PLAIN.split(), *COLORS, *KINDS, *PLACES, *COUNTS)
"""Every word of every question, caption and answer about single pictures of objects, once."""
_SIGNS = "bank bread bus cake coffee door egg exit fish hotel lemon milk open park rice sale shop soup taxi tea"
SIGNS = tuple(_SIGNS.split())
"""What can be written on a sign."""
ORDINALS = ("first", "second", "third")
DIRECTIONS = ("left", "right", "up", "down", "nowhere")
_WIDER = "in picture which has word way does go appears appear last"
WIDER_VOCABULARY: tuple[str, ...] = (*VOCABULARY, *_WIDER.split(), *SIGNS, *ORDINALS, *DIRECTIONS)
"""The vocabulary, and the words of questions about signs, several pictures and clips, once."""
