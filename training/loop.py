"""The training loop: optimizers, a schedule, and checkpoints from which training can resume."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

console = Console(stderr=True)


@dataclass
class Training:
    """A training run that can be stopped at any time and resumes from its latest checkpoint.

    Random numbers depend on (seed, step) alone, so a run that was stopped ends like one that was not.

    Attributes:
        folder: the folder of checkpoints and the training curve.
        modules: the trained modules, by name.
        matrices: the parameters that Muon updates; AdamW updates the others.
        steps: the number of steps.
        rate: the learning rate of AdamW.
        muon: the learning rate of Muon.
        warm: the number of steps of linear warm-up.
        cool: the fraction of steps, at the end, in which the learning rate decays to 0.
        every: the number of steps between checkpoints and evaluations.
        decay: the weight decay.
        seed: the random seed.
    """

    folder: Path
    modules: dict[str, nn.Module]
    matrices: list[nn.Parameter]
    steps: int
    seed: int
    rate: float = 2e-3
    muon: float = 0.015
    warm: int = 60
    cool: float = 1.0
    every: int = 250
    decay: float = 0.02
    step: int = field(default=0, init=False)
    curve: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        own = {id(parameter) for parameter in self.matrices}
        self.parameters = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        rest = [p for p in self.parameters if id(p) not in own]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": self.decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.98)),
            torch.optim.Muon(self.matrices, lr=self.muon, weight_decay=self.decay, momentum=0.95),
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.folder / "checkpoint.pt"
        if self._file.exists():
            state = torch.load(self._file, weights_only=True)
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
            for optimizer, its in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(its)
            self.step, self.curve = state["step"], json.loads(state["curve"])
            console.print(f"going on from step {self.step}")

    def run(self, loss: Callable[[int], Tensor], evaluate: Callable[[], dict[str, float]]) -> None:
        """Train to the last step.

        Args:
            loss: returns the loss of a step, from its number.
            evaluate: returns the measures of the model at every checkpoint.
        """
        started, seen, total = time.perf_counter(), 0, 0.0
        while self.step < self.steps:
            share = min(1.0, (self.step + 1) / self.warm) * self._cooled((self.step + 1) / self.steps)
            for optimizer, rate in zip(self.optimizers, (self.rate, self.muon), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * share
            torch.manual_seed(hash((self.seed, self.step)))
            value = loss(self.step)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            seen, total = seen + 1, total + float(value.detach())
            if self.step % 50 == 0:
                pace = (time.perf_counter() - started) / seen
                left = pace * (self.steps - self.step) / 60
                console.print(
                    f"step {self.step}/{self.steps} loss {total / 50:.3f} {pace:.3f} s/step {left:.0f} min left"
                )
                total = 0.0
            if self.step % self.every == 0 or self.step == self.steps:
                self._keep(evaluate())

    def _cooled(self, done: float) -> float:
        if self.cool >= 1:
            return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return min(1.0, max(0.01, (1 - done) / self.cool))

    def _keep(self, figures: dict[str, float]) -> None:
        self.curve.append({"step": self.step, **figures})
        console.print("  " + " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "curve": json.dumps(self.curve),
        }
        partial = self._file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._file)
        (self.folder / "curve.json").write_text(json.dumps(self.curve, indent=1) + "\n", encoding="utf-8")


def matrices(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return the weight matrices of some modules, which Muon updates."""
    return [p for module in modules for p in module.parameters() if p.ndim == 2 and p.requires_grad]


def batch(seed: int, step: int, size: int, count: int) -> np.ndarray:
    """Return the numbers of a step's samples, from epochs that are each shuffled anew."""
    places = np.arange(step * size, (step + 1) * size)
    epochs = places // count
    orders = {int(epoch): np.random.default_rng([seed, int(epoch)]).permutation(count) for epoch in set(epochs)}
    return np.array([orders[int(e)][p % count] for e, p in zip(epochs, places, strict=True)])


def drawer(seed: int, step: int) -> random.Random:
    """Return the random generator of a step."""
    return random.Random(f"{seed} {step}")  # noqa: S311 - training data are no secret


def start(seed: int, threads: int) -> None:
    """Seed all random generators of the initialisation."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def save_half(model: Any, folder: Path) -> None:
    """Save a model; weights are stored in half precision, and the config makes them load in float32."""
    model.half().save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"dtype": "float32"}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def options(parser: argparse.ArgumentParser, steps: int) -> None:
    """Add the options that all training scripts have."""
    parser.add_argument("--out", type=Path, required=True, help="where checkpoints, the curve and the model go")
    parser.add_argument("--scenes", type=Path, default=Path("runs/scenes"), help="where drawn scenes are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--count", type=int, default=16384, help="training scenes")
    parser.add_argument("--held", type=int, default=512, help="validation scenes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 products")
