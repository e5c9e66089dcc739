"""Devices by the names that PyTorch gives them: whether there is one of a name, and whether it is on this machine."""

from __future__ import annotations

import re

import torch

from tokensieve.errors import RefusedError, did_you_mean, listing, short_message

_KINDS = ("cpu", "cuda", "mps", "xpu")
_CALLED = {"gpu": "cuda", "nvidia": "cuda", "amd": "cuda", "rocm": "cuda", "hip": "cuda", "metal": "mps", "tpu": "xla"}
"""What people say, and how PyTorch calls it."""


def device_of(name: object) -> torch.device:
    """Return the device of a name, which need not be on this machine.

    Raises:
        RefusedError: if there is none; it says how devices are called.
    """
    try:
        # On the device `meta` nothing is computed.
        if isinstance(name, (str, torch.device)) and str(name) != "meta":
            return torch.device(name)
    except RuntimeError:
        pass
    raise RefusedError(f"there is no device {name!r}; this machine has {devices_here()}.{_meant(str(name))}")


def named_device(name: str | None) -> torch.device:
    """Return the device of a name, by default CUDA if available, after checking that a tensor can be put there.

    Raises:
        RefusedError: if none can.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = device_of(name)
    try:
        torch.empty(1, device=place)
    # The type of the error depends on the device.
    except Exception as error:
        reason, _, _ = short_message(error).partition(". ")
        raise RefusedError(
            f"the device '{name}' cannot be used; this machine has {devices_here()} (PyTorch says: {reason})"
        ) from None
    return place


def devices_here() -> str:
    """Return the names of the devices of this machine, as text."""
    found = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return listing(["cpu", *found, *(["mps"] if torch.backends.mps.is_available() else [])])


def _meant(name: str) -> str:
    """Return what may have been meant by a name that no device has."""
    kind, number = re.fullmatch(r"\s*(.*?)[\s:_-]*([0-9]*)\s*", name.casefold(), re.DOTALL).groups()  # type: ignore[union-attr]
    kind = _CALLED.get(kind, kind) or ("cuda" if number else "")
    near = did_you_mean(kind, [*_KINDS, *_CALLED.values()])
    return near.replace("'?", f":{number}'?") if number and near else near
