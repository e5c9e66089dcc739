"""Photographs instead of noise through every family's tiny model: counts, plain answers, references, kept tokens.

Neighbouring patches of a photograph are alike, and some are nearly the same; noise has no such patches. Weights are
random, so nothing is said of answers.
"""

import math
from fractions import Fraction

import pytest
import torch
from PIL import Image

import tokensieve as ts
from tokensieve.evidence import Evidence
from tokensieve.tasks import Answer
from tokensieve.tasks.photographs import Photographs
from tokensieve.testing.adapters.kit import Kit
from tokensieve.testing.adapters.probes import EvidenceRecorder

from .photographed import photographed

EVERY_DAY = ("idefics3", "llava", "qwen2_vl")
"""A padded batch of pictures, one size, and patches of any size; `make nightly` has the other families."""
BUDGETS = (1, 3, "1/3", "2/3")
FAMILIES = {
    name: adapter
    for name, adapter in sorted(ts.default_registry().adapters.items())
    if adapter.decoder_type is not None
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.nightly) for name in FAMILIES],
)
def kit(request):
    return kit_of(request.param)


def kit_of(name):
    model = FAMILIES[name].tiny()
    return Kit(model, photographed(FAMILIES[name])(model))


def prompts(kit):
    """One picture, two, and a video where there are any."""
    rows = [kit.row(("image", 1), seed=1), kit.row(("image", 2), 2, ("image", 4), seed=2)]
    return rows + ([kit.row(("video", 5), 3, ("image", 3), seed=3)] if kit.video else [])


def seen(kit, row):
    """The ids of the tokens of every image of a prompt, each with its features in float64."""
    EvidenceRecorder.seen.clear()
    watched = EvidenceRecorder(kinds=frozenset({Evidence.FEATURES, Evidence.GRID}))
    with ts.prune(kit.model, watched, keep=1):
        kit.model(**kit.prompts.batch([row]))
    [tokens] = EvidenceRecorder.seen
    # A row of tokens is an image, or a prompt with its images one after the other.
    real = tokens.valid
    ids, images = tokens.ids[real].tolist(), tokens.grid[..., 0][real].tolist()
    features = tokens.features[real].double().tolist()
    found = {}
    for id_, image, vector in sorted(zip(ids, images, features, strict=True)):
        found.setdefault(image, []).append((id_, vector))
    return list(found.values())


def count(keep, n):
    return min(keep, n) if isinstance(keep, int) else max(1, math.floor(Fraction(keep) * n))


def longest(vectors, k):
    """The tokens with the longest vectors."""
    return sorted(range(len(vectors)), key=lambda i: -math.fsum(v * v for v in vectors[i]))[:k]


def farthest(vectors, k):
    """Max-min diversity: the token with the farthest nearest other, then always the one farthest from all picked."""

    def apart(a, b):
        norms = math.sqrt(math.fsum(v * v for v in a) * math.fsum(v * v for v in b))
        return 1 - math.fsum(v * w for v, w in zip(a, b, strict=True)) / norms

    n = len(vectors)
    far = [[apart(a, b) for b in vectors] for a in vectors]
    picks = [max(range(n), key=lambda i: min(far[i][j] for j in range(n) if j != i))]
    while len(picks) < k:
        picks.append(max((i for i in range(n) if i not in picks), key=lambda i: min(far[i][p] for p in picks)))
    return picks


def test_pixels_are_photographs(kit):
    """Neighbours are alike, which noise is not, and the same seed shows the same."""
    plain = FAMILIES[kit.prompts.adapter.name].random_inputs(kit.model, [[1], [2]])
    shown, again = (kit.prompts.adapter.random_inputs(kit.model, [[1], [2]]) for _ in range(2))
    assert plain.keys() == shown.keys()
    for field, value in shown.items():
        assert (value.shape, value.dtype) == (plain[field].shape, plain[field].dtype)
        assert torch.equal(value, again[field])
    pixels = shown["pixel_values"]
    # Some are without a neighbour, at the end of a row of pixels.
    near, noise = ((one[..., 1:] - one[..., :-1]).abs().median() for one in (pixels, plain["pixel_values"]))
    assert near < noise / 2
    assert not torch.equal(pixels, plain["pixel_values"])


