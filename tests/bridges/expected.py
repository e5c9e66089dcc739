"""What `prune` keeps and answers, as a file: for tests in environments whose transformers is older than ours.

`python -m tests.bridges.expected MODEL OUT` is run with the interpreter of the environment that holds tokensieve's own.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import tokensieve as ts
from tokensieve.tasks.world import World

CASES = (("none", None), ("divprune", "1/9"), ("script", "1/9"), ("script-merge", "1/9"), ("random", "16"))
"""Recipes with their budgets; `none` is the model unpruned."""
PICTURES = 12


def samples():
    """Return a question about each of the first pictures, of which every second names a colour."""
    by_picture = {}
    for sample in World(pictures=PICTURES).samples():
        own = by_picture.setdefault(sample.image, [])
        own.append(sample)
    return [own[number % len(own)] for number, own in enumerate(by_picture.values())]


def chat(sample, pictures=1):
    """Return the prompt of a sample whose picture is shown so many times, as messages."""
    return [{"role": "user", "content": [{"type": "image"}] * pictures + [{"type": "text", "text": sample.question}]}]


def answered(model, processor, sample, others=()):
    """Return the answer to a question about a sample's picture, and about others behind it."""
    task = World(pictures=PICTURES)
    prompt = processor.apply_chat_template(chat(sample, 1 + len(others)), add_generation_prompt=True)
    pictures = [task.picture(one) for one in (sample, *others)]
    inputs = processor(images=pictures, text=prompt, return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    return written[0, inputs["input_ids"].shape[1] :].tolist()


def pruned(model, processor, recipe, keep):
    """Return the context in which a model is pruned, or one that yields none."""
    if keep is None:
        return nullcontext()
    return ts.prune(model, ts.Recipe.load(recipe, keep=keep).replace(positions="compact"), processor=processor)


def expected(name):
    """Return answers and kept ids, by recipe: of each sample, and of prompts with three pictures."""
    folder = ts.default_registry().checkpoint(name).folder
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    found = {}
    asked = samples()
    for recipe, keep in CASES:
        rows = found[recipe] = {"answers": [], "kept": [], "answers_to_three": [], "kept_of_three": []}
        for number, sample in enumerate(asked):
            others = (asked[(number + 1) % len(asked)], asked[(number + 2) % len(asked)])
            for suffixes, more in ((("answers", "kept"), ()), (("answers_to_three", "kept_of_three"), others)):
                pruned = (
                    nullcontext()
                    if keep is None
                    else ts.prune(
                        model, ts.Recipe.load(recipe, keep=keep).replace(positions="compact"), processor=processor
                    )
                )
                with pruned as run:
                    rows[suffixes[0]].append(answered(model, processor, sample, more))
                rows[suffixes[1]].append([] if run is None else run.kept("decoder.0")[0].tolist())
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(expected(sys.argv[1])), encoding="utf-8")
