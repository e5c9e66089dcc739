"""The conformance kit for adapters of models that answer in words.

Inherit from `AdapterConformance`, name the adapter, and run it with pytest:

    class TestMyFamily(AdapterConformance):
        adapter = MyAdapter

Every law is a test. What a family cannot do must be refused, with a reason, before anything runs;
the kit checks that, and writes down which of the two it saw.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

import tokensieve as ts
from tokensieve.cost.geometry import cost
from tokensieve.cost.language_model import flop_counter
from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.offers import VISION_EVIDENCE
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import Part, Prompts, Row, cache_name, lively
from tokensieve.testing.reference import Masked, Short

STEPS = 4
YES = "yes"


class Largest(ts.Scorer):
    """Keeps the tokens with the largest features, judged in float64."""

    name = "kit_largest"

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Return the Euclidean norm, `[rows, n]`."""
        norm: Tensor = torch.linalg.vector_norm(tokens.features.double(), dim=-1)
        return norm


class Attended(ts.Scorer):
    """Keeps the tokens that the prompt's last word looks at most."""

    name = "kit_attended"

    @property
    def needs(self) -> frozenset[ts.Evidence]:
        """Attention of the layer before."""
        return frozenset({ts.Evidence.DECODER_ATTENTION})

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Return the mean over heads, `[rows, n]`."""
        return tokens.decoder_attention.double().mean(dim=-1)


class Watching(ts.Scorer):
    """Keeps the first tokens, and remembers all that it saw.

    Attributes:
        kinds: what it asks for.
        seen: what it was given, latest last.
    """

    name = "kit_watching"
    kinds: frozenset[ts.Evidence] = frozenset({ts.Evidence.FEATURES})
    seen: ClassVar[list[ts.Tokens]] = []

    @property
    def needs(self) -> frozenset[ts.Evidence]:
        """What it was told to ask for."""
        return self.kinds

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Return the earlier token the higher score, `[rows, n]`."""
        self.seen.append(tokens)
        return -tokens.ids.double()


def parts(tokens: ts.Tokens, row: int) -> dict[str, Tensor]:
    """Return all that is known of a row of tokens, without padding, by kind and field."""
    found: dict[str, Tensor] = {}
    real = tokens.valid[row]
    for kind, value in tokens.evidence.items():
        if isinstance(value, Tensor):
            found[str(kind)] = value[row][real]
            continue
        text = value.mask[row]
        for field, part in vars(value).items():
            if not isinstance(part, Tensor) or field == "mask":
                continue
            own = part[row]
            if field == "attention":
                found[f"{kind}.{field}"] = own[real][:, text]
            else:
                found[f"{kind}.{field}"] = own[real if field == "patch" else text]
    return found


