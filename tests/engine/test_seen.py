"""What strategies see of the language model: text and visual tokens in the layer before, as a decoder written out sees
them."""

from functools import wraps
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from transformers import LlavaConfig, LlavaForConditionalGeneration, PhiConfig

import tokensieve as ts
from tokensieve import Evidence, Tokens
from tokensieve.engine import attention_tap as taps
from tokensieve.errors import MissingEvidenceError, RefusedError
from tokensieve.models.offers import VISION_EVIDENCE
from tokensieve.testing.prompts import Prompts, randomize_weights
from tokensieve_adapters.llava import LlavaAdapter, LlavaDecoder
from tokensieve_adapters.paligemma import PaliGemmaAdapter
from tokensieve_adapters.qwen2_5_vl import Qwen25VLAdapter
from tokensieve_adapters.qwen2_vl import Qwen2VLAdapter
from tokensieve_adapters.qwen3_vl import Qwen3VLAdapter
from tokensieve_strategies import Norm

from .models import ONE, RAGGED, SEVERAL, batch, generate, llava, prompts, shared
from .reference import Cut, Written, norms

TEXTS = {Evidence.DECODER_TEXT, Evidence.DECODER_TEXT_HEADS}
ALL = {Evidence.DECODER_ATTENTION, Evidence.DECODER_CONTENT, Evidence.DECODER_KEYS, *TEXTS}


class Seeing(ts.Scorer):
    """Keeps tokens with large features, and remembers all that it saw."""

    name = "seeing"
    kinds: frozenset[Evidence] = frozenset(ALL)
    seen: ClassVar[list[Tokens]] = []

    @property
    def needs(self):
        return self.kinds | {Evidence.FEATURES}

    def score(self, tokens):
        self.seen.append(tokens)
        return tokens.features.double().norm(dim=-1)


@pytest.fixture(autouse=True)
def unseen():
    Seeing.seen.clear()


def both(plan):
    """The recipe of a plan, whose last stage sees, and the cuts of the reference with what its judge was given."""
    given = []

    def judge(evidence):
        given.append(evidence)
        return norms(evidence)

    *before, (last, keep, rest) = plan
    stages = [ts.Stage(at=f"decoder.{block}", select=Norm(), keep=k, rest=how) for block, k, how in before]
    stages.append(ts.Stage(at=f"decoder.{last}", select=Seeing(), keep=keep, rest=rest, per="sample"))
    cuts = {block: Cut(k, norms, merge=how == "merge") for block, k, how in before}
    return ts.Recipe(stages=tuple(stages)), cuts | {last: Cut(keep, judge)}, given


def near(a, b):
    torch.testing.assert_close(a.double(), b, atol=2e-4, rtol=1e-4)


def check(model, rows, cuts, given, tokens):
    """Compare all that was seen with the written decoder, prompt by prompt."""
    with_images = [number for number, row in enumerate(rows) if row.images]
    assert tokens.samples.tolist() == with_images
    for line, number in enumerate(with_images):
        given.clear()
        Written(model).forward(rows[number], cuts)
        [right] = given
        ids = tokens.ids[line][tokens.valid[line]].tolist()
        assert ids == sorted(right["features"])
        for place, i in enumerate(ids):
            near(tokens.decoder_attention[line, place], right["attention"][i])
            near(tokens.decoder_content[line, place], right["content"][i])
            near(tokens.decoder_keys[line, place], right["keys"][i])
        seen, words = tokens.decoder_text, right["words"]
        text = seen.mask[line]
        # Words come first, in order, and what is no word is nothing.
        assert text.tolist() == sorted(text.tolist(), reverse=True)
        assert int(text.sum()) == len(words["keys"])
        assert not seen.attention[line][:, ~text].any()
        for field in ("keys", "features", "embeddings"):
            near(getattr(seen, field)[line][text], words[field])
            assert not getattr(seen, field)[line][~text].any()
        for place, i in enumerate(ids):
            near(seen.attention[line, place][text], words["attention"][i])
            near(seen.patch[line, place], words["patch"][i])
        assert seen.after[line][text].tolist() == words["after"]
        assert not seen.after[line][~text].any()
        heads = tokens.decoder_text_heads
        assert torch.equal(heads.mask, seen.mask)
        for place, i in enumerate(ids):
            near(heads.attention[line, place][text], words["heads"][i])
            near(heads.bias[line, place][text], words["bias"][i])
            assert not heads.attention[line, place][~text].any()
            assert not heads.bias[line, place][~text].any()


