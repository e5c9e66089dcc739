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
from tokensieve.testing.checks import cured_by


class ComputationLaws(AdapterLaws):
    """A pruned model computes what references compute that share no code with the engine."""

    @cured_by(
        "check `layout`, `modalities`, `position_ids` and, if vision features are added inside the language model, "
        "`first_prunable_layer`; `refusals` refuses what cannot work",
        raised=True,
    )
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

    @cured_by(
        "let `position_ids` begin where it is told, and give new tokens the positions that they have with a cache",
        raised=True,
    )
    @torch.no_grad()
    def test_without_a_cache(self, kit: Kit) -> None:
        """Generation without a cache gives the same."""
        rows = kit.ragged_rows()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows, steps=2, use_cache=False)
            kit.check_generation(rows, run, recipe, out.sequences[:, start:], torch.stack(out.logits, dim=1))

    @cured_by(
        "check `split_inputs` and `layout`: images are told apart by their own sizes, and padding of the batch is "
        "no token",
        raised=True,
    )
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
                    found = kit.kept(run, recipe, 0)
                    assert found == kept[number], (
                        f"prompt {number} keeps {found} alone, and {kept[number]} in the batch"
                    )
                    both = torch.stack(together.logits)[:, number], torch.stack(alone.logits)[:, 0]
                    assert_close(*both, f"logits of prompt {number} in the batch and alone")

    @cured_by(
        "name the model inside as `base_model`, whose forward takes the images: calls of it are pruned as well",
        raised=True,
    )
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
                assert_close(kit.model.forward(**inputs).logits, logits, "logits of a call of forward")
                for call in (base, base.forward):
                    assert_close(call(**inputs)[0], answers[-1], "results of a call of the base model")
            assert len(run.prefills) == 4, f"of four calls, {len(run.prefills)} were pruned"
            kept = [[sample.kept.tolist() for sample in prefill.stages[0].samples] for prefill in run.prefills]
            assert kept[1:] == kept[:1] * 3, f"four ways into the model keep {kept}"

    @cured_by(
        "check `language_model_name` and that `layers` are all layers that attend, in order",
        raised=True,
    )
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
                wanted = longest if window is None else min(longest, window - 1)
                length = cache.keys.shape[2]
                assert length == wanted, (
                    f"the cache of layer {layer} holds {length} tokens, and the ledger says {wanted}"
                )

    @cured_by(
        "return one layout for each image, in the order of the prompt; set `joins_adjacent_tiles` where tiles of "
        "equal rank are one image",
        raised=True,
    )
    @torch.no_grad()
    def test_every_image_keeps_its_share(self, kit: Kit) -> None:
        """Budgets are counted for each image, and the ids in a ledger are sorted and unique."""
        row = kit.row(("image", 1), 2, ("image", 2))
        with ts.prune(kit.model, kit.recipe(0, keep=3)) as run:
            kit.model(**kit.prompts.batch([row]))
        ids = run.kept("decoder.0")[0].tolist()
        first = len(kit.prompts.visual(kit.row(("image", 1))))
        assert ids == sorted(set(ids)), f"the kept ids are not sorted, or not unique: {ids}"
        # The same image may get another number of tiles in a prompt with several images.
        assert len(ids) == 6, f"of two images with a budget of 3 each, {len(ids)} tokens are kept"
        found, wanted = run.latest.visual, [len(kit.prompts.visual(row))]
        assert found == wanted, f"the ledger counts {found} visual tokens, and the prompt has {wanted} placeholders"
        assert first > 3, f"an image of `tiny` has {first} tokens, too few to prune any; make its images larger"

    @cured_by(
        "let `text_config` and `layers` be those of the language model; what its layers compute otherwise goes into "
        "its cost",
        raised=True,
    )
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
        assert unpruned, "torch counts no FLOPs in the layers of the language model"
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                pruned = counted()
            found = run.flops(0)
            assert found == (unpruned, pruned), f"FLOPs are counted as {found}, and torch counts {(unpruned, pruned)}"
            # They are also known before anything runs.
            visual, text = run.latest.visual[0], run.latest.text[0]
            planned = pruned_prefill_flops(recipe, run.layers, [visual], text)
            assert planned == pruned, f"before a run {planned} FLOPs are counted, and in it {pruned}"
        self._record("counted FLOPs")

    @cured_by(
        "check `replace_features` and `projected_features`: merged vectors take the place of the kept ones",
        raised=True,
    )
    @torch.no_grad()
    def test_merging(self, kit: Kit) -> None:
        """Merging keeps the same tokens as dropping, gives finite logits, and changes them."""
        rows = kit.ragged_rows()
        for blocks in [(0,)] if kit.inside is None else [(0,), (kit.inside,)]:
            with ts.prune(kit.model, kit.recipe(*blocks, rest="merge")) as run:
                out = kit.generate(rows)
            assert torch.stack(out.logits).isfinite().all(), "merging gives logits that are not finite"
            with ts.prune(kit.model, kit.recipe(*blocks)) as dropped:
                plain = kit.generate(rows)
            merged, left = ([ids.tolist() for ids in one.kept(f"decoder.{blocks[0]}")] for one in (run, dropped))
            assert merged == left, f"merging keeps {merged}, and dropping keeps {left}"
            same = torch.equal(torch.stack(out.logits), torch.stack(plain.logits))
            assert not same, "merging gives the logits of dropping: the merged vectors are not used"
        self._record("merging")
