"""What stages inside the vision tower did to a prompt batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokensieve.engine.batches import interleaved
from tokensieve.engine.encoder_pruner import EncoderPruner, by_prompt
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.prompt_selector import EncoderOutcome
from tokensieve.errors import RefusedError
from tokensieve.models.decoder import Decoder


def encoder_outcome(
    tower: EncoderPruner | None,
    decoder: Decoder,
    names: Sequence[str],
    layouts: Sequence[Sequence[Tensor]],
    assigned: Sequence[Sequence[int]],
    request: Mapping[str, Any],
    layout: PromptLayout,
) -> EncoderOutcome | None:
    """Return what stages inside the vision tower did, by prompt.

    Args:
        tower: what lets tokens leave inside the tower, if anything does.
        decoder: of the model.
        names: of the modalities there are.
        layouts: by modality, where the tokens of each picture are.
        assigned: by modality, the prompt that each picture went to.
        request: the caller's arguments.
        layout: of the prompts.
    """
    if tower is None:
        return None
    batches = tower.batches
    tower.forget()
    # Beams bring copies of layouts, of which prompts took only the first.
    layouts = [own[: len(to)] for own, to in zip(layouts, assigned, strict=True)]
    counts = [decoder.num_encoder_images(name, own, request) for name, own in zip(names, layouts, strict=True)]
    rows = [
        row
        for own, taken in zip(assigned, counts, strict=True)
        for row, n in zip(own, taken, strict=True)
        for _ in range(n)
    ]
    taken = sum(len(batch.owner) for batch in batches)
    if taken != len(rows):
        raise RefusedError(
            f"the recipe has stages in the vision tower, which took {taken} pictures inside this call, but the "
            f"prompts have {len(rows)}; pass pixel_values, not pictures that are already encoded"
        )
    sizes = None
    if batches and tower.prunes_prompt:
        left = torch.cat([torch.where(one.pool.alive, one.pool.sizes, 0.0) for one in batches]).unsqueeze(-1)
        # What does not pass through this tower stays as it is.
        spread = [
            decoder.patches_to_tokens(own, request) if len(own) else own.new_ones(sum(map(len, places)), 1)
            for own, places in zip(left.split([sum(count) for count in counts]), layouts, strict=True)
        ]
        sizes = layout.by_id(interleaved(spread, layout.order)).squeeze(-1)
    prompts, number = layout.shape[0], Counter(rows)
    pictures = [number[row] for row in range(prompts)]
    patches = batches[0].owner.shape[1] if batches else 0
    return EncoderOutcome(by_prompt(batches, rows, prompts), pictures, patches, sizes)
