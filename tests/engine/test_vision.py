"""What strategies see of the vision tower: its own attention weights and keys, token by token."""

import copy

import pytest
import torch
from transformers import LlavaForConditionalGeneration

import tokensieve as ts
from tokensieve import Evidence
from tokensieve.engine import attention_tap as taps
from tokensieve.engine.installation import Installation
from tokensieve.engine.vision_recorder import VisionRecorder
from tokensieve.errors import RefusedError
from tokensieve.models.offers import VISION_EVIDENCE
from tokensieve.testing.adapters.probes import EvidenceRecorder
from tokensieve.testing.prompts import Prompts, randomize_weights
from tokensieve_adapters.llava import LlavaAdapter, LlavaDecoder
from tokensieve_adapters.llava_next import LlavaNextAdapter
from tokensieve_strategies import Norm

from .models import ONE, RAGGED, SEVERAL, batch, generate, llava, patches, prompts, shared

SEEN = []


class Watching(ts.Scorer):
    """Keeps what the class token looks at, and remembers all that it saw."""

    name = "watching"

    @property
    def needs(self):
        return VISION_EVIDENCE | {Evidence.GRID}

    def score(self, tokens):
        SEEN.append(tokens)
        return tokens.vision_attention.double().mean(dim=-1)


def at(block, keep=5):
    return ts.Recipe(stages=(ts.Stage(at=f"decoder.{block}", select=Watching(), keep=keep),))


