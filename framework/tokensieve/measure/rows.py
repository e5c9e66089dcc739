"""What was measured: of which variant, in which setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokensieve.measure.intervals import Estimate

Role = Literal["unpruned", "recipe", "floor"]


@dataclass(frozen=True)
class Setting:
    """What a model is asked.

    Attributes:
        batch: the number of prompts.
        visual: visual tokens of each.
        text: text tokens of each.
        dtype: of the weights, such as `float32`.
        attention: the implementation of the language model's attention, such as `sdpa`.
    """

    batch: int
    visual: int
    text: int
    dtype: str
    attention: str


@dataclass(frozen=True)
class Row:
    """What was measured of one variant in one setting. Times are milliseconds, for the whole batch.

    Attributes:
        setting: what the model was asked.
        role: whether it is the unpruned model, a recipe, or the floor.
        name: `unpruned`, the recipe's name, or `floor`.
        kept: visual tokens of a prompt in the last layer.
        first: from the request to the first token's logits (TTFT). That of the floor is its prefill and the time in
            which the unpruned model encodes its pictures.
        vision: of it, encoding pictures.
        selection: of it, choosing tokens.
        prefill: the rest of it.
        step: of every further token.
        throughput: new tokens a second, over whole answers of `tokens`.
        of_unpruned: the time without that of encoding pictures over the unpruned model's, paired by turns.
        of_floor: the same over the floor's; None for the unpruned model.
        expected: the time to the first token that counted FLOPs promise: the unpruned model's, where prefill and vision
            encoder take the part of their time that they take of their FLOPs, and selection takes none.
        peak_bytes: the peak of the memory that a prefill and its steps take beside the weights.
    """

    setting: Setting
    role: Role
    name: str
    kept: int
    first: Estimate
    vision: Estimate
    selection: Estimate
    prefill: Estimate
    step: Estimate
    throughput: Estimate
    of_unpruned: Estimate
    of_floor: Estimate | None
    expected: float | None
    peak_bytes: int
