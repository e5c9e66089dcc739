"""The example checkpoint: a small LLaVA-1.5 with random weights and the token geometry of the released model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tokensieve.sites import Site

IMAGE = "<image>"
BEGIN, END, PAD = "<s>", "</s>", "<pad>"
PATCH, SIDE = 14, 336
LAYERS = 4
SEED = 0
TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's chat template: `USER: <image>`, a new line, the text and ` ASSISTANT:`."""


def save_example(directory: Path, sites: Sequence[Site] = ()) -> str:
    """Save a model and its processor with `save_pretrained`, and return a description of it.

    CLIP at 336 pixels with patches of 14 pixels has 24 x 24 = 576 visual tokens an image, as in LLaVA-1.5. Widths and
    depths are small. The weights are random, from a fixed seed.

    Args:
        directory: an existing, empty folder.
        sites: sites that the model must have; those beyond the depth of LLaVA-1.5-7B are ignored.
    """
    tokenizer = _tokenizer()
    # The projector does not read the last layer of the tower.
    vision = max([LAYERS, *(site.block + 2 for site in sites if site.part == "encoder" and site.block < 23)])
    text = max([LAYERS, *(site.block + 1 for site in sites if site.part == "decoder" and site.block < 32)])
    model = _model(tokenizer, vision, text)
    model.save_pretrained(directory)
    _processor(tokenizer).save_pretrained(directory)
    return (
        f"LLaVA-1.5's token geometry (576 visual tokens an image), {vision} vision and {text} text layers, RANDOM "
        "WEIGHTS: what it keeps and answers means nothing"
    )


def _tokenizer() -> Any:
    """Return a tokenizer of single bytes, which encodes any text without unknown tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [PAD, BEGIN, END, IMAGE]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=4096,
    )


def _processor(tokenizer: Any) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=True
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE,
        # The class token, which the default select strategy drops.
        num_additional_image_tokens=1,
    )


def _model(tokenizer: Any, vision_layers: int, text_layers: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=text_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return LlavaForConditionalGeneration(config).eval()
