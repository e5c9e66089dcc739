"""`AdapterConformance`: every law on adapters, as one class of tests."""

from __future__ import annotations

from tokensieve.testing.adapters.computation import ComputationLaws
from tokensieve.testing.adapters.encoder import EncoderLaws
from tokensieve.testing.adapters.evidence import EvidenceLaws
from tokensieve.testing.adapters.generation import GenerationLaws
from tokensieve.testing.adapters.refusals import RefusalLaws
from tokensieve.testing.adapters.unchanged import UnchangedLaws
from tokensieve.testing.adapters.variants import VariantLaws


# pytest runs the tests of the last base first: this order is the reverse of the tests'.
class AdapterConformance(
    RefusalLaws,
    VariantLaws,
    GenerationLaws,
    EvidenceLaws,
    EncoderLaws,
    ComputationLaws,
    UnchangedLaws,
):
    """The laws that every adapter of a model that answers in words must keep, as tests.

    Inherit from it, name the adapter, and run it with pytest:

        class TestMyFamily(AdapterConformance):
            adapter = MyAdapter

    What a family cannot do must be refused, with a reason, before anything runs. The kit checks that, and records in
    `found` which of the two it saw.

    Attributes:
        adapter: the adapter under test.
        found: what the laws saw, by capability: `yes`, or why it is refused.
    """
