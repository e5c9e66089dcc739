"""Every way to generate gives what it gives on the sequence pruned by hand."""

import copy
from functools import partial

import pytest
import torch

import tokensieve as ts
from tokensieve import Scorer
from tokensieve.errors import RefusedError
from tokensieve_strategies import FastV, Norm, Random, ToMe

from .models import CACHE, IMAGE, ONE, RAGGED, SEVERAL, TEXT, VARIANTS, batch, generate, llava, patches, prompts, shared
from .reference import Cut, Plain, Written, attended, judged, norms

K = 5


class Counting(Scorer):
    """Counts how often it is asked, and gives the norm."""

    name = "counting"

    def score(self, tokens):
        CALLS.append(tokens.universe.rows)
        return tokens.features.double().norm(dim=-1)


CALLS = []


def at(*blocks, positions="original", select=None, keep=K):
    stages = tuple(
        ts.Stage(at=f"decoder.{b}", select=Norm() if select is None else select, keep=keep - i)
        for i, b in enumerate(blocks)
    )
    return ts.Recipe(stages=stages, positions=positions)


def pruned_by_hand(model, rows, positions):
    """Embeddings of the pruned sequences, left-padded, as a request of their own."""
    plain = Plain(model, positions)
    made = [plain.sequence(row, judged(model, row, norms, K, patches(model))) for row in rows]
    width = max(len(x) for x, _, _ in made)
    embeds = torch.zeros(len(rows), width, made[0][0].shape[1])
    mask, ids = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, (x, places, _) in enumerate(made):
        embeds[i, width - len(x) :], mask[i, width - len(x) :] = x.detach(), 1
        ids[i, width - len(x) :] = torch.tensor(places)
    return {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": ids}


WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 3.0, "top_k": 20},
    "several answers": {"do_sample": True, "temperature": 3.0, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 3, "do_sample": True, "temperature": 2.0},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "static beams": {"cache_implementation": "static", "disable_compile": True, "num_beams": 2},
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("layouts", [ONE, RAGGED], ids=["one", "ragged"])
def test_what_hugging_face_generates_from_the_hand_pruned_sequence(way, positions, layouts):
    model = shared("sdpa")
    rows = prompts(model, layouts)
    settings = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0} | WAYS[way]
    torch.manual_seed(5)
    right = model.generate(**pruned_by_hand(model, rows, positions), **settings)
    inputs = batch(rows)
    with ts.prune(model, at(0, positions=positions)) as run:
        torch.manual_seed(5)
        words = model.generate(**inputs, **settings)
    assert torch.equal(words[:, inputs["input_ids"].shape[1] :], right)
    kept = [sorted(judged(model, row, norms, K, patches(model))) for row in rows]
    assert [ids.tolist() for ids in run.kept("decoder.0")] == kept


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("blocks", [(2,), (0, 2)], ids=str)
@pytest.mark.parametrize("layouts", [ONE, RAGGED], ids=["one", "ragged"])
def test_a_static_cache_gives_what_a_dynamic_one_gives(positions, blocks, layouts):
    model = shared("sdpa")
    rows = prompts(model, layouts)
    with ts.prune(model, at(*blocks, positions=positions)):
        words, logits, _ = generate(model, rows)
        static, static_logits, _ = generate(model, rows, cache_implementation="static", disable_compile=True)
    assert torch.equal(words, static)
    torch.testing.assert_close(logits, static_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("blocks", [(1,), (0, 2)], ids=str)
def test_beams_inside_the_model_rank_whole_sequences_rightly(positions, blocks):
    """The score of the best beam is the sum of what the written decoder gives its words."""
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, at(*blocks, positions=positions)) as run:
        out = model.generate(
            **batch(rows),
            num_beams=3,
            do_sample=False,
            max_new_tokens=3,
            return_dict_in_generate=True,
            output_scores=True,
            length_penalty=0.0,
        )
    start = batch(rows)["input_ids"].shape[1]
    for number, row in enumerate(rows):
        cuts = {b: Cut(K - i, norms) for i, b in enumerate(blocks)}
        words, total = out.sequences[number, start:].tolist(), 0.0
        first = Written(model, positions).forward(row, cuts)
        fixed = {b: Cut(kept=set(first.kept[b])) for b in blocks}
        for step, word in enumerate(words):
            logits = Written(model, positions).forward(row, fixed, words[:step]).logits
            total += float(logits.log_softmax(dim=-1)[word])
        assert float(out.sequences_scores[number]) == pytest.approx(total, abs=1e-3)
        for block in blocks:
            assert run.kept(f"decoder.{block}")[number].tolist() == first.kept[block]
    assert len(run.kept(f"decoder.{blocks[0]}")) == len(rows)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("blocks", [(2,), (0, 2)], ids=str)
