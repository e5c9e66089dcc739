"""Laws on what pruning must not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokensieve as ts
from tokensieve.testing.adapters.base import AdapterLaws
from tokensieve.testing.adapters.kit import Kit, assert_close
from tokensieve.testing.adapters.probes import Failing
from tokensieve.testing.checks import cured_by
from tokensieve.testing.footprint import footprint


class UnchangedLaws(AdapterLaws):
    """Outputs are unchanged if all tokens are kept, positions are those of forward, and the model is restored."""

    @cured_by(
        "check `layout` (one row for every placeholder, in their order), `modalities` and `position_ids`: with all "
        "tokens kept, the shortened request is the model's own",
        raised=True,
    )
    @torch.no_grad()
    def test_keeping_all_changes_nothing(self, kit: Kit) -> None:
        """Keeping all tokens gives the logits and tokens of the plain model, to the bit."""
        rows = kit.ragged_rows()
        plain = kit.generate(rows)
        forward = kit.model(**kit.prompts.batch(rows)).logits
        blocks = [0] if kit.inside is None else [0, kit.inside]
        for block in blocks:
            with ts.prune(kit.model, kit.recipe(block, keep=100_000)) as run:
                kept = kit.generate(rows)
                again = kit.model(**kit.prompts.batch(rows)).logits
                assert torch.equal(forward, again), f"keeping all tokens at decoder.{block} changes logits of forward"
            what = f"keeping all tokens at decoder.{block} changes"
            assert torch.equal(plain.sequences, kept.sequences), f"{what} generated tokens"
            assert torch.equal(torch.stack(plain.logits), torch.stack(kept.logits)), f"{what} logits of generate"
            found = [len(ids) for ids in run.kept(f"decoder.{block}")]
            wanted = [len(kit.prompts.visual(row)) for row in rows]
            assert found == wanted, f"keeping all keeps {found} tokens; the prompts have {wanted} placeholders"

    @cured_by(
        "let `position_ids` return what forward computes where the caller gives none, also with holes in the mask; "
        "where positions have several axes, `complete_position_ids` adds the one that callers may leave out",
        raised=True,
    )
    @torch.no_grad()
    def test_keeping_all_changes_no_form_of_a_call(self, kit: Kit) -> None:
        """Without a mask, without a cache, with positions, and with a word that nobody sees: the plain logits."""
        inputs = kit.prompts.batch([kit.row(("image", 1), 2, ("image", 2))])
        mask = inputs.pop("attention_mask")
        holes = mask.clone()
        holes[:, -3] = 0
        positions = kit.prompts.decoder.position_ids(inputs, mask.bool(), 0, mask.shape[1])
        forms: list[dict[str, Any]] = [
            {},
            {"use_cache": False},
            {"attention_mask": mask, "use_cache": False},
            {"attention_mask": mask.bool(), "position_ids": positions},
            {"attention_mask": holes},
        ]
        blocks = [0] if kit.inside is None else [0, kit.inside]
        for form in forms:
            plain = kit.model(**inputs, **form).logits
            for block in blocks:
                with ts.prune(kit.model, kit.recipe(block, keep=100_000)):
                    found = kit.model(**inputs, **form).logits
                seen = form.get("attention_mask", mask).bool()
                assert_close(
                    found[seen], plain[seen], f"logits with all tokens kept, and {sorted(form) or 'the images alone'}"
                )

    @cured_by(
        "override `position_ids`: return what the model's own forward computes, with its axes and its first number",
        raised=True,
    )
    @torch.no_grad()
    def test_positions_are_those_of_forward(self, kit: Kit) -> None:
        """The position ids of the adapter are those that forward computes if none are given."""
        for row in kit.ragged_rows():
            inputs = kit.prompts.batch([row])
            mask = inputs["attention_mask"].bool()
            positions = kit.prompts.decoder.position_ids(inputs, mask, 0, mask.shape[1])
            plain, given = (kit.model(**inputs, **more).logits for more in ({}, {"position_ids": positions}))
            assert torch.equal(plain, given), "with the position ids of the adapter, forward gives other logits"

    @cured_by(
        "change nothing on the model: an adapter reads it, and the engine's hooks go by themselves",
        raised=True,
    )
    @torch.no_grad()
    def test_the_model_is_restored(self, kit: Kit) -> None:
        """Hooks, attributes and configs are as before, also after an exception and after nested blocks."""
        row = kit.row(("image", 1))
        kit.generate([row])
        before = footprint(kit.model)
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe):
                kit.generate([row])
                with ts.prune(kit.model, kit.recipe(0)):
                    kit.generate([row])
            assert footprint(kit.model) == before, "after a prune, the model is not as before"
            with pytest.raises(ZeroDivisionError), ts.prune(kit.model, Failing(), keep=3):
                kit.generate([row])
            assert footprint(kit.model) == before, "after an error in a prune, the model is not as before"
