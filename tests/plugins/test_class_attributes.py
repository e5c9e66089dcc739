"""Class attributes of a wrong kind are refused when the class is registered, by name and with the cure."""

import dataclasses
from typing import ClassVar

import pytest

import tokensieve as ts
from tokensieve import Evidence, Registry
from tokensieve.errors import PluginError
from tokensieve.models.decoder import Decoder
from tokensieve.models.encoder import Encoder
from tokensieve_adapters.llava import LlavaAdapter


def scorer(**attributes):
    """A strategy that is right but for the attributes."""
    annotations = attributes.pop("__annotations__", {})
    body = {"name": "mine", "score": lambda self, tokens: tokens.features.norm(dim=-1), "__doc__": "Mine."}
    return type("Mine", (ts.Scorer,), {**body, **attributes, "__annotations__": annotations, "__module__": __name__})


def composer(**attributes):
    """A composer that is right but for the attributes."""
    annotations = attributes.pop("__annotations__", {})
    body = {"name": "mine", "combine": lambda self, chains: chains[0], "__doc__": "Mine."}
    return type("Mine", (ts.Composer,), {**body, **attributes, "__annotations__": annotations, "__module__": __name__})


def adapter(**attributes):
    """An adapter that is right but for the attributes."""
    return type("Mine", (LlavaAdapter,), {"name": "mine", "model_types": ("mine",), **attributes})


def decoder(**attributes):
    return type("MyDecoder", (LlavaAdapter.decoder_type,), attributes)


class Property(ts.Scorer):
    """Says what it needs in a property, and says it wrongly."""

    name = "mine"

    @property
    def needs(self):
        return {Evidence.GRID}

    def score(self, tokens):
        return tokens.features.norm(dim=-1)


CASES = [
    (scorer(name="no-identifier"), "no Python identifier"),
    (scorer(name="class"), "no Python identifier"),
    (scorer(name=7), "has no name"),
    (scorer(needs={"grid"}), r"needs = \{'grid'\}; write frozenset\(\{Evidence.GRID\}\)"),
    (scorer(needs=frozenset({"grid"})), r"write frozenset\(\{Evidence.GRID\}\)"),
    (scorer(needs=["grid"], __annotations__={"needs": ClassVar}), r"write frozenset\(\{Evidence.GRID\}\)"),
    (scorer(needs="grid", __annotations__={"needs": ClassVar}), r"write frozenset"),
    (Property, r"write frozenset\(\{Evidence.GRID\}\)"),
    (scorer(weights=[1.0], __annotations__={"weights": list[float]}), r"'weights' of the type list.*tuple\[\.\.\.\]"),
    (scorer(table={}, __annotations__={"table": dict[str, int]}), "'table' of the type dict"),
    (scorer(some=None, __annotations__={"some": set[int] | None}), "'some' of the type set"),
    (scorer(nested=1), "nested = 1; it is True or False"),
    (scorer(paper=2512), "paper = 2512"),
    (scorer(examples=[{}]), r"examples = \[\{\}\]; it is a tuple"),
    (scorer(examples=({"q": 1},)), "an example with 'q', which is no setting"),
    (scorer(p=1.0, examples=({"p": "x"},), __annotations__={"p": float}), "that it refuses itself: mine: p is 'x'"),
    (scorer(known_failures=("order_free",)), "known_failures = .*mapping from laws to reasons"),
    (scorer(use=1, __annotations__={"use": int}), "parameter 'use'"),
    (composer(arity=2), r"arity = 2; write the fewest and the most operands"),
    (composer(arity=(2, 1)), r"arity = \(2, 1\)"),
    (composer(arity=(0, None)), r"arity = \(0, None\)"),
    (composer(whole="yes"), "whole = 'yes'; it is True or False"),
    (composer(sized=None), "sized = None; it is True or False"),
    (composer(symbol="+"), r"symbol '\+'; formulas know"),
    (composer(n=[1], __annotations__={"n": list[int]}), "'n' of the type list"),
    (composer(__annotations__={"n": int}), "no default for 'n'"),
    (composer(name="9lives"), "no Python identifier"),
    (dataclasses.dataclass(frozen=True)(composer(n=3, __annotations__={"n": int})), "leave out @dataclass"),
    (adapter(model_types="llava"), r"model_types = 'llava'; write a tuple of types, such as \('llava',\)"),
    (adapter(model_types=["llava"]), "write a tuple of types"),
    (adapter(decoder_type=LlavaAdapter.tiny), "decoder_type = .*no subclass of Decoder"),
    (adapter(encoder_type=Decoder), "encoder_type = .*no subclass of Encoder"),
    (adapter(along=classmethod(lambda cls, model, ids: {})), "defines Mine.along, which is called aligned_inputs now"),
    (adapter(decoder_type=decoder(spread=lambda *a: a)), "MyDecoder.spread, which is called patches_to_tokens now"),
    (adapter(encoder_type=type("Enc", (Encoder,), {"prefix": 1})), "Enc.prefix, which is called num_prefix_tokens now"),
    (adapter(oldest_transformers="5.19"), r"oldest_transformers = '5.19'; write two numbers"),
    (adapter(refusal_reason=True), "refusal_reason = True"),
    (adapter(decoder_type=decoder(vision_model_types={"clip"})), "MyDecoder.vision_model_types"),
    (adapter(decoder_type=decoder(vision_modalities=("image",))), "MyDecoder.vision_modalities"),
    (adapter(decoder_type=decoder(refused_inputs=("x",))), "MyDecoder.refused_inputs"),
]


@pytest.mark.parametrize(("cls", "match"), CASES, ids=[match[:40] for _, match in CASES])
def test_a_wrong_class_attribute_is_refused_when_registered(cls, match):
    registry = Registry()
    add = {ts.Strategy: registry.add_strategy, ts.Composer: registry.add_composer, ts.Adapter: registry.add_adapter}
    with pytest.raises(PluginError, match=match) as raised:
        next(method for base, method in add.items() if issubclass(cls, base))(cls)
    assert "Mine" in str(raised.value) or "Property" in str(raised.value)
    assert "mine" not in {**registry.strategies, **registry.composers, **registry.adapters}


def test_what_is_right_is_taken():
    registry = Registry()
    registry.add_strategy(scorer(needs=frozenset({Evidence.GRID, Evidence.FEATURES}), paper="https://arxiv.org/abs/1"))
    assert registry.strategy("mine")().needs == {Evidence.GRID, Evidence.FEATURES}
    registry.add_adapter(adapter())
    other = Registry()
    other.add_composer(composer(n=None, __annotations__={"n": int | None}))
    assert other.composer("mine").parameters() == ("n",)


def test_a_check_that_would_not_run_is_refused_where_the_class_is_made():
    with pytest.raises(PluginError, match="__post_init__, which is not called"):
        composer(__post_init__=lambda self: None)


def test_two_composers_of_one_symbol():
    with pytest.raises(PluginError, match="has the symbol &, as has the composer 'intersection'"):
        Registry().add_composer(composer(symbol="&"))
