"""Families that are known and refused say why, wherever a model of theirs is brought; so do inputs of the others."""

import pytest
import torch
from transformers import Molmo2ForConditionalGeneration

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import Prompts
from tokensieve_strategies import Norm

ADAPTERS = ts.default_registry().adapters
REFUSED = sorted(name for name, adapter in ADAPTERS.items() if adapter.refusal_reason is not None)


def test_there_are_some():
    assert {"llama4", "mllama", "instructblip"} <= set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_of_a_refused_family(name):
    adapter = ADAPTERS[name]
    model = adapter.tiny()
    before = footprint(model)
    assert adapter.matches(model)
    said = f"{type(model).__name__} (model_type '{model.config.model_type}') cannot be pruned: {adapter.refusal_reason}"
    for recipe in ("gsp", "fastv"):
        with pytest.raises(RefusedError) as error, ts.prune(model, recipe):
            pytest.fail("it was let in")
        assert said in str(error.value)
    assert footprint(model) == before


@pytest.mark.parametrize("name", REFUSED)
def test_a_reason_is_a_clause_with_something_to_do(name):
    reason = ADAPTERS[name].refusal_reason
    assert reason[0].islower()
    assert not reason.endswith(".")
    assert ";" in reason


INPUTS = [
    (name, argument)
    for name, adapter in sorted(ADAPTERS.items())
    if adapter.decoder_type is not None
    for argument in adapter.decoder_type.refused_inputs
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "argument"), INPUTS)
def test_an_input_that_would_go_through_unpruned(name, argument):
    """It is refused by a call and by a generation, beside pictures and alone, and before anything runs."""
    model = ADAPTERS[name].tiny()
    prompts = Prompts(model, ADAPTERS[name](model))
    for parts in ([2, ("image", 1), 3], [2]):
        inputs = prompts.batch([prompts.row(parts)]) | {argument: torch.ones(1, 3)}
        with ts.prune(model, Norm(), keep=2) as run:
            for call in (model, model.generate):
                with pytest.raises(RefusedError, match=f"{argument} was given, but "):
                    call(**inputs)
        assert not run.prefills


@torch.no_grad()
def test_answers_that_transformers_gives_other_pictures():
    """GLM-4V deals the pictures of a prompt to its several answers one by one, not prompt by prompt."""
    model = ADAPTERS["glm4v"].tiny()
    model.generation_config.eos_token_id = None
    prompts = Prompts(model, ADAPTERS["glm4v"](model))
    one, two = [2, ("image", 1), 3], [2, ("image", 0), 1, ("image", 1), 3]
    for settings in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        with ts.prune(model, Norm(), keep=2) as run:
            with pytest.raises(RefusedError, match="one picture a prompt"):
                model.generate(**prompts.batch([prompts.row(two)]), max_new_tokens=1, **settings)
            assert not run.prefills
            model.generate(**prompts.batch([prompts.row(one)]), max_new_tokens=1, **settings)
            model.generate(**prompts.batch([prompts.row(two)]), max_new_tokens=1)
        assert len(run.prefills) == 2


def test_layers_that_scale_rotary_positions_differently():
    adapter = ADAPTERS["molmo2"]
    config = adapter.tiny().config
    config.text_config.rope_scaling_layers = [0, 1]
    model = Molmo2ForConditionalGeneration(config)
    with ts.prune(model, Norm(), keep=2):
        pass
    stages = (ts.Stage(at="decoder.2", select=Norm(), keep=2),)
    with pytest.raises(RefusedError, match="2 of 4 scale them"), ts.prune(model, ts.Recipe(stages=stages)):
        pytest.fail("it was let in")
