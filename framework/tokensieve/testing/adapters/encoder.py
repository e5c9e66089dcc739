"""The law on stages inside the vision encoder."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

import tokensieve as ts
from tokensieve.engine.cache import cache_name
from tokensieve.testing.adapters.base import AdapterLaws
from tokensieve.testing.adapters.kit import NEW_TOKENS, Kit, assert_close, decoder_stage
from tokensieve.testing.adapters.probes import LargestFeatures
from tokensieve.testing.checks import cured_by
from tokensieve.testing.footprint import footprint


class EncoderLaws(AdapterLaws):
    """Stages inside the vision encoder work, or are refused on entry."""

    @cured_by(
        "leave `encoder_type` out until its methods are right (`attention_block`, `mlp_block`, `num_prefix_tokens`, "
        "`mean_keys`), or refuse in its `refusals` what cannot work",
        raised=True,
    )
    @torch.no_grad()
    def test_stages_in_the_tower(self, kit: Kit) -> None:
        """Tokens can be pruned inside the vision encoder, or that is refused on entry."""
        encoder = kit.prompts.adapter.encoder
        ways: tuple[tuple[str, Literal["drop", "merge"]], ...] = (
            ("encoder.K", "drop"),
            ("encoder.K, merging", "merge"),
        )
        for capability, rest in ways:
            # In its last layer that can be pruned.
            last = 0 if encoder is None else encoder.num_prunable_blocks - 1
            cut = ts.Stage(at=ts.Site("encoder", last), select=LargestFeatures(), keep=ts.Keep.of("1/2"), rest=rest)
            found = [
                found for found in ts.review(ts.Recipe(stages=(cut,)), kit.prompts.adapter) if found.level == "error"
            ]
            if found:
                with pytest.raises(ts.TokensieveError), ts.prune(kit.model, ts.Recipe(stages=(cut,))):
                    pytest.fail("it was not refused")
                # Sites of a tiny model have other names and numbers than those of the family's real models.
                why = (
                    "; ".join(one.message for one in found)
                    if encoder
                    else "tokens cannot leave inside its vision tower"
                )
                self._record(capability, f"refused: {why}")
            else:
                self._check_stage(kit, cut)
                self._record(capability)

    def _check_stage(self, kit: Kit, cut: ts.Stage) -> None:
        """Compare stages inside the vision encoder with the plain model, with each prompt alone and with the ledger."""
        encoder, rows, before = kit.prompts.adapter.encoder, kit.ragged_rows(), footprint(kit.model)
        every = ts.Stage.each(at=f"encoder.0..{cut.at.block}", select=LargestFeatures(), r=0, rest=cut.rest)
        plain = kit.generate(rows)
        with ts.prune(kit.model, ts.Recipe(stages=every)):
            same = torch.equal(torch.stack(kit.generate(rows).logits), torch.stack(plain.logits))
            assert same, f"keeping all tokens at {every[0].at}..{cut.at.block} changes logits"
        deeper = () if kit.inside is None else (decoder_stage(kit.inside, LargestFeatures(), 2),)
        for more in ((), (decoder_stage(0, LargestFeatures(), 3),), deeper):
            recipe = ts.Recipe(stages=(cut, *more))
            sites = [one.at for one in recipe.stages]
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows)
                together = [[ids.tolist() for ids in run.kept(site)] for site in sites]
                visual = [run.visual_per_layer(number) for number in range(len(rows))]
                said = None if encoder is None else encoder.patches_per_image
                assert said in (None, run.latest.patches), (
                    f"`patches_per_image` is {said}, and {run.latest.patches} patches of an image enter the encoder"
                )
                found, wanted = [len(ids) for ids in together[0]], [sample // 2 for sample in _num_patches(run)]
                assert found == wanted, f"of half the patches each, {found} are kept instead of {wanted}"
                if encoder is not None and encoder.prunes_prompt:
                    whole = [len(kit.prompts.visual(row)) for row in rows]
                    shorter = all(own[0] < n for own, n in zip(visual, whole, strict=True) if n)
                    assert shorter, f"the prompts still have {[own[0] for own in visual]} visual tokens of {whole}"
                for layer, cache in enumerate(out[cache_name(kit.model)].layers):
                    sizes = zip(run.latest.text, visual, strict=True)
                    longest = max(text + own[layer] for text, own in sizes) + NEW_TOKENS - 1
                    window = getattr(cache, "sliding_window", None)
                    wanted_length = longest if window is None else min(longest, window - 1)
                    length = cache.keys.shape[2]
                    assert length == wanted_length, (
                        f"the cache of layer {layer} holds {length} tokens, not {wanted_length}"
                    )
                for number, row in enumerate(rows):
                    alone = kit.generate([row])
                    kept_alone = [run.kept(site)[0].tolist() for site in sites]
                    kept_among = [kept[number] for kept in together]
                    assert kept_alone == kept_among, (
                        f"prompt {number} keeps {kept_alone} alone, and {kept_among} in the batch"
                    )
                    both = torch.stack(out.logits)[:, number], torch.stack(alone.logits)[:, 0]
                    assert_close(*both, f"logits of prompt {number} in the batch and alone")
                    direct = kit.model(**kit.prompts.batch([row])).logits[0, -1]
                    assert_close(direct, alone.logits[0][0], f"logits of prompt {number} by forward and by generate")
            same = torch.equal(torch.stack(out.logits), torch.stack(plain.logits))
            assert not same, "a stage inside the vision encoder changes no logits"
            assert footprint(kit.model) == before, "after a prune, the model is not as before"


def _num_patches(run: ts.Run) -> list[int]:
    """Return how many patches of each prompt entered the vision encoder."""
    return [pictures * run.latest.patches for pictures in run.latest.pictures]
