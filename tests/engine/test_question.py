"""The question is read from the prompts of real processors, with the templates of released models."""

from unittest import mock

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tokensieve.engine.question import questions

LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN2_VL = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INTERNVL = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}"
    "{%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = '' -%}"
    "{%- set loop_messages = messages -%}{%- endif -%}{%- for message in loop_messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}"
    "{%- if (message['role'] == 'assistant') -%}{%- set role = 'model' -%}{%- else -%}"
    "{%- set role = message['role'] -%}{%- endif -%}"
    "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}"
    "{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}"
    "{%- else -%}{{ raise_exception('Invalid content type') }}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}"
)
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
PIXTRAL = (
    '{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}'
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
    "{{- bos_token }}{%- for message in loop_messages %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}{%- endif %}"
    '{%- if message["role"] == "user" %}{%- if loop.last and system_message is defined %}'
    '{{- "[INST]" + system_message + "\n\n" }}{%- else %}{{ "[INST]" }}{%- endif %}'
    '{%- if message["content"] is not string %}{%- for chunk in message["content"] %}'
    '{%- if chunk["type"] == "text" %}{{- chunk["text"] }}{%- elif chunk["type"] == "image" %}{{- "[IMG]" }}'
    '{%- else %}{{- raise_exception("Unrecognized content type!") }}{%- endif %}{%- endfor %}'
    '{%- else %}{{- message["content"] }}{%- endif %}{{- "[/INST]" }}'
    '{%- elif message["role"] == "assistant" %}{{- message["content"] + eos_token}}{%- endif %}{%- endfor %}'
)


def tokenizer(*special, named=None):
    """A tokenizer of bytes, with special tokens."""
    named = named or {}
    special = ["<pad>", "<s>", "</s>", *special, *named.values()]
    signs = sorted({*pre_tokenizers.ByteLevel.alphabet()})
    vocabulary = {sign: number for number, sign in enumerate([*signs])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(dict.fromkeys(special)))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names, extra_special_tokens=named)


def llava():
    reader = tokenizer(named={"image_token": "<image>"})
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    settings = {
        "image_token": "<image>",
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    return LlavaProcessor(images, reader, chat_template=LLAVA, **settings), ["<image>"]


def qwen2_vl():
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    reader = tokenizer("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", named=names)
    parts = Qwen2VLImageProcessor(min_pixels=784, max_pixels=3136), reader, Qwen2VLVideoProcessor()
    return Qwen2VLProcessor(*parts, chat_template=QWEN2_VL), ["<|image_pad|>"]


def internvl():
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    reader = tokenizer("<|im_start|>", "<|im_end|>", named=names | {"video_token": "<video>"})
    images = GotOcr2ImageProcessor(size={"height": 16, "width": 16}, crop_to_patches=False)
    processor = InternVLProcessor(images, reader, InternVLVideoProcessor(), image_seq_length=4, chat_template=INTERNVL)
    return processor, ["<IMG_CONTEXT>"]


def gemma3():
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    reader = tokenizer("<start_of_turn>", "<end_of_turn>", named=names)
    images = Gemma3ImageProcessor(size={"height": 16, "width": 16})
    return Gemma3Processor(images, reader, chat_template=GEMMA3, image_seq_length=4), ["<image_soft_token>"]


def smolvlm():
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    names = {"fake_image_token": "<fake_token_around_image>", "image_token": "<image>"}
    names |= {"global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
    reader = tokenizer("<|im_start|>", *tiles, named=names)
    images = SmolVLMImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    video = SmolVLMVideoProcessor()
    # It asks for a package that it uses for videos only.
    with mock.patch("transformers.models.smolvlm.processing_smolvlm.num2words", str):
        return SmolVLMProcessor(images, reader, video, image_seq_len=4, chat_template=SMOLVLM), ["<image>"]


def pixtral():
    names = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    reader = tokenizer("[INST]", "[/INST]", named=names)
    images = PixtralImageProcessor(size={"longest_edge": 32}, patch_size={"height": 16, "width": 16})
    return PixtralProcessor(images, reader, patch_size=16, chat_template=PIXTRAL), ["[IMG]"]


FAMILIES = {one.__name__: one for one in (llava, qwen2_vl, internvl, gemma3, smolvlm, pixtral)}
I = "image"  # noqa: E741 - it is an image
CONTENTS = {
    "words": ["What colour is it?"],
    "an image, then words": [I, "What colour is it?"],
    "words, then an image": ["What colour is it?", I],
    "two images, then words": [I, I, "What colour is it?"],
    "words, then two images": ["What colour is it?", I, I],
    "words between images": ["Is", I, "the same as", I, "there?"],
}
RIGHT = {name: " ".join(part for part in content if part != I) for name, content in CONTENTS.items()}


def turn(role, *content):
    return {"role": role, "content": [{"type": I} if one == I else {"type": "text", "text": one} for one in content]}


def answer(family, text):
    """Pixtral's template takes answers as plain text."""
    return {"role": "assistant", "content": text} if family == "pixtral" else turn("assistant", text)


def rows(processor, visual, talk, invites=True, **settings):
    """The ids of a prompt, and which of them are words, with padding in front."""
    text = processor.apply_chat_template(talk, add_generation_prompt=invites, tokenize=False)
    number = sum(part["type"] == I for one in talk if isinstance(one["content"], list) for part in one["content"])
    images = [Image.new("RGB", (40, 28), colour) for colour in ("red", "lime", "blue")[:number]]
    ids = processor(text=[text], images=[images] if images else None, return_tensors="pt", **settings)["input_ids"]
    ids = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], dim=1)
    words = torch.ones_like(ids, dtype=torch.bool)
    words[:, :3] = False
    for token in visual:
        words &= ids != processor.tokenizer.convert_tokens_to_ids(token)
    assert (words[:, 3:].all()).item() == (number == 0)
    return ids, words


