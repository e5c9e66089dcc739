"""Every way into a model is pruned, or refused: what hangs on `model(...)` alone is gone past in silence."""

import warnings

import peft
import pytest
import torch
from torch import nn

import tokensieve as ts
from tokensieve.errors import RefusedError, UnsupportedModelError
from tokensieve.testing.footprint import footprint
from tokensieve_strategies import Norm

from .models import CACHE, IMAGE, RAGGED, batch, generate, llava, prompts, shared

K = 4


def at(*blocks):
    return ts.Recipe(stages=tuple(ts.Stage(at=f"decoder.{b}", select=Norm(), keep=K) for b in blocks))


def merged(model, inputs):
    """Embeddings with the pictures in them, as the model itself would merge them."""
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    pictures = torch.cat(
        [one.reshape(-1, embeds.shape[-1]) for one in model.get_image_features(inputs["pixel_values"]).pooler_output]
    )
    return embeds.masked_scatter((inputs["input_ids"] == IMAGE).unsqueeze(-1), pictures)


WAYS = {
    "call": lambda model, inputs: model(**inputs).logits,
    "forward": lambda model, inputs: model.forward(**inputs).logits,
    "forward of the class": lambda model, inputs: type(model).forward(model, **inputs).logits,
    "base model": lambda model, inputs: model.lm_head(model.model(**inputs).last_hidden_state),
    "forward of the base model": lambda model, inputs: model.lm_head(model.model.forward(**inputs).last_hidden_state),
    "a tuple": lambda model, inputs: model.forward(**inputs, return_dict=False)[0],
    "positional": lambda model, inputs: (
        model.forward(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"]).logits
    ),
}


@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2)], ids=str)
@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_every_way_in_is_pruned(way, blocks):
    model = shared("sdpa")
    inputs = batch(prompts(model, RAGGED))
    with ts.prune(model, at(*blocks)) as run:
        right = model(**inputs).logits
        found = WAYS[way](model, inputs)
    torch.testing.assert_close(found, right)
    assert len(run.prefills) == 2
    assert run.prefills[0].stages[0].samples[0].kept.tolist() == run.prefills[1].stages[0].samples[0].kept.tolist()


@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@torch.no_grad()
def test_steps_on_the_cache_of_the_base_model(blocks):
    """A loop of one's own on the base model says what `generate` says."""
    model = shared("sdpa")
    row = prompts(model, RAGGED)[:1]
    with ts.prune(model, at(*blocks)):
        right = generate(model, row, 4)[0][0]
        inputs = batch(row)
        out = model.model(**inputs, use_cache=True)
        said = []
        for _ in range(4):
            said.append(int(model.lm_head(out.last_hidden_state[:, -1]).argmax()))
            out = model.model(input_ids=torch.tensor([[said[-1]]]), **{CACHE: getattr(out, CACHE)})
    assert said == right[-4:].tolist()


@pytest.mark.parametrize(
    "way",
    [
        lambda model, embeds: model(inputs_embeds=embeds),
        lambda model, embeds: model.forward(inputs_embeds=embeds),
        lambda model, embeds: model.model(inputs_embeds=embeds),
        lambda model, embeds: model.model.language_model(inputs_embeds=embeds),
        lambda model, embeds: model.model.language_model.forward(inputs_embeds=embeds),
        lambda model, embeds: model.generate(inputs_embeds=embeds, max_new_tokens=1),
    ],
    ids=["call", "forward", "base model", "language model", "its forward", "generate"],
)
@torch.no_grad()
def test_merged_embeddings_are_refused(way):
    model = shared("sdpa")
    embeds = merged(model, batch(prompts(model, [[3, IMAGE, 2]])))
    with ts.prune(model, at(0)) as run:
        with pytest.raises(RefusedError, match=r"16 of 22 places that are no token's embedding.*Pass input_ids with"):
            way(model, embeds)
        # Text alone is none of that.
        words = torch.tensor([[1, 5, 6]])
        text = model.get_input_embeddings()(words)
        assert torch.equal(way(model, text)[0], way(model, text)[0])
    assert all(not any(prefill.visual) for prefill in run.prefills)


