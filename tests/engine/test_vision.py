"""What strategies see of the vision tower: its own attention weights and keys, token by token."""

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import MissingEvidenceError, RefusedError
from tokensieve.testing.prompts import Prompts, lively
from tokensieve_adapters.gemma3 import Gemma3Adapter
from tokensieve_adapters.llava_next import LlavaNextAdapter

from .models import ONE, RAGGED, batch, generate, llava, patches, prompts, shared

SEEN = []


class Watching(ts.Scorer):
    """Keeps what the class token looks at, and remembers all that it saw."""

    name = "watching"

    @property
    def needs(self):
        return frozenset({ts.Evidence.VISION_ATTENTION, ts.Evidence.VISION_KEYS})

    def score(self, tokens):
        SEEN.append((tokens.ids, tokens.vision_attention, tokens.vision_keys))
        return tokens.vision_attention.double().mean(dim=-1)


def at(block, keep=5):
    return ts.Recipe(stages=(ts.Stage(at=f"decoder.{block}", select=Watching(), keep=keep),))


@torch.no_grad()
def own(model, pixels):
    """Attention `[patches, heads]` and keys `[patches, d]` of every picture, from the raw weights in float64."""
    if not len(pixels):
        return []
    tower, vision = model.model.vision_tower, model.config.vision_config
    number = vision.num_hidden_layers + model.config.vision_feature_layer
    prefix = int(vision.model_type == "clip_vision_model")
    layer = tower.encoder.layers[number]
    hidden = tower(pixels, output_hidden_states=True).hidden_states[number]
    x = torch.nn.functional.layer_norm(
        hidden.double(),
        hidden.shape[-1:],
        layer.layer_norm1.weight.double(),
        layer.layer_norm1.bias.double(),
        layer.layer_norm1.eps,
    )
    made = []
    for one in x:
        q, k = (
            one @ part.weight.double().T + part.bias.double()
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        heads, width = vision.num_attention_heads, q.shape[-1] // vision.num_attention_heads
        q, k = ([part[:, h * width : (h + 1) * width] for h in range(heads)] for part in (q, k))
        weights = [(q[h] @ k[h].T / width**0.5).softmax(dim=-1) for h in range(heads)]
        rows = [w[0, 1:] if prefix else w.mean(dim=0) for w in weights]
        made.append((torch.stack(rows, dim=1), torch.stack(k).mean(dim=0)[prefix:]))
    return made


def check(model, rows, places):
    """Every group that was judged is a picture; compare each with the tower's own numbers."""
    wanted = [picture for row in rows for picture in own(model, row.pixels)]
    (ids, attention, keys) = SEEN[-1]
    assert len(ids) == len(wanted) == places
    for number, (weights, own_keys) in enumerate(wanted):
        torch.testing.assert_close(attention[number].double(), weights, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(keys[number].double(), own_keys, atol=1e-5, rtol=1e-4)


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
        for image, (weights, _) in enumerate(own(model, row.pixels)):
            best = weights.mean(dim=1).argsort(descending=True)[:5].tolist()
            kept += sorted(image * patches(model) + token for token in best)
        assert run.kept(f"decoder.{block}")[number].tolist() == kept


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
def test_tiles_are_packed_like_their_features():
    """A linear projector makes packed features of packed patches, so packing commutes with it."""
    model = lively(LlavaNextAdapter.tiny())
    adapter = LlavaNextAdapter(model)
    made = Prompts(model, adapter)
    row = made.row([2, ("image", 3), 4])
    inputs = made.batch([row])
    decoder = adapter.decoder
    output = decoder.encode(inputs)["image"]
    [layout] = decoder.layout("image", output, inputs)
    tiles = 5
    numbers = torch.arange(tiles * 16).reshape(tiles, 16, 1).float() + 1
    packed = decoder.spread(numbers, inputs).flatten()
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


@torch.no_grad()
def test_pictures_that_came_encoded():
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    encoded = model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    with ts.prune(model, at(0)), pytest.raises(RefusedError, match="pass pixel_values"):
        model(**inputs, mm_encoder_outputs={"image": encoded})


def test_towers_whose_tokens_are_no_patches():
    model = Gemma3Adapter.tiny()
    with pytest.raises(MissingEvidenceError, match="vision_attention"), ts.prune(model, at(0)):
        pytest.fail("it was let in")
