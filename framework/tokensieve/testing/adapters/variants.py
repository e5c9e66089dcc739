"""Laws on variants of a model: kinds of attention, half precision, and checkpoints."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import tokensieve as ts
from tokensieve.testing.adapters.base import AdapterLaws
from tokensieve.testing.adapters.kit import Kit, decoder_stage
from tokensieve.testing.adapters.probes import (
    LargestFeatures,
    MostAttended,
)
from tokensieve.testing.checks import cured_by
from tokensieve.testing.prompts import Prompts


class VariantLaws(AdapterLaws):
    """Both kinds of attention, half precision and saved checkpoints give the same."""

    @cured_by(
        "name the attention modules of the layers as transformers does, or override `vision_attention_name`: "
        "evidence is the same for sdpa and eager",
        raised=True,
    )
    @torch.no_grad()
    def test_kinds_of_attention(self, kit: Kit) -> None:
        """Both kinds of attention keep the same tokens, by features and by attention."""
        rows, kept = kit.ragged_rows(), []
        block = kit.inside or 0
        recipe = ts.Recipe(stages=(decoder_stage(block, MostAttended() if block else LargestFeatures(), 5),))
        for kind in ("eager", "sdpa"):
            model: Any = self.build()
            model.load_state_dict(kit.model.state_dict())
            try:
                model.set_attn_implementation(kind)
            except ValueError:
                self._record(kind, "not in transformers")
                continue
            with ts.prune(model.eval(), recipe) as run:
                model(**kit.prompts.batch(rows))
            kept.append([ids.tolist() for ids in run.kept(f"decoder.{block}")])
            self._record(kind)
        assert all(one == kept[0] for one in kept), f"eager attention keeps {kept[0]}, and sdpa {kept[-1]}"

    @cured_by(
        "keep the dtype of the model: no `.float()` and no new float32 tensors in `projected_features`, "
        "`replace_features` and `rotary_embeddings`",
        raised=True,
    )
    @torch.no_grad()
    def test_half_precision(self, kit: Kit) -> None:
        """In bfloat16 budgets are exact, keeping all changes nothing, and logits are finite."""
        model = self.build()
        model.load_state_dict(kit.model.state_dict())
        model = model.to(torch.bfloat16).eval()
        prompts = Prompts(model, ts.default_registry().adapter_for(model))
        inputs = prompts.batch(kit.ragged_rows())
        plain = model(**inputs).logits
        for recipe in kit.recipes():
            with ts.prune(model, recipe):
                assert model(**inputs).logits.isfinite().all(), "in bfloat16, logits are not finite"
            with ts.prune(model, recipe.replace(keep=[100_000] * len(recipe.stages), positions="original")):
                assert torch.equal(plain, model(**inputs).logits), "in bfloat16, keeping all tokens changes logits"
        self._record("bfloat16")

    @cured_by(
        "take everything from the config and the weights, nothing from attributes that `save_pretrained` does not "
        "write",
        raised=True,
    )
    @torch.no_grad()
    def test_a_saved_checkpoint(self, kit: Kit) -> None:
        """A model loaded from a folder keeps the same tokens and generates the same."""
        rows = kit.ragged_rows()
        recipe = list(kit.recipes())[-1]
        with tempfile.TemporaryDirectory() as folder:
            kit.model.save_pretrained(folder)
            loaded = type(kit.model).from_pretrained(Path(folder)).eval()
        loaded.generation_config.eos_token_id = None
        inputs = kit.prompts.batch(rows)
        with ts.prune(kit.model, recipe) as run:
            mine = kit.model.generate(**inputs, **kit.settings())
        with ts.prune(loaded, recipe) as again:
            theirs = loaded.generate(**inputs, **kit.settings())
        assert torch.equal(mine.sequences, theirs.sequences), "the loaded model generates other tokens"
        kept, loaded_kept = (one.to_dict()["stages"][-1]["samples"] for one in (run, again))
        assert kept == loaded_kept, f"the loaded model keeps {loaded_kept}, not {kept}"
        self._record("from_pretrained")
