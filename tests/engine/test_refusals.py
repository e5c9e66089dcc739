"""What cannot be right is refused before any work, and the message says what to do."""

import pytest
import torch
from torch import nn
from transformers import CompileConfig, GenerationConfig

import tokensieve as ts
from tokensieve.errors import MissingEvidenceError, RefusedError, UnsupportedModelError
from tokensieve.testing.footprint import footprint
from tokensieve_strategies import QCSP, FastV, Norm

from .models import CACHE, IMAGE, ONE, RAGGED, batch, checkpointing, generate, llava, prompts, shared


def at(site, select=None, keep=4):
    return ts.Recipe(stages=(ts.Stage(at=site, select=Norm() if select is None else select, keep=keep),))


class Untouched:
    """Fails where the vision tower or a layer runs."""

    def __init__(self, model):
        self.handles = [
            part.register_forward_pre_hook(self._ran)
            for part in (model.model.vision_tower, *model.model.language_model.layers)
        ]
        self.runs = 0

    def _ran(self, module, args):
        self.runs += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()
        assert not self.runs, "work was done before the refusal"


SETTINGS = {
    "prefill_chunk_size": ({"prefill_chunk_size": 8}, "prefill_chunk_size"),
    "quantized cache": ({"cache_implementation": "quantized"}, "quantized"),
    "offloaded cache": ({"cache_implementation": "offloaded"}, "offloaded"),
    "offloaded static cache": ({"cache_implementation": "offloaded_static"}, "offloaded_static"),
    "fullgraph": ({"compile_config": CompileConfig(fullgraph=True)}, "fullgraph"),
    "custom generation": ({"custom_generate": lambda *_, **__: None}, "custom_generate"),
}


@pytest.mark.parametrize("site", ["decoder.0", "decoder.2"])
@pytest.mark.parametrize("what", SETTINGS)
def test_generation_settings(site, what):
    model = shared("sdpa")
    settings, said = SETTINGS[what]
    with ts.prune(model, at(site)) as run, Untouched(model), pytest.raises(RefusedError, match=said):
        model.generate(**batch(prompts(model, ONE)), max_new_tokens=2, **settings)
    assert not run.prefills


def test_generation_settings_in_a_config():
    model = shared("sdpa")
    config = GenerationConfig(prefill_chunk_size=8, max_new_tokens=2)
    with ts.prune(model, at("decoder.0")), Untouched(model), pytest.raises(RefusedError, match="prefill_chunk_size"):
        model.generate(**batch(prompts(model, ONE)), generation_config=config)


def test_continuous_batching():
    model = shared("sdpa")
    with ts.prune(model, at("decoder.0")), Untouched(model), pytest.raises(RefusedError, match="use generate"):
        model.generate_batch([[1, 2, 3]])


@pytest.mark.parametrize("site", ["decoder.0", "decoder.2"])
def test_right_padding_in_generation(site):
    model = shared("sdpa")
    inputs = batch(prompts(model, RAGGED), "right")
    with ts.prune(model, at(site)), Untouched(model), pytest.raises(RefusedError, match="left"):
        model.generate(**inputs, max_new_tokens=2)


def refuses(model, recipe, said, **inputs):
    with ts.prune(model, recipe) as run, pytest.raises(RefusedError, match=said), torch.no_grad():
        model(**inputs)
    assert not run.prefills


def test_right_padding_inside_the_model():
    model = shared("sdpa")
    refuses(model, at("decoder.2"), "left", **batch(prompts(model, RAGGED), "right"))


def test_a_tensor_of_places_for_logits():
    model = shared("sdpa")
    refuses(model, at("decoder.0"), "pass a number", **batch(prompts(model, ONE)), logits_to_keep=torch.tensor([3, 4]))


def test_a_new_image_on_a_pruned_cache():
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    for site in ("decoder.0", "decoder.2"):
        with ts.prune(model, at(site)), torch.no_grad():
            cache = model(**batch([row]), use_cache=True)[CACHE]
            with pytest.raises(RefusedError, match="already holds"):
                model(**batch([row]), **{CACHE: cache})


def test_a_pruned_cache_of_another_batch():
    model = shared("sdpa")
    with ts.prune(model, at("decoder.0")), torch.no_grad():
        cache = model(**batch(prompts(model, ONE)), use_cache=True)[CACHE]
        with pytest.raises(RefusedError, match="1 rows, this call has 2"):
            model(input_ids=torch.tensor([[3], [4]]), **{CACHE: cache})


def test_placeholders_that_do_not_match_the_images():
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    inputs = batch([row])
    refuses(
        model,
        at("decoder.0"),
        "16 image placeholders, the images 32",
        **inputs | {"pixel_values": torch.cat([row.pixels] * 2)},
    )
    inputs = batch([row.plus([IMAGE])])
    refuses(model, at("decoder.0"), "17 image placeholders, the images 16", **inputs)


def test_hidden_placeholders():
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    mask = inputs["attention_mask"].masked_fill(inputs["input_ids"] == IMAGE, 0)
    refuses(model, at("decoder.0"), "hides image placeholders", **inputs | {"attention_mask": mask})


def test_a_mask_that_is_no_tensor():
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    refuses(model, at("decoder.0"), "2-D mask", **inputs | {"attention_mask": {"full_attention": None}})


