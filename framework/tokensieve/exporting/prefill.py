"""`StaticPrefill`: the prefill of one prompt with one picture, with the selection inside, as a plain module.

It is made of the parts that `prune` is made of, without hooks, ledger and whatever else asks a value: everything that
depends on the layout of the prompt is worked out beforehand and is a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokensieve.algebra.doubts import left_out
from tokensieve.engine.batches import compact_positions
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.request import placeholder_places
from tokensieve.engine.shortening import Shortening, shorten
from tokensieve.engine.stage_selection import StageOutcome, TokenPool, decide
from tokensieve.engine.token_layout import TokenLayout
from tokensieve.errors import RefusedError
from tokensieve.evidence import Evidence
from tokensieve.exporting.refusals import exported_modality, exported_stage
from tokensieve.models.decoder import Decoder
from tokensieve.recipes.recipe import Recipe

Logits = Literal["last", "all"]
"""At which kept places of the prompt logits are computed."""


class StaticPrefill(nn.Module):
    """The prefill of prompts of one layout: `forward(input_ids, pixels)` returns logits and the kept ids.

    Attributes:
        layout: of the prompt.
        tokens: where each visual token is in the picture.
        kept: how many visual tokens stay.
        constants: the encoder's other arguments, such as grids, which are part of the graph.
        pixel_argument: the name of the pixels among the model's arguments.
    """

    def __init__(self, decoder: Decoder, recipe: Recipe, inputs: Mapping[str, Any], logits: Logits = "last") -> None:
        super().__init__()
        stage, modality = exported_stage(recipe), exported_modality(decoder, inputs)
        self.model = decoder.model
        self.pixel_argument = modality.pixel_argument
        self._decoder, self._recipe, self._stage, self._logits = decoder, recipe, stage, logits
        self.constants = {
            name: value
            for name in sorted(decoder.encoder_arguments(modality))
            if (value := inputs.get(name)) is not None and name != modality.pixel_argument
        }
        ids = inputs["input_ids"]
        real = torch.ones_like(ids, dtype=torch.bool)
        self.layout = PromptLayout.read(placeholder_places(inputs, [modality.placeholder_id], decoder), real)
        with torch.no_grad():
            output = decoder.encode_visual_inputs(self._encoder_inputs(inputs[modality.pixel_argument]))[modality.name]
            features = decoder.projected_features(output)
            self.tokens = self._token_layout(decoder.layout(modality.name, output, inputs), len(features))
            self._positions = decoder.position_ids(inputs, real, 0, ids.shape[1])
            self._groups = self._pool().groups(stage)
            self._fixed: StageOutcome | None = None
            outcome = self.select(self.layout.by_id(features))
        if outcome.counts is None:
            raise RefusedError(
                f"newlines: {stage.newlines} leaves it open how many tokens stay; a graph of fixed shape takes "
                "newlines: judge or drop"
            )
        (self.kept,) = outcome.counts
        # What does not look at the picture is the same for every picture.
        if stage.rest == "drop" and not stage.needs & {Evidence.FEATURES}:
            self._fixed = outcome

    def forward(self, input_ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits `[1, places, vocabulary]` of a prompt, and the ids of the tokens that stay, `[1, kept]`.

        Args:
            input_ids: int64 `[1, n]`, with placeholders where those of the layout are.
            pixels: what the model's processor makes of a picture of the layout's size.
        """
        features = self._features(pixels)
        with left_out():
            outcome = self.select(features)
        request = self._shortened(input_ids, outcome.apply(features), outcome)
        output = self.model(**request, use_cache=False, logits_to_keep=int(self._logits == "last"))
        return output.logits, _true_places(outcome.keep, self.kept)

    @property
    def looks(self) -> bool:
        """Whether the selection depends on the picture."""
        return self._fixed is None

    def _encoder_inputs(self, pixels: Tensor) -> dict[str, Any]:
        return {self.pixel_argument: pixels, **self.constants}

    def _token_layout(self, layouts: list[Tensor], found: int) -> TokenLayout:
        """Return where each visual token is in the picture.

        Raises:
            RefusedError: if there are several pictures, or the prompt has another number of placeholders.
        """
        if len(layouts) != 1:
            raise RefusedError(f"the graph is made for a prompt with one image; given were {len(layouts)}")
        if self.layout.counts != (found,):
            raise RefusedError(
                f"the prompt has {self.layout.most} placeholders, the image {found} visual tokens; build the prompt "
                "with the model's own processor"
            )
        return self.layout.assign([layouts], self._decoder.joins_adjacent_tiles)[0]

    def _features(self, pixels: Tensor) -> Tensor:
        """Return the features of the picture's tokens, `[1, tokens, d]`."""
        ((_, output),) = self._decoder.encode_visual_inputs(self._encoder_inputs(pixels)).items()
        return self.layout.by_id(self._decoder.projected_features(output))

    def select(self, features: Tensor) -> StageOutcome:
        """Return what the stage decides; a constant where it does not look at the picture."""
        if self._fixed is not None:
            return self._fixed
        return decide(self._recipe, self._stage, self._pool(), self._groups, {Evidence.FEATURES: lambda: features})[1]

    def _shortened(self, input_ids: Tensor, features: Tensor, outcome: StageOutcome) -> dict[str, Tensor]:
        """Return the arguments of the model for what stays of the prompt."""
        layout, cpu = self.layout, torch.device("cpu")
        sizes = layout.sizes((self.kept,))
        keep = layout.put(outcome.keep, layout.text.on(cpu))
        shortening = shorten(keep, layout.real.on(cpu), layout.left, sizes, layout.lengths)
        # A placeholder need not have an embedding.
        words = self._decoder.embed_tokens(input_ids.masked_fill(~layout.text.on(cpu), 0))
        places = layout.places.on(cpu).unsqueeze(-1).expand_as(features)
        vectors = words.scatter(1, places, features.to(words.dtype))
        return {
            "inputs_embeds": shortening.take(vectors),
            "position_ids": self._moved(shortening),
            # Without a mask, gaps in positions read as borders of packed samples.
            "attention_mask": shortening.mask.long(),
        }

    def _moved(self, shortening: Shortening) -> Tensor:
        """Return the positions of what stays."""
        positions = shortening.take_last(self._positions)
        if self._recipe.positions == "original":
            return positions
        whole = torch.tensor([self.kept == self.layout.most])
        return compact_positions(positions, shortening.mask, whole)[0]

    def _pool(self) -> TokenPool:
        """Return the visual tokens, of which none has left."""
        return TokenPool(
            self.tokens.every.on(torch.device("cpu")),
            self.tokens,
            torch.zeros(1, dtype=torch.int64),
            {},
            counts=self.tokens.counts,
        )


def _true_places(mask: Tensor, number: int) -> Tensor:
    """Return the places of the true ones of a mask `[rows, n]`, ascending, where each row has as many."""
    return mask.int().sort(dim=1, descending=True, stable=True).indices[:, :number]
