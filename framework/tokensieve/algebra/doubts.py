"""Checks whose outcome a device knows: asked for at once, or all together where results are fetched anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Doubt = tuple[Tensor, Callable[[], Exception]]

_PENDING: ContextVar[list[Doubt] | None] = ContextVar("tokensieve_doubts", default=None)


def refuse_if(wrong: Tensor, error: Callable[[], Exception]) -> None:
    """Raise what `error` makes if `wrong`, a bool scalar, is true: now, or at the end of `settled_together`.

    Where it is raised later, the caller goes on with what it doubts. So it must compute with it without harm, such as
    indices beyond their range, which stop a GPU.
    """
    pending = _PENDING.get()
    if pending is not None:
        pending.append((wrong, error))
    elif bool(wrong):
        raise error()


@contextmanager
def settled_together() -> Iterator[None]:
    """Ask for the outcome of all checks in the block at its end, so that the host waits for the device once.

    Blocks may be nested: the outermost one asks. If the block fails while a check failed before, the check's error is
    raised, because what was computed from a wrong value fails in ways that say nothing.
    """
    if _PENDING.get() is not None:
        yield
        return
    pending: list[Doubt] = []
    token = _PENDING.set(pending)
    try:
        yield
    except Exception as error:
        _PENDING.reset(token)
        found = _first(pending)
        if found is not None:
            raise found from error
        raise
    except BaseException:
        _PENDING.reset(token)
        raise
    _PENDING.reset(token)
    found = _first(pending)
    if found is not None:
        raise found


@contextmanager
def left_out() -> Iterator[None]:
    """Leave out all checks in the block: a graph that is traced in it can ask for no outcome."""
    token = _PENDING.set([])
    try:
        yield
    finally:
        _PENDING.reset(token)


def _first(pending: list[Doubt]) -> Exception | None:
    """Return the error of the first check that failed, or none."""
    if not pending:
        return None
    by_device: dict[torch.device, list[int]] = {}
    for number, (wrong, _) in enumerate(pending):
        by_device.setdefault(wrong.device, []).append(number)
    failed = [
        number
        for numbers in by_device.values()
        for number, wrong in zip(numbers, torch.stack([pending[n][0] for n in numbers]).tolist(), strict=True)
        if wrong
    ]
    return pending[min(failed)][1]() if failed else None
