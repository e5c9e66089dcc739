"""A study nobody ran: seeded rows of known accuracies, in memory, with every control."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw

from tokensieve.study.rows import Cell, Failure, Row
from tokensieve.tasks import Answer, Sample, Task

SIDE = 12
TOKENS = SIDE * SIDE
LAYERS = 6
KEEPS = {"1/3": 48, "2/9": 32, "1/9": 16, "1/18": 8, "1/36": 4}
KINDS = ("colour", "shape", "digit", "exist", "count")
WORDS = ("red", "blue", "green", "circle", "square", "three", "seven", "yes", "no", "two")
UNPRUNED = {"colour": 0.97, "shape": 0.95, "digit": 0.94, "exist": 0.9, "count": 0.5}
"""The share of right answers of the unpruned model: `count` stays below 80 %."""
BLIND = 0.15

STRATEGY = {
    "gsp": {"use": "gsp"},
    "qcsp": {"use": "qcsp"},
    "fastv": {"use": "fastv"},
    "tome": {"use": "tome"},
}
FORMULAS = {
    "script": "gsp & qcsp",
    "gsp": "gsp",
    "qcsp": "qcsp",
    "fastv": "fastv",
    "tome": "tome",
    "vote": "gsp | tome",
}
SKILL = {"script": 0.9, "qcsp": 0.84, "gsp": 0.7, "tome": 0.66, "vote": 0.72, "fastv": 0.3}
CONTROL = {"random": 0.42, "uniform": 0.52, "pool": 0.5, "downsampled": 0.55}
BOUND = {"oracle": 0.99, "anti_oracle": 0.02}
MODELS = ("small-a", "small-b")


def truth(skill: float, kind: str, kept: int) -> float:
    """The share of right answers that a method of a skill has: falls with the logarithm of what is lost."""
    lost = math.log(TOKENS / kept) / math.log(TOKENS / 4)
    full = UNPRUNED[kind]
    return BLIND + (full - BLIND) * (1 - (1 - skill) * lost)


def draws(seed: object) -> random.Random:
    """Numbers that depend on a seed alone."""
    return random.Random(str(seed))  # noqa: S311


class Shapes(Task):
    """Pictures of coloured squares, made up."""

    name = "shapes"
    metric: str = "exact"
    pictures: int = 60
    asked: int = 5
    protocol: str = "plain"

    def samples(self):
        return [sample(number, question) for number in range(self.pictures) for question in range(self.asked)]

    def picture(self, sample):
        number = int(sample.image.removeprefix("p"))
        drawn = draws(number)
        image = Image.new("RGB", (96, 96), "#d8d2c4")
        draw = ImageDraw.Draw(image)
        for _ in range(7):
            x, y, r = drawn.randrange(8, 88), drawn.randrange(8, 88), drawn.randrange(6, 13)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=drawn.choice(["#c62828", "#1565c0", "#2e7d32", "#f9a825"]))
        return image

    def grade(self, sample, answer: Answer, unpruned):
        return {"exact": float(answer.text == sample.answers[0])}

    def needed(self, sample, rows, columns):
        return needed(sample.id)


def sample(number: int, question: int) -> Sample:
    kind = KINDS[question % len(KINDS)]
    name = f"p{number:02d}"
    right = draws(f"right {name} {question}").choice(WORDS)
    return Sample(f"{name}-{question}", f"What is the {kind} of the object?", name, (right,), kind)


def needed(name: str) -> tuple[int, ...]:
    drawn = draws(f"needed {name}")
    row, column = drawn.randrange(SIDE - 1), drawn.randrange(SIDE - 1)
    return tuple(sorted((row + i) * SIDE + column + j for i in (0, 1) for j in (0, 1)))


def order(method: str, skill: float, asked: Sample, seed: int | None) -> list[int]:
    """An order of all tokens, the needed ones earlier the better the method."""
    drawn = draws(f"order {method} {asked.image if method == 'gsp' else asked.id} {seed}")
    wanted = set(needed(asked.id))
    return sorted(range(TOKENS), key=lambda token: drawn.random() - (skill if token in wanted else 0))


@dataclass
class Made:
    """Results in memory, as the store gives them."""

    content: dict[str, tuple[Cell, list[Row]]] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)

    def add(self, cell: Cell, rows: list[Row]) -> None:
        self.content[cell.key] = (cell, rows)

    def keys(self):
        return list(self.content)

    def read(self, key: str):
        return self.content[key]

    def failures(self):
        return list(self.failed)

    def damaged(self):
        return {}

    def plan(self):
        skipped = {"model": "small-b", "role": "downsampled", "of": None, "keep": None, "reason": "one size of picture"}
        return {"keys": list(self.content), "skipped": [skipped]}


def cell(task: Task, model: str, method: str, role: str, keep: str | None, seed: int | None = None, of=None) -> Cell:
    recipe = None
    if keep is not None:
        base = of or method
        formula = FORMULAS.get(base, base)
        names = [name for name in STRATEGY if name in formula.split()]
        recipe = {
            "name": base,
            "strategies": {name: STRATEGY[name] for name in names},
            "stages": [
                {
                    "at": "decoder.2" if base == "fastv" else "decoder.0",
                    "select": f"~({formula})" if role == "inverted" else formula,
                    "keep": keep,
                }
            ],
        }
    key = hashlib.sha256(f"{task.hash()} {model} {method} {keep} {seed}".encode()).hexdigest()[:16]
    return Cell(
        key=key,
        model=model,
        model_hash=hashlib.sha256(model.encode()).hexdigest()[:12],
        adapter="llava",
        method=method,
        role=role,
        of=of,
        keep=keep,
        seed=seed,
        recipe=recipe,
        recipe_hash=None if recipe is None else hashlib.sha256(str(recipe).encode()).hexdigest()[:12],
        task="shapes",
        card=task.card(),
        card_hash=task.hash(),
        grid=(SIDE, SIDE),
        versions={"code": "0123abcd", "torch": "2.9.0", "transformers": "5.19.0", "python": "3.11"},
        notes=("relevance: text tower",) if "qcsp" in FORMULAS.get(method, "") else (),
    )


def row(done: Cell, asked: Sample, skill: float, kept: int | None, luck: float) -> Row:
    """One sample: it is answered rightly where its luck is below the truth."""
    if kept is None:
        chance = UNPRUNED[asked.kind] if done.role == "unpruned" else BLIND
        ids: tuple[tuple[int, ...], ...] = ()
        layers = (TOKENS if done.role == "unpruned" else 0,) * LAYERS
    else:
        chance = truth(skill, asked.kind, kept)
        ids = (tuple(sorted(order(done.method, skill, asked, done.seed)[:kept])),)
        late = done.recipe is not None and done.recipe["stages"][0]["at"] == "decoder.2"
        layers = (TOKENS, TOKENS, *(kept,) * 4) if late else (kept,) * LAYERS
    right = luck < chance
    words = draws(f"wrong {asked.id} {done.method} {done.keep}")
    answer = asked.answers[0] if right else words.choice([w for w in WORDS if w != asked.answers[0]])
    wanted = set(needed(asked.id))
    recall = 1.0 if done.role == "unpruned" else len(wanted & set(ids[-1])) / len(wanted) if ids else 0.0
    flops = sum(2_000_000 + 400_000 * tokens for tokens in layers)
    operands = {"script": ("gsp", "qcsp"), "vote": ("gsp", "tome")}.get(done.method)
    shares = ({operands[0]: 0.72, operands[1]: 0.81},) if operands else ({},) * len(ids)
    return Row(
        sample=asked.id,
        kind=asked.kind,
        image=asked.image,
        answer=answer,
        correct=float(right),
        grades={"exact": float(right)},
        text=9,
        visual=0 if done.role == "text_only" else TOKENS,
        per_layer=layers,
        kept=ids,
        shares=shares,
        needed=len(wanted),
        recall=recall,
        flops=flops,
        flops_unpruned=LAYERS * (2_000_000 + 400_000 * TOKENS),
        tower_flops=None,
        ms=1.5 + 0.01 * sum(layers) / LAYERS + 0.0002 * (int(done.key[:4], 16) % 100),
        selection_ms=0.2 if ids else 0.0,
        batch=32,
    )


def fill(made: Made, task: Task, done: Cell, skill: float, noise: float = 0.35) -> None:
    """Run a cell: samples of the same picture share a part of their luck, and so do methods."""
    kept = None if done.keep is None else KEEPS[done.keep]
    rows = []
    for asked in task.samples():
        # One lot for the sample in all cells, or one of its own, so that methods agree mostly, not always.
        own = draws(f"own {done.key} {asked.id}")
        shared = draws(f"shared {done.model} {asked.id}")
        luck = own.random() if own.random() < noise else shared.random()
        rows.append(row(done, asked, skill, kept, luck))
    made.add(done, rows)


def study(task: Task | None = None, models=MODELS, keeps=tuple(KEEPS), methods=tuple(SKILL)) -> Made:
    """A whole study, with one failure and one control that the processor does not allow."""
    task = task or Shapes()
    made = Made()
    for model in models:
        weaker = 0.0 if model == models[0] else 0.06
        fill(made, task, cell(task, model, "unpruned", "unpruned", None), 1)
        fill(made, task, cell(task, model, "text_only", "text_only", None), 0)
        for keep in keeps:
            for method in methods:
                fill(made, task, cell(task, model, method, "method", keep), SKILL[method] - weaker)
                # The inverse of `fastv` does better than it: an alarm.
                inverse = 0.5 if method == "fastv" else 0.05
                fill(made, task, cell(task, model, f"inverted {method}", "inverted", keep, of=method), inverse)
            for seed in (0, 1, 2):
                fill(made, task, cell(task, model, "random", "random", keep, seed), CONTROL["random"])
            for control in ("uniform", "pool"):
                fill(made, task, cell(task, model, control, control, keep), CONTROL[control])
            for bound, skill in BOUND.items():
                fill(made, task, cell(task, model, bound, bound, keep), skill)
        for keep in keeps:
            done = cell(task, model, "downsampled", "downsampled", keep)
            if model == models[0]:
                fill(made, task, done, CONTROL["downsampled"])
            else:
                made.failed.append(Failure(done, "n/a: the processor of small-b takes one size of picture only", ""))
    broken = cell(task, models[0], "divprune", "method", keeps[0])
    made.failed.append(
        Failure(replace(broken, recipe=None), "OutOfMemoryError: 2.1 GB asked, 1.0 GB free", "Traceback")
    )
    return made
