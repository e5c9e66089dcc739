"""What a cell was made of, as hashes: a checkpoint's files, and the code that decides its rows."""

from __future__ import annotations

import hashlib
import importlib
import platform
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

from tokensieve.errors import StudyError, listing
from tokensieve.plugins.registry import Registry
from tokensieve.study.spec import Model

READ = ("*config*.json", "*.safetensors", "*.bin", "*.index.json", "tokenizer*", "*token*.json", "vocab*", "merges*")
"""The files of a checkpoint that decide what it answers, with templates."""
TEMPLATES = ("*.jinja", "chat_template*")
_SILENT = ("cli", "testing", "study")
"""Parts of the framework that decide no row ..."""
_HEARD = ("study/runner.py", "study/controls.py")
"""... but for these."""


def folder_of(path: str, registry: Registry, revision: str | None = None, download: bool = False) -> Path | None:
    """Return the folder of a checkpoint: a shipped one's, a folder itself, or a copy of a hub's repository.

    Args:
        path: a name, a folder, or `owner/name`.
        registry: for shipped checkpoints.
        revision: of the hub's repository.
        download: whether to fetch what is not here.

    Returns:
        None for a repository that is not here.

    Raises:
        StudyError: if it is none of them, or cannot be fetched.
    """
    if path in registry.checkpoints:
        return registry.checkpoints[path].folder
    if Path(path).is_dir():
        return Path(path)
    _, _, name = path.partition("/")
    if not name or "/" in name or path.startswith((".", "/", "~")):
        raise StudyError(
            f"'{path}' is no shipped checkpoint ({listing(registry.checkpoints)}), no folder, and no id of the hub, "
            "which is owner/name"
        )
    from huggingface_hub import snapshot_download

    patterns = [*READ, *TEMPLATES]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns, local_files_only=not download))
    # What a client raises over the network is not one kind.
    except Exception as error:
        if download:
            raise StudyError(f"the checkpoint '{path}' cannot be fetched from the hub: {error}") from None
        return None


def partner_of(model: Model, registry: Registry, download: bool = False) -> Path | None:
    """Return the folder of a model's query encoder, or none where it has none, or it is not here."""
    if model.query_encoder is not None:
        return folder_of(model.query_encoder, registry, download=download)
    shipped = registry.checkpoints.get(model.path)
    return shipped.query_encoder if shipped is not None else None


def checkpoint_hash(folder: Path) -> str:
    """Return sixteen hex digits of everything that decides what a checkpoint answers."""
    files = sorted(file for file in folder.iterdir() if any(fnmatch(file.name, one) for one in (*READ, *TEMPLATES)))
    total = hashlib.sha256()
    for file in files:
        status = file.stat()
        total.update(f"{file.name}\0{_content(file, status.st_size, status.st_mtime_ns)}\0".encode())
    return total.hexdigest()[:16]


@lru_cache(maxsize=4096)
def _content(file: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file; its size and time make a new version a new entry."""
    blob = file.resolve()
    # The hub's cache names large files by just that.
    if blob != file and blob.parent.name == "blobs" and len(blob.name) == 64:
        return blob.name
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def code_hash(kinds: Iterable[type]) -> str:
    """Return sixteen hex digits of the code that decides rows: the framework's, and that of the packages of `kinds`."""
    packages = {kind.__module__.partition(".")[0] for kind in kinds} | {"tokensieve"}
    total = hashlib.sha256()
    for package in sorted(packages):
        total.update(f"{package}\0{_package(package)}\0".encode())
    return total.hexdigest()[:16]


@lru_cache(maxsize=64)
def _package(name: str) -> str:
    found = importlib.import_module(name).__file__
    if found is None:
        # A module made by hand has no source to look at.
        return ""
    total = hashlib.sha256()
    for place, file in _modules(Path(found)):
        if name == "tokensieve" and place.startswith(_SILENT) and place not in _HEARD:
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
    """Return the versions of what decides rows: code by its content, libraries by name."""
    return {"code": code_hash(kinds), **_libraries(), "python": platform.python_version()}


@cache
def _libraries() -> dict[str, str]:
    """Look them up once: a plan has a hundred thousand cells."""
    return {name: metadata.version(name) for name in ("torch", "transformers")}
