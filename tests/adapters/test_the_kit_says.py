"""Each law of the kit for adapters says what was found, what it asks and what usually cures it: one fault a law."""

import inspect
import re

import pytest
import torch

import tokensieve as ts
from tokensieve.testing import AdapterConformance
from tokensieve.testing.adapters.kit import Kit
from tokensieve.testing.prompts import Prompts
from tokensieve_adapters._tower import PatchTokenEncoder
from tokensieve_adapters.llava import LlavaAdapter, LlavaDecoder

REAL = {
    name: getattr(LlavaDecoder, name) for name in ("layout", "position_ids", "projected_features", "replace_features")
}


class Llava(AdapterConformance):
    adapter = LlavaAdapter


def positions_are_doubled(patch):
    patch.setattr(LlavaDecoder, "position_ids", lambda self, *rest: 2 * REAL["position_ids"](self, *rest))


def features_are_noise(patch):
    patch.setattr(
        LlavaDecoder,
        "projected_features",
        lambda self, output: torch.randn_like(REAL["projected_features"](self, output)),
    )


def a_layer_is_missing(patch):
    layers = LlavaDecoder.layers.fget
    patch.setattr(LlavaDecoder, "layers", property(lambda self: layers(self)[:-1]))


def images_are_one(patch):
    patch.setattr(LlavaDecoder, "layout", lambda self, *rest: [torch.cat(REAL["layout"](self, *rest))])


def merged_vectors_are_lost(patch):
    def replace_features(self, output, features, rows):
        return REAL["replace_features"](self, output, self.projected_features(output)[rows], rows)

    patch.setattr(LlavaDecoder, "replace_features", replace_features)


def vectors_are_in_wrong_places(patch):
    patch.setattr(
        LlavaDecoder,
        "replace_features",
        lambda self, output, features, rows: REAL["replace_features"](self, output, features.flip(0), rows),
    )


def the_model_is_written_on(patch):
    def replace_features(self, *rest):
        self.model.replaced = True
        return REAL["replace_features"](self, *rest)

    patch.setattr(LlavaDecoder, "replace_features", replace_features)


def the_class_token_is_a_patch(patch):
    patch.setattr(PatchTokenEncoder, "num_prefix_tokens", property(lambda self: 0))


def nothing_is_refused(patch):
    patch.setattr("tokensieve.engine.decoder_pruner.refuse_batch", lambda *_, **__: None)


def costs_are_made_up(patch):
    patch.setattr("tokensieve.testing.adapters.computation.pruned_prefill_flops", lambda *_: 1)


FAULTS = {
    "keeping_all_changes_nothing": (
        positions_are_doubled,
        r"keeping all tokens at decoder\.0 changes logits of forward",
    ),
    "keeping_all_changes_no_form_of_a_call": (positions_are_doubled, "logits with all tokens kept, and "),
    "positions_are_those_of_forward": (
        positions_are_doubled,
        "with the position ids of the adapter, forward gives other",
    ),
    "the_model_is_restored": (the_model_is_written_on, "after a prune, the model is not as before"),
    "generation_is_that_of_the_reference": (
        vectors_are_in_wrong_places,
        "logits of prompt 0, beside the reference differ: ",
    ),
    "without_a_cache": (vectors_are_in_wrong_places, "logits of prompt 0, beside the reference differ: "),
    "a_row_gets_what_it_gets_alone": (features_are_noise, r"prompt 0 keeps .* alone, and .* in the batch"),
    "every_way_in_is_pruned": (features_are_noise, "logits of a call of forward differ: "),
    "caches_hold_what_the_ledger_says": (a_layer_is_missing, "list index out of range"),
    "every_image_keeps_its_share": (images_are_one, "`layout` returns 1 layouts for 2 images of a prompt"),
    "flops_are_those_that_torch_counts": (costs_are_made_up, r"before a run 1 FLOPs are counted, and in it \d+"),
    "merging": (merged_vectors_are_lost, "merging gives the logits of dropping: the merged vectors are not used"),
    "stages_in_the_tower": (the_class_token_is_a_patch, "where 37 patches are is not known"),
    "evidence": (features_are_noise, "in the batch and alone differ: "),
    "beams": (vectors_are_in_wrong_places, r"the best beam scores -\d+.*, and -\d+.* by the reference"),
    "sampling": (vectors_are_in_wrong_places, "logits of answer 0, beside the reference differ: "),
    "a_static_cache": (features_are_noise, "a static cache gives other tokens"),
    "compiled_decoding": (features_are_noise, "compiled layers give other tokens"),
    "prompt_lookup": (features_are_noise, "prompt lookup gives other tokens"),
    "several_turns": (vectors_are_in_wrong_places, "logits of step 0 of a second turn differ: "),
    "a_loss": (positions_are_doubled, "the loss and that of the reference differ: "),
    "refusals": (
        nothing_is_refused,
        "DID NOT RAISE <class 'tokensieve.errors.TokensieveError'>|DID NOT RAISE TokensieveError",
    ),
    "kinds_of_attention": (features_are_noise, r"eager attention keeps .*, and sdpa .*"),
    "half_precision": (positions_are_doubled, "in bfloat16, keeping all tokens changes logits"),
    "a_saved_checkpoint": (features_are_noise, "the loaded model generates other tokens"),
}


@pytest.fixture(scope="module")
def kit():
    model = LlavaAdapter.tiny()
    return Kit(model, ts.default_registry().adapter_for(model))


def laws():
    for name, _ in inspect.getmembers(AdapterConformance, inspect.isfunction):
        if name.startswith("test_"):
            # Compiling takes ten seconds.
            marks = [pytest.mark.nightly] if name == "test_compiled_decoding" else []
            yield pytest.param(name, marks=marks, id=name.removeprefix("test_"))


@pytest.mark.parametrize("law", list(laws()))
def test_a_fault_is_explained(law, kit, monkeypatch):
    fault, said = FAULTS[law.removeprefix("test_")]
    with monkeypatch.context() as patch:
        torch.manual_seed(0)
        fault(patch)
        with pytest.raises(BaseException, match=said) as caught:
            getattr(Llava(), law)(kit)
    message = "\n".join([str(caught.value), *caught.value.__notes__])
    assert re.search(rf"the law {law.removeprefix('test_')}(:| was tried:) [A-Z]", message), message
    assert re.search(r"\nusual cure: .{20,}", message), message


def test_there_is_a_fault_for_every_law():
    assert {f"test_{name}" for name in FAULTS} == {law.values[0] for law in laws()}


def test_a_number_of_tokens_that_is_not_that_of_the_layout(monkeypatch):
    monkeypatch.setattr(LlavaDecoder, "tokens_per_image", 35)
    model = LlavaAdapter.tiny()
    with pytest.raises(AssertionError, match="`tokens_per_image` is 35, and images have 36, 36 tokens by `layout`"):
        Prompts(model, LlavaAdapter(model)).row([2, ("image", 1), 3, ("image", 2)])
