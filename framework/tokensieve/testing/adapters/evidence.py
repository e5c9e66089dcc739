"""The law on the evidence that an adapter offers to strategies."""

from __future__ import annotations

import torch

import tokensieve as ts
from tokensieve.models.offers import VISION_EVIDENCE
from tokensieve.testing.adapters.base import AdapterLaws
from tokensieve.testing.adapters.kit import YES, Kit, assert_close
from tokensieve.testing.checks import cured_by


class EvidenceLaws(AdapterLaws):
    """Evidence that is offered is there, for every token, whatever else is in the batch."""

    @cured_by(
        "check `vision_layers_path`, `selected_vision_layer`, `num_vision_prefix_tokens` and `patches_to_tokens`; "
        "leave out of `vision_modalities` what has no such layers",
        raised=True,
    )
    @torch.no_grad()
    def test_evidence(self, kit: Kit) -> None:
        """Every kind of evidence that is offered is there, and a prompt gets the same alone, with beams or without."""
        _, several = kit.rows_for_several_answers()
        for block in [0] if kit.inside is None else [0, kit.inside]:
            kinds = kit.prompts.adapter.offers(ts.Site("decoder", block))
            able = kit.prompts.decoder.vision_modalities if kinds & VISION_EVIDENCE else {"image", "video"}
            rows = [row for row in kit.ragged_rows() if all(name in able for name, own in row.pictures.items() if own)]
            together = kit.evidence(rows, block, kinds)
            for number, row in enumerate(rows):
                there, wanted = number in together, bool(kit.prompts.visual(row))
                assert there == wanted, f"prompt {number} has {'' if there else 'no '}evidence"
                beams_work = several == YES or sum(map(len, row.pictures.values())) < 2
                for beams in (1, 2) if beams_work else (1,):
                    for alone in kit.evidence([row], block, kinds, beams).values():
                        assert set(alone) == set(together[number]), f"alone, prompt {number} has {sorted(alone)}"
                        for name, value in alone.items():
                            assert_close(
                                together[number][name], value, f"{name} of prompt {number} in the batch and alone"
                            )
            for name in {name for row in together.values() for name in row}:
                every = torch.cat([row[name].flatten() for row in together.values()]).double()
                assert every.isfinite().all(), f"{name} is not finite"
                # Grids of one row, and sizes before any merge, are the same for all tokens.
                assert every.std() > 0 or name in ("grid", "sizes"), f"{name} is the same for all tokens"
                if "attention" in name or name in ("vision_received", "vision_middle", "decoder_content"):
                    ends = float(every.min()), float(every.max())
                    assert 0 <= ends[0] <= ends[1] <= 1, f"{name} is from {ends[0]} to {ends[1]}, and not from 0 to 1"
        self._record("evidence")
