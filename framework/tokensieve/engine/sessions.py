"""Which `prune` is in force for a caller.

A server calls one model from several threads or tasks, each under a `prune` of its own or all under one. What a
`prune` installs is therefore in force for the context that entered it, and for contexts in which none was entered,
such as a thread that streams an answer, where there is only one to choose. One that stays until it is removed is in
force for every context that is in none of its own.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from torch import nn

from tokensieve.engine.installation import Installation, lock, make_copies_plain
from tokensieve.errors import RefusedError

T = TypeVar("T")


class PerThread(Generic[T]):
    """An attribute that has a value of its own in every thread: what belongs to a call in progress.

    Args:
        make: makes the value where there is none yet.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{name} of this thread"

    def __get__(self, instance: object, owner: type | None = None) -> T:
        if instance is None:
            raise AttributeError(f"{self._name}: only instances have it")
        values = self._values(instance)
        if not hasattr(values, "value"):
            values.value = self._make()
        value: T = values.value
        return value

    def __set__(self, instance: object, value: T) -> None:
        self._values(instance).value = value

    def _values(self, instance: object) -> threading.local:
        values: threading.local = vars(instance).setdefault(self._name, threading.local())
        return values


class Pruner(Protocol):
    """One part of a `prune`, which puts hooks into a model."""

    def install(self, installation: Installation) -> None:
        """Put hooks and overrides into the model."""
        ...


@dataclass(eq=False)
class _Place:
    """A session that a context entered, of which it keeps neither session nor model alive.

    Attributes:
        left: how much was entered and left before it was left.
    """

    model: weakref.ref[nn.Module]
    session: weakref.ref[PruneSession]
    left: int | None = None


class PruneSession:
    """One `prune` of one model. It is entered twice, so that an interrupt inside one exit leaves nothing behind.

    Attributes:
        number: how many were opened before it, of all models.
        outer: the session inside which it was entered, if any.
        stays: whether it is in force for every context that is in none of its own, and not for this one alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._installation = Installation(self.is_in_force)
        self._place = _Place(weakref.ref(model), weakref.ref(self))
        self.number = 0
        self.outer: PruneSession | None = None
        self.stays = False

    @property
    def is_open(self) -> bool:
        """Whether it is in the model."""
        return self in _live(self._model)

    def is_in_force(self) -> bool:
        """Return whether this is the `prune` that the caller is under."""
        return in_force(self._model) is self

    def open(self, pruners: Sequence[Pruner], stays: bool = False) -> None:
        """Put all hooks in, and be in force for this context, or for all if it `stays`."""
        installation, model = self._installation, self._model
        installation.later(self._forget)
        self.stays = stays
        with lock:
            self.outer = None if stays else next(_own(model), None)
            self.number = next(_numbers)
            _sessions.setdefault(model, []).append(weakref.ref(self))
            live = _live(model)
        if not stays:
            # Of those that were left again, the latest says enough: that this context prunes the model itself.
            entered = [one for one in _entered.get() if one.model() is not None]
            known = [one for one in entered if one.model() is not model or one.session() in live]
            _entered.set((*known, self._place))
        make_copies_plain(model, installation)
        for pruner in pruners:
            pruner.install(installation)

    def _forget(self) -> None:
        sessions = _sessions.get(self._model, [])
        sessions[:] = [one for one in sessions if one() is not self]
        self._place.left = next(_numbers)

    def __enter__(self) -> PruneSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take everything out of the model."""
        self._installation.remove()


_sessions: weakref.WeakKeyDictionary[nn.Module, list[weakref.ref[PruneSession]]] = weakref.WeakKeyDictionary()
"""The sessions of each model, in the order in which they were entered.

The hooks of the model keep them alive: a model that is dropped with a session in it is freed.
"""
_numbers = itertools.count()
"""Tell what was entered and left before what."""
_entered: ContextVar[tuple[_Place, ...]] = ContextVar("tokensieve_sessions", default=())
"""What was entered in this context, the latest last, with the one that was left last."""


def is_pruned(model: nn.Module) -> bool:
    """Return whether any context prunes a model."""
    return bool(_live(model))


def _live(model: nn.Module) -> list[PruneSession]:
    """Return the sessions of a model, the latest last."""
    return [one for one in (reference() for reference in _sessions.get(model, ())) if one is not None]


def _own(model: nn.Module) -> Iterator[PruneSession]:
    """Return the sessions of a model that this context is in, the innermost first."""
    live = _live(model)
    for place in reversed(_entered.get()):
        one = place.session()
        if place.model() is model and one is not None and one in live:
            yield one


def in_force(model: nn.Module) -> PruneSession | None:
    """Return the session that a call of the model is under.

    It is the innermost that this context entered. A context that entered none, such as a thread that streams an answer,
    is under the one that others entered; one that left its own is under none of those that were there then. Where one
    stays until it is removed, both are under that, the latest if there are several.

    Raises:
        RefusedError: if this context entered none, and several others did; or if it left its own, and another was
            entered since: a pool's thread may have that in mind, or none.
    """
    if not _sessions.get(model):
        return None
    live = _live(model)
    staying = next((one for one in reversed(live) if one.stays), None)
    left = [place.left or 0 for place in _entered.get() if place.model() is model]
    if staying is not None or left:
        own = next(_own(model), staying)
        if own is None and any(one.number > max(left) for one in live):
            raise RefusedError(
                f"this thread left a prune of this {type(model).__name__}, and another thread or task has entered one "
                "since, so it is not known whether this call is meant to be under that: enter prune in the thread that "
                "calls the model, or install it for all; keep='100%' is the plain model"
            )
        return own
    outer = {one.outer for one in live}
    innermost = [one for one in live if one not in outer]
    if len(innermost) > 1:
        raise RefusedError(
            f"{len(innermost)} threads or tasks prune this {type(model).__name__}, each by a prune of its own, and "
            "this one entered none: enter prune in the thread that calls the model"
        )
    return innermost[0] if innermost else None
