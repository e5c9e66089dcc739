"""What a computation asks of a device: operators launched, and how often the host waits for a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = frozenset(
    {
        "_local_scalar_dense",
        "_unique",
        "_unique2",
        "bincount",
        "equal",
        "masked_select",
        "nonzero",
        "unique_consecutive",
        "unique_dim",
        "unique_dim_consecutive",
    }
)
"""Operators whose result, or its shape, the host has to know: `item`, `bool(tensor)`, `unique` and others."""
_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})
"""Operators that wait where an index is a mask, because they ask which of its elements are true."""
_READS = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__})
"""Methods that read a tensor on the host, below the dispatcher."""


@dataclass
class Counts:
    """What was counted.

    Attributes:
        by_name: how often each operator ran, by its name without overload, such as `mm`.
        waits: how often the host waited for a result of the device, by what it waited in, such as `nonzero`.
        bytes_allocated: the bytes of all tensors that operators made; views and what is written in place take none.
    """

    by_name: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    bytes_allocated: int = 0

    @property
    def operators(self) -> int:
        """How many operators ran, views included: each costs the host some microseconds."""
        return self.by_name.total()

    @property
    def synchronisations(self) -> int:
        """How often the host waited."""
        return self.waits.total()


@contextmanager
def count_operators() -> Iterator[Counts]:
    """Count the operators that torch runs inside the block, and what would stop a GPU's queue.

    The numbers do not depend on the machine, so a test can hold them where it could not hold times. What counts as a
    wait is what waits on a GPU, wherever the tensors are: a scalar read (`item`, `bool`, `int`), operators whose
    shape depends on values (`nonzero`, `unique`, `masked_select`, a mask as an index), `equal`, tensors read by
    `tolist` or NumPy, and copies from a device to the CPU. Not counted are waits for copies to a device, explicit
    ones such as `torch.cuda.synchronize`, and operators inside compiled code.

    Yields:
        The counts, which grow while the block runs. Only the calling thread is counted.
    """
    counts = Counts()
    with _Reads(counts), _Operators(counts):
        yield counts


class _Reads(TorchFunctionMode):
    """Counts tensors that the host reads without an operator."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # On another device, the copy to the host is an operator, and counted as such. NumPy's view of a host's
        # tensor is asked by `__array__`, which calls `numpy`: inside, this mode is off.
        if func in _READS and args[0].device.type == "cpu":
            self._counts.waits[func.__name__.strip("_")] += 1
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Counts what reaches the dispatcher."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = counts

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode composite operators arrive whole; their parts are what a device runs.
        if func._can_decompose():
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        name = func.overloadpacket.__name__
        self._counts.by_name[name] += 1
        if _waits(func, name, args, kwargs):
            self._counts.waits[name] += 1
        result = func(*args, **kwargs)
        self._counts.bytes_allocated += _new_bytes(func, result)
        return result


def _new_bytes(func: Any, result: Any) -> int:
    """Return the bytes of the tensors that an operator made: what its schema does not call an alias."""
    results = result if isinstance(result, tuple) else (result,)
    made = 0
    for one, declared in zip(results, func._schema.returns, strict=False):
        if declared.alias_info is None:
            parts = one if isinstance(one, list) else [one]
            made += sum(part.nbytes for part in parts if isinstance(part, Tensor) and not part.is_sparse)
    return made


def _waits(func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the host waits in a call of an operator."""
    if name in _WAITS:
        return True
    if name in _INDEXING:
        return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    source = args[1] if name == "copy_" else args[0] if args else None
    if name in ("copy_", "_to_copy") and isinstance(source, Tensor) and source.device.type != "cpu":
        target = args[0].device if name == "copy_" else kwargs.get("device")
        return target is not None and torch.device(target).type == "cpu"
    return False
