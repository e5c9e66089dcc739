"""What `prune` keeps and answers, as a file: for tests in environments whose transformers is older than ours.

`python -m tests.bridges.expected MODEL FOLDER` writes FOLDER/expected.json. It is run with the interpreter of the
environment that holds tokensieve's own transformers.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

import tokensieve as ts
from tokensieve.tasks.world import World

CASES = {"norm": "100%", "divprune": "1/9", "script": "1/9", "script-merge": "1/9", "random": "16"}
"""Recipes with their budgets; the first one is the model unpruned."""
RANDOM = ("random-qwen2_5", "random-qwen3")
"""A Qwen2.5-VL and a Qwen3-VL with random weights and the words of world-qwen; they are saved into the folder."""
VIDEO_CASES = {"world-qwen": ("norm", "divprune", "script")}
"""The recipes of videos, by model."""
PICTURES = 12
TASK = World(pictures=PICTURES)
TOKENS = 4
MARKS = {
    "world-llava": {"image": "<image>"},
    "world-qwen": {
        "image": "<|vision_start|><|image_pad|><|vision_end|>",
        "video": "<|vision_start|><|video_pad|><|vision_end|>",
    },
}
"""What stands for a picture in a prompt, as the chat templates of the models write it."""
MARKS |= dict.fromkeys(RANDOM, MARKS["world-qwen"])


def samples():
    """Return a question about each of the first pictures, of several kinds."""
    by_picture = {}
    for sample in TASK.samples():
        by_picture.setdefault(sample.image, []).append(sample)
    return [own[number % len(own)] for number, own in enumerate(by_picture.values())]


SAMPLES = samples()


def shown(number, more=()):
    """Return the picture of a sample, and others behind it."""
    return [TASK.picture(SAMPLES[(number + step) % len(SAMPLES)]) for step in (0, *more)]


def video(number):
    """Return four pictures as the frames of a video, `[4, height, width, 3]`."""
    return np.stack([np.asarray(one) for one in shown(number, (1, 2, 3))])


def prompt(model, number, pictures=1, modality="image"):
    """Return the prompt of a sample, with so many pictures."""
    return MARKS[model][modality] * pictures + f" {SAMPLES[number].question}"


def folder_of(name, made):
    """Return the folder of a model: a shipped one, or the one that is saved into `made`."""
    return made if name in RANDOM else ts.default_registry().checkpoint(name).folder


def save_random(name, folder):
    """Save a model with random weights that is otherwise like world-qwen, with its processor."""
    source = folder_of("world-qwen", None)
    text = json.loads((source / "config.json").read_text())["text_config"]
    vision = {"hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 128, "num_heads": 4, "patch_size": 4}
    tokens = {"image_token_id": 7, "video_token_id": 8, "vision_start_token_id": 5, "vision_end_token_id": 6}
    if name == "random-qwen2_5":
        text |= {"model_type": "qwen2_5_vl_text"}
        vision |= {"depth": 2, "window_size": 16, "fullatt_block_indexes": [1]}
        family, kind = Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig
    else:
        rope = text["rope_parameters"] | {"mrope_interleaved": True}
        text |= {"model_type": "qwen3_vl_text", "head_dim": 32, "rope_parameters": rope}
        vision |= {"depth": 3, "num_position_embeddings": 576, "deepstack_visual_indexes": [0, 1]}
        family, kind = Qwen3VLForConditionalGeneration, Qwen3VLConfig
    torch.manual_seed(0)
    model = family(kind(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(source).save_pretrained(folder)
    for file in (folder / "processor_config.json", folder / "tokenizer_config.json"):
        file.write_text(file.read_text().replace("Qwen2VLProcessor", family.__name__.split("For")[0] + "Processor"))


def expected(name, folder):
    """Return answers and kept ids, by recipe: of each sample, of prompts with three pictures, and of videos."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)

    def asked(recipe, **given):
        """Return the answer and the kept ids."""
        inputs = processor(**given, return_tensors="pt")
        loaded = ts.Recipe.load(recipe, keep=CASES[recipe]).replace(positions="compact")
        with torch.no_grad(), ts.prune(model, loaded, processor=processor) as run:
            written = model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
        return written[0, inputs["input_ids"].shape[1] :].tolist(), run.kept("decoder.0")[0].tolist()

    found = {}
    numbers = range(len(SAMPLES))
    for recipe in CASES:
        one = [asked(recipe, images=shown(number), text=prompt(name, number)) for number in numbers]
        three = [asked(recipe, images=shown(number, (1, 2)), text=prompt(name, number, 3)) for number in numbers]
        found[recipe] = {"one": one, "three": three}
    for recipe in VIDEO_CASES.get(name, ()):
        given = [(video(number), prompt(name, number, modality="video")) for number in numbers]
        found[recipe]["video"] = [
            asked(recipe, videos=[frames], text=[text], do_sample_frames=False) for frames, text in given
        ]
    return found


if __name__ == "__main__":
    name, out = sys.argv[1], Path(sys.argv[2])
    if name in RANDOM:
        save_random(name, out)
    (out / "expected.json").write_text(json.dumps(expected(name, folder_of(name, out))), encoding="utf-8")
