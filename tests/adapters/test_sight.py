"""What vision towers of every build saw, dealt to tokens of which several patches are joined.

The reference recomputes attention, keys and features picture by picture in float64: from the tower's raw weights, on
what a plain model hands to the layer. Qwen2.5-VL's tower, which works window by window, is written out whole, without
any window: what a patch does not see is hidden from it.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import tokensieve as ts
from tokensieve import Evidence
from tokensieve.errors import MissingEvidenceError, RefusedError
from tokensieve.models.offers import VISION_EVIDENCE
from tokensieve.testing.adapters.probes import EvidenceRecorder
from tokensieve.testing.prompts import Prompts, randomize_weights


@dataclass(frozen=True)
class Build:
    """How a tower is built, as its paper or code says.

    Attributes:
        layers: where they are.
        attention: what they call it.
        norm: what stands before it.
        factor: how many patches a token has on each side.
        prefix: how many class tokens it has.
        turns: whose rotary positions it has, if any.
        selected: the layer of five that the projector takes.
        settings: of the tower's config.
    """

    layers: str
    attention: str
    norm: str
    factor: int = 1
    prefix: int = 0
    turns: str = ""
    selected: int = 4
    settings: tuple = (("num_hidden_layers", 5),)


SQUARES = Build("vision_tower.encoder.layers", "self_attn", "layer_norm1", factor=2)
PIXTRAL = Build("vision_tower.transformer.layers", "attention", "attention_norm", turns="pixtral")
IDEFICS = Build("vision_model.encoder.layers", "self_attn", "layer_norm1", factor=2)
QWEN = Build("visual.blocks", "attn", "norm1", factor=2, turns="qwen", settings=(("depth", 5),))
WINDOWS = (("depth", 5), ("fullatt_block_indexes", [1, 4]))

BUILDS = {
    "aya_vision": SQUARES,
    "cohere2_vision": SQUARES,
    "gemma3": SQUARES,
    "idefics3": IDEFICS,
    "internvl": Build("vision_tower.encoder.layer", "attention", "layernorm_before", factor=2, prefix=1),
    "mistral3": Build(PIXTRAL.layers, "attention", "attention_norm", factor=2, turns="pixtral"),
    "paligemma": Build(SQUARES.layers, "self_attn", "layer_norm1"),
    "pixtral": PIXTRAL,
    "qwen2_vl": QWEN,
    "qwen2_5_vl": Build("visual.blocks", "attn", "norm1", factor=2, turns="qwen", settings=WINDOWS),
    "qwen3_vl": QWEN,
    "smolvlm": IDEFICS,
    "video_llava": Build("image_tower.encoder.layers", "self_attn", "layer_norm1", prefix=1, selected=3),
}
# The second of five layers, as the ninth of 24; in Qwen2.5-VL it is the first of those that see whole pictures.
MIDDLE = 1


def made(name):
    """A model with five vision layers, and what makes prompts for it."""
    adapter = ts.default_registry().adapters[name]
    config = adapter.tiny().config
    for setting, value in BUILDS[name].settings:
        setattr(config.vision_config, setting, value)
    model = randomize_weights(type(adapter.tiny())(config)).eval()
    model.generation_config.eos_token_id = None
    return model, Prompts(model, adapter(model))


def normed(norm, x):
    """A layer norm, or one without a mean, from its weights."""
    if getattr(norm, "bias", None) is not None:
        return F.layer_norm(x, x.shape[-1:], norm.weight.double(), norm.bias.double(), norm.eps)
    return x / (x.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight.double()


def turned(x, places, turns):
    """Turn each pair (j, j + half) of `x` `[n, width]`: the first half of the pairs by the row, the second by the
    column."""
    if not turns:
        return x
    half = x.shape[1] // 2
    pairs = half // 2
    if turns == "qwen":
        down = across = [10000.0 ** (-j / pairs) for j in range(pairs)]
    else:
        # Pixtral deals its frequencies to rows and columns in turn.
        down = [10000.0 ** (-2 * j / half) for j in range(pairs)]
        across = [10000.0 ** (-(2 * j + 1) / half) for j in range(pairs)]
    angles = [[row * f for f in down] + [column * f for f in across] for row, column in places]
    turn = torch.tensor(angles, dtype=torch.float64)
    a, b = x[:, :half], x[:, half:]
    return torch.cat([a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()], dim=1)


def heads(build, layer, hidden, places, number):
    """Queries and keys `[heads][n, width]`, as attention sees them."""
    attention = layer.get_submodule(build.attention)
    x = normed(layer.get_submodule(build.norm), hidden)
    if hasattr(attention, "qkv"):
        q, k, _ = (x @ attention.qkv.weight.double().T + attention.qkv.bias.double()).chunk(3, dim=1)
    else:
        q, k = (
            x @ part.weight.double().T + (0 if part.bias is None else part.bias.double())
            for part in (attention.q_proj, attention.k_proj)
        )
    width = q.shape[1] // number
    return [[turned(y[:, h * width :][:, :width], places, build.turns) for h in range(number)] for y in (q, k)]


def attended(queries, keys, hidden=None):
    """Softmaxed attention `[heads, n, n]`; `hidden` says what may not be seen."""
    scores = torch.stack([q @ k.T / q.shape[1] ** 0.5 for q, k in zip(queries, keys, strict=True)])
    return (scores if hidden is None else scores.masked_fill(hidden, -torch.inf)).softmax(dim=-1)


def squares(h, w, size):
    """Places of patches as Qwen's processor lays them: square by square, row by row in each."""
    return [
        (r + dr, c + dc)
        for r in range(0, h, size)
        for c in range(0, w, size)
        for dr in range(size)
        for dc in range(size)
    ]


