"""The law on stages before and inside the vision encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch

import tokensieve as ts
from tokensieve.engine.cache import cache_name
from tokensieve.models.decoder import Modality
from tokensieve.testing.adapters.base import AdapterLaws
from tokensieve.testing.adapters.kit import NEW_TOKENS, Kit, assert_close, decoder_stage
from tokensieve.testing.adapters.probes import EveryOther, LargestFeatures
from tokensieve.testing.checks import cured_by
from tokensieve.testing.footprint import footprint


class EncoderLaws(AdapterLaws):
    """Stages before and inside the vision encoder work, or are refused on entry."""

    @cured_by(
        "leave `encoder_type` out until its methods are right (`attention_block`, `mlp_block`, `num_prefix_tokens`, "
        "`mean_keys`), and `packed_tower_type` (`packed_inputs`, `pixels`), or refuse in `refusals` what cannot work",
        raised=True,
    )
    @torch.no_grad()
    def test_stages_in_the_tower(self, kit: Kit) -> None:
        """Tokens can be pruned before and inside the vision encoder, or that is refused on entry."""
        self._check_pixels(kit)
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

    def _check_pixels(self, kit: Kit) -> None:
        """Compare stages before the vision encoder with the plain model, with each prompt alone, and without the rest.

        What leaves there has no influence: whatever pixels it has, and whatever they are, nothing changes.
        """
        tower, reason = kit.prompts.adapter.packed_tower, kit.prompts.adapter.pixel_refusal
        every, cut = (ts.Stage(at="pixel.0", select=EveryOther(), keep=keep) for keep in ("100%", "1/2"))
        if tower is None:
            with (
                pytest.raises(ts.TokensieveError, match=re.escape(reason)),
                ts.prune(kit.model, ts.Recipe(stages=(cut,))),
            ):
                pytest.fail("it was not refused")
            self._record("pixel.0", f"refused: {reason}")
            return
        rows, before = kit.ragged_rows(), footprint(kit.model)
        plain = kit.generate(rows)
        with ts.prune(kit.model, ts.Recipe(stages=(every,))):
            same = torch.equal(torch.stack(kit.generate(rows).logits), torch.stack(plain.logits))
            assert same, "keeping all tokens at pixel.0 changes logits"
        recipe = ts.Recipe(stages=(cut, decoder_stage(0, LargestFeatures(), 3)))
        passed: list[int] = []
        hook = tower.blocks[0].register_forward_pre_hook(lambda _, args: passed.append(args[0].shape[:-1].numel()))
        try:
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows)
        finally:
            hook.remove()
        kept = [ids.tolist() for ids in run.kept("pixel.0")]
        wanted = sum(map(len, kept)) * tower.patches_per_unit
        assert sum(passed) == wanted, f"the vision encoder gets {sum(passed)} patches, of which {wanted} are kept"
        inputs = kit.prompts.batch(rows)
        for modality, units in self._units(kit, inputs, kept).items():
            # No other number than NaN would show that it was read at all.
            pixels = tower.pixels(modality, inputs)
            pixels = pixels.masked_fill(~units.unsqueeze(1), torch.nan)
            inputs[modality.pixel_argument] = pixels.reshape(inputs[modality.pixel_argument].shape)
        with ts.prune(kit.model, recipe):
            other = kit.model.generate(**inputs, **kit.settings())
            same = torch.equal(torch.stack(other.logits), torch.stack(out.logits))
            assert same, "pixels of tokens that left at pixel.0 change logits"
            for number, row in enumerate(rows):
                alone = kit.generate([row])
                both = torch.stack(out.logits)[:, number], torch.stack(alone.logits)[:, 0]
                assert_close(*both, f"logits of prompt {number} in the batch and alone")
        assert footprint(kit.model) == before, "after a prune, the model is not as before"
        self._record("pixel.0")

    def _units(self, kit: Kit, inputs: dict[str, Any], kept: Sequence[Sequence[int]]) -> dict[Modality, torch.Tensor]:
        """Return by modality which units of a batch are kept, bool `[units]`, in the order of the placeholders."""
        found: dict[Modality, list[bool]] = {}
        for modality in kit.prompts.decoder.modalities:
            if inputs.get(modality.pixel_argument) is None:
                continue
            found[modality] = []
            for row, ids in zip(inputs["input_ids"].tolist(), kept, strict=True):
                marks = {one.placeholder_id for one in kit.prompts.decoder.modalities}
                visual = [word for word in row if word in marks]
                found[modality] += [
                    number in set(ids) for number, word in enumerate(visual) if word == modality.placeholder_id
                ]
        return {modality: torch.tensor(values) for modality, values in found.items()}

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
