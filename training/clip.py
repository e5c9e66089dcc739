"""Stage 1 of `world-llava`: a CLIP vision tower and its aligned text tower.

    python -m training.clip --out runs/clip --seed 0
    python -m training.clip --out runs/clip-weak --seed 0 --weak-of runs/clip/model
    python -m training.clip --out runs/clip-asked --seed 0 --weak-of runs/clip/model --questions

The strong text tower is trained on phrases: each cell of a picture is to be nearest to the phrase of the object that
covers it, among all phrases, in which the wordings of the questions occur. So relevance judged by it is nearly an
oracle. The weak one knows captions of whole pictures only, through the class token, over the strong one's frozen
vision tower, as CLIP was trained: what it says of single cells is a by-product. With `--questions`, every other
caption is a few questions about what is there, so that the words of questions are known to it as well.

Cells are aligned at the layer that a LLaVA reads, the last but one, through the model's own last norm and projection,
which is how relevance is judged later.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPVisionConfig

from tokensieve.tasks.world.scenes import SIDE
from tokensieve.tasks.world.words import COLORS, KINDS
from training.data import COLUMNS, MEAN, ROWS, STD, Scenes, scenes
from training.loop import Training, batch, drawer, matrices, options, start
from training.words import BOS, EOS, IDS, PAD, padded, tokenizer

WIDTH, HEADS, LAYERS, TEXT_LAYERS = 128, 4, 4, 2
PATCH = SIDE // ROWS
PAIRS = [(color, kind) for color in COLORS for kind in KINDS]
PHRASES = ("{c} {k}", "a {c} {k}", "is there a {c} {k} ?", "where is the {c} {k} ?")
OF_COLOR = ("{c}", "{c} things", "how many {c} things ?", "what shape is {c} ?", "what digit is {c} ?")
OF_KIND = ("{k}", "a {k}", "what color is the {k} ?", "how many {k} ?")
PLACE = 32
"""The dimensions that are initialised with the place of a cell."""
OFFSETS = [
    [(-1, 0), (1, 0), (0, -1), (0, 1)],
    [(-1, -1), (-1, 1), (1, -1), (1, 1)],
    [(-1, 0), (1, 0), (0, -1), (0, 1)],
    [(-1, 0), (1, 0), (0, -1), (0, 1)],
]
"""By layer and head, the neighbour that attention is initialised to."""
_PERIODS = 2 * math.pi / torch.logspace(math.log10(3), math.log10(24), 8)


def places() -> Tensor:
    """Return the position code of every cell, float32 `[TOKENS, PLACE]`."""
    y, x = torch.meshgrid(torch.arange(ROWS).float(), torch.arange(COLUMNS).float(), indexing="ij")
    codes = [f(axis.reshape(-1, 1) * _PERIODS) for axis in (y, x) for f in (torch.sin, torch.cos)]
    return torch.cat(codes, dim=1)


def shift(rows: int, columns: int) -> Tensor:
    """Return the matrix that maps the code of a position to that of a neighbour."""
    matrix = torch.zeros(PLACE, PLACE)
    for start_, delta in ((0, rows), (PLACE // 2, columns)):
        for i, period in enumerate(_PERIODS.tolist()):
            cos, sin = math.cos(period * delta), math.sin(period * delta)
            a, b = start_ + i, start_ + i + len(_PERIODS)
            matrix[a, a], matrix[a, b], matrix[b, b], matrix[b, a] = cos, sin, cos, -sin
    return matrix


def build() -> CLIPModel:
    """Return the model; its attention is initialised to neighbours, like a convolution."""
    text = CLIPTextConfig(
        vocab_size=len(IDS),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=48,
        projection_dim=WIDTH,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))
    with torch.no_grad():
        embeddings = model.vision_model.embeddings
        embeddings.position_embedding.weight.zero_()
        embeddings.position_embedding.weight[1:, :PLACE] = places()
        nn.init.normal_(embeddings.patch_embedding.weight, std=(3 * PATCH * PATCH) ** -0.5)
        embeddings.patch_embedding.weight[:PLACE] = 0
        for layer, offsets in zip(model.vision_model.encoder.layers, OFFSETS, strict=True):
            look_at_neighbours(layer.self_attn, layer.mlp, offsets, WIDTH)
        nn.init.normal_(model.visual_projection.weight, std=WIDTH**-0.5)
        nn.init.normal_(model.text_projection.weight, std=WIDTH**-0.5)
        model.logit_scale.fill_(math.log(10.0))
    return model


def look_at_neighbours(attention: nn.Module, mlp: nn.Module, offsets: Sequence[tuple[int, int]], width: int) -> None:
    """Initialise a layer so that each head attends to one neighbour, and positions pass unchanged."""
    per_head = width // len(offsets)
    nn.init.normal_(attention.q_proj.weight, std=0.02)
    nn.init.normal_(attention.k_proj.weight, std=0.02)
    for head, offset in enumerate(offsets):
        rows = slice(head * per_head, (head + 1) * per_head)
        attention.q_proj.weight[rows, :PLACE] += 2.1 * shift(*offset)
        attention.k_proj.weight[rows, :PLACE] += 2.1 * torch.eye(PLACE)
    nn.init.normal_(attention.v_proj.weight, std=width**-0.5)
    nn.init.normal_(attention.out_proj.weight, std=0.7 * width**-0.5)
    nn.init.normal_(mlp.fc1.weight, std=width**-0.5)
    nn.init.normal_(mlp.fc2.weight, std=0.6 * (4 * width) ** -0.5)
    attention.out_proj.weight[:PLACE] = 0
    mlp.fc2.weight[:PLACE] = 0


def see(model: CLIPModel, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer that LLaVA reads `[n, TOKENS, WIDTH]`, its projection, and the image embeddings `[n, WIDTH]`."""
    vision = model.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(images))
    for layer in vision.encoder.layers[:-1]:
        hidden = layer(hidden, None)
    cells = hidden[:, 1:]
    last = vision.encoder.layers[-1](hidden, None)
    return (
        cells,
        model.visual_projection(vision.post_layernorm(cells)),
        model.visual_projection(vision.post_layernorm(last[:, 0])),
    )


