"""A model and its processor as users have them: saved, loaded, and asked about a photograph."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, processors
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

import tokensieve as ts
from tokensieve.engine.question import questions
from tokensieve.testing.prompts import randomize_weights

from .models import llava
from .reference import Plain

PHOTOGRAPH = Path(__file__).parents[2] / "docs" / "assets" / "grace_hopper.jpg"
PAD, BEGIN, END, UNKNOWN, IMAGE = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
WORDS = [
    *("USER:", "ASSISTANT:", "who", "is", "this", "woman", "what", "does", "she", "wear", "an", "officer", "in"),
    *("uniform", "yes", "no", "be", "short_message"),
]
# The template that llava-hf/llava-1.5-7b-hf comes with.
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def words(special, begin, end=None):
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(part for part in (begin, "$A", end) if part),
        special_tokens=[(part, vocabulary[part]) for part in (begin, end) if part],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE} if IMAGE in special else {},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, its processor, and the two towers its vision tower is of."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = llava(seed=9, side=6)
    side = model.config.vision_config.image_size
    tokenizer = words(SPECIAL, BEGIN)
    model.config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    reader = words(SPECIAL[:4], BEGIN, END)
    text = CLIPTextConfig(
        vocab_size=len(reader),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    partner = CLIPModel(CLIPConfig(text_config=text, vision_config=model.config.vision_config, projection_dim=16))
    randomize_weights(partner, 10)
    partner.vision_model.load_state_dict(model.model.vision_tower.state_dict(), strict=False)
    partner.config.tokensieve_relevance_sign = -1
    partner.save_pretrained(folder / "clip")
    reader.save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def loaded(home, request):
    model = AutoModelForImageTextToText.from_pretrained(home / "model", attn_implementation=request.param)
    return model, AutoProcessor.from_pretrained(home / "model")


def turn(role, text, images=0):
    return {"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def photograph():
    return Image.open(PHOTOGRAPH).convert("RGB")


TALKS = {
    "one question": ([turn("user", "who is this woman", 1)], "who is this woman"),
    "two images": ([turn("user", "who is this", 2)], "who is this"),
    "no image": ([turn("user", "yes")], "yes"),
    "a system": ([turn("system", "be short_message"), turn("user", "who is this", 1)], "who is this"),
    "several turns": (
        [turn("user", "who is this", 1), turn("assistant", "an officer"), turn("user", "what does she wear")],
        "what does she wear",
    ),
}


@pytest.mark.parametrize("talk", TALKS)
def test_the_question_is_the_last_users_turn(loaded, talk):
    _, processor = loaded
    said, right = TALKS[talk]
    text = processor.apply_chat_template(said, add_generation_prompt=True)
    images = [photograph()] * text.count(IMAGE)
    ids = processor(text=text, images=images or None, return_tensors="pt")["input_ids"][0]
    words = ids != processor.tokenizer.convert_tokens_to_ids(IMAGE)
    # Each prompt of a batch has its own, and padding is no part of it.
    padded = torch.cat([torch.zeros(3, dtype=torch.int64), ids]), torch.cat([torch.zeros(3, dtype=torch.bool), words])
    other = torch.cat([ids, ids[:3]]), torch.cat([words, torch.zeros(3, dtype=torch.bool)])
    both = (torch.stack(pair) for pair in zip(padded, other, strict=True))
    assert questions(processor, *both) == [right, right]


def test_a_prompt_of_no_template_is_a_question_as_a_whole(loaded):
    _, processor = loaded
    ids = processor(text="<image> who is this", images=[photograph()], return_tensors="pt")["input_ids"][0]
    words = ids != processor.tokenizer.convert_tokens_to_ids(IMAGE)
    assert questions(processor, ids.unsqueeze(0), words.unsqueeze(0)) == ["who is this"]
    reader = processor.tokenizer
    plain = reader("what does she wear", return_tensors="pt")["input_ids"][0]
    assert questions(reader, plain.unsqueeze(0), torch.ones(1, len(plain), dtype=torch.bool)) == ["what does she wear"]


@pytest.mark.parametrize("partner", [True, False], ids=["partner", "own embeddings"])
def test_a_photograph_from_end_to_end(home, loaded, partner):
    model, processor = loaded
    questions = ["who is this woman", "what does she wear"]
    text = [processor.apply_chat_template([turn("user", q, 1)], add_generation_prompt=True) for q in questions]
    inputs = processor(text=text, images=[photograph()] * 2, padding=True, return_tensors="pt")
    given = {"query_encoder": home / "clip"} if partner else {}
    with ts.prune(model, "script", keep=7, processor=processor, **given) as run:
        out = model.generate(**inputs, do_sample=False, max_new_tokens=4, eos_token_id=None)
    assert run.latest.questions == questions
    assert run.latest.visual == [36, 36]
    said = "clip text tower, sign -1" if partner else "the model's own text embeddings"
    assert run.latest.notes == [f"relevance: {said}"]
    kept = run.kept("decoder.0")
    assert [len(ids) for ids in kept] == [7, 7]
    # What was generated is what the kept tokens give by hand.
    start = inputs["input_ids"].shape[1]
    for number, ids in enumerate(kept):
        row = Row(inputs, number)
        assert out[number, start:].tolist() == Plain(model).greedy(row, set(ids.tolist()), 4)[0]
    ledger = run.to_dict()
    assert ledger["samples"][0]["question"] == questions[0]
    assert ledger["stages"][0]["samples"][1]["kept_ids"] == kept[1].tolist()
    assert ledger["samples"][0]["flops_pruned"] < ledger["samples"][0]["flops_unpruned"]


class Row:
    """A row of processed inputs without its padding."""

    def __init__(self, inputs, number):
        real = inputs["attention_mask"][number].bool()
        self.words = tuple(inputs["input_ids"][number][real].tolist())
        self.pixels = inputs["pixel_values"][number : number + 1]


def test_the_partner_is_asked_in_its_own_words(home, loaded):
    """The same question by hand: relevance turned around, over windows of six words."""
    model, processor = loaded
    asked = "who is this woman what does she wear"
    text = processor.apply_chat_template([turn("user", asked, 1)], add_generation_prompt=True)
    inputs = processor(text=text, images=[photograph()], return_tensors="pt")
    with ts.prune(model, "qcsp", keep=1, processor=processor, query_encoder=home / "clip") as run, torch.no_grad():
        model(**inputs)
    clip, reader = CLIPModel.from_pretrained(home / "clip"), AutoTokenizer.from_pretrained(home / "clip")
    with torch.no_grad():
        hidden = clip.vision_model(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
        patches = clip.visual_projection(clip.vision_model.post_layernorm(hidden))
        windows = []
        for start in (0, 6):
            ids = reader(" ".join(asked.split()[start : start + 6]), return_tensors="pt")["input_ids"]
            windows.append(clip.text_projection(clip.text_model(input_ids=ids).pooler_output[0]))
    similarity = [sum(float(torch.cosine_similarity(p, w, dim=0)) for w in windows) for p in patches]
    # The first pick of the greedy search is the most relevant token alone.
    assert run.kept("decoder.0")[0].tolist() == [min(range(36), key=lambda i: similarity[i])]
