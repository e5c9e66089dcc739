"""Families that are known and refused say why, wherever a model of theirs is brought; so do inputs of the others."""

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import Prompts
from tokensieve_strategies import Norm

ADAPTERS = ts.default_registry().adapters
REFUSED = sorted(name for name, adapter in ADAPTERS.items() if adapter.refused is not None)


def test_there_are_some():
    assert {"llama4", "mllama", "instructblip"} <= set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_of_a_refused_family(name):
    adapter = ADAPTERS[name]
    model = adapter.tiny()
    before = footprint(model)
    assert adapter.matches(model)
    said = f"{type(model).__name__} (model_type '{model.config.model_type}') cannot be pruned: {adapter.refused}"
    for recipe in ("gsp", "fastv"):
        with pytest.raises(RefusedError) as error, ts.prune(model, recipe):
            pytest.fail("it was let in")
        assert said in str(error.value)
    assert footprint(model) == before


@pytest.mark.parametrize("name", REFUSED)
def test_a_reason_is_a_clause_with_something_to_do(name):
    reason = ADAPTERS[name].refused
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
