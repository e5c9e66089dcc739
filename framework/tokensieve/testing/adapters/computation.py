"""Laws on what a pruned model computes: logits, caches, budgets and FLOPs."""

from __future__ import annotations

from typing import Any

import torch

import tokensieve as ts
from tokensieve.cost.geometry import pruned_prefill_flops
from tokensieve.cost.language_model import flop_counter
from tokensieve.engine.cache import cache_name
from tokensieve.testing.adapters.base import AdapterLaws
from tokensieve.testing.adapters.kit import NEW_TOKENS, Kit, assert_close


class ComputationLaws(AdapterLaws):
    """A pruned model computes what references compute that share no code with the engine."""

    @torch.no_grad()
    def test_generation_is_that_of_the_reference(self, kit: Kit) -> None:
        """In a batch padded on the left, each prompt gets the tokens and logits of its reference."""
        rows = kit.ragged_rows()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows)
            kit.check_generation(rows, run, recipe, out.sequences[:, start:], torch.stack(out.logits, dim=1))
        self._record("decoder.0")
        self._record("several images")
        if kit.video:
            self._record("video")
        self._prunes_inside(kit, "decoder.K")

    @torch.no_grad()
    def test_without_a_cache(self, kit: Kit) -> None:
        """Generation without a cache gives the same."""
        rows = kit.ragged_rows()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows, steps=2, use_cache=False)
            kit.check_generation(rows, run, recipe, out.sequences[:, start:], torch.stack(out.logits, dim=1))

    @torch.no_grad()
    def test_a_row_gets_what_it_gets_alone(self, kit: Kit) -> None:
        """Other prompts in the batch and padding change neither the kept tokens nor the logits."""
        rows = kit.ragged_rows()
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                together = kit.generate(rows)
                kept = [kit.kept(run, recipe, number) for number in range(len(rows))]
                for number, row in enumerate(rows):
                    alone = kit.generate([row])
                    assert kit.kept(run, recipe, 0) == kept[number]
                    assert_close(torch.stack(together.logits)[:, number], torch.stack(alone.logits)[:, 0])

    @torch.no_grad()
    def test_every_way_in_is_pruned(self, kit: Kit) -> None:
        """Calls of `forward` and of the base model are pruned as calls of the model are."""
        inputs, base = kit.prompts.batch(kit.ragged_rows()), kit.prompts.decoder.base_model
        answers: list[Any] = []
        for blocks in [(0,)] if kit.inside is None else [(0,), (kit.inside,)]:
            with ts.prune(kit.model, kit.recipe(*blocks)) as run:
                hook = base.register_forward_hook(lambda module, args, output: answers.append(output[0]))
                try:
                    logits = kit.model(**inputs).logits
                finally:
                    hook.remove()
                assert_close(kit.model.forward(**inputs).logits, logits)
                for call in (base, base.forward):
                    assert_close(call(**inputs)[0], answers[-1])
            assert len(run.prefills) == 4
            kept = [[sample.kept.tolist() for sample in prefill.stages[0].samples] for prefill in run.prefills]
            assert kept[1:] == kept[:1] * 3

    @torch.no_grad()
    def test_caches_hold_what_the_ledger_says(self, kit: Kit) -> None:
        """The cache of every layer is as long as the ledger's token count of that layer."""
        rows = kit.ragged_rows()
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows)
            visual = [run.visual_per_layer(number) for number in range(len(rows))]
            for layer, cache in enumerate(out[cache_name(kit.model)].layers):
                longest = (
                    max(text + own[layer] for text, own in zip(run.latest.text, visual, strict=True)) + NEW_TOKENS - 1
                )
                if getattr(cache, "keys", None) is None:
                    # A recurrent state has no length, and a layer that shares keys has no cache of its own.
                    continue
                window = getattr(cache, "sliding_window", None)
                assert cache.keys.shape[2] == (longest if window is None else min(longest, window - 1))

    @torch.no_grad()
    def test_every_image_keeps_its_share(self, kit: Kit) -> None:
        """Budgets are counted for each image, and the ids in a ledger are sorted and unique."""
        row = kit.row(("image", 1), 2, ("image", 2))
        with ts.prune(kit.model, kit.recipe(0, keep=3)) as run:
            kit.model(**kit.prompts.batch([row]))
        ids = run.kept("decoder.0")[0].tolist()
        first = len(kit.prompts.visual(kit.row(("image", 1))))
        assert ids == sorted(set(ids))
        # The same image may get another number of tiles in a prompt with several images.
        assert len(ids) == 6
        assert run.latest.visual == [len(kit.prompts.visual(row))]
        assert first > 3

    @torch.no_grad()
    def test_flops_are_those_that_torch_counts(self, kit: Kit) -> None:
        """Counted FLOPs, unpruned and pruned, are those that torch's own counter counts in a run."""
        row = kit.row(("image", 1))
        inputs = kit.prompts.batch([row])
        own = set(kit.prompts.decoder.layers)
        names = {f"{type(kit.model).__name__}.{name}" for name, part in kit.model.named_modules() if part in own}

        def counted() -> int:
            counter = flop_counter()
            with counter:
                kit.model(**inputs)
            return sum(sum(flops.values()) for name, flops in counter.get_flop_counts().items() if name in names)

        unpruned = counted()
        assert unpruned
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                pruned = counted()
            assert run.flops(0) == (unpruned, pruned)
            # They are also known before anything runs.
            visual, text = run.latest.visual[0], run.latest.text[0]
            assert pruned_prefill_flops(recipe, run.layers, [visual], text) == pruned
        self._record("counted FLOPs")

    @torch.no_grad()
    def test_merging(self, kit: Kit) -> None:
        """Merging keeps the same tokens as dropping, gives finite logits, and changes them."""
        rows = kit.ragged_rows()
        for blocks in [(0,)] if kit.inside is None else [(0,), (kit.inside,)]:
            with ts.prune(kit.model, kit.recipe(*blocks, rest="merge")) as run:
                out = kit.generate(rows)
            assert torch.stack(out.logits).isfinite().all()
            with ts.prune(kit.model, kit.recipe(*blocks)) as dropped:
                plain = kit.generate(rows)
            assert [ids.tolist() for ids in run.kept(f"decoder.{blocks[0]}")] == [
                ids.tolist() for ids in dropped.kept(f"decoder.{blocks[0]}")
            ]
            assert not torch.equal(torch.stack(out.logits), torch.stack(plain.logits))
        self._record("merging")