@torch.no_grad()
def test_merged_embeddings_on_a_pruned_cache_are_refused():
    model = shared("sdpa")
    inputs = batch(prompts(model, [[3, IMAGE, 2]]))
    embeds = merged(model, inputs)
    with ts.prune(model, at(0)):
        out = model(**inputs, use_cache=True)
        with pytest.raises(RefusedError, match="no token's embedding"):
            model(inputs_embeds=embeds, **{CACHE: getattr(out, CACHE)})


class Outer(nn.Module):
    """What frameworks for training and serving wrap models in."""

    def __init__(self, inner):
        super().__init__()
        self.module = inner

    def forward(self, *args, **kwargs):
        return self.module.forward(*args, **kwargs)


class Forwarding(Outer):
    """A wrapper that passes for the model, as those of PEFT do."""

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


@pytest.mark.parametrize(
    "wrap",
    [
        Outer,
        Forwarding,
        lambda model: Forwarding(Forwarding(model)),
        lambda model: Outer(Forwarding(model)),
        torch.nn.DataParallel,
    ],
    ids=["plain", "forwarding", "twice", "mixed", "data parallel"],
)
@torch.no_grad()
def test_a_wrapped_model_is_pruned_inside(wrap):
    model = shared("sdpa")
    inputs, wrapped = batch(prompts(model, RAGGED)), wrap(model)
    before = footprint(model)
    with ts.prune(model, at(0)):
        right = model(**inputs).logits
    with ts.prune(wrapped, at(0)) as run:
        torch.testing.assert_close(wrapped(**inputs).logits, right)
    assert len(run.prefills) == 1
    assert footprint(model) == before


def test_two_models_in_one_are_refused():
    both = nn.ModuleDict({"student": llava(), "teacher": llava(seed=1)})
    with (
        pytest.raises(
            UnsupportedModelError, match=r"ModuleDict.*holds 2 models.*'student'.*'teacher'.*pass one of them"
        ),
        ts.prune(both, at(0)),
    ):
        pass


def test_a_pipeline_is_pruned_by_its_model():
    class Pipeline:
        model = shared("sdpa")

    inputs = batch(prompts(Pipeline.model, RAGGED))
    with torch.no_grad(), ts.prune(Pipeline(), at(0)) as run:
        Pipeline.model(**inputs)
    assert len(run.prefills) == 1


@pytest.mark.parametrize("thing", [None, "llava", 3, object()], ids=["none", "text", "number", "object"])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(UnsupportedModelError, match="is no model"), ts.prune(thing, at(0)):
        pass


# PEFT asks the library for what it will soon drop.
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lora_is_pruned_by_every_way_in():
    model = llava(seed=3)
    inputs = batch(prompts(model, RAGGED))
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    ).eval()
    with torch.no_grad(), ts.prune(wrapped, at(0)) as run:
        right = wrapped.get_base_model()(**inputs).logits
        torch.testing.assert_close(wrapped(**inputs).logits, right)
        torch.testing.assert_close(wrapped.forward(**inputs).logits, right)
        words = wrapped.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert len(run.prefills) == 4
    with torch.no_grad():
        assert wrapped(**inputs).logits.shape[1] > right.shape[1]
    assert words.shape[1] == inputs["input_ids"].shape[1] + 2


@torch.no_grad()
def test_pictures_that_no_prompt_took_are_said_once():
    model = shared("sdpa")
    pixels = batch(prompts(model, RAGGED))["pixel_values"]

    def encode():
        with ts.prune(model, at(0)):
            model.get_image_features(pixels)
            model.get_image_features(pixels)

    with pytest.warns(UserWarning, match=r"2 calls encoded pictures.*no prompt with pictures") as said:
        encode()
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ts.prune(model, at(0)):
            model.get_image_features(pixels)
            model(**batch(prompts(model, RAGGED)))
