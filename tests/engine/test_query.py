"""What a strategy that reads the question is given."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
)

import tokensieve as ts
from tokensieve import Evidence, Scorer
from tokensieve.errors import RefusedError
from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters import _example
from tokensieve_adapters.gemma3 import Gemma3Adapter
from tokensieve_adapters.llava import LlavaAdapter

from .models import IMAGE, ONE, RAGGED, Prompt, batch, generate, llava, patches, prompts, shared

SEEN = []
LENGTH = 10
"""Places of the partners' text towers."""


class Reading(Scorer):
    """Remembers the question it is given."""

    name = "reading"

    @property
    def needs(self):
        return frozenset({Evidence.FEATURES, Evidence.QUERY, Evidence.TEXT_FEATURES})

    def score(self, tokens):
        SEEN.append(tokens)
        return tokens.features.double().norm(dim=-1)


def read(model, rows, **given):
    SEEN.clear()
    with ts.prune(model, Reading(), keep=4, **given) as run:
        generate(model, rows, steps=2)
    (tokens,) = SEEN
    return run.latest, tokens


def texts(value, mask):
    return [row[real] for row, real in zip(value, mask, strict=True)]


def letters(start="<s>", end="</s>"):
    """A tokenizer of letters, with a start and an end."""
    words = ["<pad>", start, end, "<unk>", *"abcdefghijklmnopqrstuvwxyz?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 1), (end, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=words[0], bos_token=start, eos_token=end, unk_token=words[3]
    )


def two_towers(model, kind="clip", seed=11):
    vision = copy.deepcopy(model.config.vision_config)
    text = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 32,
        "max_position_embeddings": LENGTH,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
    }
    if kind == "clip":
        config = CLIPConfig(text_config=CLIPTextConfig(**text), vision_config=vision, projection_dim=20)
        partner = CLIPModel(config)
    else:
        text["projection_size"] = vision.hidden_size
        config = SiglipConfig(text_config=SiglipTextConfig(**text), vision_config=vision)
        partner = SiglipModel(config)
    randomize_weights(partner, seed)
    return partner.eval()


def test_the_whole_prompt_is_read_without_a_processor():
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    ledger, tokens = read(model, rows)
    table = model.get_input_embeddings().weight
    assert ledger.questions is None
    assert any("no processor" in note for note in ledger.notes)
    for text in (tokens.text_features, tokens.query):
        values = text.features if text is tokens.text_features else text.text
        for sample, own in zip(tokens.samples.tolist(), texts(values, text.mask), strict=True):
            words = [word for word in rows[sample].words if word != IMAGE]
            assert torch.equal(own, table[words])
    assert torch.equal(tokens.query.patch, tokens.features)
    assert tokens.query.sign == 1


@pytest.fixture(scope="module")
def example():
    """A processor and a model that it fits."""
    tokenizer = _example._tokenizer()
    processor = _example._processor(tokenizer)
    model = llava(seed=6)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    processor.patch_size = model.config.vision_config.patch_size
    return processor, model


def asked(processor, model, questions):
    """One prompt a question, by the processor's own template."""
    draw = torch.Generator().manual_seed(1)
    size, rows = model.config.vision_config.image_size, []
    for question in questions:
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True)
        text = text.replace("<image>", "<image>" * patches(model))
        words = processor.tokenizer(text)["input_ids"]
        rows.append(Prompt(tuple(words), torch.randn(1, 3, size, size, generator=draw)))
    return rows


QUESTIONS = ["What colour is the cat?", "Who? Is it the USER: or the dog"]


def test_the_question_is_found_in_the_template(example):
    processor, model = example
    rows = asked(processor, model, [QUESTIONS[0], "Is it red?"])
    ledger, tokens = read(model, rows, processor=processor)
    assert ledger.questions == [QUESTIONS[0], "Is it red?"]
    table = model.get_input_embeddings().weight
    for question, own in zip(ledger.questions, texts(tokens.query.text, tokens.query.mask), strict=True):
        words = processor.tokenizer(question, add_special_tokens=False)["input_ids"]
        assert torch.equal(own, table[words])
    assert ledger.notes == ["relevance: the model's own text embeddings"]


def test_questions_can_be_given(example):
    processor, model = example
    rows = asked(processor, model, QUESTIONS)
    ledger, tokens = read(model, rows, processor=processor, query=["a dog", ""])
    assert ledger.questions == ["a dog", ""]
    assert tokens.query.mask.sum(dim=1).tolist() == [5, 0]


