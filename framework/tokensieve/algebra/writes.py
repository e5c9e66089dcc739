"""Finding in-place writes: what is lent to a strategy or composer must come back as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from tokensieve.errors import TokensieveError


@contextmanager
def unwritten(
    tensors: Iterable[tuple[str, Tensor]], who: str, error: type[TokensieveError], cure: str
) -> Iterator[None]:
    """Raise `error` if one of the tensors is written into inside the block.

    It compares PyTorch's version counters, which costs nothing on the device. Tensors made in inference mode have none,
    so they are not looked at; writes by `.data` or through NumPy are not counted either.

    Args:
        tensors: what is lent, each with the name that a message calls it.
        who: to whom, for the message.
        error: the class of the error.
        cure: what to do instead, for the message.
    """
    before = [(name, tensor, tensor._version) for name, tensor in tensors if not tensor.is_inference()]
    yield
    for name, tensor, version in before:
        if tensor._version != version:
            raise error(f"{who} wrote into {name} in place, which others read too; {cure}")
