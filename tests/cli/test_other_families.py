"""Checkpoints of other families, saved with real processors, through the command line: a photograph in, words out."""

import json
from pathlib import Path

import pytest
from PIL import Image
from transformers import (
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters._example import TEMPLATE, _tokenizer
from tokensieve_adapters.llava_next import LlavaNextAdapter
from tokensieve_adapters.qwen2_5_vl import Qwen25VLAdapter

from .conftest import PHOTO, QUESTION

PAD, START, END, VIDEO = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"


def llava_next(folder):
    tokenizer = _tokenizer()
    config = LlavaNextAdapter.tiny().config
    config.text_config.vocab_size = len(tokenizer)
    config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    randomize_weights(LlavaNextForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)


def qwen(folder):
    special = {"image_token": PAD, "video_token": VIDEO, "vision_start": START, "vision_end": END}
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer()._tokenizer,
        **ends,
        padding_side="left",
        extra_special_tokens=special,
    )
    config = Qwen25VLAdapter.tiny().config
    config.text_config.vocab_size = len(tokenizer)
    words = {"image_token_id": PAD, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
    for name, word in words.items():
        setattr(config, name, tokenizer.convert_tokens_to_ids(word))
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(
            patch_size=4, temporal_patch_size=2, merge_size=2, min_pixels=64 * 64, max_pixels=96 * 96
        ),
        tokenizer,
        Qwen2VLVideoProcessor(patch_size=4),
        chat_template=TEMPLATE.replace("<image>", f"{START}{PAD}{END}"),
    )
    randomize_weights(Qwen2_5_VLForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)


# The photograph is 517 x 606: for LLaVA-NeXT a whole and a grid of tiles, for Qwen one grid of its own shape.
MADE = {"llava_next": (llava_next, 72), "qwen2_5_vl": (qwen, 132)}


@pytest.fixture(scope="module", params=MADE)
def saved(request, tmp_path_factory):
    save, visual = MADE[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    save(folder)
    return request.param, folder, visual


def test_run(cli, saved):
    name, folder, visual = saved
    arguments = ("--model", folder, "--image", PHOTO, "--prompt", QUESTION, "--max-new-tokens", 3)
    result = cli("run", "script", *arguments, "--keep", 6, "--json", "ledger.json")
    assert result.exit_code == 0, result.output
    ledger = json.loads(Path("ledger.json").read_text(encoding="utf-8"))
    assert ledger["adapter"] == name
    [sample] = ledger["samples"]
    assert (sample["visual_tokens"], sample["question"]) == (visual, QUESTION)
    assert sample["visual_per_layer"] == [6] * 4
    inside = cli("run", "gsp-fastv", *arguments, "--keep", 6)
    assert inside.exit_code == 0, inside.output


def test_show(cli, saved):
    _, folder, _ = saved
    arguments = ("--model", folder, "--image", PHOTO, "--prompt", QUESTION, "--keep", 12)
    result = cli("show", "script", "random", *arguments)
    assert result.exit_code == 0, result.output
    with Image.open("grace_hopper.kept.png") as drawn:
        assert drawn.width > 1_500


def test_check_and_cost(cli, saved):
    name, folder, visual = saved
    checked = cli("check", "gsp-fastv", "--model", folder)
    assert (checked.exit_code, name in checked.stdout) == (0, True)
    assert cli("cost", "script", "--model", folder, "--visual", visual).exit_code == 0
