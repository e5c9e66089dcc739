"""Cells and rows made by hand, and a process that writes them."""

import random
from dataclasses import asdict, fields, replace

from tokensieve.study.rows import TIMES, Cell, Row
from tokensieve.study.store import Store


def timeless(rows):
    """Rows without what two runs of a cell need not agree on."""
    return [{k: v for k, v in asdict(row).items() if k not in TIMES} for row in rows]


def row(number=0, **changes):
    """A row made by hand."""
    made = {
        "sample": f"s{number}",
        "kind": "k",
        "image": "p",
        "answer": "a",
        "correct": 1.0,
        "grades": {"exact": 1.0},
        "text": 5,
        "visual": 36,
        "per_layer": (36, 9),
        "kept": ((1, 2), ()),
        "shares": ({"a": 0.5}, {}),
        "needed": 2,
        "recall": 0.5,
        "flops": 10**13,
        "flops_unpruned": 10**14,
        "tower_flops": None,
        "ms": 1.5,
        "selection_ms": 0.0,
        "batch": 4,
    }
    assert set(made) == {one.name for one in fields(Row)}
    return Row(**(made | changes))


def cell(key="0" * 32, **changes):
    made = {
        "model": "m",
        "model_hash": "h",
        "adapter": "a",
        "method": "gsp",
        "role": "method",
        "of": None,
        "keep": "1/9",
        "seed": None,
        "recipe": {"stages": [{"at": "decoder.0", "keep": 9}]},
        "recipe_hash": "r",
        "task": "t",
        "card": {"task": "t", "größe": 1.5},
        "card_hash": "c",
        "grid": (6, 6),
        "versions": {"code": "x"},
        "notes": ("one", "two"),
        "shape": "s",
    }
    return Cell(key=key, **(made | changes))


def write_forever(path, seed):
    store, draw = Store(path), random.Random(seed)  # noqa: S311 - order, no secrets
    rows = [row(i, kept=(tuple(range(300)),)) for i in range(20)]
    while True:
        key = f"{draw.randrange(40):032x}"
        with store.claim(key) as ours:
            if ours and not store.has(key):
                store.write(cell(key), [replace(one, answer=key) for one in rows])