@pytest.mark.parametrize("what", ["query", "keys"])
def test_one_for_each_prompt(what):
    model = shared("sdpa")
    given = {"query": ["one", "two"], "processor": object()} if what == "query" else {"keys": [1, 2]}
    recipe = at("decoder.0", QCSP() if what == "query" else None)
    with ts.prune(model, recipe, **given) as run, pytest.raises(RefusedError, match="batch of 3 prompts"):
        generate(model, prompts(model, RAGGED))
    assert not run.prefills


def enters(model, recipe, said, kind=RefusedError, **given):
    """Expect a refusal on entry, and nothing changed."""
    before = footprint(model)
    with pytest.raises(kind, match=said), ts.prune(model, recipe, **given):
        pytest.fail("it was let in")
    assert footprint(model) == before


def test_a_question_that_nobody_can_read():
    enters(shared("sdpa"), at("decoder.0", QCSP()), "processor=", query=["what is it?"])


def test_sites_that_are_not_there():
    enters(shared("sdpa"), at("decoder.99"), r"decoder\.0 \.\.\. decoder\.3")
    enters(shared("sdpa"), at("encoder.2"), r"encoder\.2: llava has no such site")


def test_evidence_that_is_not_there():
    enters(shared("sdpa"), at("decoder.0", FastV()), r"decoder_attention.*decoder\.1", MissingEvidenceError)


@pytest.mark.parametrize("select", [Norm(), FastV()], ids=["norm", "fastv"])
def test_gradient_checkpointing_inside_the_model(select):
    model = llava(seed=5)
    checkpointing(model)
    enters(model, at("decoder.2", select), "gradient checkpointing")
    with ts.prune(model, at("decoder.0")):
        pass


def test_gradient_checkpointing_turned_on_later():
    model = llava(seed=5)
    with ts.prune(model, at("decoder.2")):
        checkpointing(model)
        model.train()
        with pytest.raises(RefusedError, match="gradient checkpointing"):
            model(**batch(prompts(model, ONE)))


@pytest.mark.parametrize("change", [{"sliding_window": 8}, {"layer_types": ["sliding_attention"] * 4}], ids=str)
def test_sliding_windows_inside_the_model(change):
    model = llava(seed=5)
    for name, value in change.items():
        setattr(model.config.text_config, name, value)
    enters(model, at("decoder.2"), "full attention")


@pytest.mark.parametrize("name", ["flex_attention", "paged|sdpa"])
def test_other_attentions_inside_the_model(name):
    model = llava(seed=5)
    model.config.text_config._attn_implementation_internal = name
    enters(model, at("decoder.2"), "sdpa, eager and FlashAttention")
    with ts.prune(model, at("decoder.0")):
        pass


def test_a_compiled_model():
    class Compiled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self._orig_mod = model

    enters(Compiled(shared("sdpa")), at("decoder.0"), "prune the original model")


def test_a_model_without_an_adapter():
    enters(nn.Linear(2, 2), at("decoder.0"), "llava", UnsupportedModelError)


def test_a_class_token_among_the_patches():
    model = llava(seed=5)
    model.config.vision_feature_select_strategy = "full"
    row = prompts(model, [[2, IMAGE, IMAGE]])[0]
    words = (*row.words[:3], *[IMAGE] * 17)
    inputs = batch([row]) | {"input_ids": torch.tensor([words]), "attention_mask": torch.ones(1, 20).long()}
    refuses(model, at("decoder.0"), "no square grid", **inputs | {"pixel_values": row.pixels[:1]})


def test_what_is_no_recipe():
    enters(shared("sdpa"), 3, "no recipe", ts.TokensieveError)
    enters(shared("sdpa"), Norm(), "keep=64", ts.TokensieveError)


def test_an_assistant_inside_the_model():
    model = shared("sdpa")
    with ts.prune(model, at("decoder.2")), Untouched(model), pytest.raises(RefusedError, match="assistant"):
        model.generate(**batch(prompts(model, ONE)), max_new_tokens=2, assistant_model=shared("mha"))


@pytest.mark.parametrize("query", ["what", b"what", {"a": "b"}, [None], 3], ids=repr)
def test_a_query_that_is_no_list_of_texts_is_refused(query):
    """A text alone would be one question a letter."""
    with pytest.raises(RefusedError, match=r"query is .*give a list of texts"):
        ts.prune(shared("sdpa"), QCSP(), keep=4, processor=object(), query=query)


@pytest.mark.parametrize("keys", ["12", [1.5], [True], ["1"], [2**63], 3], ids=repr)
def test_keys_that_are_no_whole_numbers_are_refused(keys):
    with pytest.raises(RefusedError, match=r"keys is .*give a list of whole numbers"):
        ts.prune(shared("sdpa"), "random", keep=4, keys=keys)


@pytest.mark.parametrize("processor", [object(), "processor"], ids=["object", "text"])
def test_a_processor_that_is_none_is_refused(processor):
    model = shared("sdpa")
    with (
        ts.prune(model, QCSP(), keep=4, processor=processor),
        pytest.raises(RefusedError, match=r"whose tokenizer has no __call__, .*give the model's own"),
    ):
        model(**batch(prompts(model, ONE)))
