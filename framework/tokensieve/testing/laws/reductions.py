"""Laws on reductions, which map every token to the slot it is merged into, or drop it."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.algebra.reduction import Reduction
from tokensieve.algebra.universe import Universe
from tokensieve.testing.checks import require


def reduction_identity(reduction: Reduction) -> None:
    """The identity before or after a reduction changes nothing."""
    tokens = torch.ones_like(reduction.slot, dtype=torch.bool)
    _alike(_identity(tokens).then(reduction), reduction, "the identity before a reduction")
    _alike(reduction.then(_identity(reduction.valid)), reduction, "the identity after a reduction")


def reduction_associative(first: Reduction, second: Reduction, third: Reduction) -> None:
    """Composing three reductions gives the same reduction, whichever two are composed first."""
    left = first.then(second).then(third)
    _alike(left, first.then(second.then(third)), "joining the last two first")


def reduction_applies(first: Reduction, second: Reduction, x: Tensor) -> None:
    """Applying two composed reductions equals applying one after the other, up to rounding."""
    joined, after = first.then(second).apply(x), second.apply(first.apply(x))
    tolerance = 8 * max(torch.finfo(x.dtype).eps, 1e-12)
    used = second.valid.unsqueeze(-1)
    require(
        torch.allclose(joined * used, after * used, rtol=tolerance, atol=tolerance * float(x.abs().sum() + 1)),
        "applying joined reductions is not applying one after the other",
    )


def reduction_mass(reduction: Reduction, sizes: Tensor) -> None:
    """Every original token is counted in one slot or dropped; none is counted twice or invented."""
    mass = reduction.mass(sizes)
    kept = torch.where(reduction.slot >= 0, sizes, 0).sum(dim=1)
    require(
        torch.allclose(mass.sum(dim=1).double(), kept.double()),
        f"the slots stand for {mass.sum(dim=1).tolist()} original tokens instead of {kept.tolist()}",
    )
    require(not mass[~reduction.valid].any(), "a slot that is not in use stands for tokens")


def reduction_single(reduction: Reduction, x: Tensor) -> None:
    """A slot of a single token with weight one equals that token to the bit."""
    out = reduction.apply(x)
    require(out.dtype == x.dtype, f"slots of {x.dtype} came out as {out.dtype}")
    for row, slots in enumerate(reduction.slot.tolist()):
        for place, slot in enumerate(slots):
            if slot >= 0 and slots.count(slot) == 1 and reduction.weight[row, place] == 1:
                same = torch.equal(out[row, slot].view(torch.uint8), x[row, place].view(torch.uint8))
                require(same, f"slot {slot} of row {row} is token {place} alone, but not to the bit")


def _identity(valid: Tensor) -> Reduction:
    return Reduction.identity(Universe(valid, torch.zeros_like(valid, dtype=torch.int64)))


def _alike(left: Reduction, right: Reduction, what: str) -> None:
    require(torch.equal(left.slot, right.slot), f"{what} sends tokens to other slots")
    require(torch.equal(left.valid, right.valid), f"{what} uses other slots")
    require(torch.allclose(left.weight, right.weight, rtol=1e-12), f"{what} gives other weights")
