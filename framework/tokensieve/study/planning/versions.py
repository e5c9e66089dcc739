"""The versions that decide rows: a hash of the code, and versions of libraries."""

from __future__ import annotations

import hashlib
import importlib
import platform
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

_IGNORED_FOLDERS = ("cli", "testing", "search", "study")
"""Folders of the framework whose code decides no rows ..."""
_COUNTED_FILES = (
    "study/planning/controls.py",
    *(f"study/running/{name}.py" for name in ("pictures", "rows", "runner", "session", "timing")),
)
"""... except for these files."""


def code_hash(kinds: Iterable[type]) -> str:
    """Return sixteen hex digits of the hash of the code that decides rows.

    Args:
        kinds: classes; the code of their packages counts as well as the framework's.
    """
    packages = {kind.__module__.partition(".")[0] for kind in kinds} | {"tokensieve"}
    total = hashlib.sha256()
    for package in sorted(packages):
        total.update(f"{package}\0{_package(package)}\0".encode())
    return total.hexdigest()[:16]


@lru_cache(maxsize=64)
def _package(name: str) -> str:
    found = importlib.import_module(name).__file__
    if found is None:
        # A module that was made at run time has no source file.
        return ""
    total = hashlib.sha256()
    for place, file in _modules(Path(found)):
        if name == "tokensieve" and place.startswith(_IGNORED_FOLDERS) and place not in _COUNTED_FILES:
            continue
        total.update(f"{place}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()


def _modules(found: Path) -> Iterator[tuple[str, Path]]:
    if found.name != "__init__.py":
        yield found.name, found
        return
    for file in sorted(found.parent.rglob("*.py")):
        yield file.relative_to(found.parent).as_posix(), file


def versions(kinds: Iterable[type]) -> dict[str, str]:
    """Return the hash of the code that decides rows, and the versions of libraries and Python."""
    return {"code": code_hash(kinds), **_libraries(), "python": platform.python_version()}


@cache
def _libraries() -> dict[str, str]:
    """Return the versions of libraries; cached, because a plan may have a hundred thousand cells."""
    return {name: metadata.version(name) for name in ("torch", "transformers")}
