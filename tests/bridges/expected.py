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
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

import tokensieve as ts
from tokensieve.tasks.world import World

CASES = {"norm": "100%", "divprune": "1/9", "script": "1/9", "script-merge": "1/9", "random": "16"}
"""Recipes with their budgets; the first one is the model unpruned."""
RANDOM = ("random-qwen2_5", "random-qwen3", "random-llava_next")
"""Models with random weights and the words of world-qwen or world-llava; they are saved into the folder."""
CUT = "random-llava_next"
"""The one of them that cuts pictures into tiles, and is shown oblong ones."""
CASES_OF_TILES = {
    "tiles": ("divprune", 5, {"per": "tile"}),
    "tiles-drop": ("norm & random", 5, {"per": "tile", "newlines": "drop"}),
    "lines-keep": ("script", "1/3", {"newlines": "keep"}),
    "lines-drop": ("script", "1/9", {"newlines": "drop"}),
}
"""What `CUT` is asked, too: a recipe, its budget, and what is changed in its stage."""
VIDEO_CASES = {
    "world-qwen": ("norm", "divprune", "script", "original", "original-whole"),
    "random-qwen2_5": ("norm", "divprune", "script", "frames", "original", "original-whole"),
    "random-qwen3": ("norm", "divprune", "script", "frames", "original", "original-whole"),
}
"""The cases of videos, by model."""
CASES_OF_VIDEOS = {
    "frames": ("divprune", 5, {"per": "frame"}),
    "original": ("script", "1/9", {}),
    "original-whole": ("norm", "100%", {}),
}
"""What models that take videos are asked, too, as in `CASES_OF_TILES`; the last ones with original positions."""
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
MARKS |= dict.fromkeys(RANDOM, MARKS["world-qwen"]) | {CUT: MARKS["world-llava"]}


def samples():
    """Return a question about each of the first pictures, of several kinds."""
    by_picture = {}
    for sample in TASK.samples():
        by_picture.setdefault(sample.image, []).append(sample)
    return [own[number % len(own)] for number, own in enumerate(by_picture.values())]


SAMPLES = samples()


def cases(model):
    """Return the names of what a model is asked."""
    of_videos = [case for case in CASES_OF_VIDEOS if case in VIDEO_CASES.get(model, ())]
    return [*CASES, *(CASES_OF_TILES if model == CUT else ()), *of_videos]


def recipe_of(case):
    """Return the recipe of a case."""
    name, keep, changes = (CASES_OF_TILES | CASES_OF_VIDEOS).get(case) or (case, CASES[case], {})
    recipe = ts.Recipe.load(name, keep=keep).replace(positions="original" if "original" in case else "compact")
    return recipe.replace(stages=[recipe.stages[0].model_copy(update=changes)])


def shown(number, more=(), model=None):
    """Return the picture of a sample, and others behind it."""
    pictures = [TASK.picture(SAMPLES[(number + step) % len(SAMPLES)]) for step in (0, *more)]
    if model != CUT:
        return pictures
    shapes = [(96, 96), (96, 41), (37, 96), (96, 70), (20, 20), (33, 96)]
    return [one.crop((0, 0, *shapes[(number + turn) % len(shapes)])) for turn, one in enumerate(pictures)]


def video(number):
    """Return four pictures as the frames of a video, `[4, height, width, 3]`."""
    return np.stack([np.asarray(one) for one in shown(number, (1, 2, 3))])


def metadata(number):
    """Return what is known of a video, of whose eight frames four are shown."""
    return {"fps": 2.5, "duration": 3.2, "total_num_frames": 8, "frames_indices": [0, 1, 2 + number % 2, 4]}


def prompt(model, number, pictures=1, modality="image"):
    """Return the prompt of a sample, with so many pictures."""
    return MARKS[model][modality] * pictures + f" {SAMPLES[number].question}"


def folder_of(name, made):
    """Return the folder of a model: a shipped one, or the one that is saved into `made`."""
    return made if name in RANDOM else ts.default_registry().checkpoint(name).folder


def save_random(name, folder):
    """Save a model with random weights, and a processor with the words of a shipped one."""
    torch.manual_seed(0)
    model = (_cut if name == CUT else _qwen)(name, folder).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)


def _cut(name, folder):
    source = folder_of("world-llava", None)
    config = json.loads((source / "config.json").read_text())
    vision = config["vision_config"] | {"image_size": 24, "patch_size": 4}
    points = [[24, 48], [48, 24], [48, 48], [24, 72]]
    made = LlavaNextProcessor(
        LlavaNextImageProcessor(image_grid_pinpoints=points, size={"shortest_edge": 24}, crop_size=24),
        AutoTokenizer.from_pretrained(source),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    made.save_pretrained(folder)
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIPVisionConfig(**vision),
            text_config=LlamaConfig(**config["text_config"]),
            image_token_index=config["image_token_index"],
            image_grid_pinpoints=points,
            tie_word_embeddings=True,
        )
    )


def _qwen(name, folder):
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
    processor = AutoProcessor.from_pretrained(source)
    if name == "random-qwen3":
        # Its words have no times of frames, which the question is read without.
        times = [f"<{time} seconds>" for time in (0.2, 1.2, 1.4)]
        text["vocab_size"] += processor.tokenizer.add_tokens(times)
    processor.save_pretrained(folder)
    for file in (folder / "processor_config.json", folder / "tokenizer_config.json"):
        written = file.read_text().replace("Qwen2VLProcessor", family.__name__.split("For")[0] + "Processor")
        if name == "random-qwen3":
            written = written.replace("Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor")
        file.write_text(written)
    return family(kind(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens))


def expected(name, folder):
    """Return answers and kept ids, by case: of samples, of three pictures, of videos, and of videos behind pictures."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)

    def asked(recipe, **given):
        """Return the answer and the kept ids."""
        inputs = processor(**given, return_tensors="pt")
        with torch.no_grad(), ts.prune(model, recipe_of(recipe), processor=processor) as run:
            written = model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
        return written[0, inputs["input_ids"].shape[1] :].tolist(), run.kept("decoder.0")[0].tolist()

    found = {}
    numbers = range(len(SAMPLES))
    for recipe in cases(name):
        one, three = (
            [
                asked(recipe, images=shown(number, more, name), text=prompt(name, number, 1 + len(more)))
                for number in numbers
            ]
            for more in ((), (1, 2))
        )
        found[recipe] = {"one": one, "three": three}
    for recipe in VIDEO_CASES.get(name, ()):
        for kind in ("video", "both"):
            found[recipe][kind] = []
            for number in numbers:
                given = {"videos": [video(number)], "text": [prompt(name, number, modality="video")]}
                given |= {"video_metadata": [metadata(number)]} if name in RANDOM else {}
                if kind == "both":
                    given |= {"images": shown(number, (1,)), "text": [prompt(name, number, 2) + given["text"][0]]}
                found[recipe][kind].append(asked(recipe, do_sample_frames=False, **given))
    return found


if __name__ == "__main__":
    name, out = sys.argv[1], Path(sys.argv[2])
    if name in RANDOM:
        save_random(name, out)
    (out / "expected.json").write_text(json.dumps(expected(name, folder_of(name, out))), encoding="utf-8")
