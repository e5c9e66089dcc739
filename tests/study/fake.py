"""A small task as a plugin module, and what goes wrong in it on request."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from tokensieve import Evidence, Scorer, hookimpl
from tokensieve.tasks import Sample, Task


class Colours(Task):
    """Asks random pictures silly questions, of two kinds."""

    name = "colours"
    metric: str = "exact"

    questions: int = 6
    pictures: int = 3
    unreadable: int | None = None
    slow: float = 0.0
    """Seconds that the first sample's picture takes."""
    side: int = 24
    leave: bool = False
    """Whether asking for the samples ends the process."""

    def samples(self):
        if self.leave:
            sys.exit(0)
        return [
            Sample(f"s{i}", f"What is {'it' * (i % 3)} {i}?", f"p{i % self.pictures}", ("a",), kind=f"k{i % 2}")
            for i in range(self.questions)
        ]

    def picture(self, sample):
        number = int(sample.image[1:])
        if number == self.unreadable:
            with Image.open(Path(__file__)) as opened:
                return opened.convert("RGB")
        if sample.id == "s0" and self.slow:
            time.sleep(self.slow)
        noise = np.random.default_rng(number).integers(0, 255, (self.side, self.side, 3), dtype="uint8")
        return Image.fromarray(noise)

    def grade(self, sample, answer, unpruned):
        return {"exact": float(answer.text in sample.answers), "length": float(len(answer.text))}

    def needed(self, sample, rows, columns):
        first = int(sample.id[1:])
        return {first % (rows * columns), (first + columns + 1) % (rows * columns)}


class Alike(Task):
    """Compares first tokens with the unpruned model's."""

    name = "alike"
    metric: str = "agrees"
    compares: ClassVar[bool] = True

    def samples(self):
        return Colours(questions=3).samples()

    def picture(self, sample):
        return Colours().picture(sample)

    def grade(self, sample, answer, unpruned):
        apart = (answer.logits.log_softmax(-1) - unpruned.logits.log_softmax(-1)).abs().max()
        return {"agrees": float(answer.text == unpruned.text), "apart": float(apart)}


class Long(Colours):
    """Wants three words."""

    name = "long"
    longest: int = 3


class NoTextError(Exception):
    """An error that has no text."""

    def __str__(self):
        raise SystemExit


class Faulty(Scorer):
    """Fails in the way it is told."""

    name = "faulty"
    how: str = "raise"
    marks: str = ""
    """A folder for the marks of processes that died `once`, or that `hang`: each is named by its process."""

    @property
    def needs(self):
        return frozenset({Evidence.GRID})

    def score(self, tokens):
        match self.how:
            case "raise":
                raise ValueError("a plugin's own mistake")
            case "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            case "exit":
                sys.exit(0)
            case "generator exit":
                raise GeneratorExit
            case "unreadable":
                raise NoTextError
            case "memory of the machine":
                raise MemoryError
            case "once":
                if not any(Path(self.marks).iterdir()):
                    Path(self.marks, str(os.getpid())).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "quiet exit":
                os._exit(0)
            case "crash":
                ctypes.string_at(0)
            case "interrupt":
                raise KeyboardInterrupt
            case "cancel":
                raise asyncio.CancelledError
            case "hang":
                if self.marks:
                    Path(self.marks, str(os.getpid())).touch()
                time.sleep(600)
            case "bomb":
                # The cell itself is fine; its process ends in the next one, which has done nothing.
                Colours.picture = lambda *_: os._exit(3)
            case "fork":
                if os.fork() == 0:
                    sys.exit(0)
            case "orphan":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(600)
            case "garbage":
                for descriptor in range(3, 60):
                    with contextlib.suppress(OSError):
                        os.write(descriptor, b"\0\0\0\3abc")
                time.sleep(600)
            case "deaf":
                os.closerange(3, 200)
        return torch.zeros(tokens.valid.shape)


@hookimpl
def register_tasks(registry):
    for task in (Colours, Alike, Long):
        registry.add_task(task)


@hookimpl
def register_strategies(registry):
    registry.add_strategy(Faulty)