def raster(h, w):
    return [(r, c) for r in range(h) for c in range(w)]


def pictures(name, model, request, modality):
    """For every picture, the places of its patches, frame by frame."""
    if name.startswith("qwen"):
        return [[squares(h, w, 2)] * t for t, h, w in request[f"{modality}_grid_thw"].tolist()]
    if name in ("pixtral", "mistral3"):
        patch = model.config.vision_config.patch_size
        return [[raster(h // patch, w // patch)] for h, w in request["image_sizes"].tolist()]
    return None


@torch.no_grad()
def entering(model, layer, request, modality):
    """What a plain model hands to a layer, and what comes out, `[patches, d]` or `[pictures, n, d]`."""
    seen = []
    handle = layer.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(
            (args[0] if args else kwargs["hidden_states"], output[0] if isinstance(output, tuple) else output)
        ),
        with_kwargs=True,
    )
    encode = getattr(model.model, f"get_{modality}_features")
    own = {k: v for k, v in request.items() if ("video" in k) == (modality == "video")}
    encode(**own)
    handle.remove()
    [(before, after)] = seen
    return before.double(), after.double()


@torch.no_grad()
def windows_tower(model, pixels, grids, wanted):
    """Qwen2.5-VL's tower without windows: by layer of `wanted`, what enters it and what leaves it, by picture."""
    visual, config = model.model.visual, model.config.vision_config
    side = config.window_size // config.patch_size
    found = {number: ([], []) for number in wanted}
    begin = 0
    for t, h, w in grids.tolist():
        places = [(frame, *place) for frame in range(t) for place in squares(h, w, 2)]
        x = pixels[begin : begin + len(places)].double()
        begin += len(places)
        x = x @ visual.patch_embed.proj.weight.double().flatten(1).T
        frame = torch.tensor([place[0] for place in places])
        window = torch.tensor([f * 10000 + (r // side) * 100 + c // side for f, r, c in places])
        for number, block in enumerate(visual.blocks):
            if number in wanted:
                found[number][0].append(x)
            group = frame if number in config.fullatt_block_indexes else window
            q, k = heads(BUILDS["qwen2_5_vl"], block, x, [p[1:] for p in places], config.num_heads)
            weights = attended(q, k, group[:, None] != group)
            v = normed(block.norm1, x) @ block.attn.qkv.weight.double().T + block.attn.qkv.bias.double()
            v = v.chunk(3, dim=1)[2].chunk(config.num_heads, dim=1)
            mixed = torch.cat([one @ value for one, value in zip(weights, v, strict=True)], dim=1)
            x = x + mixed @ block.attn.proj.weight.double().T + block.attn.proj.bias.double()
            y, mlp = normed(block.norm2, x), block.mlp
            gate = F.silu(y @ mlp.gate_proj.weight.double().T + mlp.gate_proj.bias.double())
            up = y @ mlp.up_proj.weight.double().T + mlp.up_proj.bias.double()
            x = x + (gate * up) @ mlp.down_proj.weight.double().T + mlp.down_proj.bias.double()
            if number in wanted:
                found[number][1].append(x)
    return found


def tokens_of(values, places, factor):
    """The mean over the patches of every token, row by row."""
    members = {}
    for value, (row, column) in zip(values, places, strict=True):
        members.setdefault((row // factor, column // factor), []).append(value)
    return torch.stack([torch.stack(members[place]).mean(dim=0) for place in sorted(members)])


@torch.no_grad()
def expected(name, model, request, modality="image"):
    """By picture, what its tokens shall be judged by."""
    build, config = BUILDS[name], model.config.vision_config
    layers = model.model.get_submodule(build.layers)
    number = getattr(config, "num_heads", None) or config.num_attention_heads
    wanted = sorted({build.selected, MIDDLE})
    found = pictures(name, model, request, modality)
    if name == "qwen2_5_vl":
        pixels = request["pixel_values" if modality == "image" else "pixel_values_videos"]
        flows = windows_tower(model, pixels, request[f"{modality}_grid_thw"], wanted)
    else:
        flows = {}
        for layer in wanted:
            flow = entering(model, layers[layer], request, modality)
            if found is None:
                flows[layer] = [list(x) for x in flow]
                side = round((flow[0].shape[1] - build.prefix) ** 0.5)
                places = [[raster(side, side)]] * len(flow[0])
            else:
                sizes = [sum(map(len, frames)) for frames in found]
                flows[layer] = [x.reshape(-1, x.shape[-1]).split(sizes) for x in flow]
        found = places if found is None else found
    made = []
    for picture, frames in enumerate(found):
        parts = {kind: [] for kind in VISION_EVIDENCE}
        begin = 0
        for places in frames:
            n = build.prefix + len(places)
            for layer in wanted:
                before, after = (x[picture][begin : begin + n] for x in flows[layer])
                q, k = heads(build, layers[layer], before, places, number)
                weights = attended(q, k)
                received = weights.mean(dim=1)[:, build.prefix :].T
                if layer == MIDDLE:
                    parts[Evidence.VISION_MIDDLE].append(tokens_of(received, places, build.factor))
                if layer == build.selected:
                    first = weights[:, 0, 1:].T if build.prefix else received
                    for kind, values in (
                        (Evidence.VISION_RECEIVED, received),
                        (Evidence.VISION_ATTENTION, first),
                        (Evidence.VISION_KEYS, torch.stack(k).mean(dim=0)[build.prefix :]),
                        (Evidence.VISION_FEATURES, after[build.prefix :]),
                    ):
                        parts[kind].append(tokens_of(values, places, build.factor))
            begin += n
        made.append({kind: torch.cat(values) for kind, values in parts.items()})
    return made


def watch(model, prompts, rows, kinds=VISION_EVIDENCE, **settings):
    """What a strategy sees of every picture."""
    EvidenceRecorder.seen.clear()
    with ts.prune(model, EvidenceRecorder(kinds=frozenset(kinds)), keep=3):
        model.generate(**prompts.batch(rows), max_new_tokens=1, do_sample=False, **settings)
    [tokens] = EvidenceRecorder.seen
    return [
        {kind: value[row][tokens.valid[row]].double() for kind, value in tokens.evidence.items()}
        for row in range(len(tokens.valid))
    ]


def same(seen, wanted):
    assert len(seen) == len(wanted)
    for one, other in zip(seen, wanted, strict=True):
        assert set(one) == set(other) == VISION_EVIDENCE
        for kind in one:
            torch.testing.assert_close(one[kind], other[kind], atol=2e-5, rtol=2e-4, msg=lambda m, k=kind: f"{k}: {m}")


@pytest.mark.parametrize("name", BUILDS)
@torch.no_grad()
def test_it_is_the_towers_own(name):
    model, prompts = made(name)
    rows = [
        prompts.row([2, ("image", 1), 4]),
        prompts.row([9], seed=1),
        prompts.row([1, ("image", 2), 1, ("image", 0), 3], seed=2),
    ]
    wanted = expected(name, model, prompts.pictures(rows))
    same(watch(model, prompts, rows), wanted)
    same(watch(model, prompts, rows, num_beams=2), wanted)
    assert len({tuple(picture[Evidence.VISION_KEYS].flatten().tolist()) for picture in wanted}) == 3


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_videos_too_frame_by_frame(name):
    model, prompts = made(name)
    rows = [prompts.row([2, ("video", 5), 2, ("image", 4), 1, ("video", 0), 1]), prompts.row([("image", 0), 3])]
    request = prompts.pictures(rows)
    videos, images = (expected(name, model, request, modality) for modality in ("video", "image"))
    same(watch(model, prompts, rows), [videos[0], images[0], videos[1], images[1]])
    only = [prompts.row([2, ("video", 5), 4])]
    same(watch(model, prompts, only), expected(name, model, prompts.pictures(only), "video"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "pixtral", "idefics3", "internvl"])
@torch.no_grad()
def test_both_kinds_of_attention(name, attention):
    model, prompts = made(name)
    model.set_attn_implementation(attention)
    rows = [prompts.row([2, ("image", 1), 4, ("image", 0), 1])]
    same(watch(model, prompts, rows), expected(name, model, prompts.pictures(rows)))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_padding_of_a_tile_neither_looks_nor_is_looked_at(attention):
    """Idefics3 hides the patches that a small picture does not fill."""
    model, prompts = made("idefics3")
    model.set_attn_implementation(attention)
    row = prompts.row([2, ("image", 1), 4])
    inputs = prompts.batch([row])
    side, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    # Three and a half of its eight rows of patches, and six of its columns: halves count as real.
    real = torch.zeros(1, 1, side, side, dtype=torch.bool)
    real[..., : 3 * patch + patch // 2, : 6 * patch] = True
    inputs["pixel_attention_mask"] = real
    kinds = {Evidence.VISION_RECEIVED, Evidence.VISION_ATTENTION}
    EvidenceRecorder.seen.clear()
    with ts.prune(model, EvidenceRecorder(kinds=frozenset(kinds)), keep=3):
        model(**inputs)
    [tokens] = EvidenceRecorder.seen
    layer = model.model.vision_model.encoder.layers[4]
    before, _ = entering(model, layer, {k: inputs[k] for k in ("pixel_values", "pixel_attention_mask")}, "image")
    filled = [(r, c) for r in range(4) for c in range(6)]
    places = raster(8, 8)
    q, k = heads(IDEFICS, layer, before[0], places, model.config.vision_config.num_attention_heads)
    there = [places.index(place) for place in filled]
    weights = attended([one[there] for one in q], [one[there] for one in k]).mean(dim=1).T
    every = torch.zeros(64, weights.shape[1], dtype=torch.float64)
    every[there] = weights
    for kind in kinds:
        torch.testing.assert_close(tokens.evidence[kind][0].double(), tokens_of(every, places, 2), atol=1e-5, rtol=1e-4)


def test_the_layers_of_released_sizes():
    """HiPrune's object layer: the ninth of CLIP-L's 24, and the sixteenth of Qwen2.5-VL's 32; from 0, one less."""
    registry = ts.default_registry()
    for name, settings, selected, middle in (
        ("llava", {"num_hidden_layers": 24}, 22, 9 - 1),
        ("qwen2_5_vl", {"depth": 32, "fullatt_block_indexes": [7, 15, 23, 31]}, 31, 16 - 1),
        ("qwen2_vl", {"depth": 32}, 31, 12 - 1),
        ("internvl", {"num_hidden_layers": 24}, 23, 9 - 1),
    ):
        adapter = registry.adapters[name]
        config = adapter.tiny().config
        for setting, value in settings.items():
            setattr(config.vision_config, setting, value)
        with torch.device("meta"):
            decoder = adapter(type(adapter.tiny())(config)).decoder
        assert (decoder.selected_vision_layer, decoder.middle_vision_layer) == (selected, middle)


def test_a_tower_that_is_not_known():
    """Class tokens and the order of patches are known of the towers that a family was released with."""
    model = ts.default_registry().adapters["aya_vision"].tiny()
    model.config.vision_config.model_type = "clip_vision_model"
    with pytest.raises(MissingEvidenceError, match=r"vision_middle, .* aya_vision offers it nowhere"):
        watch(model, None, [], {Evidence.VISION_MIDDLE})


@torch.no_grad()
def test_pictures_of_another_size_than_the_towers():
    model, prompts = made("internvl")
    rows = [prompts.row([2, ("image", 1), 4])]
    inputs = prompts.batch(rows)
    inputs["pixel_values"] = inputs["pixel_values"][..., :32, :32]
    inputs["input_ids"], inputs["attention_mask"] = (
        torch.cat([inputs[k][:, :3], inputs[k][:, 15:]], dim=1) for k in ("input_ids", "attention_mask")
    )
    with (
        ts.prune(model, EvidenceRecorder(kinds=frozenset({Evidence.VISION_KEYS})), keep=3),
        pytest.raises(RefusedError, match="no whole pictures of 8 x 8"),
    ):
        model(**inputs)


@torch.no_grad()
def test_videos_of_families_that_pool_them():
    model, prompts = made("video_llava")
    rows = [prompts.row([2, ("video", 1), 4])]
    with (
        ts.prune(model, EvidenceRecorder(kinds=frozenset({Evidence.VISION_KEYS})), keep=3),
        pytest.raises(RefusedError, match="prompts of images alone"),
    ):
        model(**prompts.batch(rows))
