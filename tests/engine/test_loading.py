"""Models as users load them: placed by accelerate, partly on disk, in half precision, with eight-bit weights."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn
from transformers import AutoModelForImageTextToText, QuantoConfig

import tokensieve as ts
from tokensieve.cost.language_model import LayerCost
from tokensieve.testing.footprint import footprint
from tokensieve_strategies import FastV, Norm

from .models import RAGGED, batch, llava, prompts

LOAD = AutoModelForImageTextToText.from_pretrained


def recipe(*stages, positions="original"):
    return ts.Recipe(
        stages=tuple(
            ts.Stage(at=at, select=FastV() if at == "decoder.2" else Norm(), keep=keep, rest=rest)
            for at, keep, rest in stages
        ),
        positions=positions,
    )


RECIPES = {
    "decoder.0": recipe(("decoder.0", 5, "drop")),
    "decoder.2": recipe(("decoder.2", 5, "drop")),
    "both, merged": recipe(("decoder.0", 9, "merge"), ("decoder.2", 4, "merge"), positions="compact"),
    "the tower, too": recipe(("encoder.1", 9, "merge"), ("decoder.2", 4, "drop")),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    llava(seed=9).save_pretrained(folder)
    return folder


def half_on_disk(home, folder):
    """Half of the layers, the projector and the tower's last layer come from disk each time they are used."""
    places = dict.fromkeys(
        [f"model.language_model.{part}" for part in ("embed_tokens", "norm", "rotary_emb", "layers.0", "layers.3")]
        + ["lm_head", *(f"model.vision_tower.{part}" for part in ("embeddings", "pre_layrnorm", "post_layernorm"))]
        + [f"model.vision_tower.encoder.layers.{number}" for number in (0, 1)],
        "cpu",
    )
    far = [f"model.language_model.layers.{number}" for number in (1, 2)]
    far += ["model.multi_modal_projector", "model.vision_tower.encoder.layers.2"]
    return LOAD(home, device_map=places | dict.fromkeys(far, "disk"), offload_folder=folder)


PLACED = {
    "device_map=cpu": lambda home, folder: LOAD(home, device_map="cpu"),
    "device_map of a whole": lambda home, folder: LOAD(home, device_map={"": "cpu"}),
    "device_map with a disk": half_on_disk,
    "dispatch_model": lambda home, folder: dispatch_model(LOAD(home), {"": "cpu"}, force_hooks=True),
    "cpu_offload": lambda home, folder: cpu_offload(LOAD(home), execution_device="cpu"),
    "disk_offload": lambda home, folder: disk_offload(LOAD(home), folder, execution_device="cpu"),
}
OFFLOADED = {"device_map with a disk", "cpu_offload", "disk_offload"}


@torch.no_grad()
def asked(model, recipe):
    """Give the words, logits and ledger of a generation, and the logits of a call."""
    inputs = batch(prompts(model, RAGGED))
    with ts.prune(model, recipe) as run:
        out = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ledger = run.to_dict()
        for stage in ledger["stages"]:
            stage.pop("selection_ms")
        return out.sequences, torch.stack(out.logits), model(**inputs).logits, ledger


def marks(model):
    """Everything by which a prune could show, but weights: those of an offloaded model come and go with each call."""
    return {name: what for name, what in footprint(model).items() if name != "weights"}


@pytest.mark.covering(1)
@pytest.mark.parametrize("plan", RECIPES)
@pytest.mark.parametrize("placed", PLACED)
def test_a_model_that_accelerate_placed(home, tmp_path, placed, plan):
    """To the bit what the plainly loaded model gives, with the same ledger; and the hooks of accelerate stay."""
    model = PLACED[placed](home, tmp_path)
    away = {name for name, weight in model.named_parameters() if weight.device.type == "meta"}
    assert bool(away) == (placed in OFFLOADED)
    with torch.no_grad():
        inputs = batch(prompts(model, RAGGED))
        before_words = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
    before = marks(model)
    plain, found = asked(LOAD(home), RECIPES[plan]), asked(model, RECIPES[plan])
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], found[:3], strict=True))
    assert plain[3] == found[3]
    assert marks(model) == before
    with torch.no_grad():
        again = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(before_words, again)
    # Pruning was no nothing.
    assert not torch.equal(before_words, found[0])


@pytest.mark.parametrize("plan", RECIPES)
@pytest.mark.parametrize("device_map", [None, "cpu"])
def test_a_model_loaded_in_half_precision(home, plan, device_map):
    """What is loaded in half precision has the weights of what is cast to it; its positions stay whole."""
    cast = LOAD(home)
    for weight in cast.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    model = LOAD(home, dtype=torch.bfloat16, device_map=device_map)
    wanted, found = asked(cast, RECIPES[plan]), asked(model, RECIPES[plan])
    assert (model.dtype, found[2].dtype) == (torch.bfloat16, torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(wanted[:3], found[:3], strict=True))
    assert wanted[3] == found[3]


@pytest.mark.parametrize("plan", RECIPES)
@torch.no_grad()
def test_a_model_with_eight_bit_weights(home, plan):
    """It gives what a plain model gives whose weights are those that eight bits stand for, at the same counted cost."""
    model = LOAD(home, quantization_config=QuantoConfig(weights="int8"), device_map="cpu")
    plain = LOAD(home)
    changed = 0
    for name, weight in model.named_parameters():
        if hasattr(weight, "dequantize") and type(weight) is not nn.Parameter:
            rounded = weight.dequantize()
            changed += not torch.equal(rounded, plain.get_parameter(name))
            plain.get_parameter(name).copy_(rounded)
    assert changed >= 7 * 4
    wanted, found = asked(plain, RECIPES[plan]), asked(model, RECIPES[plan])
    assert torch.equal(wanted[0], found[0])
    for a, b in zip(wanted[1:3], found[1:3], strict=True):
        torch.testing.assert_close(a, b, atol=5e-4, rtol=1e-3)
    assert wanted[3] == found[3]


class Packed(nn.Linear):
    """A linear map that stores two weights in a byte, as four-bit libraries do."""

    def __init__(self, wide):
        super().__init__(wide.in_features, wide.out_features, bias=wide.bias is not None)
        self.weight = nn.Parameter(torch.zeros(wide.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)


def test_what_packed_weights_cost():
    """A map costs by what it maps, not by how its weights are stored."""
    model = llava(seed=9)
    layer = model.model.language_model.layers[0]
    packed = copy.deepcopy(layer)
    for name, part in layer.named_modules():
        if isinstance(part, nn.Linear):
            packed.set_submodule(name, Packed(part))
    config = model.config.text_config
    wanted = sum(part.in_features * part.out_features for part in layer.modules() if isinstance(part, nn.Linear))
    assert LayerCost.of(packed, config) == LayerCost.of(layer, config)
    assert LayerCost.of(packed, config).linear_parameters == wanted