def test_sampled_words_are_drawn_from_what_the_written_decoder_gives(positions, blocks):
    """Three answers a prompt, all different, each with the logits of its own sequence."""
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    torch.manual_seed(0)
    with ts.prune(model, at(*blocks, positions=positions)):
        out = model.generate(
            **batch(rows),
            do_sample=True,
            temperature=3.0,
            num_return_sequences=3,
            max_new_tokens=4,
            return_dict_in_generate=True,
            output_logits=True,
            suppress_tokens=[IMAGE],
        )
    start = batch(rows)["input_ids"].shape[1]
    words, logits = out.sequences[:, start:].tolist(), torch.stack(out.logits, dim=1)
    assert len({tuple(answer) for answer in words}) > len(rows)
    for number, answer in enumerate(words):
        row = rows[number // 3]
        first = Written(model, positions).forward(row, {b: Cut(K - i, norms) for i, b in enumerate(blocks)})
        fixed = {b: Cut(kept=set(first.kept[b])) for b in blocks}
        for step in range(len(answer)):
            wanted = Written(model, positions).forward(row, fixed, answer[:step]).logits
            torch.testing.assert_close(logits[number, step].double(), wanted.double(), atol=2e-4, rtol=1e-4)


DRAFTS = {"0": at(0), "2": at(2), "fastv": at(2, select=FastV()), "0+2": at(0, 2)}


@pytest.mark.parametrize("recipe", DRAFTS)
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_prompt_lookup_gives_the_greedy_words(recipe, positions):
    """The first call brings drafted words behind the prompt; they are neither judged nor do they judge."""
    model = shared("sdpa")
    settings = {"do_sample": False, "max_new_tokens": 12, "suppress_tokens": [IMAGE], "return_dict_in_generate": True}
    # A row that repeats itself, so that there is something to look up.
    row = prompts(model, ONE)[0]
    with ts.prune(model, DRAFTS[recipe], positions=positions) as run:
        said = model.generate(**batch([row]), **settings).sequences[0, len(row.words) :].tolist()
        inputs = batch([row.plus([*said, *said[:4]])])
        greedy = model.generate(**inputs, **settings)
        before = run.latest
        looked = model.generate(**inputs, **settings, prompt_lookup_num_tokens=3)
    assert torch.equal(looked.sequences, greedy.sequences)
    assert run.latest.text == before.text
    assert torch.equal(run.kept(before.stages[-1].site)[0], before.stages[-1].samples[0].kept)
    for a, b in zip(looked[CACHE].layers, greedy[CACHE].layers, strict=True):
        torch.testing.assert_close(a.keys, b.keys, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("name", ["sdpa", "mha"])
def test_an_assistant_gives_the_greedy_words(positions, name):
    """One that guesses right, being the same model, and one that guesses wrong."""
    model, assistant = shared("sdpa"), llava(**VARIANTS[name])
    inputs = batch(prompts(model, ONE))
    settings = {"do_sample": False, "max_new_tokens": 8, "suppress_tokens": [IMAGE]}
    with ts.prune(model, at(0, positions=positions)):
        greedy = model.generate(**inputs, **settings)
        assert torch.equal(model.generate(**inputs, **settings, assistant_model=assistant), greedy)


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_conversation_goes_on_before_the_model(positions):
    model = shared("sdpa")
    row = prompts(model, SEVERAL)[0]
    kept = judged(model, row, norms, K, patches(model))
    # The reference hands merged embeddings to the language model, which a model refuses while it is pruned.
    plain = copy.deepcopy(model)
    talk(model, row, at(0, positions=positions), lambda now, steps: Plain(plain, positions).greedy(now, kept, steps)[0])


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("blocks", [(2,), (0, 2)], ids=str)
def test_a_conversation_goes_on_inside_the_model(positions, blocks):
    model = shared("sdpa")
    row = prompts(model, SEVERAL)[0]
    first = Written(model, positions).forward(row, {b: Cut(K - i, norms) for i, b in enumerate(blocks)})
    cuts = {b: Cut(kept=set(first.kept[b])) for b in blocks}

    def right(now, steps):
        # What follows the first turn are new words, not prompt.
        said, new = list(now.words[len(row.words) :]), []
        for _ in range(steps):
            new.append(int(Written(model, positions).forward(row, cuts, said + new).logits.argmax()))
        return new

    talk(model, row, at(*blocks, positions=positions), right)


def talk(model, row, recipe, right):
    """Three turns on one cache; with what the model should say to each."""
    with ts.prune(model, recipe) as run:
        inputs, cache, now = batch([row]), None, row
        for turn in range(3):
            out = model.generate(
                **inputs,
                **{CACHE: cache},
                do_sample=False,
                max_new_tokens=4,
                return_dict_in_generate=True,
            )
            said = out.sequences[0, len(now.words) :].tolist()
            assert said == right(now, 4)
            now = now.plus([*said, 10 + turn, 20 + turn, 30 + turn])
            cache = out[CACHE]
            inputs = {"input_ids": torch.tensor([now.words]), "attention_mask": torch.ones(1, len(now.words)).long()}
        assert len(run.prefills) == 1


@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@pytest.mark.parametrize(
    "settings", [{}, {"use_cache": False}, {"num_beams": 3}, {"num_beams": 3, "use_cache": False}], ids=str
)
def test_a_generation_selects_once(blocks, settings):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, at(*blocks, select=Counting())) as run:
        CALLS.clear()
        generate(model, rows, suppress_tokens=[IMAGE], **settings)
        # Three images in three rows: beams do not multiply what is judged.
        assert CALLS == [3]
        assert len(run.prefills) == 1
        assert [len(ids) for ids in run.kept(f"decoder.{blocks[0]}")] == [K, 0, 2 * K]
        generate(model, rows, suppress_tokens=[IMAGE], **settings)
        assert CALLS == [3, 3]
        assert len(run.prefills) == 2


BOUND = {
    "before the block": lambda model: model.generate,
    "in another block": lambda model: _bound_inside(model),
    "of the class": lambda model: partial(type(model).generate, model),
}


def _bound_inside(model):
    with ts.prune(model, at(0)):
        return model.generate


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@torch.no_grad()
def test_what_code_inside_generate_asks_the_model_is_a_call_of_its_own(blocks, use_cache):
    """As decoding by contrast does, with the picture blurred, and with other words."""
    model = shared("sdpa")
    row, other = prompts(model, [[3, IMAGE, 4], [5, IMAGE, 4]], seed=4)
    asked = [
        batch([row]) | {"pixel_values": other.pixels},
        batch([other]) | {"pixel_values": row.pixels},
        batch([other]),
        batch([row]),
    ]
    said = []

    def ask(ids, scores):
        said.extend(model(**one).logits[:, -1] for one in asked)
        return scores

    with ts.prune(model, at(*blocks)):
        right = [model(**one).logits[:, -1] for one in asked]
        alone = generate(model, [row], 2, use_cache=use_cache)[0]
    with ts.prune(model, at(*blocks)) as run:
        found = generate(model, [row], 2, use_cache=use_cache, logits_processor=[ask])[0]
    assert found.tolist() == alone.tolist()
    for one, expected in zip(said, right * 2, strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)
    assert len(run.prefills) == 9


@torch.no_grad()
def test_a_call_inside_a_call_is_refused():
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    with ts.prune(model, at(0)):
        hook = model.model.language_model.register_forward_pre_hook(lambda *_: model(**inputs) and None)
        try:
            with pytest.raises(RefusedError, match="called inside a call of its own"):
                model(**inputs)
        finally:
            hook.remove()
        model(**inputs)


@pytest.mark.parametrize("layouts", [ONE, TEXT], ids=["image", "text"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 4}, {"use_cache": False}], ids=str)
@pytest.mark.parametrize("bound", BOUND)
def test_a_generate_from_outside_of_the_block_is_refused(bound, settings, layouts):
    """Bound before, it goes past what the block installs: it counted beams as prompts, and selected at every step."""
    model = shared("sdpa")
    generate = BOUND[bound](model)
    inputs = batch(prompts(model, layouts))
    with ts.prune(model, at(2, select=FastV())) as run:
        with pytest.raises(RefusedError, match=r"call model\.generate inside the block"):
            generate(**inputs, max_new_tokens=2, **settings)
        assert not run.prefills
        inside = model.generate
        inside(**inputs, max_new_tokens=2, **settings)
        assert [len(prefill.keys) for prefill in run.prefills] == [1]
    # Afterwards all of them are the plain model's.
    plain = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    for one in (generate, inside):
        assert torch.equal(one(**inputs, max_new_tokens=2, do_sample=False), plain)


