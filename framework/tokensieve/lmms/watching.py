"""Which documents a class of lmms-eval read before it called its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokensieve.lmms.ledger import Document


class Seen:
    """The documents that were read since the last call, each once, in the order in which they were read."""

    def __init__(self) -> None:
        self._documents: dict[Document, None] = {}

    def add(self, document: Document) -> None:
        """Note that a document was read."""
        self._documents[document] = None

    def take(self) -> list[Document]:
        """Return the documents, and forget them."""
        taken = list(self._documents)
        self._documents.clear()
        return taken


class WatchedTasks(Mapping[str, Any]):
    """The documents of tasks, by task, split and number, as models of lmms-eval read them."""

    def __init__(self, tasks: Mapping[str, Any], seen: Seen) -> None:
        self._tasks = tasks
        self._seen = seen

    def __getitem__(self, task: str) -> Any:
        return _WatchedSplits(self._tasks[task], task, self._seen)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


class _WatchedSplits:
    def __init__(self, splits: Any, task: str, seen: Seen) -> None:
        self._splits, self._task, self._seen = splits, task, seen

    def __getitem__(self, split: str) -> Any:
        return _WatchedDocuments(self._splits[split], self._task, self._seen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._splits, name)


class _WatchedDocuments:
    def __init__(self, documents: Any, task: str, seen: Seen) -> None:
        self._documents, self._task, self._seen = documents, task, seen

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, int):
            self._seen.add(Document(self._task, number))
        return self._documents[number]

    def __len__(self) -> int:
        return len(self._documents)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)
