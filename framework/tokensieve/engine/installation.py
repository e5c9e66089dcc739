"""Putting hooks and attributes into a model, and removing them exactly."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle


def untraced(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a hook out of the graphs of torch.compile: selecting reads values and the clock."""
    dynamo = sys.modules.get("torch._dynamo")
    # Where nothing was compiled yet, loading the compiler would cost more than it saves.
    return hook if dynamo is None else dynamo.disable(hook)


class Installation:
    """The hooks and instance attributes that were put into a model, undone in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def hook(self, handle: RemovableHandle) -> None:
        """Remember a hook."""
        self._undo.append(handle.remove)

    def override(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of this one instance."""
        own = vars(module)
        if name in own:
            before = own[name]
            self._undo.append(lambda: own.__setitem__(name, before))
        else:
            self._undo.append(lambda: own.__delitem__(name))
        own[name] = value

    def later(self, undo: Callable[[], object]) -> None:
        """Call `undo` at removal."""
        self._undo.append(undo)

    def remove(self) -> None:
        """Undo everything; calling it again does nothing."""
        while self._undo:
            self._undo.pop()()


class Pruner(Protocol):
    """One part of a `prune`, which puts hooks into a model."""

    def install(self, installation: Installation) -> None:
        """Put hooks and overrides into the model."""
        ...


class PruneSession:
    """One `prune` of one model, which an inner `prune` suspends."""

    def __init__(self, engines: Sequence[Pruner]) -> None:
        self._engines = engines
        self._installation = Installation()

    def install(self) -> None:
        """Put all hooks in, or none on an error."""
        try:
            for engine in self._engines:
                engine.install(self._installation)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take the hooks out."""
        self._installation.remove()


sessions: weakref.WeakKeyDictionary[nn.Module, list[PruneSession]] = weakref.WeakKeyDictionary()
"""The prunes that each model is in, the innermost last."""
