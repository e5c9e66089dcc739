"""Stage 2 of both families: a language model learns to answer from the features of the frozen vision tower.

Every step has all visual tokens. Nothing here favours sparse input, so a pruned model that beats the full one would be
a finding. Many questions about an image share one sequence. Each follows the image, does not attend to the others, and
has the positions that it would have alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokensieve.tasks.world.questions import TYPES, Question
from tokensieve.tasks.world.words import COLORS, DIGITS, KINDS, PLACES, SHAPES
from training.clip import PLACE, places
from training.data import COLUMNS, ROWS, TOKENS, Scenes
from training.loop import Training, batch, matrices, options
from training.words import EOS, IDS, encode

SLOT = 7
"""The number of tokens of the longest question with its answer."""
IGNORED = -100


@dataclass(frozen=True)
class Frame:
    """The tokens around the image in a prompt, and the positions of all tokens.

    Attributes:
        before: ids before the visual tokens.
        after: ids after them.
        positions: of the prompt up to the question, int64 `[axes, n]`.
        question: the position at which the question begins.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    positions: Tensor
    question: int

    @property
    def length(self) -> int:
        """The number of tokens before a question."""
        return len(self.before) + TOKENS + len(self.after)

    def mask(self, questions: int) -> Tensor:
        """Return the attention mask, float32 `[1, 1, n, n]`: 0 or minus infinity."""
        n = self.length + questions * SLOT
        place = torch.arange(n) - self.length
        own = torch.where(place >= 0, place // SLOT, -1)
        seen = torch.ones(n, n, dtype=torch.bool).tril() & ((own[None] == -1) | (own[None] == own[:, None]))
        return torch.zeros(n, n).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]

    def all_positions(self, questions: int) -> Tensor:
        """Return the position ids of all tokens, int64 `[axes, n]`."""
        slots = (self.question + torch.arange(SLOT)).repeat(questions)
        return torch.cat([self.positions, slots.expand(len(self.positions), -1)], dim=1)