def attended(layer, hidden, bias=0):
    """Attention `[heads, n, n]` and keys `[heads, n, width]` of a picture's `hidden`, from raw weights in float64.

    `bias` `[n]` is added to every row of scores.
    """
    x = torch.nn.functional.layer_norm(
        hidden.double(),
        hidden.shape[-1:],
        layer.layer_norm1.weight.double(),
        layer.layer_norm1.bias.double(),
        layer.layer_norm1.eps,
    )
    q, k = (
        x @ part.weight.double().T + part.bias.double() for part in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    heads = layer.self_attn.num_heads
    width = q.shape[-1] // heads
    q, k = ([part[:, h * width : (h + 1) * width] for h in range(heads)] for part in (q, k))
    return torch.stack([(q[h] @ k[h].T / width**0.5 + bias).softmax(dim=-1) for h in range(heads)]), torch.stack(k)


@torch.no_grad()
def own(model, pixels, middle=0):
    """What each picture's patches shall be judged by, by kind."""
    if not len(pixels):
        return []
    tower, vision = model.model.vision_tower, model.config.vision_config
    number = vision.num_hidden_layers + model.config.vision_feature_layer
    prefix = int(vision.model_type == "clip_vision_model")
    states = tower(pixels, output_hidden_states=True).hidden_states
    made = []
    for picture in range(len(pixels)):
        weights, keys = attended(tower.encoder.layers[number], states[number][picture])
        mean = attended(tower.encoder.layers[middle], states[middle][picture])[0].mean(dim=1)
        received = weights.mean(dim=1)[:, prefix:].T
        made.append(
            {
                Evidence.VISION_ATTENTION: weights[:, 0, 1:].T if prefix else received,
                Evidence.VISION_RECEIVED: received,
                Evidence.VISION_MIDDLE: mean[:, prefix:].T,
                Evidence.VISION_KEYS: keys.mean(dim=0)[prefix:],
                Evidence.VISION_FEATURES: states[number + 1][picture, prefix:].double(),
            }
        )
    return made


def check(model, rows, places, middle=0):
    """Every group that was judged is a picture; compare each with the tower's own numbers."""
    wanted = [picture for row in rows for picture in own(model, row.pixels, middle)]
    tokens = SEEN[-1]
    assert len(tokens.ids) == len(wanted) == places
    for number, picture in enumerate(wanted):
        assert set(picture) == VISION_EVIDENCE
        for kind, values in picture.items():
            seen = tokens.evidence[kind][number]
            torch.testing.assert_close(seen.double(), values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ["sdpa", "eager", "siglip"])
@pytest.mark.parametrize("block", [0, 2])
@torch.no_grad()
def test_it_is_the_towers_own(variant, block):
    model = shared(variant)
    rows = prompts(model, RAGGED)
    pictures = sum(row.images for row in rows)
    with ts.prune(model, at(block)) as run:
        model(**batch(rows))
        check(model, rows, pictures)
        generate(model, rows, num_beams=2)
        check(model, rows, pictures)
    for number, row in enumerate(rows):
        kept = []
        for image, picture in enumerate(own(model, row.pixels)):
            best = picture[Evidence.VISION_ATTENTION].mean(dim=1).argsort(descending=True)[:5].tolist()
            kept += sorted(image * patches(model) + token for token in best)
        assert run.kept(f"decoder.{block}")[number].tolist() == kept


@torch.no_grad()
def test_of_many_layers():
    """The middle one is another than the selected one."""
    config = copy.deepcopy(shared("sdpa").config)
    config.vision_config.num_hidden_layers = 8
    model = randomize_weights(LlavaForConditionalGeneration(config)).eval()
    row = prompts(model, SEVERAL)
    with ts.prune(model, at(0)):
        model(**batch(row))
    check(model, row, 2, middle=2)


@torch.no_grad()
def test_several_selected_layers():
    """Of several layers, the deepest is watched."""
    model = llava(seed=3)
    model.config.vision_feature_layer = -2
    row = prompts(model, ONE)
    model.config.vision_feature_layer = 2
    with ts.prune(model, at(0)):
        model(**batch(row))
    model.config.vision_feature_layer = 2 - model.config.vision_config.num_hidden_layers - 1
    check(model, row, 1)


@torch.no_grad()
def test_of_those_that_stay():
    """What an earlier stage dropped is gone from later evidence."""
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    before = ts.Stage(at="decoder.0", select=Norm(), keep=9)
    with ts.prune(model, ts.Recipe(stages=(before, *at(2).stages))) as run:
        model(**batch(rows))
    tokens = SEEN[-1]
    pictures = [picture for row in rows for picture in own(model, row.pixels)]
    stayed = [ids[ids // 16 == image] % 16 for ids in run.kept("decoder.0") for image in (ids // 16).unique()]
    assert [len(ids) for ids in stayed] == [9, 9, 9]
    for number, (picture, ids) in enumerate(zip(pictures, stayed, strict=True)):
        for kind, values in picture.items():
            torch.testing.assert_close(tokens.evidence[kind][number].double(), values[ids], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rest", ["drop", "merge"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("tower", ["sdpa", "siglip"])
@torch.no_grad()
def test_where_tokens_leave_inside_the_tower(tower, number, rest):
    """Attention is among those that stay, weighed by how many each stands for; their patches all have what they have.

    Tokens leave in layer 1: as they enter it where they are dropped, after its attention where they are merged. What a
    later layer holds tells which patches are one token: they are alike to the bit.
    """
    config = copy.deepcopy(shared(tower).config)
    config.vision_config.num_hidden_layers, config.vision_feature_layer = 5, number + 1
    model = randomize_weights(LlavaForConditionalGeneration(config)).eval()
    rows = prompts(model, SEVERAL)
    prefix = int(config.vision_config.model_type == "clip_vision_model")
    first = ts.Stage(at="encoder.1", select=Norm(), keep=9, rest=rest)
    entering = []
    layer = model.model.vision_tower.encoder.layers[number]
    with ts.prune(model, ts.Recipe(stages=(first, *at(0).stages))) as run:
        handle = layer.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
        model(**batch(rows))
        handle.remove()
    tokens, kept, [hidden] = SEEN[-1], run.kept("encoder.1")[0], entering
    for picture, x in enumerate(hidden):
        stays = (kept[kept // 16 == picture] % 16).tolist()
        assert (tokens.ids[picture] % 16).tolist() == stays
        members = {i: [i] for i in (range(16) if rest == "merge" and number == 1 else stays)}
        if rest == "merge" and number == 2:
            members = {i: [p for p in range(16) if torch.equal(x[prefix + p], x[prefix + i])] for i in stays}
            assert sum(map(len, members.values())) == 16
        sizes = torch.tensor([1.0] * prefix + [float(len(own)) for own in members.values()]).double()
        weights, keys = attended(layer, x[[*range(prefix), *(prefix + i for i in members)]], sizes.log())
        received = weights.mean(dim=1)[:, prefix:].T
        right = {
            Evidence.VISION_ATTENTION: weights[:, 0, 1:].T if prefix else received,
            Evidence.VISION_RECEIVED: received,
            Evidence.VISION_KEYS: keys.mean(dim=0)[prefix:],
        }
        places = [list(members).index(i) for i in stays]
        for kind, values in right.items():
            seen = tokens.evidence[kind][picture].double()
            torch.testing.assert_close(seen, values[places], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_towers_of_tiles():
    """LLaVA-NeXT's tiles are packed, and newlines get nothing."""
    model = randomize_weights(LlavaNextAdapter.tiny())
    made = Prompts(model, LlavaNextAdapter(model))
    row = made.row([2, ("image", 3), 4])
    inputs = made.batch([row])
    with ts.prune(model, at(0)):
        model(**inputs)
    tokens = SEEN[-1]
    tiles = own(model, inputs["pixel_values"][0])
    for token, (_, tile, _, line, column) in enumerate(tokens.grid[0].tolist()):
        place = line * 4 + column if not tile else (line % 4) * 4 + column % 4
        for kind, values in tiles[tile].items():
            seen = tokens.evidence[kind][0, token].double()
            right = torch.zeros_like(seen) if column == -1 else values[place]
            torch.testing.assert_close(seen, right, atol=1e-5, rtol=1e-4)
    assert (tokens.grid[0, :, 4] == -1).sum() == 8


@torch.no_grad()
def test_tiles_are_packed_like_their_features():
    """A linear projector makes packed features of packed patches, so packing commutes with it."""
    model = randomize_weights(LlavaNextAdapter.tiny())
    adapter = LlavaNextAdapter(model)
    made = Prompts(model, adapter)
    row = made.row([2, ("image", 3), 4])
    inputs = made.batch([row])
    decoder = adapter.decoder
    output = decoder.encode_visual_inputs(inputs)["image"]
    [layout] = decoder.layout("image", output, inputs)
    tiles = 5
    numbers = torch.arange(tiles * 16).unsqueeze(1).float() + 1
    packed = decoder.patches_to_tokens(numbers, inputs).flatten()
    for token, (tile, _, line, column) in enumerate(layout.tolist()):
        if column == -1:
            assert packed[token] == 0
            continue
        if not tile:
            place = line * 4 + column
        else:
            assert tile == 1 + (line // 4) * 2 + column // 4
            place = tile * 16 + (line % 4) * 4 + column % 4
        assert packed[token] == place + 1
    with ts.prune(model, at(0)) as run:
        model(**inputs)
    assert len(run.kept("decoder.0")[0]) == 5


# Where encoded pictures are refused, they are left over.
@pytest.mark.filterwarnings("ignore:.* calls encoded pictures")
@pytest.mark.parametrize("inside", [False, True])
@torch.no_grad()
def test_pictures_that_came_encoded(inside):
    """Even where the tower ran inside the block: nobody knows whether it was on these pictures."""
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    pixels = inputs.pop("pixel_values")
    encoded = model.model.get_image_features(pixels, return_dict=True)
    with ts.prune(model, at(0)):
        if inside:
            encoded = model.model.get_image_features(pixels, return_dict=True)
        with pytest.raises(RefusedError, match="pass pixel_values"):
            model(**inputs, mm_encoder_outputs={"image": encoded})
        with pytest.raises(RefusedError, match="pass pixel_values"):
            model.generate(**inputs, mm_encoder_outputs={"image": encoded}, max_new_tokens=1)


@torch.no_grad()
def test_pictures_that_were_encoded_for_another_end():
    model = shared("sdpa")
    rows, others = prompts(model, SEVERAL), prompts(model, ONE, seed=1)
    with ts.prune(model, at(0)):
        for call in (lambda: model(**batch(rows)), lambda: generate(model, rows)):
            model.model.get_image_features(others[0].pixels)
            model.model.vision_tower(others[0].pixels)
            call()
            check(model, rows, 2)


@torch.no_grad()
def test_only_what_is_asked_for(monkeypatch):
    """Keys and features take no attention, a class token one row, and what is received all of them."""
    model = shared("sdpa")
    rows = prompts(model, ONE)
    asked = []
    recompute = taps.AttentionCall.rows

    def counted(call, places):
        asked.append(places.shape[1])
        return recompute(call, places)

    monkeypatch.setattr(taps.AttentionCall, "rows", counted)
    for kind, wanted in (
        (Evidence.VISION_KEYS, []),
        (Evidence.VISION_FEATURES, []),
        (Evidence.VISION_ATTENTION, [1]),
        (Evidence.VISION_RECEIVED, [17]),
        (Evidence.VISION_MIDDLE, [17]),
    ):
        asked.clear()
        with ts.prune(model, EvidenceRecorder(kinds=frozenset({kind})), keep=4):
            model(**batch(rows))
        assert asked == wanted


@torch.no_grad()
def test_patches_that_are_not_those_of_the_tokens(monkeypatch):
    model = shared("sdpa")
    monkeypatch.setattr(LlavaDecoder, "patches_to_tokens", lambda self, values, request, modality: values[1:])
    with (
        ts.prune(model, at(0)),
        pytest.raises(RefusedError, match="saw 16 patches, which make 15 tokens, but the prompts have 16"),
    ):
        model(**batch(prompts(model, ONE)))


def test_no_more_is_kept_than_is_asked_for():
    """Watching leaves nothing behind, also where a call fails."""
    model = shared("sdpa")
    vision = VisionRecorder(LlavaAdapter(model).decoder, VISION_EVIDENCE)
    installation = Installation()
    vision.install(installation)
    model.model.get_image_features(prompts(model, ONE)[0].pixels)
    assert vision._recorded
    installation.remove()
    assert not vision._recorded
