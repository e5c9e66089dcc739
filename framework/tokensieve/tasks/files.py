"""What tasks read from folders: pictures, hashes that identify them, and random subsets."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from tokensieve.errors import RefusedError, TaskError
from tokensieve.models.picture_files import read_picture

_Frame = TypeVar("_Frame")

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""The suffixes of pictures in a folder."""


def picture(file: Path, longest_side: int | None = None) -> Image.Image:
    """Read a picture, upright and in RGB, as `read_picture` does.

    Args:
        file: the file.
        longest_side: in pixels; a larger picture is shrunk to it, none is enlarged.

    Raises:
        TaskError: if the file does not exist, or cannot be read.
    """
    try:
        image = read_picture(file)
    except RefusedError as error:
        raise TaskError(f"a sample's picture cannot be read: {error}") from None
    longest = max(image.size)
    if longest_side is None or longest <= longest_side:
        return image
    width, height = (max(1, round(side * longest_side / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def pictures_in(folder: Path) -> tuple[str, ...]:
    """Return the names of the pictures in a folder and its subfolders, sorted, without hidden files.

    Raises:
        TaskError: if there is no such folder, or no picture in it.
    """
    if not os.path.isdir(folder):
        raise TaskError(f"there is no folder {folder} to take pictures from")
    names = sorted(
        name.as_posix()
        for name in (file.relative_to(folder) for file in folder.rglob("*"))
        if name.suffix.lower() in PICTURES and not any(part.startswith(".") for part in name.parts)
    )
    if not names:
        raise TaskError(f"there is no picture in {folder}; it holds no {', '.join(sorted(PICTURES))}")
    return tuple(names)


def frames_in(folder: Path) -> tuple[str, ...]:
    """Return the names of the pictures in a folder, without subfolders and hidden files; `9.png` is before `10.png`."""
    names = [file.name for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != "."]

    def parts(name: str) -> list[str | int]:
        # Text and digits alternate, so text is compared with text, and numbers with numbers.
        return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]

    return tuple(sorted(names, key=lambda name: (parts(name), name)))


def evenly(frames: Sequence[_Frame], count: int | None) -> list[_Frame]:
    """Return `count` frames at even distances, the first and the last among them, some twice if too few; or all."""
    if count is None:
        return list(frames)
    return [frames[i * (len(frames) - 1) // max(1, count - 1)] for i in range(count)]


def identity(folder: Path, names: Iterable[str]) -> str:
    """Return a hash, in hex digits, of the names of pictures, their sizes in bytes, and which are missing.

    The content is not hashed: a hundred thousand pictures would have to be read before every study.
    """
    known = [[name, _size(folder / name)] for name in sorted(set(names))]
    return digest(json.dumps(known).encode())


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        # A missing picture fails its cell when it is read; it must not fail all the others.
        return None


def digest(content: bytes) -> str:
    """Return the SHA-256 of content, in hex digits."""
    return hashlib.sha256(content).hexdigest()


def drawn(names: Sequence[str], count: int, seed: int) -> frozenset[str]:
    """Return `count` randomly drawn names; a larger draw with the same seed contains a smaller one.

    The draw does not depend on the order of the names, on a library or on a machine.
    """
    return frozenset(sorted(names, key=lambda name: digest(f"{seed}/{name}".encode()))[:count])


def absolute(path: str) -> str:
    """Return an absolute path, which is the same for a process in another folder."""
    return str(Path(path).expanduser().absolute())
