"""The content of the page's viewer: images, the tokens that every method kept at every budget, and the answers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tokensieve.errors import TaskError
from tokensieve.study.analysis.comparison import CONTROL_ROLES, ORACLE_ROLES, Arm, Comparison
from tokensieve.study.sampling import stratified_indices
from tokensieve.tasks.base import Sample, Task

LARGEST = 336
"""The longest side of an inlined picture, in pixels."""
BYTES = 3_000_000
"""The largest size of the viewer's content, so that a page stays below 5 MB."""
ROLES = ("method", *CONTROL_ROLES, *ORACLE_ROLES, "inverted")


@dataclass
class ViewerContent:
    """The content of the viewer.

    Attributes:
        views: one for each comparison, as plain data.
        pictures: images as data URIs.
        problems: what could not be shown, and why.
    """

    views: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the content as JSON for a script element."""
        return script_json({"views": self.views, "pictures": self.pictures})


def script_json(value: Mapping[str, Any]) -> str:
    """Return plain data as JSON for a script element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    # An answer may contain anything, also the end tag of a script.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def viewer_content(comparisons: Sequence[Comparison], tasks: Mapping[str, Task], samples: int = 24) -> ViewerContent:
    """Return the content of the viewer.

    Args:
        comparisons: the comparisons.
        tasks: the tasks by the hash of their cards; without its task, a comparison has neither images nor questions.
        samples: the number of samples of each comparison; there are fewer if the page would be too large.
    """
    made = ViewerContent()
    numbers: dict[tuple[str, str], int | None] = {}
    share = BYTES // max(1, len(comparisons))
    for comparison in comparisons:
        chosen = stratified_indices(comparison.kinds, samples)
        one = _View(comparison, tasks.get(comparison.card_hash), made, numbers)
        view = one.build(chosen)
        while len(chosen) > 1 and (size := len(json.dumps(view))) > share:
            chosen = stratified_indices(comparison.kinds, max(1, int(len(chosen) * share / size * 0.95)))
            view = one.build(chosen)
        made.views.append(view)
    made.problems = list(dict.fromkeys(made.problems))
    return made


def inlined(picture: Image.Image) -> str:
    """Return a picture as a data URI: small ones exactly, larger ones smaller and as JPEG."""
    out = io.BytesIO()
    small = picture.convert("RGB")
    if max(small.size) <= 128:
        small.save(out, "PNG", optimize=True)
        kind = "png"
    else:
        small.thumbnail((LARGEST, LARGEST))
        small.save(out, "JPEG", quality=82)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def bits(ids: Collection[int], size: int) -> str:
    """Return a set of ids below `size` in base64, a bit an id, the lowest bit of a byte first."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[list(ids)] = 1
    return base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode()


class _View:
    """Builds the view of one comparison."""

    def __init__(
        self, comparison: Comparison, task: Task | None, made: ViewerContent, numbers: dict[tuple[str, str], int | None]
    ) -> None:
        self._comparison = comparison
        self._task = task
        self._made = made
        self._numbers = numbers
        self._known: dict[str, Sample] = {}
        if task is not None:
            self._known = {sample.id: sample for sample in task.samples()}
        grids = {arm.cells[0].cell.grid for arm in comparison.arms if arm.role == "method"}
        # Without a grid that is the same for all methods, tokens are not drawn.
        self._grid = next(iter(grids)) if len(grids) == 1 else None
        size = max((int(cell.visual.max()) for arm in comparison.arms for cell in arm.cells), default=0)
        self._size = size if self._grid is None else max(size, self._grid[0] * self._grid[1])

    def build(self, chosen: Sequence[int]) -> dict[str, Any]:
        comparison = self._comparison
        methods: dict[str, dict[str, Any]] = {}
        for arm in sorted(comparison.arms, key=lambda arm: ROLES.index(arm.role) if arm.role in ROLES else 0):
            if arm.keep is None or arm.role not in ROLES:
                continue
            seed = arm.cells[0].cell.seed
            name = arm.method if seed is None or len(arm.cells) == 1 else f"{arm.method} (seed {seed})"
            entry = methods.setdefault(arm.method, {"name": name, "role": arm.role, "at": {}})
            entry["at"][arm.keep] = {
                "tokens": round(arm.tokens, 2),
                "rows": [self._row(arm, number) for number in chosen],
            }
        ends = {arm.role: arm for arm in comparison.arms if arm.role in ("unpruned", "text_only")}
        return {
            "title": comparison.title,
            "grid": self._grid,
            "size": self._size,
            "keeps": list(comparison.keeps),
            "methods": list(methods.values()),
            "samples": [self._sample(number) for number in chosen],
            "whole": self._end(ends.get("unpruned"), chosen),
            "none": self._end(ends.get("text_only"), chosen),
        }

    def _row(self, arm: Arm, number: int) -> list[Any]:
        cell = arm.cells[0]
        stages = cell.kept[number]
        ids = [token for token in stages[-1] if token < self._size] if stages else []
        return [bits(ids, self._size) if stages else None, cell.answers[number], round(float(cell.correct[number]), 3)]

    def _end(self, arm: Arm | None, chosen: Sequence[int]) -> list[list[Any]] | None:
        if arm is None:
            return None
        cell = arm.cells[0]
        return [[None, cell.answers[number], round(float(cell.correct[number]), 3)] for number in chosen]

    def _sample(self, number: int) -> dict[str, Any]:
        name = self._comparison.samples[number]
        sample = self._known.get(name)
        return {
            "id": name,
            "kind": self._comparison.kinds[number],
            "question": "" if sample is None else sample.question,
            "right": [] if sample is None else list(sample.answers),
            "picture": self._picture(number, sample),
            "needed": None if sample is None else self._needed(sample),
        }

    def _needed(self, sample: Sample) -> str | None:
        if self._task is None or self._grid is None:
            return None
        ids = self._task.needed(sample, *self._grid)
        return None if ids is None else bits([token for token in ids if token < self._size], self._size)

    def _picture(self, number: int, sample: Sample | None) -> int | None:
        if sample is None or self._task is None:
            return None
        key = (self._comparison.card_hash, self._comparison.images[number])
        if key not in self._numbers:
            try:
                self._made.pictures.append(inlined(self._task.picture(sample)))
                self._numbers[key] = len(self._made.pictures) - 1
            except TaskError as error:
                self._made.problems.append(f"A picture of {self._comparison.task} is not shown: {error}")
                self._numbers[key] = None
        return self._numbers[key]