@torch.no_grad()
def test_exactly_as_many_tokens_stay(kit):
    for row in prompts(kit):
        sizes = [len(image) for image in seen(kit, row)]
        assert sum(sizes) == len(kit.prompts.visual(row))
        for keep in BUDGETS:
            for select in ("norm", "gsp", "divprune"):
                with ts.prune(kit.model, select, keep=keep) as run:
                    kit.model(**kit.prompts.batch([row]))
                assert len(run.kept("decoder.0")[0]) == sum(count(keep, n) for n in sizes), (select, keep)


@torch.no_grad()
def test_keeping_all_is_the_plain_model_and_less_is_another_distribution(kit):
    task = Photographs()
    [sample, *_] = task.samples()
    inputs = kit.prompts.batch(prompts(kit))
    plain = kit.model(**inputs).logits
    with ts.prune(kit.model, "divprune", keep="100%"):
        assert torch.equal(kit.model(**inputs).logits, plain)
    assert torch.equal(kit.model(**inputs).logits, plain)
    for keep in BUDGETS:
        with ts.prune(kit.model, "divprune", keep=keep):
            pruned = kit.model(**inputs).logits[:, -1]
        for one, other in zip(plain[:, -1], pruned, strict=True):
            grades = task.grade(sample, Answer("", other.float()), Answer("", one.float()))
            assert 0 < grades["kl"] < math.inf
            assert grades["top1_agreement"] == float(int(one.argmax()) == int(other.argmax()))


@torch.no_grad()
def test_kept_tokens_are_those_of_the_formulas(kit):
    for row in prompts(kit):
        images = seen(kit, row)
        for keep in BUDGETS:
            for select, formula in (("norm", longest), ("divprune", farthest)):
                with ts.prune(kit.model, select, keep=keep) as run:
                    kit.model(**kit.prompts.batch([row]))
                wanted = []
                for image in images:
                    ids, vectors = zip(*image, strict=True)
                    wanted += [ids[i] for i in formula(vectors, count(keep, len(ids)))]
                assert run.kept("decoder.0")[0].tolist() == sorted(wanted), (select, keep)


@torch.no_grad()
def test_generation_is_that_of_the_reference(kit):
    rows = prompts(kit)
    start = kit.prompts.batch(rows)["input_ids"].shape[1]
    for recipe in kit.recipes():
        with ts.prune(kit.model, recipe) as run:
            out = kit.generate(rows)
        kit.check_generation(rows, run, recipe, out.sequences[:, start:], torch.stack(out.logits, dim=1))


def test_a_photograph_is_cut_into_the_patches_of_the_processor():
    """The order of patches is that of Qwen2-VL's own processor, of a picture of the size that it leaves alone."""
    from transformers import Qwen2VLImageProcessor

    kit = kit_of("qwen2_vl")
    [grid] = kit.prompts.adapter.random_inputs(kit.model, [[1]])["image_grid_thw"].tolist()
    pixels = kit.prompts.adapter.random_inputs(kit.model, [[1]])["pixel_values"]
    side = kit.model.config.vision_config.patch_size
    found = []
    for sample in Photographs(longest_side=256).samples():
        picture = Photographs(longest_side=256).picture(sample)
        size = (grid[2] * side, grid[1] * side)
        processor = Qwen2VLImageProcessor(
            patch_size=side, do_resize=False, image_mean=[0.5] * 3, image_std=[0.25] * 3, do_rescale=True
        )
        made = processor(picture.resize(size, Image.Resampling.BICUBIC), return_tensors="pt")
        assert made["image_grid_thw"].tolist() == [grid]
        found.append(torch.allclose(made["pixel_values"], pixels, atol=1e-5))
    assert sum(found) == 1
