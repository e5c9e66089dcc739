"""Laws on the ways to generate, on several turns and on a loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import tokensieve as ts
from tokensieve.engine.cache import cache_name
from tokensieve.testing.adapters.base import AdapterLaws
from tokensieve.testing.adapters.kit import YES, Kit, assert_close
from tokensieve.testing.checks import cured_by
from tokensieve.testing.prompts import Prompts, Row


class GenerationLaws(AdapterLaws):
    """Every way to generate gives what the reference gives; so do several turns and a loss."""

    @cured_by(
        "check that `layout` and `split_inputs` take an output that `generate` repeated for beams, or refuse "
        "several answers in `refused_inputs`",
        raised=True,
    )
    @torch.no_grad()
    def test_beams(self, kit: Kit) -> None:
        """The score of the best beam is the sum of the log-probabilities that the reference gives its tokens."""
        rows, result = kit.rows_for_several_answers()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows, steps=3, num_beams=3, output_scores=True, length_penalty=0.0)
            for number, row in enumerate(rows):
                reference = kit.expected(row, kit.kept(run, recipe, number), recipe)
                words, total = out.sequences[number, start:].tolist(), 0.0
                for step, word in enumerate(words):
                    total += float(reference.logits(words[:step]).log_softmax(dim=-1)[word])
                found = float(out.sequences_scores[number])
                assert found == pytest.approx(total, abs=2e-3), (
                    f"the best beam scores {found}, and {total} by the reference"
                )
        self._record("beams", result)

    @cured_by(
        "check that `layout` and `split_inputs` take an output that `generate` repeated for several answers, or "
        "refuse them in `refused_inputs`",
        raised=True,
    )
    @torch.no_grad()
    def test_sampling(self, kit: Kit) -> None:
        """Several sampled answers each have the logits that the reference gives after their tokens."""
        rows, result = kit.rows_for_several_answers()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        torch.manual_seed(0)
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows, steps=3, do_sample=True, temperature=3.0, num_return_sequences=2)
            logits = torch.stack(out.logits, dim=1)
            for number, sequence in enumerate(out.sequences[:, start:].tolist()):
                reference = kit.expected(rows[number // 2], kit.kept(run, recipe, number // 2), recipe)
                assert_close(
                    logits[number, -1],
                    reference.logits(sequence[:-1]),
                    f"logits of answer {number}, beside the reference",
                )
        self._record("sampling", result)

    @cured_by(
        "let `position_ids` depend on the prompt alone, not on the length of the cache",
        raised=True,
    )
    @torch.no_grad()
    def test_a_static_cache(self, kit: Kit) -> None:
        """A static cache gives the tokens of a dynamic one."""
        self._record("static cache", kit.static)
        if kit.static != YES:
            return
        rows = kit.ragged_rows()
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe):
                dynamic = kit.generate(rows)
                static = kit.generate(rows, cache_implementation="static", disable_compile=True)
            assert torch.equal(dynamic.sequences, static.sequences), "a static cache gives other tokens"
            assert_close(
                torch.stack(dynamic.logits), torch.stack(static.logits), "logits with a dynamic and a static cache"
            )

    @cured_by(
        "read no values of tensors in methods that forward calls at every step, such as `rotary_embeddings`",
        raised=True,
    )
    @torch.no_grad()
    def test_compiled_decoding(self, kit: Kit) -> None:
        """Compiled layers give the same tokens, with graph breaks at hooks."""
        row = kit.row(("image", 1))
        recipe = list(kit.recipes())[-1]
        with ts.prune(kit.model, recipe):
            eager = kit.generate([row])
        # Another model: that of the kit must not stay compiled.
        model: Any = self.build()
        model.load_state_dict(kit.model.state_dict())
        compiled = copy.copy(kit)
        compiled.model = model.eval()
        compiled.model.generation_config.eos_token_id = None
        adapter = ts.default_registry().adapter_for(model)
        compiled.prompts = Prompts(model, adapter)
        for layer in compiled.prompts.decoder.layers:
            layer.compile(backend="eager")
        try:
            with ts.prune(model, recipe):
                out = compiled.generate([row])
        finally:
            torch.compiler.reset()
        assert torch.equal(eager.sequences, out.sequences), "compiled layers give other tokens"
        self._record("compiled layers")

    @cured_by(
        "let `position_ids` number several new tokens at once, from where it is told to begin",
        raised=True,
    )
    @torch.no_grad()
    def test_prompt_lookup(self, kit: Kit) -> None:
        """Prompt lookup gives the tokens of greedy decoding."""
        self._record("prompt lookup", kit.lookup)
        if kit.lookup != YES:
            return
        row = kit.row(("image", 1))
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe):
                greedy = kit.generate([row], steps=8)
                looked = kit.generate([row], steps=8, prompt_lookup_num_tokens=3)
            assert torch.equal(greedy.sequences, looked.sequences), "prompt lookup gives other tokens"

    @cured_by(
        "let `position_ids` go on after the whole prompt, pruned tokens included, when the request holds a longer "
        "conversation",
        raised=True,
    )
    @torch.no_grad()
    def test_several_turns(self, kit: Kit) -> None:
        """A second turn on a pruned cache has the logits of the whole conversation."""
        row, follow = kit.row(("image", 1)), [11, 12, 13]
        cache = cache_name(kit.model)
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                inputs = kit.prompts.batch([row])
                first = kit.generate([row])
                words = first.sequences[0].tolist() + follow
                ids = torch.tensor([words])
                second = kit.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    **{cache: first[cache]},
                    **kit.settings(2),
                )
            reference = kit.expected(row, kit.kept(run, recipe, 0), recipe)
            answer = words[inputs["input_ids"].shape[1] :]
            for step in range(2):
                assert_close(
                    second.logits[step][0], reference.logits(answer), f"logits of step {step} of a second turn"
                )
                answer.append(int(second.sequences[0, len(words) + step]))
        self._record("several turns")

    @cured_by(
        "detach nothing in `projected_features` and `replace_features`, and use no operation in place",
        raised=True,
    )
    def test_a_loss(self, kit: Kit) -> None:
        """The loss over an answer is that of the reference, and gradients reach the vision encoder or the projector."""
        row = kit.row(("image", 1), seed=7)
        inputs = kit.prompts.batch([row])
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[:, -2:] = inputs["input_ids"][:, -2:]
        inputs |= kit.prompts.adapter.aligned_inputs(kit.model, inputs["input_ids"], 2)
        for recipe in kit.recipes():
            kit.model.zero_grad()
            with ts.prune(kit.model, recipe) as run:
                loss = kit.model(**inputs, labels=labels).loss
                loss.backward()
            before = Row(row.words[:-2], row.pictures)
            reference = kit.expected(before, kit.kept(run, recipe, 0), recipe)
            last = row.words[-2:]
            chances = [reference.logits(last[:step]).log_softmax(dim=-1)[word] for step, word in enumerate(last)]
            wanted = -torch.stack(chances).mean()
            assert_close(loss.detach(), wanted, "the loss and that of the reference")
            gradients = [weight.grad for weight in kit.model.parameters() if weight.grad is not None]
            assert all(gradient.isfinite().all() for gradient in gradients), "a gradient is not finite"
            assert any(
                weight.grad is not None and bool(weight.grad.any())
                for name, weight in kit.model.named_parameters()
                if "language_model" not in name and "text_model" not in name and "lm_head" not in name
            ), "no gradient reaches the vision encoder or the projector"
        kit.model.zero_grad()
        self._record("loss")
