"""The laws, each a function that raises `AssertionError` if it is broken.

They need neither pytest nor hypothesis: call them on examples of your own, or on those of
`tokensieve.testing.generators`. Strategies are expressions, so a law about expressions is also one about strategies.
"""

from tokensieve.testing.laws.apportionment import house_monotone
from tokensieve.testing.laws.choices import same_choice
from tokensieve.testing.laws.cut import collapse, exact, nested, set_by_set, shallow, symmetric_cut
from tokensieve.testing.laws.invariance import batch_free, depth_free, deterministic, order_free, padding_free
from tokensieve.testing.laws.lattice import (
    absorbing,
    associative,
    boolean,
    commutative,
    de_morgan,
    distributive,
    idempotent,
    involution,
    kleene,
)
from tokensieve.testing.laws.reductions import (
    reduction_applies,
    reduction_associative,
    reduction_identity,
    reduction_mass,
    reduction_single,
)
from tokensieve.testing.laws.scores import dtype_free, infinities_rank, nan_raises, ties_by_id

__all__ = [
    "absorbing",
    "associative",
    "batch_free",
    "boolean",
    "collapse",
    "commutative",
    "de_morgan",
    "depth_free",
    "deterministic",
    "distributive",
    "dtype_free",
    "exact",
    "house_monotone",
    "idempotent",
    "infinities_rank",
    "involution",
    "kleene",
    "nan_raises",
    "nested",
    "order_free",
    "padding_free",
    "reduction_applies",
    "reduction_associative",
    "reduction_identity",
    "reduction_mass",
    "reduction_single",
    "same_choice",
    "set_by_set",
    "shallow",
    "symmetric_cut",
    "ties_by_id",
]
