"""The store: one file for each finished cell, on a disk or wherever fsspec reaches. A file is complete or not there.

```
runs/x/study.yaml           the study, with its recipes written out
       plan.json            the cells of its latest run, and the controls that do not apply
       cells/KEY.parquet    a finished cell: a row for each sample, and the cell in the metadata
       failures/KEY.json    why a cell did not finish
       claims/KEY           the process that is running a cell
```

A key is the hash of everything that decides a cell's rows, so two processes that write the same cell write the same
rows. Claims only save work; correctness does not depend on them.

A cell is finished if its file is whole: its checksum matches, and it holds the cell of its name. A file that is not is
kept as `KEY.parquet.damaged` when the cell is written again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokensieve.errors import StudyError
from tokensieve.study.cell_file import cell_of, decode_cell, decode_header, encode_cell
from tokensieve.study.rows import Cell, Failure, Row

STALE_SECONDS = 120.0
"""Seconds without a heartbeat after which a claim on an object store is void."""
HEARTBEAT_SECONDS = 20.0
"""Seconds between two heartbeats."""
_ABANDONED_SECONDS = 3600.0
"""Seconds after which a partly written file is removed."""


class Store:
    """A folder of finished cells.

    Args:
        path: a folder, or an address that fsspec knows, such as `s3://bucket/runs/x`.
    """

    def __init__(self, path: str | Path) -> None:
        # Imported here, because it is slow to import and only studies need it.
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.path = str(path)
        self._fs, self._root = fsspec.url_to_fs(self.path)
        self._root = self._root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._checked: dict[str, tuple[tuple[Any, ...], str | None]] = {}

    @property
    def address(self) -> str:
        """Return the path in a form that every process and machine can open."""
        return self._root if self._local else self.path

    # Reading

    def keys(self) -> list[str]:
        """Return the sorted keys of the finished cells of the latest plan; of all cells if no plan was written."""
        planned = self.plan().get("keys")
        finished = self.finished()
        return sorted(finished if planned is None else finished & set(planned))

    def finished(self) -> set[str]:
        """Return the keys of all finished cells, also of those of earlier plans and versions of the code."""
        return {key for key, problem in self._problems().items() if problem is None}

    def damaged(self) -> dict[str, str]:
        """Return what is wrong with the files of cells that cannot be used, by key; see `finished`."""
        return {key: problem for key, problem in self._problems().items() if problem is not None}

    def has(self, key: str) -> bool:
        """Return whether a cell is finished."""
        # Other processes may have written since the folder was listed.
        self._fs.invalidate_cache()
        try:
            return self._problem(key, self._fs.info(self._cell_path(key))) is None
        except FileNotFoundError:
            return False

    def cells(self) -> Iterator[Cell]:
        """Yield the cells of `keys`, without their rows."""
        for key in self.keys():
            yield decode_header(self._fs.cat_file(self._cell_path(key)), key, self._shown(f"cells/{key}.parquet"))

    def read(self, key: str) -> tuple[Cell, list[Row]]:
        """Return a finished cell and its rows.

        Raises:
            StudyError: if there is no such cell, or its file cannot be used.
        """
        try:
            content = self._fs.cat_file(self._cell_path(key))
        except FileNotFoundError:
            count = len(self._names("cells", ".parquet"))
            raise StudyError(f"{self.path} has no cell {key}; it has {count} cells") from None
        return decode_cell(content, key, self._shown(f"cells/{key}.parquet"))

    def failures(self) -> list[Failure]:
        """Return the failures of the cells of the latest plan that did not finish."""
        planned = self.plan().get("keys")
        finished = self.finished()
        found = []
        for key in self._names("failures", ".json"):
            if key in finished or (planned is not None and key not in planned):
                continue
            with contextlib.suppress(FileNotFoundError):
                found.append(self._failure(key))
        return found

    def failed_since(self, key: str, moment: float) -> bool:
        """Return whether a cell failed after a moment, in seconds since 1970; false if its file cannot be read."""
        try:
            return float(self._json(f"failures/{key}.json")["at"]) > moment
        except (FileNotFoundError, StudyError, KeyError, TypeError, ValueError):
            # The cell is tried again, which replaces the file.
            return False

    def study(self) -> str:
        """Return the study as YAML.

        Raises:
            StudyError: if none was written, or the file is no text.
        """
        try:
            return self._text("study.yaml")
        except OSError as error:
            # A name that is too long is that of no file.
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)) and error.errno != errno.ENAMETOOLONG:
                raise
            raise StudyError(
                f"{self.path} is no folder of a study: it has no study.yaml. "
                "`tokensieve compare STUDY --out DIR` makes one"
            ) from None

    def plan(self) -> dict[str, Any]:
        """Return the latest plan; empty if no plan was written.

        It has the `keys` of its cells, `cells` that name the model, task, method, budget and seed of each key, and the
        `skipped` controls.

        Raises:
            StudyError: if the file is no plan.
        """
        try:
            plan = self._json("plan.json")
        except FileNotFoundError:
            return {}
        for name, kind in (("keys", str), ("skipped", dict), ("cells", dict)):
            entries = plan.get(name, [])
            if not isinstance(entries, list) or not all(isinstance(one, kind) for one in entries):
                raise self._unusable("plan.json", f"`{name}` is not what a plan has")
        return plan

    # Writing

    def begin(self, study: str, plan: dict[str, Any]) -> None:
        """Write the study and its plan, and remove partly written files of processes that were killed.

        Raises:
            StudyError: if the files cannot be written.
        """
        try:
            for folder in ("cells", "failures", "claims"):
                self._fs.makedirs(f"{self._root}/{folder}", exist_ok=True)
            self._remove_partial_files()
            self._write_file("study.yaml", study.encode(), replace=True)
            self._write_file("plan.json", json.dumps(plan, indent=1).encode(), replace=True)
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise StudyError(f"nothing can be written to {self.path}: {said}") from None

    def write(self, cell: Cell, rows: Sequence[Row]) -> bool:
        """Write a finished cell, completely or not at all.

        Returns:
            Whether it was written; false if it was there already.

        Raises:
            OSError: if it cannot be written, such as on a full disk. No partial file is left.
        """
        name = f"cells/{cell.key}.parquet"
        content = encode_cell(cell, rows)
        if self._fs.exists(f"{self._root}/{name}") and not self.has(cell.key):
            self._fs.mv(f"{self._root}/{name}", f"{self._root}/{name}.damaged")
        written = self._write_file(name, content, replace=False)
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/failures/{cell.key}.json")
        return written

    def write_failure(self, failure: Failure) -> None:
        """Write why a cell did not finish."""
        data = {"at": time.time(), "reason": failure.reason, "trace": failure.trace, "cell": asdict(failure.cell)}
        self._write_file(f"failures/{failure.cell.key}.json", json.dumps(data, indent=1).encode(), replace=True)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Claim a cell while the `with` block runs.

        On a disk the claim is a lock of the operating system, which ends with its process. Elsewhere it is an object
        that its owner renews; an old one is void.

        Yields:
            Whether this process has the claim; false if another process runs the cell.
        """
        with self._lock(key) if self._local else self._lease(key) as ours:
            yield ours

    # Files

    def _names(self, folder: str, suffix: str) -> list[str]:
        try:
            found = self._fs.ls(f"{self._root}/{folder}", detail=False, refresh=True)
        except FileNotFoundError:
            return []
        except TypeError:
            # Not every file system has `refresh`.
            found = self._fs.ls(f"{self._root}/{folder}", detail=False)
        names = sorted(str(path).rpartition("/")[2] for path in found)
        return [name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")]

    def _cell_path(self, key: str) -> str:
        return f"{self._root}/cells/{key}.parquet"

    def _shown(self, name: str) -> str:
        """Return the path of a file for messages."""
        return f"{self.path.rstrip('/')}/{name}"

    def _problems(self) -> dict[str, str | None]:
        """Return what is wrong with each cell's file, by key; none if it is whole."""
        try:
            listed = self._fs.ls(f"{self._root}/cells", detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        except TypeError:
            # Not every file system has `refresh`.
            listed = self._fs.ls(f"{self._root}/cells", detail=True)
        infos = {str(info["name"]).rpartition("/")[2]: info for info in listed}
        found = {}
        for name in sorted(infos):
            if name.endswith(".parquet") and not name.startswith("."):
                key = name.removesuffix(".parquet")
                with contextlib.suppress(FileNotFoundError):
                    found[key] = self._problem(key, infos[name])
        return found

    def _problem(self, key: str, info: dict[str, Any]) -> str | None:
        """Return what is wrong with a cell's file, or none; a file that did not change is not read again."""
        stamp = tuple(info.get(name) for name in ("size", "mtime", "ino", "ETag", "LastModified", "created"))
        if self._checked.get(key, ((), None))[0] != stamp:
            problem = None
            try:
                decode_header(self._fs.cat_file(self._cell_path(key)), key, self._shown(f"cells/{key}.parquet"))
            except StudyError as error:
                problem = str(error)
            self._checked[key] = (stamp, problem)
        return self._checked[key][1]

    def _text(self, name: str) -> str:
        content: bytes = self._fs.cat_file(f"{self._root}/{name}")
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self._unusable(name, str(error)) from None

    def _json(self, name: str) -> dict[str, Any]:
        text = self._text(name)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._unusable(name, str(error) if text.strip() else "it is empty") from None
        if not isinstance(data, dict):
            raise self._unusable(name, "it is no JSON object")
        return data

    def _failure(self, key: str) -> Failure:
        name = f"failures/{key}.json"
        data = self._json(name)
        try:
            failure = Failure(cell_of(data["cell"]), str(data["reason"]), str(data["trace"]))
        except (StudyError, KeyError, TypeError, AttributeError) as error:
            raise self._unusable(name, f"{type(error).__name__}: {error}") from None
        if failure.cell.key != key:
            raise self._unusable(name, f"it is about another cell, {failure.cell.key}")
        return failure

    def _unusable(self, name: str, why: str) -> StudyError:
        return StudyError(
            f"{self._shown(name)} cannot be read: {why}; remove it, and run `tokensieve compare` again to write it anew"
        )

    def _write_file(self, name: str, content: bytes, replace: bool) -> bool:
        if self._local:
            return write_atomically(Path(self._root, name), content, replace)
        place = f"{self._root}/{name}"
        if not replace and self._fs.exists(place):
            return False
        # Object stores show an object only when it is complete.
        self._fs.pipe_file(place, content)
        return True

    def _remove_partial_files(self) -> None:
        if not self._local:
            return
        for folder in (Path(self._root), *(Path(self._root, one) for one in ("cells", "failures"))):
            for file in folder.glob(".*.part"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                        file.unlink()

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[bool]:
        # Imported here, because only POSIX has it.
        import fcntl

        file = Path(self._root, "claims", key)
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The previous owner may have removed the file after it was opened here and before it was locked.
                ours = os.fstat(descriptor).st_ino == file.stat().st_ino
            except (BlockingIOError, FileNotFoundError):
                ours = False
            try:
                yield ours
            finally:
                if ours:
                    file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _lease(self, key: str) -> Iterator[bool]:
        place, me = f"{self._root}/claims/{key}", f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"
        holder, at = self._holder(place)
        if holder is not None and time.time() - at < STALE_SECONDS:
            yield False
            return
        self._write_heartbeat(place, me)
        # Of two processes that write at the same time, the last one has the claim.
        if self._holder(place)[0] != me:
            yield False
            return
        done = threading.Event()

        def renew() -> None:
            while not done.wait(HEARTBEAT_SECONDS):
                self._write_heartbeat(place, me)

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield True
        finally:
            done.set()
            thread.join()
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(place)

    def _write_heartbeat(self, place: str, me: str) -> None:
        self._fs.pipe_file(place, json.dumps({"by": me, "at": time.time()}).encode())

    def _holder(self, place: str) -> tuple[str | None, float]:
        try:
            data = json.loads(self._fs.cat_file(place))
            return str(data["by"]), float(data["at"])
        except (FileNotFoundError, ValueError, KeyError):
            return None, 0.0


def write_atomically(file: Path, content: bytes, replace: bool) -> bool:
    """Write a file completely or not at all. Return false if it is there already and is not replaced."""
    if not replace and file.exists():
        return False
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        if replace:
            part.replace(file)
            return True
        try:
            # A hard link fails if there is a file of that name.
            os.link(part, file)
        except FileExistsError:
            return False
        except OSError:
            # Not every file system has hard links. Replacing is safe: the same key has the same content.
            part.replace(file)
        return True
    finally:
        part.unlink(missing_ok=True)
