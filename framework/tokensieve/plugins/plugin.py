"""What plugins are called, and what is said of those that did not load."""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokensieve.errors import text_of

ENTRY_POINTS = "tokensieve"
BY_HAND = "registered by hand"
OWN = "tokensieve"


@dataclass(frozen=True)
class Plugin:
    """A plugin that was asked for.

    Attributes:
        name: the entry point's name.
        origin: distribution and version, or how it was registered.
        error: why it did not load, or none.
        left_out: a sentence about each thing of it that was not added, with the reason.
    """

    name: str
    origin: str
    error: str | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A trained model that a plugin ships.

    Attributes:
        name: what studies and commands call it.
        folder: as `save_pretrained` writes it, with its processor.
        query_encoder: the folder of the two-tower model of its vision tower's space, where it has one.
    """

    name: str
    folder: Path
    query_encoder: Path | None = None


def usable(name: str) -> bool:
    """Return whether a formula can say a name: an identifier, written as Python reads it."""
    return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name


def broken(plugins: Iterable[Plugin]) -> str:
    """Say which plugins did not load, and what was left out of others, or nothing."""
    said = ""
    for plugin in plugins:
        if plugin.error:
            said += f" The plugin '{plugin.name}' did not load ({plugin.error})."
        said += "".join(f" Not added: {one}." for one in plugin.left_out)
    return said


def _said(error: BaseException) -> str:
    """Return an error in a line: a stranger's message can be of any length."""
    line = " ".join(text_of(error).split())
    return f"{type(error).__name__}: {line if len(line) <= 300 else line[:297] + '...'}"