TURNS = ("one turn", "a second turn", "after a system", "without invitation", "answered")
# In Gemma 3 and Pixtral the system has no turn of its own: see below.
TALKS = [
    (family, turns)
    for family in FAMILIES
    for turns in TURNS
    if turns != "after a system" or family not in ("gemma3", "pixtral")
]


@pytest.mark.covering(2)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(("family", "turns"), TALKS)
def test_the_question_is_all_words_of_the_last_turn(family, content, turns):
    processor, visual = FAMILIES[family]()
    talk = [turn("user", *CONTENTS[content])]
    if turns == "a second turn":
        talk = [turn("user", I, "Who is there?"), answer(family, "A cat: nobody else.\n\nReally."), *talk]
    if turns == "after a system":
        talk = [turn("system", "Be short."), *talk]
    if turns == "answered":
        talk += [answer(family, "Red, I think.")]
    notes = []
    ids, words = rows(processor, visual, talk, invites=turns not in ("without invitation", "answered"))
    found = questions(processor, ids, words, notes)
    assert found == [RIGHT[content]]
    assert notes == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_of_words_after_a_picture(family):
    processor, visual = FAMILIES[family]()
    talk = [turn("user", I, "Who is there?"), answer(family, "A cat."), turn("user", "And\n\nwhere: here?")]
    assert questions(processor, *rows(processor, visual, talk)) == ["And where: here?"]


@pytest.mark.parametrize("family", ["gemma3", "pixtral"])
def test_the_systems_words_in_the_users_turn_are_noted(family):
    processor, visual = FAMILIES[family]()
    system = {"role": "system", "content": "Be short."} if family == "pixtral" else turn("system", "Be short.")
    notes = []
    found = questions(processor, *rows(processor, visual, [system, turn("user", I, "Who?")]), notes)
    assert found == ["Be short. Who?"]
    assert len(notes) == 1
    assert "the words of the system" in notes[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_from_other_prompts_is_noted(family):
    processor, visual = FAMILIES[family]()
    mark = processor.tokenizer.boi_token if family == "gemma3" else visual[0]
    ids = processor(text=[f"{mark} who is this"], images=[[Image.new("RGB", (40, 28))]], return_tensors="pt")[
        "input_ids"
    ]
    words = ids != processor.tokenizer.convert_tokens_to_ids(visual[0])
    notes = []
    assert questions(processor, ids, words, notes) == ["who is this"]
    assert notes == [
        "the prompt was not made with the processor's chat template: all its text was read as the question"
    ]


def test_a_processor_without_a_template_is_noted():
    processor, _ = llava()
    processor.chat_template = None
    ids = processor.tokenizer("what does she wear", return_tensors="pt")["input_ids"]
    notes = []
    assert questions(processor, ids, torch.ones_like(ids, dtype=torch.bool), notes) == ["what does she wear"]
    assert notes == ["the processor has no chat template: all text of the prompt was read as the question"]


def test_words_of_the_template_in_a_question():
    processor, visual = llava()
    asked = "Who? Is it the USER: or the dog"
    notes = []
    assert questions(processor, *rows(processor, visual, [turn("user", I, asked)]), notes) == [asked]
    assert len(notes) == 1
    assert "holds 'USER:'" in notes[0]


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl", "smolvlm"])
@pytest.mark.parametrize("behind", ["system", "tool", "user"])
def test_a_turn_that_no_answer_follows_ends_where_it_ends(family, behind):
    processor, visual = FAMILIES[family]()
    talk = [turn("user", I, "Who is there?"), answer(family, "A cat: User."), turn("user", "Where?")]
    ids, words = rows(processor, visual, [*talk, turn(behind, "Be kind.")], invites=behind == "user")
    assert questions(processor, ids, words) == ["Be kind." if behind == "user" else "Where?"]


@pytest.mark.parametrize(
    "asked",
    [
        [I, "3.5 seconds is long?"],
        ["It is 10:30", I, "is it not?"],
        ["Here is the original image", I, "is it not?"],
        ["Frame1:", I, "who?"],
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_words_that_look_like_a_label_of_a_frame_are_the_users(family, asked):
    processor, visual = FAMILIES[family]()
    right = " ".join(part for part in asked if part != I)
    assert questions(processor, *rows(processor, visual, [turn("user", *asked)])) == [right]


def test_what_a_processor_writes_beside_crops_is_no_question():
    crops = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_min_ratio_to_activate": 1.2}
    processor, visual = gemma3()
    ids, words = rows(processor, visual, [turn("user", I, "Who is there?")], images_kwargs=crops)
    assert "here are some crops" in processor.tokenizer.decode(ids[0])
    assert questions(processor, ids, words) == ["Who is there?"]


def test_names_of_frames_are_no_question():
    processor, _ = internvl()
    content = [{"type": "video"}, {"type": "text", "text": "Frame3: who?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    video = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    ids = processor(text=[text], videos=[video], do_sample_frames=False, return_tensors="pt")["input_ids"]
    assert "Frame2: <img>" in processor.tokenizer.decode(ids[0])
    words = ids != processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert questions(processor, ids, words) == ["Frame3: who?"]


def test_a_template_that_frames_nothing_is_noted():
    processor, _ = llava()
    processor.chat_template = "{% for message in messages %}{{ message['content'][0]['text'] }}{% endfor %}"
    notes = []
    ids = processor.tokenizer("who", return_tensors="pt")["input_ids"]
    assert questions(processor, ids, torch.ones_like(ids, dtype=torch.bool), notes) == ["who"]
    assert len(notes) == 1
    assert "all text of the prompt was read" in notes[0]
