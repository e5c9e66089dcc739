"""The check that all laws are made of, and how a kit treats laws that a class declares that it breaks."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

Case = TypeVar("Case")
P = ParamSpec("P")
T = TypeVar("T")

_CURE = "usual cure: "


def require(condition: object, message: str, cure: str | None = None) -> None:
    """Raise `AssertionError` with a message unless a condition holds.

    Args:
        condition: what must hold.
        message: what was found instead.
        cure: what usually cures it, where that is another thing than what the law itself says (see `cured_by`).
    """
    if not condition:
        error = AssertionError(message)
        if cure is not None:
            error.add_note(_CURE + cure)
        raise error


def cured_by(cure: str, *, raised: bool = False) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator of a law: an error that it raises says in notes what the law asks, and what usually cures it.

    pytest prints notes below the message.

    Args:
        cure: what to do.
        raised: whether that usually cures errors of the code under test, too, which it raises while the law is tried.
    """

    def decorated(law: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(law)
        def told(*args: P.args, **kwargs: P.kwargs) -> T:
            __tracebackhide__ = True
            try:
                return law(*args, **kwargs)
            # Also what pytest raises where something should have been refused, which is no Exception.
            except BaseException as error:
                is_broken = isinstance(error, AssertionError) or not isinstance(error, Exception)
                asks = " ".join((inspect.getdoc(law) or "").partition("\n\n")[0].split())
                notes = getattr(error, "__notes__", [])
                cures = [note for note in notes if note.startswith(_CURE)]
                if not cures and (is_broken or raised):
                    cures = [_CURE + cure]
                found = [note for note in notes if note not in cures]
                name = law.__name__.removeprefix("test_")
                said = f"the law {name}: {asks}" if is_broken else f"raised while the law {name} was tried: {asks}"
                error.__notes__ = [*found, said, *cures]
                raise

        return told

    return decorated


@contextmanager
def note_input(what: str) -> Iterator[None]:
    """Add a note to any error that says for which input it was raised."""
    try:
        yield
    except Exception as error:
        error.add_note(f"for {what}")
        raise


@dataclass(frozen=True)
class LawCheck(ABC, Generic[Case]):
    """A law that cases of a class are tried on.

    Attributes:
        law: raises an error if a case breaks the law.
    """

    law: Callable[[Any], None]

    @property
    def name(self) -> str:
        """The name of the law in `known_failures`."""
        return self.law.__name__

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def owner(self, case: Case) -> type[Any]:
        """Return the class that a case is of."""

    @abstractmethod
    def examples(self, case: Case) -> Iterable[Case]:
        """Return every example of a case's class."""

    def __call__(self, case: Case) -> str | None:
        """Try a case.

        Returns:
            The declared reason if the law is broken as declared, else none.

        Raises:
            AssertionError: if the law is broken and that is not declared, or if it is declared, and this case and every
                other example of its class keep the law.
        """
        owner = self.owner(case)
        reason: str | None = owner.known_failures.get(self.name)
        if reason is None:
            self.law(case)
            return None
        if any(self._breaks(one) for one in (case, *self.examples(case))):
            return reason
        raise AssertionError(
            f"{owner.__name__} declares that it breaks {self.name} ({reason}), but keeps it; "
            "take that out of known_failures"
        )

    def _breaks(self, case: Case) -> bool:
        try:
            self.law(case)
        # A law may be broken by any error that the class raises.
        except Exception:
            return True
        return False


def require_declarations(cls: type[Any], laws: Sequence[str], examples: Sequence[object], instead: str = "") -> None:
    """Raise unless a class has examples, and declares failures of its laws only, each with a reason.

    Raises:
        ValueError: naming the class and what is wrong.
    """
    if not examples:
        raise ValueError(f"{cls.__name__} declares no examples, so it would not be tried{instead}")
    for name, reason in cls.known_failures.items():
        if name not in laws:
            raise ValueError(
                f"{cls.__name__} declares that it breaks '{name}', which is none of its laws: {', '.join(laws)}"
            )
        if not reason.strip():
            raise ValueError(f"{cls.__name__} declares that it breaks {name}, and not why")