def test_generation_without_a_prompt_is_the_plain_one():
    model = shared("sdpa")
    plain = model.generate(max_new_tokens=2, do_sample=False)
    with ts.prune(model, at(0)):
        assert torch.equal(model.generate(max_new_tokens=2, do_sample=False), plain)


@pytest.mark.parametrize("settings", [{"num_beams": 4}, {"do_sample": True, "num_return_sequences": 3}], ids=str)
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("site", ["encoder.0", "decoder.0", "decoder.2"])
def test_the_ledger_counts_prompts_and_not_beams(site, settings, use_cache):
    model = shared("sdpa")
    recipe = ts.Recipe.of(ToMe(metric="keys"), K, at=site, rest="merge" if site == "encoder.0" else "drop")
    if site == "decoder.2":
        recipe = ts.Recipe.of(FastV(), K, at=site)
    if site == "decoder.0":
        recipe = ts.Recipe.of(Norm(), K)
    inputs = batch(prompts(model, ONE))
    with ts.prune(model, recipe) as run:
        model.generate(**inputs, max_new_tokens=3, use_cache=use_cache, suppress_tokens=[IMAGE], **settings)
    [prefill] = run.prefills
    assert (prefill.keys, prefill.visual, prefill.text) == ([0], [patches(model)], [8])
    assert [len(stage.samples) for stage in prefill.stages] == [1]
    assert len(run.to_dict()["samples"]) == len(run.kept(site)) == 1
    if site == "encoder.0":
        assert prefill.pictures == [1]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}], ids=str)