def packed(asked: Sequence[Sequence[Question]], questions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids and labels, int64 `[images, questions * SLOT]`, and types `[images, questions]`, -1 for none."""
    ids = torch.zeros(len(asked), questions, SLOT, dtype=torch.int64)
    labels = torch.full((len(asked), questions, SLOT), IGNORED)
    types = torch.full((len(asked), questions), -1)
    for row, those in enumerate(asked):
        for number, one in enumerate(those):
            words = encode(one.text)
            ids[row, number, : len(words) + 1] = torch.tensor([*words, IDS[one.answer]])
            labels[row, number, len(words) - 1] = IDS[one.answer]
            labels[row, number, len(words)] = EOS
            types[row, number] = TYPES.index(one.type)
    return ids.flatten(1), labels.flatten(1), types


class Asked(nn.Module):
    """The projector and the language model that are trained.

    Args:
        projector: takes the tower's features `[n, TOKENS, c]` to visual tokens `[n, TOKENS, width]`.
        language: the language model without its head, whose word embeddings are the head, too.
        frame: what stands around a picture.
        position_axes: how many axes positions have in a call: 2 for `[rows, n]`, 3 for `[axes, rows, n]`.
    """

    def __init__(self, projector: nn.Module, language: nn.Module, frame: Frame, position_axes: int) -> None:
        super().__init__()
        self.projector, self.language = projector, language
        self._frame, self._axes = frame, position_axes

    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        """Return the logits at the tokens of the questions, `[n, questions * SLOT, vocabulary]`."""
        rows, frame = len(features), self._frame
        embed = self.language.embed_tokens
        visual = self.projector(features)
        around = [
            embed(torch.tensor(side, dtype=torch.int64)).expand(rows, -1, -1) for side in (frame.before, frame.after)
        ]
        inputs = torch.cat([around[0], visual.to(around[0].dtype), around[1], embed(ids)], dim=1)
        questions = ids.shape[1] // SLOT
        positions = frame.all_positions(questions)
        positions = positions.unsqueeze(1) if self._axes == 3 else positions
        hidden = self.language(
            inputs_embeds=inputs,
            attention_mask=frame.mask(questions).expand(rows, -1, -1, -1),
            position_ids=positions.expand(*positions.shape[:-2], rows, -1),
            use_cache=False,
        ).last_hidden_state[:, frame.length :]
        return hidden @ embed.weight.T.to(hidden.dtype)


def aligned(projected: Tensor, words: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return initial vectors of words and cells, such that a word is near to the cells that it describes.

    Args:
        projected: what cells say in the space of words, `[n, TOKENS, width]`, of unit scale.
        words: of the colours and kinds in that space, `[words, width]`.
        width: of the language model.

    Returns:
        The word embeddings `[words, width]`; the visual tokens to aim at `[n, TOKENS, width]`, in which a code of
        the place stands beside what is said; and the words of places `[PLACES, width]`.
    """
    middle = words.mean(dim=0)
    centred = F.normalize(words - middle, dim=-1)
    basis, _ = torch.linalg.qr(torch.cat([centred.T, torch.randn(width, 40)], dim=1))
    beside = basis[:, len(words) : len(words) + PLACE]
    code = places()
    code = (code - code.mean(dim=0)) @ beside.T
    said = F.normalize(projected, dim=-1) - middle
    target = said + 0.7 * code / code.norm(dim=1).mean() * said.reshape(-1, width).std(dim=0).norm()
    ninth = (torch.arange(TOKENS) // COLUMNS * 3 // ROWS) * 3 + torch.arange(TOKENS) % COLUMNS * 3 // COLUMNS
    where = torch.stack([code[ninth == number].mean(dim=0) for number in range(len(PLACES))])
    return centred, target, F.normalize(where, dim=-1)


@torch.no_grad()
def begin(language: nn.Module, words: Tensor, where: Tensor) -> None:
    """Initialise a language model: word embeddings, and attention that finds similar tokens and copies them.

    Where attention has biases, half of the heads look one and two tokens back instead, so that what a word has found
    is at hand at the end of the question, and the others look among cells alone. That is learnt ten times as fast, and
    the first layer reads all that an answer needs: then no cut inside the language model costs anything.
    """
    width = language.embed_tokens.weight.shape[1]
    biased = language.layers[0].self_attn.q_proj.bias is not None
    for layer in language.layers:
        attention = layer.self_attn
        look, _ = torch.linalg.qr(torch.randn(width, width))
        copy, _ = torch.linalg.qr(torch.randn(width, width))
        noise = [0.3 * torch.randn(width, width) / width**0.5 for _ in range(4)]
        attention.q_proj.weight.copy_((look + noise[0]) * (2 if biased else 1.3))
        attention.k_proj.weight.copy_((look + noise[1]) * (2 if biased else 1.3))
        attention.v_proj.weight.copy_(copy + noise[2] / 2)
        attention.o_proj.weight.copy_((copy.T + noise[3] / 2) * 0.6)
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)
        nn.init.normal_(layer.mlp.down_proj.weight, std=0.5 * layer.mlp.down_proj.weight.shape[1] ** -0.5)
    table = language.embed_tokens.weight
    nn.init.normal_(table, std=0.7 * width**-0.5)

    def near(word: str, vector: Tensor, share: float) -> None:
        table[IDS[word]] = share * F.normalize(vector, dim=-1) + (1 - share) * torch.randn(width) * width**-0.5

    known = [*COLORS, *KINDS]
    for word, vector in zip(known, words, strict=True):
        near(word, vector, 0.8)
    for word, vector in zip(PLACES, where, strict=True):
        near(word, vector, 0.8)
    for word, group in (("color", COLORS), ("shape", SHAPES), ("digit", DIGITS), ("things", KINDS)):
        near(word, torch.stack([table[IDS[one]] for one in group]).mean(dim=0), 0.6)
    if biased:
        # A direction that is the same in all words and 0 in all cells.
        taken, _ = torch.linalg.qr(torch.cat([words, where]).T)
        said = torch.randn(width)
        said = F.normalize(said - taken @ (taken.T @ said), dim=0)
        table += 0.8 * said
        heads, theta = language.config.num_attention_heads, language.config.rope_parameters["rope_theta"]
        for layer in language.layers:
            look_back(layer.self_attn, heads, theta)
            look_at_pictures(layer.self_attn, heads, said)


def look_back(attention: nn.Module, heads: int, theta: float) -> None:
    """Initialise the second half of the heads, by their biases alone, to attend one and two tokens back."""
    width = attention.q_proj.weight.shape[1]
    per_head = width // heads
    rates = theta ** (-torch.arange(per_head // 2) / (per_head // 2))
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.bias.zero_()
    for head in range(heads // 2, heads):
        rows = slice(head * per_head, (head + 1) * per_head)
        back = -(1 + head % 2) * rates
        attention.q_proj.weight[rows] *= 0.05
        attention.k_proj.weight[rows] *= 0.05
        attention.q_proj.bias[rows] = 6 * torch.cat([back.cos(), back.sin()])
        attention.k_proj.bias[rows] = 6 * torch.cat([torch.ones_like(back), torch.zeros_like(back)])


def look_at_pictures(attention: nn.Module, heads: int, said: Tensor) -> None:
    """Initialise the first half of the heads so that words attend to similar cells, and not to similar words.

    Args:
        attention: of a layer.
        heads: how many it has.
        said: the direction that all words share, `[width]`.
    """
    per_head = len(said) // heads
    for head in range(heads // 2):
        # The pair of dimensions with the lowest rotary frequency.
        row = head * per_head + per_head // 2 - 1
        attention.q_proj.weight[row] = 2 * said
        attention.k_proj.weight[row] = -2 * said


@torch.no_grad()
def start_projector(first: nn.Linear, second: nn.Linear, features: Tensor, target: Tensor) -> float:
    """Initialise a projector of two layers and a GELU to the best linear map, and return how well it fits.

    Args:
        first: its first layer.
        second: its second.
        features: float32 `[n, c]`.
        target: float32 `[n, width]`.

    Returns:
        The part of the target's variance that the linear map explains.
    """
    x, y = features - features.mean(dim=0), target - target.mean(dim=0)
    c, inner = x.shape[1], first.weight.shape[0]
    ridge = torch.cat([x, 0.05 * len(x) ** 0.5 * torch.eye(c)])
    linear = torch.linalg.lstsq(ridge, torch.cat([y, torch.zeros(c, y.shape[1])])).solution
    fitted = x @ linear
    scale = 0.8 / fitted.norm(dim=1).mean()
    turn, _ = torch.linalg.qr(torch.randn(max(inner, c), c))
    into = turn[:inner].T * 0.8 / features.std()
    first.weight.copy_(into.T)
    # Around 1.5 a GELU is nearly linear.
    first.bias.copy_(1.5 - into.T @ features.mean(dim=0))
    second.weight.copy_((torch.linalg.pinv(into) @ linear * scale).T + 0.02 * torch.randn_like(second.weight))
    second.bias.zero_()
    second.bias.copy_(-second(F.gelu(first(features))).mean(dim=0))
    return float(1 - (y - fitted).square().sum() / y.square().sum())


def teach(
    asked: Asked, features: Tensor, training: Scenes, held: Scenes, held_features: Tensor, arguments: argparse.Namespace
) -> list[dict[str, float]]:
    """Train on questions, and return the training curve.

    Args:
        asked: what is trained.
        features: the tower's, of the training scenes, `[scenes, TOKENS, c]`.
        training: those scenes.
        held: scenes to be judged by.
        held_features: the tower's, of them.
        arguments: of the command line.
    """
    moved = matrices([*asked.language.layers, asked.projector])
    loop = Training(
        arguments.out,
        {"asked": asked},
        moved,
        arguments.steps,
        arguments.seed,
        cool=0.5,
        every=arguments.every,
        warm=50,
    )
    easy = np.array([number for number, things in enumerate(training.things) if len(things) <= 7])
    questions = arguments.questions

    def loss(step: int) -> Tensor:
        # Scenes with few objects first, with all of their tokens.
        pool = easy if step < arguments.easy else np.arange(len(training))
        which = pool[batch(arguments.seed, step, arguments.batch, len(pool))]
        asked_ = [training.questions(n, f"{arguments.seed} {step} {n}", questions) for n in which]
        ids, labels, _ = packed(asked_, questions)
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            logits = asked(features[which].float(), ids)
        told = labels != IGNORED
        weight = torch.where(labels[told] == EOS, 0.1, 1.0)
        each = F.cross_entropy(logits[told].float(), labels[told], reduction="none")
        return (each * weight).sum() / weight.sum()

    loop.run(loss, lambda: examine(asked, held, held_features, questions))
    return loop.curve


@torch.no_grad()
def examine(asked: Asked, held: Scenes, features: Tensor, questions: int) -> dict[str, float]:
    """Return the fraction of right answers, for all questions and by type."""
    right, count = np.zeros(len(TYPES)), np.zeros(len(TYPES))
    for first in range(0, len(held), 32):
        which = range(first, min(first + 32, len(held)))
        ids, labels, types = packed([held.questions(n, f"held {n}", questions) for n in which], questions)
        with torch.autocast("cpu", torch.bfloat16):
            found = asked(features[first : first + 32].float(), ids).argmax(dim=-1)
        told = (labels != IGNORED) & (labels != EOS)
        kind = types.repeat_interleave(SLOT, dim=1)[told].numpy()
        np.add.at(right, kind, (found == labels)[told].numpy())
        np.add.at(count, kind, 1)
    by_type = {name: float(r / max(1, c)) for name, r, c in zip(TYPES, right, count, strict=True)}
    headline = [name in TYPES[:5] for name in TYPES]
    return {
        "all": float(right.sum() / count.sum()),
        "attributes_and_exist": float(right[headline].sum() / count[headline].sum()),
        **by_type,
    }


@torch.no_grad()
def encoded(see: Callable[[Tensor], Tensor], of: Scenes, file: Path) -> Tensor:
    """Return the frozen tower's features of all scenes, float16 `[scenes, TOKENS, c]`, from a file if it exists."""
    if not file.exists():
        parts = [see(of.images(np.arange(first, min(first + 128, len(of))))).half() for first in range(0, len(of), 128)]
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat(parts), file)
    found: Tensor = torch.load(file, weights_only=True)
    return found


def language_options(parser: argparse.ArgumentParser, steps: int) -> None:
    """Add the options of this stage."""
    options(parser, steps)
    parser.add_argument("--easy", type=int, default=1000, help="steps at first with scenes of at most seven objects")
    parser.add_argument("--batch", type=int, default=8, help="pictures in a step")
    parser.add_argument("--questions", type=int, default=20, help="of a picture in a step")
