"""Stand-ins for released checkpoints: their token geometry and their processors, small widths, random weights."""

from pathlib import Path
from typing import Any

import torch

from tokensieve.checkpoints.loaded_model import quiet
from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters import _example

DEPTH = 17
"""Layers of the language models: the deepest cut of a recipe in the grid is at decoder.16."""
VIDEO = "<video>"
TEMPLATE = _example.TEMPLATE.replace(
    "{% for part in message['content'] if part['type'] == 'text' %}",
    "{% for part in message['content'] if part['type'] == 'video' %}<video>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}",
)


def vision(side: int) -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=side,
        patch_size=14,
        projection_dim=8,
    )


def text(tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=DEPTH,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
    )


def save(model: Any, processor: Any, folder: Path) -> Path:
    with quiet(), torch.no_grad():
        model = randomize_weights(model.eval(), 5)
        model.generation_config.eos_token_id = None
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    """Pictures of 24 x 24 tokens."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tokenizer = _example._tokenizer()
    image = tokenizer.convert_tokens_to_ids(_example.IMAGE)
    config = LlavaConfig(vision_config=vision(336), text_config=text(tokenizer), image_token_index=image)
    return save(LlavaForConditionalGeneration(config), _example._processor(tokenizer), folder)


def llava_next(folder: Path) -> Path:
    """A picture as a whole and in up to 2 x 2 tiles of 24 x 24 tokens."""
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = _example._tokenizer()
    image = tokenizer.convert_tokens_to_ids(_example.IMAGE)
    config = LlavaNextConfig(vision_config=vision(336), text_config=text(tokenizer), image_token_index=image)
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 336},
            crop_size={"height": 336, "width": 336},
            image_grid_pinpoints=config.image_grid_pinpoints,
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=_example.IMAGE,
        num_additional_image_tokens=1,
    )
    return save(LlavaNextForConditionalGeneration(config), processor, folder)


def video_llava(folder: Path) -> Path:
    """Eight frames of 16 x 16 tokens, each with its class token."""
    from transformers import (
        PreTrainedTokenizerFast,
        VideoLlavaConfig,
        VideoLlavaForConditionalGeneration,
        VideoLlavaImageProcessor,
        VideoLlavaProcessor,
        VideoLlavaVideoProcessor,
    )

    bytewise = _example._tokenizer().backend_tokenizer
    bytewise.add_special_tokens([VIDEO])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        bos_token=_example.BEGIN,
        eos_token=_example.END,
        pad_token=_example.PAD,
        padding_side="left",
        extra_special_tokens={"image_token": _example.IMAGE, "video_token": VIDEO},
    )
    image, video = (tokenizer.convert_tokens_to_ids(mark) for mark in (_example.IMAGE, VIDEO))
    config = VideoLlavaConfig(
        vision_config=vision(224), text_config=text(tokenizer), image_token_index=image, video_token_index=video
    )
    processor = VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(),
        video_processor=VideoLlavaVideoProcessor(),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    return save(VideoLlavaForConditionalGeneration(config), processor, folder)
