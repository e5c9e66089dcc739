"""`PruneHandle`: one `prune` of one model, as a `with` block or installed until it is removed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from tokensieve.engine.installation import Turn, lock
from tokensieve.engine.sessions import Pruner, PruneSession
from tokensieve.errors import RefusedError
from tokensieve.ledger.run import Run


class Engines(Protocol):
    """What puts a recipe into a model."""

    def start(self, stays: bool) -> Sequence[Pruner]:
        """Return what to install.

        Args:
            stays: whether it stays until it is removed, and not for a block.

        Raises:
            RefusedError: if the model cannot be pruned now.
        """
        ...

    def unpruned(self) -> str | None:
        """Return what was asked of the model so that nothing was pruned, if anything was."""
        ...


class _Exit:
    """The `__exit__` of a handle's block, and not a function around it.

    An interrupt in the first line of such a function would leave the model pruned. `contextlib.ExitStack` takes it from
    the class, and calls it.
    """

    def __get__(self, handle: PruneHandle | None, owner: type) -> Any:
        return self if handle is None else handle._block.__exit__

    def __call__(self, handle: PruneHandle, *error: Any) -> Any:
        return handle._block.__exit__(*error)


class PruneHandle(ContextDecorator):
    """What `prune` returns: it prunes nothing until it is entered or installed, once.

    `with handle as run:` prunes inside the block, and `@handle` inside every call of a function, each time by a prune
    of its own. `handle.install()` prunes until `handle.remove()`, for every thread and task: a caller that is inside a
    `with` of its own is under that one, and of several that are installed the latest is in force. A handle that is
    dropped without any of this warns. What is installed stays when its handle is dropped.

    Attributes:
        run: the ledger.
    """

    def __init__(
        self, model: nn.Module, run: Run, engines: Engines, again: Callable[[], PruneHandle], made: tuple[str, int]
    ) -> None:
        self.run = run
        self._session = PruneSession(model)
        self._engines = engines
        self._again = again
        self._made = made
        self._used: str | None = None
        self._decorates = False
        self._block = _opened(self._session, engines, run)

    def __enter__(self) -> Run:
        """Prune from now on, in this context.

        Returns:
            The ledger.

        Raises:
            RefusedError: if it was entered or installed before, or the model cannot be pruned any more.
        """
        self._use("entered")
        return self._block.__enter__()

    if TYPE_CHECKING:

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...

    else:
        __exit__ = _Exit()

    def install(self) -> PruneHandle:
        """Prune from now on, for every thread and task, until `remove`.

        Returns:
            This handle.

        Raises:
            RefusedError: if it was entered or installed before, or the model cannot be pruned any more.
        """
        self._use("installed")
        session = self._session
        try:
            session.open(self._engines.start(stays=True), stays=True)
            return self
        except BaseException:
            # Left twice, as below.
            with session, session:
                raise

    def remove(self) -> None:
        """Take everything out of the model, from any thread; where nothing is in it, nothing happens.

        It ends a `with` block's pruning too. A call in progress in another thread is
        refused when it goes on: its cache holds a pruned prompt.
        """
        with lock:
            was_open = self._session.is_open
        with self._session, self._session:
            pass
        if was_open:
            _warn_unpruned(self._engines, 3)

    @property
    def installed(self) -> bool:
        """Whether it was installed and not removed."""
        return self._used == "installed" and self._session.is_open

    def __repr__(self) -> str:
        state = "not in force: enter it by `with`, or call install()"
        if self._used is not None:
            state = self._used if self._session.is_open else "over"
        return f"<{type(self).__name__} of '{self.run.recipe.name}', {state}>"

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Return a function in every call of which the model is pruned."""
        self._decorates = True
        return super().__call__(function)

    def _recreate_cm(self) -> PruneHandle:
        """Return a handle of its own for a call of a decorated function; what the base class calls."""
        return self._again()

    def _use(self, how: str) -> None:
        turn = Turn(lock)
        with turn, turn:
            before, self._used = self._used, self._used or how
        if before is not None:
            state = f"is {before} already" if self._session.is_open else f"was {before} before"
            cure = "call tokensieve.prune again"
            if self.installed and how == "entered":
                cure = "it prunes until remove(); for a block, write `with tokensieve.prune(...)`"
            raise RefusedError(f"this prune {state}; a handle serves once: {cure}")

    def __del__(self) -> None:
        # Where __init__ raised, there is nothing to say.
        if getattr(self, "_used", "never made") is not None or self._decorates or sys.is_finalizing():
            return
        warnings.warn_explicit(
            f"prune('{self.run.recipe.name}') was neither entered nor installed: nothing was pruned. Write "
            "`with tokensieve.prune(...):`, or tokensieve.install(...) for pruning that stays",
            RuntimeWarning,
            *self._made,
        )


# No method: a block that was not entered would hold the handle, which is to speak up when it is dropped.
@contextmanager
def _opened(session: PruneSession, engines: Engines, run: Run) -> Iterator[Run]:
    # Left twice: an interrupt may fall into the first time.
    with session, session:
        session.open(engines.start(stays=False))
        yield run
    # This function, contextlib's, and the block.
    _warn_unpruned(engines, 4)


def _warn_unpruned(engines: Engines, level: int) -> None:
    said = engines.unpruned()
    if said is not None:
        warnings.warn(said, stacklevel=level)