def test_fastv_without_a_cache_says_what_it_says_with_one(settings):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, at(2, select=FastV())) as run:
        cached = generate(model, rows, 6, suppress_tokens=[IMAGE], **settings)[0]
        kept = run.kept("decoder.2")
        assert torch.equal(generate(model, rows, 6, suppress_tokens=[IMAGE], use_cache=False, **settings)[0], cached)
    assert len(run.prefills) == 2
    assert all(torch.equal(a, b) for a, b in zip(kept, run.kept("decoder.2"), strict=True))


@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@torch.no_grad()
def test_every_forward_selects_anew(blocks):
    model = shared("sdpa")
    rows = prompts(model, ONE)
    with ts.prune(model, at(*blocks, select=Counting())) as run:
        CALLS.clear()
        for _ in range(3):
            out = model(**batch(rows), use_cache=True)
        model(input_ids=torch.tensor([[5]]), **{CACHE: out[CACHE]})
    assert CALLS == [1, 1, 1]
    assert len(run.prefills) == 3


def test_several_answers_are_one_prompt_in_the_ledger():
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    keys = [11, 12, 13]
    with ts.prune(model, Random(), keep=K, keys=keys) as run:
        model.generate(**batch(rows), do_sample=True, num_return_sequences=4, max_new_tokens=2)
        many = run.kept("decoder.0")
        model.generate(**batch(rows), do_sample=False, max_new_tokens=2)
        one = run.kept("decoder.0")
    assert run.prefills[0].keys == keys
    assert len(many) == len(one) == 3
    assert all(torch.equal(a, b) for a, b in zip(many, one, strict=True))


def test_text_prompts_are_in_the_ledger_once():
    model = shared("sdpa")
    with ts.prune(model, at(0, 2)) as run:
        generate(model, prompts(model, [*TEXT, *TEXT]), num_beams=2)
    assert len(run.prefills) == 1
    assert [len(ids) for ids in run.kept("decoder.2")] == [0, 0]


def test_a_generated_placeholder_is_a_word():
    """A model may say the placeholder's id; only a call with images has visual tokens."""
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    forced = {"prefix_allowed_tokens_fn": lambda number, words: [IMAGE]}
    for recipe in (at(0), at(2), at(0, 2)):
        with ts.prune(model, recipe) as run:
            assert generate(model, [row], 3, **forced)[0].tolist() == [[IMAGE] * 3]
        assert len(run.prefills) == 1


def test_the_ledger_can_be_read_inside_and_after():
    model = shared("sdpa")
    with ts.prune(model, at(2, select=FastV())) as run:
        with pytest.raises(ts.TokensieveError, match="nothing has run yet"):
            run.kept("decoder.2")
        generate(model, prompts(model, ONE))
        inside = run.kept("decoder.2")
    assert torch.equal(inside[0], run.kept("decoder.2")[0])
    trace = Written(model).forward(prompts(model, ONE)[0], {2: Cut(K, attended)})
    assert inside[0].tolist() == trace.kept[2]
    with pytest.raises(ts.TokensieveError, match=r"decoder\.2"):
        run.kept("decoder.0")