class Failing(ts.Scorer):
    """Raises when asked."""

    name = "kit_failing"

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Raise."""
        raise ZeroDivisionError("asked to fail")


def near(a: Tensor, b: Tensor) -> None:
    """Compare two ways of computing the same in float32."""
    torch.testing.assert_close(a, b, atol=5e-4, rtol=1e-3)


def _patches(run: ts.Run) -> list[int]:
    """Return how many patches of each prompt entered the vision encoder."""
    return [pictures * run.latest.patches for pictures in run.latest.pictures]


def stage(block: int, select: ts.Strategy, keep: int, rest: Any = "drop") -> ts.Stage:
    """Make a stage in the language model."""
    return ts.Stage(at=ts.Site("decoder", block), select=select, keep=ts.Keep.of(keep), rest=rest)


class Kit:
    """A tiny model of a family, and what is asked of it.

    Attributes:
        model: with weights that make every token matter.
        prompts: made for it.
        inside: a block inside the language model at which tokens can leave, or none.
        reason: why there is none.
        static: `yes`, or why the library itself has no static cache for this family.
        lookup: `yes`, or why it has no prompt lookup.
    """

    def __init__(self, model: Any, adapter: Adapter) -> None:
        lively(model).eval()
        self.model = model
        # Nothing but its length shall end a generation.
        self.model.generation_config.eos_token_id = None
        self.prompts = Prompts(self.model, adapter)
        self.static = self.lookup = YES
        decoder = self.prompts.decoder
        block = min(decoder.first_prunable_layer + 1, len(decoder.layers) - 1)
        reasons = adapter.refusals(stage(block, Largest(), 4))
        self.inside = None if reasons else block
        self.reason = "; ".join(reasons)
        kinds = set(getattr(decoder.text_config, "layer_types", None) or ["full_attention"])
        self.reference = Masked if kinds == {"full_attention"} else Short
        self.video = any(modality.name == "video" for modality in decoder.modalities)
        self._prime()

    def _prime(self) -> None:
        """Let the library leave in the model what it leaves on first use: hooks, and the size of a static cache."""
        inputs = self.prompts.batch([self.row(("image", 1))])
        with torch.no_grad():
            self.model(**inputs, output_hidden_states=True)
            self.model.generate(**inputs, max_new_tokens=1)
            self.static = self._knows(inputs, cache_implementation="static", disable_compile=True)
            self.lookup = self._knows(inputs, prompt_lookup_num_tokens=3)

    def _knows(self, inputs: dict[str, Any], **settings: Any) -> str:
        """Say `yes`, or why the library itself cannot generate in a way."""
        try:
            self.model.generate(**inputs, max_new_tokens=1, **settings)
        # Whatever the library raises over what it does not support.
        except Exception as error:
            return f"not in transformers: {type(error).__name__}"
        return YES

    def row(self, *parts: Part, seed: int = 0) -> Row:
        """Make a prompt that ends in words."""
        return self.prompts.row([2, *parts, 4], seed)

    def ragged(self) -> list[Row]:
        """Make prompts of different lengths: one image, none, two, and a video where the family has any."""
        rows = [
            self.row(("image", 1), seed=1),
            self.row(9, seed=2),
            self.row(("image", 2), 1, ("image", 3), seed=3),
        ]
        return rows + ([self.row(("video", 5), 2, ("image", 4), seed=4)] if self.video else [])

    def fanned(self) -> tuple[list[Row], str]:
        """Return prompts that several answers can be had of, and `yes`, or why not of all."""
        rows = self.ragged()
        try:
            with torch.no_grad(), ts.prune(self.model, self.recipe(0)):
                self.generate(rows, steps=1, num_beams=2)
        except RefusedError as error:
            return rows[:2], f"refused: {error}"
        return rows, YES

    def recipe(self, *blocks: int, positions: Any = "original", rest: Any = "drop", keep: int = 6) -> ts.Recipe:
        """Make a recipe that keeps `keep`, then one fewer at each further block."""
        stages = tuple(stage(block, Largest(), keep - i, rest) for i, block in enumerate(blocks))
        return ts.Recipe(stages=stages, positions=positions)

    def recipes(self) -> Iterator[ts.Recipe]:
        """Return recipes before, inside, and both, with both kinds of positions."""
        plans = [(0,)] if self.inside is None else [(0,), (self.inside,), (0, self.inside)]
        for blocks in plans:
            for positions in ("original", "compact"):
                yield self.recipe(*blocks, positions=positions)

    def generate(self, rows: Sequence[Row], steps: int = STEPS, **settings: Any) -> Any:
        """Generate from prompts."""
        return self.model.generate(**self.prompts.batch(rows), **self.settings(steps) | settings)

    def watch(
        self, rows: Sequence[Row], block: int, kinds: frozenset[ts.Evidence], beams: int = 1
    ) -> dict[int, dict[str, Tensor]]:
        """Return what a strategy sees of every prompt that has visual tokens, by its number."""
        at = ts.Stage(at=ts.Site("decoder", block), select=Watching(kinds=kinds), keep=ts.Keep.of(3), per="sample")
        Watching.seen.clear()
        with ts.prune(self.model, ts.Recipe(stages=(at,))):
            # Not a bare forward, for which padding moves positions, and with them keys.
            self.generate(rows, steps=1, num_beams=beams)
        if not Watching.seen:
            return {}
        [tokens] = Watching.seen
        assert set(tokens.evidence) == kinds
        return {sample: parts(tokens, row) for row, sample in enumerate(tokens.samples.tolist())}

    def settings(self, steps: int = STEPS) -> dict[str, Any]:
        """Return what makes a generation comparable."""
        return {
            "max_new_tokens": steps,
            "do_sample": False,
            "suppress_tokens": self.prompts.reserved_token_ids,
            "output_logits": True,
            "return_dict_in_generate": True,
        }

    def kept(self, run: ts.Run, recipe: ts.Recipe, number: int) -> dict[int, list[int]]:
        """Return what a prompt kept, by block."""
        return {stage.at.block: run.kept(str(stage.at))[number].tolist() for stage in recipe.stages}

    def expected(self, row: Row, kept: dict[int, list[int]], recipe: ts.Recipe) -> Masked | Short:
        """Return the independent reference of a pruned prompt."""
        kind: Any = self.reference if set(kept) == {0} else Masked
        result: Masked | Short = kind(self.prompts, row, kept, recipe.positions)
        return result

    def check(self, rows: Sequence[Row], run: ts.Run, recipe: ts.Recipe, words: Tensor, logits: Tensor) -> None:
        """Compare a generation `[rows, steps]` and its logits with the reference."""
        for number, row in enumerate(rows):
            reference = self.expected(row, self.kept(run, recipe, number), recipe)
            wanted, seen = reference.greedy(words.shape[1])
            near(logits[number], seen)
            assert words[number].tolist() == wanted


class AdapterConformance:
    """Laws that every adapter of a model that answers in words must keep.

    Attributes:
        adapter: the adapter under test.
        found: what the laws saw, by capability: `yes`, or why it is refused.
    """

    adapter: ClassVar[type[Adapter]]
    found: ClassVar[dict[str, str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.found = {}

    @classmethod
    def build(cls) -> nn.Module:
        """Make the tiny model under test."""
        return cls.adapter.tiny()

    @pytest.fixture(scope="class")
    @classmethod
    def kit(cls) -> Kit:
        """Return the model, its prompts, and what it is held against."""
        model = cls.build()
        return Kit(model, ts.default_registry().adapter_for(model))

    def _saw(self, capability: str, what: str = YES) -> None:
        self.found[capability] = what

    def _inside(self, kit: Kit, capability: str) -> bool:
        """Return whether tokens can leave inside the language model; what cannot must be refused on entry."""
        if kit.inside is not None:
            self._saw(capability)
            return True
        with pytest.raises(ts.TokensieveError), ts.prune(kit.model, kit.recipe(1)):
            pytest.fail("it was let in")
        self._saw(capability, f"refused: {kit.reason}")
        return False

    # What nothing may change

    @torch.no_grad()
    def test_keeping_all_changes_nothing(self, kit: Kit) -> None:
        """Keep-all gives the plain model's logits and words, to the bit."""
        rows = kit.ragged()
        plain = kit.generate(rows)
        forward = kit.model(**kit.prompts.batch(rows)).logits
        blocks = [0] if kit.inside is None else [0, kit.inside]
        for block in blocks:
            with ts.prune(kit.model, kit.recipe(block, keep=100_000)) as run:
                kept = kit.generate(rows)
                assert torch.equal(forward, kit.model(**kit.prompts.batch(rows)).logits)
            assert torch.equal(plain.sequences, kept.sequences)
            assert torch.equal(torch.stack(plain.logits), torch.stack(kept.logits))
            assert [len(ids) for ids in run.kept(f"decoder.{block}")] == [len(kit.prompts.visual(row)) for row in rows]

    @torch.no_grad()
    def test_positions_are_those_of_forward(self, kit: Kit) -> None:
        """The positions that the adapter gives are those that forward takes where none are given."""
        for row in kit.ragged():
            inputs = kit.prompts.batch([row])
            mask = inputs["attention_mask"].bool()
            positions = kit.prompts.decoder.position_ids(inputs, mask, 0, mask.shape[1])
            assert torch.equal(kit.model(**inputs).logits, kit.model(**inputs, position_ids=positions).logits)

    @torch.no_grad()
    def test_the_model_is_restored(self, kit: Kit) -> None:
        """Hooks, attributes and configs are as before, also after an exception, and nested."""
        row = kit.row(("image", 1))
        kit.generate([row])
        before = footprint(kit.model)
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe):
                kit.generate([row])
                with ts.prune(kit.model, kit.recipe(0)):
                    kit.generate([row])
            assert footprint(kit.model) == before
            with pytest.raises(ZeroDivisionError), ts.prune(kit.model, Failing(), keep=3):
                kit.generate([row])
            assert footprint(kit.model) == before

    # What is computed

    @torch.no_grad()
    def test_generation_is_that_of_the_reference(self, kit: Kit) -> None:
        """A ragged, left-padded batch gives each prompt what an independent, cache-free computation gives it."""
        rows = kit.ragged()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows)
            kit.check(rows, run, recipe, out.sequences[:, start:], torch.stack(out.logits, dim=1))
        self._saw("decoder.0")
        self._saw("several images")
        if kit.video:
            self._saw("video")
        self._inside(kit, "decoder.K")

    @torch.no_grad()
    def test_without_a_cache(self, kit: Kit) -> None:
        """Generation that keeps no cache gives the same."""
        rows = kit.ragged()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows, steps=2, use_cache=False)
            kit.check(rows, run, recipe, out.sequences[:, start:], torch.stack(out.logits, dim=1))

    @torch.no_grad()
    def test_a_row_gets_what_it_gets_alone(self, kit: Kit) -> None:
        """Neighbours and padding change neither choice nor logits."""
        rows = kit.ragged()
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                together = kit.generate(rows)
                kept = [kit.kept(run, recipe, number) for number in range(len(rows))]
                for number, row in enumerate(rows):
                    alone = kit.generate([row])
                    assert kit.kept(run, recipe, 0) == kept[number]
                    near(torch.stack(together.logits)[:, number], torch.stack(alone.logits)[:, 0])

    @torch.no_grad()
    def test_caches_hold_what_the_ledger_says(self, kit: Kit) -> None:
        """Every layer's cache is as long as the ledger's tokens of that layer."""
        rows = kit.ragged()
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows)
            visual = [run.visual_per_layer(number) for number in range(len(rows))]
            for layer, cache in enumerate(out[cache_name(kit.model)].layers):
                longest = max(text + own[layer] for text, own in zip(run.latest.text, visual, strict=True)) + STEPS - 1
                if getattr(cache, "keys", None) is None:
                    # A recurrent state has no length, and a layer that shares keys none of its own.
                    continue
                window = getattr(cache, "sliding_window", None)
                assert cache.keys.shape[2] == (longest if window is None else min(longest, window - 1))

    @torch.no_grad()
    def test_every_image_keeps_its_share(self, kit: Kit) -> None:
        """Budgets are counted for each image, and what a ledger says is sorted and unique."""
        row = kit.row(("image", 1), 2, ("image", 2))
        with ts.prune(kit.model, kit.recipe(0, keep=3)) as run:
            kit.model(**kit.prompts.batch([row]))
        ids = run.kept("decoder.0")[0].tolist()
        first = len(kit.prompts.visual(kit.row(("image", 1))))
        assert ids == sorted(set(ids))
        # An image alone may be cut into other tiles than beside another.
        assert len(ids) == 6
        assert run.latest.visual == [len(kit.prompts.visual(row))]
        assert first > 3

    @torch.no_grad()
    def test_flops_are_those_that_torch_counts(self, kit: Kit) -> None:
        """Counted FLOPs, unpruned and pruned, are those of torch's own counter on a run."""
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
            # And they are known before anything runs.
            visual, text = run.latest.visual[0], run.latest.text[0]
            assert cost(recipe, run.layers, [visual], text) == pruned
        self._saw("counted FLOPs")

    @torch.no_grad()
    def test_merging(self, kit: Kit) -> None:
        """Folding the rest keeps as many tokens, and loses none of their mass."""
        rows = kit.ragged()
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
        self._saw("merging")

    @torch.no_grad()
    def test_stages_in_the_tower(self, kit: Kit) -> None:
        """Tokens leave inside the vision encoder, or that is refused on entry."""
        encoder = kit.prompts.adapter.encoder
        ways: tuple[tuple[str, Literal["drop", "merge"]], ...] = (
            ("encoder.K", "drop"),
            ("encoder.K, merging", "merge"),
        )
        for capability, rest in ways:
            # Fewer in its last layer.
            last = 0 if encoder is None else encoder.num_prunable_blocks - 1
            cut = ts.Stage(at=ts.Site("encoder", last), select=Largest(), keep=ts.Keep.of("1/2"), rest=rest)
            found = [
                found for found in ts.review(ts.Recipe(stages=(cut,)), kit.prompts.adapter) if found.level == "error"
            ]
            if found:
                with pytest.raises(ts.TokensieveError), ts.prune(kit.model, ts.Recipe(stages=(cut,))):
                    pytest.fail("it was let in")
                # Names and numbers of a tiny model's sites say nothing of the family.
                why = (
                    "; ".join(one.message for one in found)
                    if encoder
                    else "tokens cannot leave inside its vision tower"
                )
                self._saw(capability, f"refused: {why}")
            else:
                self._tower(kit, cut)
                self._saw(capability)

    def _tower(self, kit: Kit, cut: ts.Stage) -> None:
        """Hold stages in the vision encoder against the plain model, single runs and the ledger."""
        encoder, rows, before = kit.prompts.adapter.encoder, kit.ragged(), footprint(kit.model)
        every = ts.Stage.each(at=f"encoder.0..{cut.at.block}", select=Largest(), r=0, rest=cut.rest)
        plain = kit.generate(rows)
        with ts.prune(kit.model, ts.Recipe(stages=every)):
            assert torch.equal(torch.stack(kit.generate(rows).logits), torch.stack(plain.logits))
        deeper = () if kit.inside is None else (stage(kit.inside, Largest(), 2),)
        for more in ((), (stage(0, Largest(), 3),), deeper):
            recipe = ts.Recipe(stages=(cut, *more))
            sites = [one.at for one in recipe.stages]
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows)
                together = [[ids.tolist() for ids in run.kept(site)] for site in sites]
                visual = [run.visual_per_layer(number) for number in range(len(rows))]
                assert [len(ids) for ids in together[0]] == [sample // 2 for sample in _patches(run)]
                if encoder is not None and encoder.prunes_prompt:
                    whole = [len(kit.prompts.visual(row)) for row in rows]
                    assert all(own[0] < n for own, n in zip(visual, whole, strict=True) if n)
                for layer, cache in enumerate(out[cache_name(kit.model)].layers):
                    sizes = zip(run.latest.text, visual, strict=True)
                    longest = max(text + own[layer] for text, own in sizes) + STEPS - 1
                    window = getattr(cache, "sliding_window", None)
                    assert cache.keys.shape[2] == (longest if window is None else min(longest, window - 1))
                for number, row in enumerate(rows):
                    alone = kit.generate([row])
                    assert [run.kept(site)[0].tolist() for site in sites] == [kept[number] for kept in together]
                    near(torch.stack(out.logits)[:, number], torch.stack(alone.logits)[:, 0])
                    near(kit.model(**kit.prompts.batch([row])).logits[0, -1], alone.logits[0][0])
            assert not torch.equal(torch.stack(out.logits), torch.stack(plain.logits))
            assert footprint(kit.model) == before

    @torch.no_grad()
    def test_evidence(self, kit: Kit) -> None:
        """Every kind of evidence that is offered can be had, and a row gets what it gets alone, beams or not."""
        _, seen = kit.fanned()
        for block in [0] if kit.inside is None else [0, kit.inside]:
            kinds = kit.prompts.adapter.offers(ts.Site("decoder", block))
            able = kit.prompts.decoder.vision_modalities if kinds & VISION_EVIDENCE else {"image", "video"}
            rows = [row for row in kit.ragged() if all(name in able for name, own in row.pictures.items() if own)]
            together = kit.watch(rows, block, kinds)
            for number, row in enumerate(rows):
                assert (number in together) == bool(kit.prompts.visual(row))
                fans = seen == YES or sum(map(len, row.pictures.values())) < 2
                for beams in (1, 2) if fans else (1,):
                    for alone in kit.watch([row], block, kinds, beams).values():
                        assert set(alone) == set(together[number])
                        for name, value in alone.items():
                            near(together[number][name], value)
            for name in {name for row in together.values() for name in row}:
                every = torch.cat([row[name].flatten() for row in together.values()]).double()
                assert every.isfinite().all(), name
                # Grids of one row, and sizes before anything is merged, are alike everywhere.
                assert every.std() > 0 or name in ("grid", "sizes"), name
                if "attention" in name or name in ("vision_received", "vision_middle", "decoder_content"):
                    assert 0 <= float(every.min()) <= float(every.max()) <= 1, name
        self._saw("evidence")

    # Ways to generate

    @torch.no_grad()
    def test_beams(self, kit: Kit) -> None:
        """The best beam's score is the sum of what the reference gives its words."""
        rows, seen = kit.fanned()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows, steps=3, num_beams=3, output_scores=True, length_penalty=0.0)
            for number, row in enumerate(rows):
                reference = kit.expected(row, kit.kept(run, recipe, number), recipe)
                words, total = out.sequences[number, start:].tolist(), 0.0
                for step, word in enumerate(words):
                    total += float(reference.logits(words[:step]).log_softmax(dim=-1)[word])
                assert float(out.sequences_scores[number]) == pytest.approx(total, abs=2e-3)
        self._saw("beams", seen)

    @torch.no_grad()
    def test_sampling(self, kit: Kit) -> None:
        """Several sampled answers each have the logits of their own words."""
        rows, seen = kit.fanned()
        start = kit.prompts.batch(rows)["input_ids"].shape[1]
        torch.manual_seed(0)
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                out = kit.generate(rows, steps=3, do_sample=True, temperature=3.0, num_return_sequences=2)
            logits = torch.stack(out.logits, dim=1)
            for number, sequence in enumerate(out.sequences[:, start:].tolist()):
                reference = kit.expected(rows[number // 2], kit.kept(run, recipe, number // 2), recipe)
                near(logits[number, -1], reference.logits(sequence[:-1]))
        self._saw("sampling", seen)

    @torch.no_grad()
    def test_a_static_cache(self, kit: Kit) -> None:
        """A static cache gives the words of a dynamic one."""
        self._saw("static cache", kit.static)
        if kit.static != YES:
            return
        rows = kit.ragged()
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe):
                dynamic = kit.generate(rows)
                static = kit.generate(rows, cache_implementation="static", disable_compile=True)
            assert torch.equal(dynamic.sequences, static.sequences)
            near(torch.stack(dynamic.logits), torch.stack(static.logits))

    @torch.no_grad()
    def test_compiled_decoding(self, kit: Kit) -> None:
        """Compiled layers give the same words, with graph breaks at hooks."""
        row = kit.row(("image", 1))
        recipe = list(kit.recipes())[-1]
        with ts.prune(kit.model, recipe):
            eager = kit.generate([row])
        # The kit's own model shall not stay compiled.
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
        assert torch.equal(eager.sequences, out.sequences)
        self._saw("compiled layers")

    @torch.no_grad()
    def test_prompt_lookup(self, kit: Kit) -> None:
        """Words that were drafted and checked are the greedy ones."""
        self._saw("prompt lookup", kit.lookup)
        if kit.lookup != YES:
            return
        row = kit.row(("image", 1))
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe):
                greedy = kit.generate([row], steps=8)
                looked = kit.generate([row], steps=8, prompt_lookup_num_tokens=3)
            assert torch.equal(greedy.sequences, looked.sequences)

    @torch.no_grad()
    def test_several_turns(self, kit: Kit) -> None:
        """A second turn on a pruned cache is that of the whole conversation."""
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
            said = words[inputs["input_ids"].shape[1] :]
            for step in range(2):
                near(second.logits[step][0], reference.logits(said))
                said.append(int(second.sequences[0, len(words) + step]))
        self._saw("several turns")

    def test_a_loss(self, kit: Kit) -> None:
        """The loss over an answer is that of the reference, and gradients reach what made the features."""
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
            near(loss.detach(), wanted)
            gradients = [weight.grad for weight in kit.model.parameters() if weight.grad is not None]
            assert all(gradient.isfinite().all() for gradient in gradients)
            assert any(
                weight.grad is not None and bool(weight.grad.any())
                for name, weight in kit.model.named_parameters()
                if "language_model" not in name and "text_model" not in name and "lm_head" not in name
            )
        kit.model.zero_grad()
        self._saw("loss")

    # Kinds of models

    @torch.no_grad()
    def test_kinds_of_attention(self, kit: Kit) -> None:
        """Both kinds of attention keep the same tokens, by features and by attention."""
        rows, seen = kit.ragged(), []
        block = kit.inside or 0
        recipe = ts.Recipe(stages=(stage(block, Attended() if block else Largest(), 5),))
        for kind in ("eager", "sdpa"):
            model: Any = self.build()
            model.load_state_dict(kit.model.state_dict())
            try:
                model.set_attn_implementation(kind)
            except ValueError:
                self._saw(kind, "not in transformers")
                continue
            with ts.prune(model.eval(), recipe) as run:
                model(**kit.prompts.batch(rows))
            seen.append([ids.tolist() for ids in run.kept(f"decoder.{block}")])
            self._saw(kind)
        assert all(kept == seen[0] for kept in seen)

    @torch.no_grad()
    def test_half_precision(self, kit: Kit) -> None:
        """In bfloat16 budgets are exact, keeping all changes nothing, and logits are finite."""
        model = self.build()
        model.load_state_dict(kit.model.state_dict())
        model = model.to(torch.bfloat16).eval()
        prompts = Prompts(model, ts.default_registry().adapter_for(model))
        inputs = prompts.batch(kit.ragged())
        plain = model(**inputs).logits
        for recipe in kit.recipes():
            with ts.prune(model, recipe):
                assert model(**inputs).logits.isfinite().all()
            with ts.prune(model, recipe.replace(keep=[100_000] * len(recipe.stages), positions="original")):
                assert torch.equal(plain, model(**inputs).logits)
        self._saw("bfloat16")

    @torch.no_grad()
    def test_a_saved_checkpoint(self, kit: Kit) -> None:
        """A model loaded from a folder, as users load theirs, keeps the same and says the same."""
        rows = kit.ragged()
        recipe = list(kit.recipes())[-1]
        with tempfile.TemporaryDirectory() as folder:
            kit.model.save_pretrained(folder)
            loaded = type(kit.model).from_pretrained(Path(folder)).eval()
        loaded.generation_config.eos_token_id = None
        inputs = kit.prompts.batch(rows)
        with ts.prune(kit.model, recipe) as run:
            mine = kit.model.generate(**inputs, **kit.settings())
        with ts.prune(loaded, recipe) as again:
            theirs = loaded.generate(**inputs, **kit.settings())
        assert torch.equal(mine.sequences, theirs.sequences)
        assert run.to_dict()["stages"][-1]["samples"] == again.to_dict()["stages"][-1]["samples"]
        self._saw("from_pretrained")

    # What is refused

    @torch.no_grad()
    def test_refusals(self, kit: Kit) -> None:
        """What could not be right is refused before anything is computed."""
        row = kit.row(("image", 1))
        inputs = kit.prompts.batch([row])
        cache = cache_name(kit.model)
        for recipe in kit.recipes():
            with ts.prune(kit.model, recipe) as run:
                for setting, value in (
                    ("prefill_chunk_size", 4),
                    ("cache_implementation", "quantized"),
                    ("custom_generate", "somebody/something"),
                ):
                    with pytest.raises(ts.TokensieveError):
                        kit.model.generate(**inputs, **kit.settings(), **{setting: value})
                with pytest.raises(ts.TokensieveError):
                    kit.model.generate_batch([row.words])
                padded = kit.prompts.batch([row, kit.row(("image", 1), 9)], side="right")
                with pytest.raises(ts.TokensieveError):
                    kit.model.generate(**padded, **kit.settings())
                assert not run.prefills
                held = kit.model(**inputs, use_cache=True)[cache]
                with pytest.raises(ts.TokensieveError):
                    kit.model(**inputs, **{cache: held})
            with pytest.raises(ts.TokensieveError):
                kit.model(input_ids=torch.tensor([[5]]), **{cache: held})
