"""`Kit`: the tiny model of a family, with its prompts and the references that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.testing.adapters.probes import EvidenceRecorder, LargestFeatures, evidence_by_field
from tokensieve.testing.prompts import Part, Prompts, Row, randomize_weights
from tokensieve.testing.reference import MaskedReference, ShortenedReference

NEW_TOKENS = 4
"""How many tokens a generation has, unless a law says otherwise."""
YES = "yes"
"""What the record says of a capability that works."""


class Kit:
    """A tiny model of a family, with prompts, recipes and references.

    Attributes:
        model: the model, with random weights so large that every token matters.
        prompts: makes prompts for the model.
        inside: a block inside the language model at which tokens can be pruned, or none.
        reason: why there is none.
        reference: how a generation pruned at `decoder.0` is computed for comparison.
        video: whether the family takes videos.
        static: `yes`, or why transformers has no static cache for this family.
        lookup: `yes`, or why transformers has no prompt lookup for this family.
    """

    def __init__(self, model: Any, adapter: Adapter) -> None:
        randomize_weights(model).eval()
        self.model = model
        # Only its length may end a generation.
        self.model.generation_config.eos_token_id = None
        self.prompts = Prompts(self.model, adapter)
        self.static = self.lookup = YES
        decoder = self.prompts.decoder
        block = min(decoder.first_prunable_layer + 1, len(decoder.layers) - 1)
        reasons = adapter.refusals(decoder_stage(block, LargestFeatures(), 4))
        self.inside = None if reasons else block
        self.reason = "; ".join(reasons)
        kinds = set(getattr(decoder.text_config, "layer_types", None) or ["full_attention"])
        self.reference = MaskedReference if kinds == {"full_attention"} else ShortenedReference
        self.video = any(modality.name == "video" for modality in decoder.modalities)
        self._warm_up()

    def _warm_up(self) -> None:
        """Run the model once: on first use, transformers leaves hooks and the size of a static cache in it."""
        inputs = self.prompts.batch([self.row(("image", 1))])
        with torch.no_grad():
            self.model(**inputs, output_hidden_states=True)
            self.model.generate(**inputs, max_new_tokens=1)
            self.static = self._supports(inputs, cache_implementation="static", disable_compile=True)
            self.lookup = self._supports(inputs, prompt_lookup_num_tokens=3)

    def _supports(self, inputs: dict[str, Any], **settings: Any) -> str:
        """Return `yes`, or why transformers cannot generate with these settings."""
        try:
            self.model.generate(**inputs, max_new_tokens=1, **settings)
        # What transformers raises for what it does not support is not documented.
        except Exception as error:
            return f"not in transformers: {type(error).__name__}"
        return YES

    def row(self, *parts: Part, seed: int = 0) -> Row:
        """Return a prompt that begins and ends with text."""
        return self.prompts.row([2, *parts, 4], seed)

    def ragged_rows(self) -> list[Row]:
        """Return prompts of different lengths: one image, none, two, and a video if the family takes videos."""
        rows = [
            self.row(("image", 1), seed=1),
            self.row(9, seed=2),
            self.row(("image", 2), 1, ("image", 3), seed=3),
        ]
        return rows + ([self.row(("video", 5), 2, ("image", 4), seed=4)] if self.video else [])

    def rows_for_several_answers(self) -> tuple[list[Row], str]:
        """Return the prompts for which several answers can be generated, and `yes`, or why not for all prompts."""
        rows = self.ragged_rows()
        try:
            with torch.no_grad(), ts.prune(self.model, self.recipe(0)):
                self.generate(rows, steps=1, num_beams=2)
        except RefusedError as error:
            return rows[:2], f"refused: {error}"
        return rows, YES

    def recipe(self, *blocks: int, positions: Any = "original", rest: Any = "drop", keep: int = 6) -> ts.Recipe:
        """Return a recipe that keeps `keep` tokens at the first block, and one fewer at each further block."""
        stages = tuple(decoder_stage(block, LargestFeatures(), keep - i, rest) for i, block in enumerate(blocks))
        return ts.Recipe(stages=stages, positions=positions)

    def recipes(self) -> Iterator[ts.Recipe]:
        """Return recipes that prune before the language model, inside it and at both, with both kinds of positions."""
        plans = [(0,)] if self.inside is None else [(0,), (self.inside,), (0, self.inside)]
        for blocks in plans:
            for positions in ("original", "compact"):
                yield self.recipe(*blocks, positions=positions)

    def generate(self, rows: Sequence[Row], steps: int = NEW_TOKENS, **settings: Any) -> Any:
        """Return the output of `generate` for prompts."""
        return self.model.generate(**self.prompts.batch(rows), **self.settings(steps) | settings)

    def evidence(
        self, rows: Sequence[Row], block: int, kinds: frozenset[ts.Evidence], beams: int = 1
    ) -> dict[int, dict[str, Tensor]]:
        """Return the evidence that a strategy gets, by number of the prompt and by field.

        Prompts without visual tokens are left out.
        """
        at = ts.Stage(
            at=ts.Site("decoder", block), select=EvidenceRecorder(kinds=kinds), keep=ts.Keep.of(3), per="sample"
        )
        EvidenceRecorder.seen.clear()
        with ts.prune(self.model, ts.Recipe(stages=(at,))):
            # Not a direct forward: there padding shifts positions, and with them keys.
            self.generate(rows, steps=1, num_beams=beams)
        if not EvidenceRecorder.seen:
            return {}
        [tokens] = EvidenceRecorder.seen
        assert set(tokens.evidence) == kinds, f"offered is {sorted(kinds)}, and there is {sorted(tokens.evidence)}"
        return {sample: evidence_by_field(tokens, row) for row, sample in enumerate(tokens.samples.tolist())}

    def settings(self, steps: int = NEW_TOKENS) -> dict[str, Any]:
        """Return the arguments of `generate` that make generations comparable."""
        return {
            "max_new_tokens": steps,
            "do_sample": False,
            "suppress_tokens": self.prompts.reserved_token_ids,
            "output_logits": True,
            "return_dict_in_generate": True,
        }

    def kept(self, run: ts.Run, recipe: ts.Recipe, number: int) -> dict[int, list[int]]:
        """Return the ids that a prompt kept, by block."""
        return {stage.at.block: run.kept(str(stage.at))[number].tolist() for stage in recipe.stages}

    def expected(self, row: Row, kept: dict[int, list[int]], recipe: ts.Recipe) -> MaskedReference | ShortenedReference:
        """Return the independent reference of a pruned prompt."""
        kind: Any = self.reference if set(kept) == {0} else MaskedReference
        result: MaskedReference | ShortenedReference = kind(self.prompts, row, kept, recipe.positions)
        return result

    def check_generation(
        self, rows: Sequence[Row], run: ts.Run, recipe: ts.Recipe, words: Tensor, logits: Tensor
    ) -> None:
        """Compare generated tokens `[rows, steps]` and their logits `[rows, steps, vocabulary]` with the reference."""
        for number, row in enumerate(rows):
            reference = self.expected(row, self.kept(run, recipe, number), recipe)
            wanted, seen = reference.greedy(words.shape[1])
            assert_close(logits[number], seen, f"logits of prompt {number}, beside the reference")
            found = words[number].tolist()
            assert found == wanted, f"prompt {number} goes on with {found}, and in the reference with {wanted}"


def assert_close(a: Tensor, b: Tensor, what: str = "two results") -> None:
    """Raise `AssertionError` unless two float32 results are equal up to rounding.

    Args:
        a: one of them.
        b: the other.
        what: what they are, for the message.
    """
    torch.testing.assert_close(a, b, atol=5e-4, rtol=1e-3, msg=lambda found: f"{what} differ: {found}")


def decoder_stage(block: int, select: ts.Strategy, keep: int, rest: Any = "drop") -> ts.Stage:
    """Return a stage of the language model."""
    return ts.Stage(at=ts.Site("decoder", block), select=select, keep=ts.Keep.of(keep), rest=rest)
