"""The law on what must be refused."""

from __future__ import annotations

import pytest
import torch

import tokensieve as ts
from tokensieve.engine.cache import cache_name
from tokensieve.testing.adapters.base import AdapterLaws
from tokensieve.testing.adapters.kit import Kit
from tokensieve.testing.checks import cured_by


class RefusalLaws(AdapterLaws):
    """Calls whose results would be wrong are refused."""

    @cured_by(
        "refuse in `refusals` or `refused_inputs` what cannot be right, with the reason, and override nothing that "
        "checks requests",
        raised=True,
    )
    @torch.no_grad()
    def test_refusals(self, kit: Kit) -> None:
        """Calls whose results would be wrong are refused before anything is computed."""
        row = kit.row(("image", 1))
        inputs = kit.prompts.batch([row])
        cache = cache_name(kit.model)
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                for setting, value in (
                    ("prefill_chunk_size", 4),
                    ("cache_implementation", "quantized"),
                    ("custom_generate", "somebody/something"),
                ):
                    with pytest.raises(ts.TokensieveError):
                        kit.model.generate(**inputs, **kit.settings(), **{setting: value})
                with pytest.raises(ts.TokensieveError):
                    kit.model.generate_batch([row.words])
                padded = kit.prompts.batch([row, kit.row(("image", 1), 9)], side="right")
                with pytest.raises(ts.TokensieveError):
                    kit.model.generate(**padded, **kit.settings())
                assert not run.prefills, f"{len(run.prefills)} prompts ran before they were refused"
                held = kit.model(**inputs, use_cache=True)[cache]
                with pytest.raises(ts.TokensieveError):
                    kit.model(**inputs, **{cache: held})
            with pytest.raises(ts.TokensieveError):
                kit.model(input_ids=torch.tensor([[5]]), **{cache: held})