def read(model: CLIPModel, texts: Sequence[str]) -> Tensor:
    """Return normalised text embeddings `[texts, WIDTH]`."""
    ids, mask = padded(texts)
    pooled = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
    return F.normalize(model.text_projection(pooled).float(), dim=-1)


class Heads(nn.Module):
    """Linear probes of colour, kind and centre from cells, used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colors, self.kinds, self.center = len(COLORS) + 1, len(KINDS) + 1, 1
        self.linear = nn.Linear(width, self.colors + self.kinds + self.center)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of colours, of kinds, and of centres."""
        color, kind, center = self.linear(cells).float().split([self.colors, self.kinds, self.center], dim=-1)
        return color, kind, center.squeeze(-1)

    def loss(self, cells: Tensor, colors: Tensor, kinds: Tensor, centers: Tensor, chosen: Tensor) -> Tensor:
        """Return the loss over chosen cells, bool `[n, TOKENS]`."""
        color, kind, center = self(cells)
        middle = F.binary_cross_entropy_with_logits(center, centers, pos_weight=torch.tensor(4.0))
        return F.cross_entropy(color[chosen], colors[chosen]) + F.cross_entropy(kind[chosen], kinds[chosen]) + middle


def caption(things: Sequence[object], rng: random.Random) -> str:
    """Return a caption that describes up to six objects of an image."""
    chosen = rng.sample(list(things), min(6, len(things)))
    return "a photo of " + " and ".join(f"a {thing.color} {thing.kind}" for thing in chosen)


