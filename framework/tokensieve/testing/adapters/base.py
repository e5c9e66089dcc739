"""What all laws on adapters share: the tiny model, and the record of results."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from torch import nn

import tokensieve as ts
from tokensieve.models.adapter import Adapter
from tokensieve.testing.adapters.kit import YES, Kit


class AdapterLaws:
    """The fixture of the laws, and the record of their results.

    Attributes:
        adapter: the adapter under test.
        found: the result of each capability: `yes`, or why it is refused.
    """

    adapter: ClassVar[type[Adapter]]
    found: ClassVar[dict[str, str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.found = {}

    @classmethod
    def build(cls) -> nn.Module:
        """Make the tiny model under test."""
        return cls.adapter.tiny()

    @pytest.fixture(scope="class")
    @classmethod
    def kit(cls) -> Kit:
        """Return the model with its prompts and references, one for all tests of a class."""
        model = cls.build()
        return Kit(model, ts.default_registry().adapter_for(model))

    def _record(self, capability: str, result: str = YES) -> None:
        self.found[capability] = result

    def _prunes_inside(self, kit: Kit, capability: str) -> bool:
        """Return whether tokens can be pruned inside the language model; if not, that must be refused on entry."""
        if kit.inside is not None:
            self._record(capability)
            return True
        with pytest.raises(ts.TokensieveError), ts.prune(kit.model, kit.recipe(1)):
            pytest.fail("it was not refused")
        self._record(capability, f"refused: {kit.reason}")
        return False