PLANS = {
    "1": [(1, 5, "drop")],
    "2": [(2, 5, "drop")],
    "3": [(3, 5, "drop")],
    "0+2": [(0, 9, "drop"), (2, 4, "drop")],
    "0+2 merge": [(0, 9, "merge"), (2, 4, "drop")],
    "1+3": [(1, 8, "drop"), (3, 3, "drop")],
    "0+1+3 merge": [(0, 12, "merge"), (1, 9, "merge"), (3, 3, "drop")],
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("layouts", [ONE, SEVERAL, RAGGED], ids=["one", "several", "ragged"])
def test_it_is_what_the_written_decoder_sees(plan, layouts):
    model = shared("sdpa")
    recipe, cuts, given = both(PLANS[plan])
    rows = prompts(model, layouts)
    with ts.prune(model, recipe):
        generate(model, rows, 2)
    [tokens] = Seeing.seen
    check(model, rows, cuts, given, tokens)


@pytest.mark.parametrize("variant", ["eager", "mha", "siglip"])
@pytest.mark.parametrize("plan", ["2", "0+2 merge"])
def test_in_other_models_too(variant, plan):
    model = shared(variant)
    recipe, cuts, given = both(PLANS[plan])
    rows = prompts(model, RAGGED)
    with ts.prune(model, recipe):
        generate(model, rows, 1)
    check(model, rows, cuts, given, Seeing.seen[0])


@pytest.mark.parametrize("plan", ["2", "1+3"])
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 2},
        {"cache_implementation": "static", "disable_compile": True},
        {"use_cache": False},
    ],
    ids=["beams", "sampling", "static cache", "no cache"],
)
def test_however_words_are_generated(plan, settings):
    model = shared("sdpa")
    recipe, cuts, given = both(PLANS[plan])
    rows = prompts(model, RAGGED)
    with ts.prune(model, recipe):
        generate(model, rows, 2, **settings)
    # It is seen once, however often the prompt is computed.
    [tokens] = Seeing.seen
    check(model, rows, cuts, given, tokens)


@pytest.mark.parametrize("variant", ["sdpa", "eager"])
@pytest.mark.parametrize("plan", ["2", "0+2 merge", "1+3"])
def test_drafted_words_are_no_words_of_the_prompt(variant, plan):
    model = shared(variant)
    recipe, cuts, given = both(PLANS[plan])
    [row] = prompts(model, ONE)
    # Its last word stands earlier, so that the two words that followed there are drafted.
    row = row.plus((row.words[1],))
    drafted = []

    def count(module, args, kwargs):
        drafted.append(kwargs["input_ids"].shape[1] - len(row.words))

    with ts.prune(model, recipe):
        handle = model.register_forward_pre_hook(count, with_kwargs=True, prepend=True)
        generate(model, [row], 4, prompt_lookup_num_tokens=2)
        handle.remove()
    assert drafted[0] == 2
    check(model, [row], cuts, given, Seeing.seen[0])


@torch.no_grad()
def test_a_forward_sees_anew():
    model = shared("sdpa")
    recipe, cuts, given = both(PLANS["2"])
    rows = prompts(model, ONE)
    with ts.prune(model, recipe):
        for seed in range(2):
            rows = prompts(model, ONE, seed)
            model(**batch(rows))
            check(model, rows, cuts, given, Seeing.seen[-1])
    assert len(Seeing.seen) == 2


@pytest.mark.parametrize("variant", ["bfloat16", "float16", "bfloat16 eager"])
@torch.no_grad()
def test_in_half_precision(variant):
    """Attention is softmaxed in float32, of the very queries and keys; nothing is lost or made up."""
    model = shared(variant)
    rows = prompts(model, RAGGED)
    kinds = frozenset(ALL | VISION_EVIDENCE)
    stage = ts.Stage(at="decoder.2", select=Seeing(kinds=kinds), keep=4, per="sample")
    with ts.prune(model, ts.Recipe(stages=(stage,))):
        generate(model, rows, 1)
    [tokens] = Seeing.seen
    for kind in kinds - TEXTS:
        values = tokens.evidence[kind]
        assert values.isfinite().all()
        weights = "key" not in kind and "features" not in kind
        assert values.dtype == (torch.float32 if weights else model.dtype)
    for value in (*vars(tokens.decoder_text).values(), *vars(tokens.decoder_text_heads).values()):
        assert value.isfinite().all()


# Compiling takes ten seconds; that compiled layers call hooks is tried every day (test_traps).
@pytest.mark.nightly
# Dynamo says of the clock that it breaks the graph there.
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
@torch.no_grad()
def test_in_compiled_layers():
    """Hooks and taps break graphs and see the same."""
    model = llava(seed=5)
    rows = prompts(model, RAGGED)
    recipe, cuts, given = both(PLANS["0+2 merge"])
    for layer in model.model.language_model.layers:
        layer.compile(backend="eager")
    try:
        with ts.prune(model, recipe):
            generate(model, rows, 2)
    finally:
        torch.compiler.reset()
    [tokens] = Seeing.seen
    check(model, rows, cuts, given, tokens)