def asked(things: Sequence[object], rng: random.Random) -> str:
    """Return a caption that asks about, or names, up to four objects of an image."""
    chosen = rng.sample(list(things), min(4, len(things)))
    wordings = (*PHRASES, *OF_COLOR, *OF_KIND)
    return " ".join(rng.choice(wordings).format(c=thing.color, k=thing.kind) for thing in chosen)


def contrast(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's contrastive loss of images and captions."""
    logits = scale * F.normalize(images.float(), dim=-1) @ texts.T
    same = torch.arange(len(logits))
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


def strong(model: CLIPModel, training: Scenes, held: Scenes, arguments: argparse.Namespace) -> None:
    """Train both towers on phrases of cells, and on captions."""
    heads = Heads(WIDTH)
    layers = [*model.vision_model.encoder.layers, *model.text_model.encoder.layers]
    loop = Training(
        arguments.out,
        {"model": model, "heads": heads},
        matrices(layers),
        arguments.steps,
        arguments.seed,
        every=arguments.every,
        decay=0.05,
    )

    def loss(step: int) -> Tensor:
        which = batch(arguments.seed, step, arguments.batch, len(training))
        rng = drawer(arguments.seed, step)
        colors, kinds = training.labels(which)
        chosen = (colors < len(COLORS)) | (torch.rand(colors.shape) < 0.15)
        phrases = [rng.choice(PHRASES).format(c=c, k=k) for c, k in PAIRS] + ["background"]
        phrases += [rng.choice(OF_COLOR).format(c=c) for c in COLORS]
        phrases += [rng.choice(OF_KIND).format(k=k) for k in KINDS]
        captions = [caption(training.things[number], rng) for number in which]
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            cells, projected, pictures = see(model, training.images(which))
            texts = read(model, phrases)
            described = read(model, captions)
        scale = model.logit_scale.exp().clamp(max=60)
        logits = scale * F.normalize(projected.float()[chosen], dim=-1) @ texts.T
        both, ground, color, kind = logits.split([len(PAIRS), 1, len(COLORS), len(KINDS)], dim=-1)
        c, k = colors[chosen], kinds[chosen]
        pair = torch.where(c < len(COLORS), c * len(KINDS) + k, len(PAIRS))
        dense = (
            F.cross_entropy(torch.cat([both, ground], 1), pair)
            + F.cross_entropy(torch.cat([color, ground], 1), c)
            + F.cross_entropy(torch.cat([kind, ground], 1), k)
        )
        aside = heads.loss(cells.float(), colors, kinds, training.centers(which), chosen)
        return dense + aside + 0.3 * contrast(pictures, described, scale)

    loop.run(loss, lambda: judge(model, heads, held))
    save(model, arguments.out, loop.curve)


@torch.no_grad()
def judge(model: CLIPModel, heads: Heads | None, held: Scenes) -> dict[str, float]:
    """Return how often the phrase, colour and kind nearest to a cell of an object are the right ones."""
    pairs = read(model, [f"a {c} {k}" for c, k in PAIRS] + ["background"])
    colors_, kinds_ = read(model, list(COLORS)), read(model, [f"a {k}" for k in KINDS])
    counts: dict[str, list[float]] = {}
    for first in range(0, len(held), 128):
        which = np.arange(first, min(first + 128, len(held)))
        colors, kinds = held.labels(which)
        cells, projected, _ = see(model, held.images(which))
        projected = F.normalize(projected, dim=-1)
        things = colors < len(COLORS)
        pair = torch.where(things, colors * len(KINDS) + kinds, len(PAIRS))
        nearest = (projected @ pairs.T).argmax(-1)
        found = {
            "pair": (nearest == pair)[things],
            "ground": (nearest == pair)[~things],
            "color": ((projected @ colors_.T).argmax(-1) == colors)[things],
            "kind": ((projected @ kinds_.T).argmax(-1) == kinds)[things],
        }
        if heads is not None:
            color, kind, center = heads(cells)
            middle = held.centers(which) > 0
            found |= {
                "linear_color": (color.argmax(-1) == colors)[things],
                "linear_kind": (kind.argmax(-1) == kinds)[things],
                "center": (center > 0)[middle],
            }
        for name, right in found.items():
            counts.setdefault(name, []).append(right.float().mean().item())
    return {name: float(np.mean(values)) for name, values in counts.items()}


def weak(model: CLIPModel, training: Scenes, held: Scenes, arguments: argparse.Namespace) -> None:
    """Train a new text tower, and a new projection of the class token, on captions alone."""
    frozen = CLIPModel.from_pretrained(arguments.weak_of)
    model.vision_model.load_state_dict(frozen.vision_model.state_dict())
    model.vision_model.requires_grad_(False)
    seen = []
    with torch.no_grad():
        for first in range(0, len(training), 256):
            which = np.arange(first, min(first + 256, len(training)))
            vision = model.vision_model(training.images(which))
            seen.append(vision.pooler_output)
    pooled = torch.cat(seen)
    loop = Training(
        arguments.out,
        {"model": model},
        matrices(model.text_model.encoder.layers),
        arguments.steps,
        arguments.seed,
        every=arguments.every,
    )

    def loss(step: int) -> Tensor:
        which = batch(arguments.seed, step, 4 * arguments.batch, len(training))
        rng = drawer(arguments.seed, step)
        wordings = [asked if arguments.questions and place % 2 else caption for place in range(len(which))]
        captions = [wording(training.things[number], rng) for wording, number in zip(wordings, which, strict=True)]
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            described = read(model, captions)
        return contrast(model.visual_projection(pooled[which]), described, model.logit_scale.exp().clamp(max=60))

    loop.run(loss, lambda: judge(model, None, held) | matched(model, held))
    save(model, arguments.out, loop.curve)


@torch.no_grad()
def matched(model: CLIPModel, held: Scenes) -> dict[str, float]:
    """Return how often the caption nearest to an image is its own, of 128 captions (or all held-out ones)."""
    which = np.arange(min(128, len(held)))
    rng = drawer(0, 0)
    described = read(model, [caption(held.things[number], rng) for number in which])
    pictures = F.normalize(model.visual_projection(model.vision_model(held.images(which)).pooler_output), dim=-1)
    return {"caption": ((pictures @ described.T).argmax(-1) == torch.arange(len(which))).float().mean().item()}


def save(model: CLIPModel, out: Path, curve: list[dict[str, float]]) -> None:
    """Save the model with its processor and its training curve."""
    model.config.tokensieve_relevance_sign = 1
    model.save_pretrained(out / "model")
    processor().save_pretrained(out / "model")
    (out / "curve.json").write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")


def images() -> CLIPImageProcessor:
    """Return the image processor."""
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )


def processor() -> CLIPProcessor:
    """Return the processor of both towers."""
    return CLIPProcessor(image_processor=images(), tokenizer=tokenizer(end=True))


def main(words: Sequence[str] | None = None) -> None:
    """Train with the options of the command line, or with given ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, steps=1800)
    parser.add_argument("--batch", type=int, default=32, help="pictures in a step; four times as many with --weak-of")
    parser.add_argument("--weak-of", type=Path, help="train on captions alone over this model's vision tower")
    parser.add_argument("--questions", action="store_true", help="every other caption asks, with --weak-of")
    arguments = parser.parse_args(words)
    if arguments.questions and not arguments.weak_of:
        parser.error("--questions is for captions alone: give --weak-of")
    start(arguments.seed, arguments.threads)
    held = scenes(arguments.scenes, "validation", arguments.held)
    training = scenes(arguments.scenes, "train", arguments.count)
    (weak if arguments.weak_of else strong)(build(), training, held, arguments)


if __name__ == "__main__":
    main()