@torch.no_grad()
def raw(model, partner, tokenizer, rows, questions, kind):
    """Patches and windows by the partner's own calls."""
    tower = model.model.vision_tower
    hidden = tower(torch.cat([row.pixels for row in rows]), output_hidden_states=True)
    selected = hidden.hidden_states[model.config.vision_feature_layer]
    if kind == "clip":
        seen = partner.visual_projection(partner.vision_model.post_layernorm(selected[:, 1:]))
    else:
        seen = partner.vision_model.post_layernorm(selected)
    windows = []
    for question in questions:
        words = tokenizer(question, add_special_tokens=False)["input_ids"]
        own = []
        for start in range(0, len(words), LENGTH - 2):
            ids = [1, *words[start : start + LENGTH - 2], 2]
            if kind == "clip":
                own.append(partner.text_projection(partner.text_model(torch.tensor([ids])).pooler_output)[0])
            else:
                ids += [0] * (LENGTH - len(ids))
                own.append(partner.text_model(torch.tensor([ids])).pooler_output[0])
        windows.append(torch.stack(own))
    return seen, windows


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("handed", ["directory", "pair"])
def test_a_partner_gives_what_its_own_calls_give(tmp_path, kind, handed):
    model = shared("sdpa" if kind == "clip" else "siglip")
    rows = prompts(model, ONE * 2)
    partner, tokenizer = two_towers(model, kind), letters()
    given = (partner, tokenizer)
    if handed == "directory":
        partner.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        given = tmp_path
    questions = ["isitacat?", "whatisonthetableandwhoatethecheese?"]
    ledger, tokens = read(model, rows, query_encoder=given, query=questions)
    seen, windows = raw(model, partner, tokenizer, rows, questions, kind)
    torch.testing.assert_close(tokens.query.patch, seen, atol=1e-5, rtol=1e-5)
    assert [len(own) for own in windows] == [2, 5]
    for own, right in zip(texts(tokens.query.text, tokens.query.mask), windows, strict=True):
        torch.testing.assert_close(own, right, atol=1e-5, rtol=1e-5)
    assert ledger.questions == questions
    assert any(kind in note for note in ledger.notes)


@pytest.mark.parametrize(
    ("field", "name", "sign"),
    [
        (None, "openai/clip-vit-large-patch14-336", -1),
        (None, "someone/clip", 1),
        (-1, "someone/clip", -1),
        (1, "openai/clip-vit-large-patch14-336", 1),
    ],
)
def test_the_sign_belongs_to_the_release(field, name, sign):
    model = shared("sdpa")
    partner = two_towers(model)
    partner.config._name_or_path = name
    if field is not None:
        partner.config.tokensieve_relevance_sign = field
    ledger, tokens = read(model, prompts(model, ONE), query_encoder=(partner, letters()), query=["acat"])
    assert tokens.query.sign == sign
    warned = any(note.startswith("warning") for note in ledger.notes)
    assert warned == (field is None and sign == 1)


def test_the_sign_is_saved_with_the_partner(tmp_path):
    model = shared("sdpa")
    partner = two_towers(model)
    partner.config.tokensieve_relevance_sign = -1
    partner.save_pretrained(tmp_path)
    letters().save_pretrained(tmp_path)
    _, tokens = read(model, prompts(model, ONE), query_encoder=str(tmp_path), query=["acat"])
    assert tokens.query.sign == -1


def test_partners_that_do_not_fit():
    model = shared("sdpa")
    other = two_towers(llava(seed=7, side=6))
    with pytest.raises(RefusedError, match="image_size is 48"):
        read(model, prompts(model, ONE), query_encoder=(other, letters()), query=["acat"])
    with pytest.raises(RefusedError, match="CLIP or SigLIP"):
        read(model, prompts(model, ONE), query_encoder=torch.nn.Linear(2, 2), query=["acat"])
    with pytest.raises(RefusedError, match="tokenizer"):
        read(model, prompts(model, ONE), query_encoder=two_towers(model), query=["acat"])
    with pytest.raises(RefusedError, match="processor= or query="):
        read(model, prompts(model, ONE), query_encoder=(two_towers(model), letters()))


def elsewhere(model, device):
    """A copy of the model, whose vision tower is on a device that this machine need not have."""
    moved = copy.deepcopy(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in moved.model.vision_tower.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = torch.nn.Parameter(torch.empty(weight.shape, device=device))
    return moved


@pytest.mark.parametrize(("adapter", "kind"), [(LlavaAdapter, "clip"), (Gemma3Adapter, "siglip")])
@pytest.mark.parametrize(("device", "place"), [("cuda:1", "cuda:1"), ("cpu", "cpu"), ("meta", None)])
def test_a_partner_that_is_loaded_goes_to_where_the_tower_is(tmp_path, monkeypatch, adapter, kind, device, place):
    """Of an offloaded tower, whose weights are not there, nobody knows where it will be: the partner stays."""
    model = adapter.tiny()
    partner = two_towers(model, kind)
    partner.save_pretrained(tmp_path)
    letters().save_pretrained(tmp_path)
    moved = []
    monkeypatch.setattr(type(partner), "to", lambda self, where: moved.append(str(where)) or self)
    decoder = adapter(elsewhere(model, device)).decoder
    for path in (tmp_path, str(tmp_path)):
        decoder.load_text_tower(path)
    assert moved == ([] if place is None else [place] * 2)
    decoder.load_text_tower((partner, letters()))
    assert len(moved) == (0 if place is None else 2)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_patches_come_to_a_partner_that_was_handed_over_and_back(kind):
    model = shared("sdpa" if kind == "clip" else "siglip")
    partner = two_towers(model, kind)
    loaded = LlavaAdapter(model).decoder.load_text_tower((partner, letters()))
    with FakeTensorMode(allow_non_fake_inputs=True):
        seen = torch.empty(1, 5, model.config.vision_config.hidden_size, device="cuda:1")
        found = loaded.patches(seen)
    assert str(found.device) == "cuda:1"
    assert partner.device.type == "cpu"


def test_encoded_images_have_no_patches_for_a_partner():
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    encoded = {"image": model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)}
    pruned = ts.prune(model, Reading(), keep=4, query_encoder=(two_towers(model), letters()), query=["acat"])
    with pruned, pytest.raises(RefusedError, match="already encoded"):
        model(**inputs, mm_encoder_outputs=encoded)
