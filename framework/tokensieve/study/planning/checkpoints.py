"""The folder of a checkpoint, and the hash of its files."""

from __future__ import annotations

import hashlib
import os
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from tokensieve.errors import StudyError, did_you_mean, listing
from tokensieve.plugins.registry import Registry
from tokensieve.study.spec.entries import ModelEntry

CHECKPOINT_FILES = (
    "*config*.json",
    "*.safetensors",
    "*.bin",
    "*.index.json",
    "tokenizer*",
    "*token*.json",
    "vocab*",
    "merges*",
)
"""The files of a checkpoint that decide its answers, together with `TEMPLATES`."""
TEMPLATES = ("*.jinja", "chat_template*")


def checkpoint_folder(
    path: str, registry: Registry, revision: str | None = None, download: bool = False
) -> Path | None:
    """Return the folder of a checkpoint: of a shipped one, a folder itself, or the copy of a repository on the hub.

    Args:
        path: the name of a shipped checkpoint, a folder, or `owner/name`.
        registry: for shipped checkpoints.
        revision: the revision of the repository.
        download: whether to download the repository.

    Returns:
        The folder; none for a repository that is not downloaded.

    Raises:
        StudyError: if there is no such checkpoint, or it cannot be downloaded.
    """
    if path in registry.checkpoints:
        return registry.checkpoints[path].folder
    if os.path.isdir(path):
        return Path(path)
    _, _, name = path.partition("/")
    if not name or "/" in name or path.startswith((".", "/", "~")):
        raise StudyError(
            f"'{path}' is no shipped checkpoint ({listing(registry.checkpoints)}), no folder, and no id of the hub, "
            f"which is owner/name.{did_you_mean(path, registry.checkpoints)}"
        )
    from huggingface_hub import snapshot_download

    patterns = [*CHECKPOINT_FILES, *TEMPLATES]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns, local_files_only=not download))
    # The client of the hub raises many kinds of error over the network.
    except Exception as error:
        if download:
            raise StudyError(f"the checkpoint '{path}' cannot be fetched from the hub: {error}") from None
        return None


def query_encoder_folder(model: ModelEntry, registry: Registry, download: bool = False) -> Path | None:
    """Return the folder of a model's query encoder; none if it has none, or it is not downloaded."""
    if model.query_encoder is not None:
        return checkpoint_folder(model.query_encoder, registry, download=download)
    shipped = registry.checkpoints.get(model.path)
    return shipped.query_encoder if shipped is not None else None


def checkpoint_hash(folder: Path) -> str:
    """Return sixteen hex digits of the hash of the files that decide a checkpoint's answers."""
    files = sorted(
        file for file in folder.iterdir() if any(fnmatch(file.name, one) for one in (*CHECKPOINT_FILES, *TEMPLATES))
    )
    total = hashlib.sha256()
    for file in files:
        status = file.stat()
        total.update(f"{file.name}\0{_content(file, status.st_size, status.st_mtime_ns)}\0".encode())
    return total.hexdigest()[:16]


@lru_cache(maxsize=4096)
def _content(file: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file. Size and time of change are arguments, so that a changed file is read again."""
    blob = file.resolve()
    # The hub's cache names large files by their SHA-256.
    if blob != file and blob.parent.name == "blobs" and len(blob.name) == 64:
        return blob.name
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