# What is computed


@pytest.mark.parametrize("kind", sorted(ALL))
@torch.no_grad()
def test_only_what_is_asked_for(kind, monkeypatch):
    """Text is read in few rows and at once, attention is called again for its content alone."""
    model = shared("sdpa")
    rows = prompts(model, ONE)
    calls, asked = [], []
    attention = model.model.language_model.layers[1].self_attn
    forward, recompute = attention.forward, taps.AttentionCall.rows

    @wraps(forward)
    def called(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(attention, "forward", called)

    def counted(call, places):
        asked.append(places.shape[1])
        return recompute(call, places)

    monkeypatch.setattr(taps.AttentionCall, "rows", counted)
    stage = ts.Stage(at="decoder.2", select=Seeing(kinds=frozenset({kind})), keep=4)
    with ts.prune(model, ts.Recipe(stages=(stage,))):
        model(**batch(rows))
    assert len(calls) == 1 + (kind is Evidence.DECODER_CONTENT)
    text = len(rows[0].words) - 16
    assert asked == ({Evidence.DECODER_KEYS: []} | {one: [text] for one in TEXTS}).get(kind, [1])
    monkeypatch.undo()


@torch.no_grad()
def test_reading_content_changes_nothing():
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    made = []
    for kinds in (set(), ALL):
        stage = ts.Stage(at="decoder.2", select=Seeing(kinds=frozenset(kinds)), keep=4)
        with ts.prune(model, ts.Recipe(stages=(stage,))):
            out = model(**batch(rows), output_hidden_states=True, use_cache=True)
        made.append(out)
    assert torch.equal(made[0].logits, made[1].logits)
    assert all(torch.equal(a, b) for a, b in zip(made[0].hidden_states, made[1].hidden_states, strict=True))


def masks(n, kind):
    """A causal mask of `n` places whose first two are padding, for two rows."""
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    seen[:, :2] = False
    seen = seen | torch.eye(n, dtype=torch.bool)
    seen = seen.expand(2, 1, n, n)
    return seen if kind == "bool" else torch.zeros(2, 1, n, n).masked_fill(~seen, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float"])
@pytest.mark.parametrize("weights", [1, 100, 2**24])
def test_blocks_make_no_difference(mask, weights, monkeypatch):
    """Rows, their mean over heads and what places receive are those of the whole matrix, however it is cut."""
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 11, 8, generator=draw), torch.randn(2, 2, 11, 8, generator=draw)
    given = masks(11, mask) if mask in ("bool", "float") else None
    call = taps.AttentionCall(query, key, given, 0.3, causal=mask == "causal")
    seen = torch.ones(11, 11, dtype=torch.bool).tril() if mask == "causal" else torch.ones(11, 11, dtype=torch.bool)
    seen = masks(11, "bool")[0, 0] if given is not None else seen
    monkeypatch.setattr(taps, "_WEIGHTS", weights)
    places = torch.tensor([[3, 10, 4], [2, 2, 9]])
    rows, mean, received = call.rows(places), call.mean(places), call.received()
    for b in range(2):
        every = []
        for h in range(4):
            scores = 0.3 * query[b, h].double() @ key[b, h // 2].double().T
            every.append(scores.masked_fill(~seen, -torch.inf).softmax(dim=-1))
        every = torch.stack(every)
        near(rows[b], every[:, places[b]])
        near(mean[b], every[:, places[b]].mean(dim=0))
        for place in range(11):
            lookers = [p for p in range(11) if given is None or seen[p, place]]
            near(received[b, :, place], every[:, lookers, place].mean(dim=1))


def test_sequences_that_stand_one_behind_the_other():
    """Flash kernels take them at once; each is a call of its own."""
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 2, 9, 8, generator=draw), torch.randn(1, 2, 9, 8, generator=draw)
    pieces = taps.AttentionCall(query, key, None, 0.3).pieces(torch.tensor([0, 4, 9], dtype=torch.int32))
    assert [piece.query.shape[2] for piece in pieces] == [4, 5]
    for piece, at in zip(pieces, (slice(0, 4), slice(4, 9)), strict=True):
        weights = (0.3 * query[0, :, at].double() @ key[0, :, at].double().transpose(1, 2)).softmax(dim=-1)
        near(piece.received()[0], weights.mean(dim=1))


# Families


def phi():
    """A LLaVA whose language model turns half of each head only."""
    text = PhiConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(vision_config=LlavaAdapter.tiny().config.vision_config, text_config=text, image_token_index=63)
    return LlavaForConditionalGeneration(config).eval()


FAMILIES = {
    "qwen2_vl": Qwen2VLAdapter.tiny,
    "qwen2_5_vl": Qwen25VLAdapter.tiny,
    "qwen3_vl": Qwen3VLAdapter.tiny,
    "paligemma": PaliGemmaAdapter.tiny,
    "phi": phi,
}


def rms(x, weight, eps, plus=0.0):
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * (weight.double() + plus)


def content(family, layer, hidden, width):
    """Queries and keys `[heads, n, width]` before positions, from raw weights in float64."""
    norm, attention = layer.input_layernorm, layer.self_attn
    x = hidden.double()
    if family == "phi":
        x = F.layer_norm(x, x.shape[-1:], norm.weight.double(), norm.bias.double(), norm.eps)
    elif family == "paligemma":
        x = rms(x, norm.weight, norm.eps, plus=1.0)
    else:
        x = rms(x, norm.weight, norm.variance_epsilon)
    found = []
    for part in (attention.q_proj, attention.k_proj):
        y = x @ part.weight.double().T + (0 if part.bias is None else part.bias.double())
        found.append([y[:, h : h + width] for h in range(0, y.shape[1], width)])
    if family == "qwen3_vl":
        for heads, norm in zip(found, (attention.q_norm, attention.k_norm), strict=True):
            heads[:] = [rms(one, norm.weight, norm.variance_epsilon) for one in heads]
    return [torch.stack(heads) for heads in found]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_content_knows_no_positions(family):
    """Whatever norms, groups of heads and positions of several axes there are, and where only a part of each head
    turns."""
    model = randomize_weights(FAMILIES[family]())
    model.generation_config.eos_token_id = None
    adapter = ts.default_registry().adapter_for(model)
    made = Prompts(model, adapter)
    block = max(2, adapter.decoder.first_prunable_layer)
    layer = model.model.language_model.layers[block - 1]
    rows = [made.row([2, ("image", 1), 4]), made.row([1, ("image", 2), 1, ("image", 0), 3])]
    stage = ts.Stage(at=f"decoder.{block}", select=Seeing(kinds=frozenset({Evidence.DECODER_CONTENT})), keep=3)
    with ts.prune(model, ts.Recipe(stages=(stage.model_copy(update={"per": "sample"}),))):
        model.generate(**made.batch(rows), max_new_tokens=1, do_sample=False)
    [tokens] = Seeing.seen
    for number, row in enumerate(rows):
        hidden = []
        handle = layer.register_forward_pre_hook(
            lambda module, args, kwargs, into=hidden: into.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        model.generate(**made.batch([row]), max_new_tokens=1, do_sample=False)
        handle.remove()
        width = layer.self_attn.head_dim
        query, key = content(family, layer, hidden[0][0], width)
        groups = len(query) // len(key)
        for place, token in enumerate(made.visual(row)):
            for head in range(len(query)):
                weights = (query[head, -1] @ key[head // groups].T / width**0.5).softmax(dim=0)
                near(tokens.decoder_content[number, place, head], weights[token])


class Bare(torch.nn.Module):
    """Attention that takes no positions."""

    def forward(self, hidden_states, attention_mask=None):
        return hidden_states, None


class Turned(torch.nn.Module):
    """Attention that takes positions, and looks at nothing."""

    def forward(self, hidden_states, position_embeddings):
        return hidden_states, None


class BareDecoder(LlavaDecoder):
    def attention(self, block):
        return Bare()


class BareAdapter(LlavaAdapter):
    name = "bare"
    decoder_type = BareDecoder


def test_attention_that_takes_no_positions():
    registry = ts.Registry()
    registry.add_adapter(BareAdapter)
    model = shared("sdpa")
    recipe = both(PLANS["2"])[0]
    with (
        pytest.raises(MissingEvidenceError, match=r"needs decoder_content, .* bare offers it nowhere"),
        ts.prune(model, recipe, registry=registry),
    ):
        pytest.fail("it was let in")
    offered = BareAdapter(model).offers(ts.Site("decoder", 2))
    assert offered & ALL == ALL - {Evidence.DECODER_CONTENT}
    tap = taps.PromptTap()
    with pytest.raises(RefusedError, match="without position_embeddings"):
        tap.content(Bare())
    tap.given = (torch.zeros(1, 2, 4),), {"position_embeddings": (torch.ones(1), torch.zeros(1))}
    with pytest.raises(RefusedError, match="computes no attention"):
        tap.content(Turned())
    assert not tap.mute


def test_nothing_of_it_before_the_language_model():
    for kind in ALL:
        recipe = ts.Recipe.of(Seeing(kinds=frozenset({kind})), 4)
        said = rf"needs {kind}, which is not offered there"
        with pytest.raises(MissingEvidenceError, match=said), ts.prune(shared("sdpa"), recipe):
            pytest.fail("it was let in")
