"""`world-qwen-wide`: `world-qwen`, trained further on signs, several pictures, clips and second questions.

    python -m training.wide --out runs/wide --seed 0

It starts from the weights of `world-qwen`, with words added to its vocabulary. The tower learns the words on signs, and
which objects of a clip move and appear; then it is frozen, and the language model learns to answer. Every step has all
visual tokens, and questions come in chains of two, of which the second sees the first and its answer, as in a talk.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from tokensieve.tasks.world.clips import CLIP_SIDE, FRAMES, Clip, clip
from tokensieve.tasks.world.questions import SIGN_TYPES, Question, questions
from tokensieve.tasks.world.scenes import COVERED, FINE, SIDE, Scene, Split, scene
from tokensieve.tasks.world.several import questions_about_clip, questions_about_pictures
from tokensieve.tasks.world.signs import signs
from tokensieve.tasks.world.words import COLORS, DIRECTIONS, KINDS, SIGNS, WIDER_VOCABULARY
from training.data import GROUND, MEAN, STD
from training.loop import Training, batch, matrices, options, start
from training.qwen import CELL, MERGE, PATCH, TEMPLATE, WIDTH, Merger, processor, save
from training.ship import CHECKPOINTS
from training.words import BOS, EOS, PAD, SPECIAL, VISION_END, VISION_START

IDS = {word: number for number, word in enumerate((*SPECIAL, *WIDER_VOCABULARY))}
LABELS = KINDS + SIGNS
STEP = PATCH * MERGE
"""Pixels along a visual token."""
PAIR = 2
"""Frames that the tower encodes together."""
IMAGE_PART = "{% if part['type'] == 'image' %}"
WIDE_TEMPLATE = TEMPLATE.replace(
    IMAGE_PART,
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% elif part['type'] == 'image' %}",
)
IGNORED = -100


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures or clips of one kind as arrays.

    Attributes:
        frames: uint8 `[n, times, side, side, 3]`; one frame for a picture.
        owner: int8 `[n, tokens]`: which object covers most of a token, or `GROUND`.
        said: what is in each: a scene without its pixels, or a clip without its frames.
    """

    frames: np.ndarray
    owner: np.ndarray
    said: list[Any]

    def __len__(self) -> int:
        return len(self.said)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of visual tokens."""
        times, side = self.frames.shape[1:3]
        return max(1, times // PAIR), side // STEP, side // STEP

    def patches(self, which: np.ndarray) -> Tensor:
        """Return normalised patches `[patches, 6 * PATCH * PATCH]`, in the order of the tower."""
        chosen = (torch.from_numpy(self.frames[which]).float() / 255 - MEAN) / STD
        if chosen.shape[1] == 1:
            chosen = chosen.repeat(1, PAIR, 1, 1, 1)
        n, (times, rows, columns) = len(which), self.grid
        split = chosen.reshape(n, times, PAIR, rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
        return split.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(-1, 3 * PAIR * PATCH * PATCH)

    def labels(self, which: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return colour, kind, direction and appearing of every token, int64 `[n, tokens]`; one more for background."""
        shape = len(which), self.owner.shape[1]
        colors, kinds = torch.full(shape, len(COLORS)), torch.full(shape, len(LABELS))
        ways, appears = torch.full(shape, len(DIRECTIONS)), torch.zeros(shape, dtype=torch.int64)
        time = torch.arange(shape[1]) // (self.grid[1] * self.grid[2])
        for row, number in enumerate(which):
            owner, said = torch.from_numpy(self.owner[number]), self.said[number]
            for index, thing in enumerate(said.things):
                its = owner == index
                colors[row, its] = list(COLORS).index(thing.color)
                kinds[row, its] = LABELS.index(thing.kind)
                if isinstance(said, Clip):
                    event = said.events[index]
                    ways[row, its] = DIRECTIONS.index(event.direction)
                    appears[row, its & (time == event.since // PAIR)] = int(event.since > 0)
        return colors, kinds, ways, appears


def drawn(folder: Path, what: str, split: Split, count: int) -> Shown:
    """Return the first pictures or clips of a split, from the folder if they are stored there.

    Args:
        folder: where they are stored.
        what: `scene`, `signs` or `clip`.
        split: which.
        count: how many.
    """
    file = folder / f"wide-{what}-{split}-{count}.pt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for number in track(range(count), description=f"drawing {split} {what}", transient=True):
            if what == "clip":
                one = clip(split, number)
                owner = one.owner.reshape(FRAMES // PAIR, PAIR, *one.owner.shape[1:])
                side, none = CLIP_SIDE * FINE // (STEP * FINE), np.zeros((0, 0, 0), np.uint8)
                found.append(
                    (one.frames, covering(owner, len(one.things), side), Clip(none, one.things, one.events, none))
                )
            else:
                still: Scene = {"scene": scene, "signs": signs}[what](split, number)
                owner = np.stack([still.owner, still.owner])[None]
                none = np.zeros((0, 0), np.uint8)
                found.append(
                    (
                        still.pixels[None],
                        covering(owner, len(still.things), SIDE // STEP),
                        Scene(none, still.things, none),
                    )
                )
        frames, owners, said = zip(*found, strict=True)
        torch.save((np.stack(frames), np.stack(owners), list(said)), file)
    return Shown(*torch.load(file, weights_only=False))  # Written above, by this script.


def covering(owner: np.ndarray, things: int, side: int) -> np.ndarray:
    """Return which object covers most of each token, int8 `[times * side * side]`, or `GROUND`.

    Args:
        owner: uint8 `[times, PAIR, fine, fine]`.
        things: how many objects there are.
        side: tokens along a side.
    """
    times, fine = len(owner), owner.shape[-1] // side
    cells = (
        owner.reshape(times, PAIR, side, fine, side, fine).transpose(0, 2, 4, 1, 3, 5).reshape(times * side * side, -1)
    )
    if not things:
        return np.full(len(cells), GROUND, np.int8)
    covered = np.stack([(cells == number + 1).mean(axis=1) for number in range(things)])
    return np.where(covered.max(axis=0) >= COVERED, covered.argmax(axis=0), GROUND).astype(np.int8)


def build() -> Qwen2VLForConditionalGeneration:
    """Return the model with the weights of `world-qwen`; new words begin near the mean of those that are known."""
    config = Qwen2VLConfig.from_pretrained(CHECKPOINTS / "world_qwen")
    model = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINTS / "world_qwen", config=config)
    known = model.get_input_embeddings().weight.data.clone()
    model.resize_token_embeddings(len(IDS), mean_resizing=False)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[: len(known)] = known
        words = known[len(SPECIAL) :]
        table[len(known) :] = words.mean(dim=0) + words.std(dim=0) * torch.randn(len(IDS) - len(known), WIDTH)
    return model


class Heads(nn.Module):
    """Linear probes of colour, kind, direction and appearing from tokens, used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [len(COLORS) + 1, len(LABELS) + 1, len(DIRECTIONS) + 1, 2]
        self.linear = nn.Linear(WIDTH, sum(self.sizes))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each."""
        return self.linear(tokens).float().split(self.sizes, dim=-1)


def tower(
    model: Qwen2VLForConditionalGeneration,
    training: dict[str, Shown],
    held: dict[str, Shown],
    arguments: argparse.Namespace,
) -> None:
    """Train the tower to say what covers each token."""
    heads, visual = Heads(), model.model.visual
    modules = {"visual": visual, "heads": heads}
    loop = Training(
        arguments.out / "tower",
        modules,
        matrices(visual.blocks),
        arguments.tower_steps,
        arguments.seed,
        every=arguments.every,
        decay=0.05,
        rate=1.5e-3,
        muon=0.01,
    )
    sizes = {"scene": 3, "signs": 6, "clip": 2}

    def loss(step: int) -> Tensor:
        parts = [
            (training[what], batch(arguments.seed, step, size, len(training[what]))) for what, size in sizes.items()
        ]
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            grid = torch.tensor([_patch_grid(shown) for shown, which in parts for _ in which])
            seen = visual(torch.cat([shown.patches(which) for shown, which in parts]), grid_thw=grid).pooler_output
            said = heads(seen.float())
        told = [
            torch.cat(one)
            for one in zip(*([x.flatten() for x in shown.labels(which)] for shown, which in parts), strict=True)
        ]
        chosen = (told[0] < len(COLORS)) | (torch.rand(told[0].shape) < 0.15)
        return sum((F.cross_entropy(a[chosen], b[chosen]) for a, b in zip(said, told, strict=True)), torch.zeros(()))

    def judge() -> dict[str, float]:
        found = {}
        for what, shown in held.items():
            which = np.arange(min(96, len(shown)))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
                said = heads(see(model, shown, which)[1].float())
            told = shown.labels(which)
            things = told[0] < len(COLORS)
            names = ("color", "kind", "direction", "appears")[: 4 if what == "clip" else 2]
            for name, logits, right in zip(names, said, told, strict=False):
                found[f"{what}_{name}"] = float((logits.argmax(-1) == right)[things].float().mean())
        return found

    loop.run(loss, judge)


def _patch_grid(shown: Shown) -> list[int]:
    times, rows, columns = shown.grid
    return [times, rows * MERGE, columns * MERGE]


def see(model: Qwen2VLForConditionalGeneration, shown: Shown, which: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the merger's input `[n, tokens, 4 * CELL]`, and the visual tokens `[n, tokens, WIDTH]`."""
    visual = model.model.visual
    grid = torch.tensor([_patch_grid(shown)] * len(which))
    seen = visual(shown.patches(which), grid_thw=grid)
    read = visual.merger.ln_q(seen.last_hidden_state).reshape(len(which), -1, MERGE * MERGE * CELL)
    return read, seen.pooler_output.reshape(len(which), -1, WIDTH)


@torch.no_grad()
def encoded(model: Qwen2VLForConditionalGeneration, shown: Shown, file: Path) -> Tensor:
    """Return the frozen tower's features of all pictures, float16 `[n, tokens, 4 * CELL]`, from a file if it exists."""
    if not file.exists():
        parts = [
            see(model, shown, np.arange(first, min(first + 64, len(shown))))[0].half()
            for first in range(0, len(shown), 64)
        ]
        torch.save(torch.cat(parts), file)
    found: Tensor = torch.load(file, weights_only=True)
    return found


def positions(grids: Sequence[tuple[int, int, int]]) -> tuple[Tensor, int]:
    """Return the positions of a prompt up to its question, int64 `[3, n]`, and the position that follows.

    Args:
        grids: frames, rows and columns of each picture, which stands between a begin and an end token.
    """
    parts, at = [torch.zeros(3, 1, dtype=torch.int64)], 1
    for times, rows, columns in grids:
        place = torch.stack(torch.meshgrid(*map(torch.arange, (times, rows, columns)), indexing="ij")).flatten(1)
        after = at + 1 + max(times, rows, columns)
        parts += [torch.full((3, 1), at), place + at + 1, torch.full((3, 1), after)]
        at = after + 1
    return torch.cat(parts, dim=1), at


@dataclass(frozen=True, eq=False)
class Packed:
    """Chains of questions, each to be answered behind the same pictures without seeing the others.

    Attributes:
        ids: int64 `[rows, n]`.
        labels: int64 `[rows, n]`, what follows where an answer is asked for, or `IGNORED`.
        chain: int64 `[rows, n]`, the number of the chain of a token; -1 for padding.
        place: int64 `[rows, n]`, its place in the chain.
        asked: of every label that is an answer, in order of rows and places: the type, and whether it is a second one.
    """

    ids: Tensor
    labels: Tensor
    chain: Tensor
    place: Tensor
    asked: list[tuple[str, bool]]


def pack(rows: Sequence[Sequence[Question]]) -> Packed:
    """Pack the questions of every row in chains of two."""
    lists: list[tuple[list[int], list[int], list[int], list[int]]] = []
    asked = []
    for those in rows:
        ids, labels, chain, place = lists_of = ([], [], [], [])
        for number, one in enumerate(those):
            words = [IDS[word] for word in one.text.split()]
            first = number % 2 == 0
            begun = 0 if first else place[-1] + 1
            ids += [*words, IDS[one.answer], EOS]
            labels += [*[IGNORED] * (len(words) - 1), IDS[one.answer], EOS, IGNORED]
            chain += [number // 2] * (len(words) + 2)
            place += range(begun, begun + len(words) + 2)
            asked.append((one.type, not first))
        lists.append(lists_of)
    longest = max(len(one[0]) for one in lists)
    fill = (PAD, IGNORED, -1, 0)
    arrays = [
        torch.tensor([one[part] + [fill[part]] * (longest - len(one[part])) for one in lists]) for part in range(4)
    ]
    return Packed(*arrays, asked)


class Asked(nn.Module):
    """The merger's layers and the language model, which are trained."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        super().__init__()
        self.projector, self.language = Merger(model.model.visual.merger.mlp), model.model.language_model

    def forward(self, features: Sequence[Tensor], grids: Sequence[tuple[int, int, int]], packed: Packed) -> Tensor:
        """Return the logits at the tokens of the questions, `[rows, n, vocabulary]`.

        Args:
            features: of each picture of the prompts, `[rows, tokens, 4 * CELL]`.
            grids: of each picture.
            packed: the questions.
        """
        rows, embed = len(packed.ids), self.language.embed_tokens
        ends = embed(torch.tensor([BOS, VISION_START, VISION_END])).expand(rows, -1, -1)
        parts = [ends[:, :1]]
        for one in features:
            parts += [ends[:, 1:2], self.projector(one), ends[:, 2:]]
        before = sum(part.shape[1] for part in parts)
        inputs = torch.cat([*(part.float() for part in parts), embed(packed.ids)], dim=1)
        start_, after = positions(grids)
        place = (after + packed.place).expand(3, -1, -1)
        where = torch.cat([start_.unsqueeze(1).expand(-1, rows, -1), place], dim=2)
        chain = torch.cat([torch.full((rows, before), -2), packed.chain], dim=1)
        n = chain.shape[1]
        seen = (chain[:, None] == -2) | (chain[:, None] == chain[:, :, None])
        seen &= torch.ones(n, n, dtype=torch.bool).tril()
        mask = torch.zeros(rows, n, n).masked_fill(~seen, torch.finfo(torch.float32).min).unsqueeze(1)
        hidden = self.language(inputs_embeds=inputs, attention_mask=mask, position_ids=where, use_cache=False)
        found: Tensor = hidden.last_hidden_state[:, before:]
        return found @ embed.weight.T.to(found.dtype)


Mixture = dict[str, tuple[Shown, Tensor]]
PLAN = ("scene", "signs", "pair", "clip", "signs", "clip", "pair", "triple", "signs", "clip")
"""What is shown from step to step, in turn."""
ROWS = {"scene": 8, "signs": 8, "pair": 6, "triple": 3, "clip": 6}


def shown(
    what: str, given: Mixture, step: int, arguments: argparse.Namespace, seed: str
) -> tuple[list[Tensor], list[tuple[int, int, int]], Packed]:
    """Return the features of the pictures of a step, their grids, and questions about them."""
    many = {"pair": 2, "triple": 3}.get(what, 1)
    source, features = given["scene" if many > 1 else what]
    which = batch(arguments.seed, step, ROWS[what] * many, len(source)).reshape(-1, many)
    asked = [about(what, [source.said[n] for n in row], f"{seed} {step} {row}", arguments.questions) for row in which]
    return [features[which[:, place]].float() for place in range(many)], [source.grid] * many, pack(asked)


def about(what: str, said: Sequence[Any], seed: str, most: int) -> list[Question]:
    """Return questions about pictures or a clip."""
    if what == "clip":
        return questions_about_clip(said[0], seed, most)
    if what in ("pair", "triple"):
        return questions_about_pictures([one.things for one in said], seed, most)
    return questions(said[0], seed, most, SIGN_TYPES) if what == "signs" else questions(said[0], seed, most)


def teach(asked: Asked, training: Mixture, held: Mixture, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Train on questions, and return the training curve."""
    loop = Training(
        arguments.out,
        {"asked": asked},
        matrices([*asked.language.layers, asked.projector]),
        arguments.steps,
        arguments.seed,
        cool=0.6,
        every=arguments.every,
        warm=50,
        rate=1.5e-3,
        muon=0.01,
    )

    def loss(step: int) -> Tensor:
        what = PLAN[step % len(PLAN)]
        features, grids, packed = shown(what, training, step, arguments, str(arguments.seed))
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            logits = asked(features, grids, packed)
        told = packed.labels != IGNORED
        weight = torch.where(packed.labels[told] == EOS, 0.1, 1.0)
        each = F.cross_entropy(logits[told].float(), packed.labels[told], reduction="none")
        return (each * weight).sum() / weight.sum()

    loop.run(loss, lambda: examine(asked, held, arguments))
    return loop.curve


@torch.no_grad()
def examine(asked: Asked, held: Mixture, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the fraction of right answers by what is shown and type, and of second questions."""
    right: dict[str, list[float]] = collections.defaultdict(list)
    for what in dict.fromkeys(PLAN):
        for step in range(arguments.examined):
            features, grids, packed = shown(what, held, step, arguments, "held")
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
                found = asked(features, grids, packed).argmax(dim=-1)
            told = (packed.labels != IGNORED) & (packed.labels != EOS)
            for (kind, second), good in zip(packed.asked, (found == packed.labels)[told].tolist(), strict=True):
                right[f"{what}/{kind}"].append(good)
                right[f"{what}/{'second' if second else 'one'}"].append(good)
    return {name: float(np.mean(values)) for name, values in right.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Train with the options of the command line, or with given ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, steps=4000)
    parser.add_argument("--tower-steps", type=int, default=2500)
    parser.add_argument("--questions", type=int, default=16, help="about the pictures of a prompt in a step")
    parser.add_argument("--examined", type=int, default=8, help="batches of each kind at every checkpoint")
    parser.set_defaults(count=6144, held=256)
    arguments = parser.parse_args(words)
    start(arguments.seed, arguments.threads)
    kinds = ("scene", "signs", "clip")
    held = {what: drawn(arguments.scenes, what, "validation", arguments.held) for what in kinds}
    training = {what: drawn(arguments.scenes, what, "train", arguments.count) for what in kinds}
    model = build()
    # On CPUs, the backward pass of the fused kernel is slower than that of plain matrix products.
    model.set_attn_implementation("eager")
    tower(model, training, held, arguments)
    model.model.visual.requires_grad_(False)
    model.model.visual.merger.mlp.requires_grad_(True)

    def with_features(given: dict[str, Shown], name: str) -> Mixture:
        return {what: (one, encoded(model, one, arguments.out / f"{name}-{what}.pt")) for what, one in given.items()}

    start(arguments.seed, arguments.threads)
    curve = teach(Asked(model), with_features(training, "train"), with_features(held, "held"), arguments)
    save(model, arguments, curve, processor(IDS, WIDE_TEMPLATE))


if __name__ == "__main__":
    main()
