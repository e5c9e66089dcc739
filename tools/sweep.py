"""Random trials of what docs/guarantees.md promises, for as long as they are told: `make sweep MINUTES=10`.

Each sweep is a function of a seed, which raises where a promise is broken, and is tried on one seed after the other.
The generators are those of the tests and of `tokensieve.testing`. Counts and failures, each with its seed, are printed
and written to docs/assets/sweeps.json, from which the page's table is made. One seed is tried again by
`python tools/sweep.py --only cuts --seed 17`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "assets" / "sweeps.json"
MOST_FAILURES = 20
"""After so many failures a sweep is broken, and ends."""

# The tests are no installed package.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

Sweep = Callable[[int, Path], int]
"""Tries what a seed draws, in an empty folder, and returns how many trials that were; raises where one fails."""


def cuts(seed: int, folder: Path) -> int:
    """Random expressions over random batches keep exactly what any budget says, and no padding."""
    import hypothesis
    from hypothesis import HealthCheck, given, settings

    from tokensieve.algebra.budget import count, counts
    from tokensieve.composers.selection import select
    from tokensieve.testing import generators, laws

    tried = 0

    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

    @hypothesis.seed(seed)
    @settings(max_examples=25, database=None, deadline=None, suppress_health_check=slow)
    @given(generators.expressions(), generators.batches(), generators.keeps())
    def try_one(expression: Any, tokens: Any, keep: Any) -> None:
        nonlocal tried
        tried += 1
        kept = select(expression, tokens, keep).mask
        assert kept.sum(dim=1).tolist() == counts(keep, tokens.universe.counts).tolist(), f"{expression} at {keep}"
        laws.exact(expression, tokens, count(keep, tokens.universe.n))

    try_one()
    return tried


def formulas(seed: int, folder: Path) -> int:
    """A formula that a review accepts runs, exactly, as deep as it is read, and for rows alone as together."""
    import torch
    from tests.algebra import test_combinations as combinations

    import tokensieve as ts

    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    universe = ts.Universe.of_counts([17, 3, 10])
    features = torch.randint(-2, 4, (3, 17, combinations.COLUMNS), generator=generator).double()
    grid = torch.randint(0, 3, (3, 17, 5), generator=generator)
    tokens = ts.Tokens(universe, {ts.Evidence.FEATURES: features, ts.Evidence.GRID: grid}, keys=torch.arange(3))
    leaves = [make(column) for make in combinations.LEAVES.values() for column in range(combinations.COLUMNS)]
    known, tried = list(leaves), 0
    for _ in range(12):
        found = list(combinations.combined(draw.choice(known), draw.choice(known)))
        if not found:
            continue
        expression = draw.choice(found)
        keep = ts.Keep.of(draw.choice(combinations.KEEPS))
        # Deeper formulas are built of it, with a size where it is no order.
        known.append(expression if expression.is_nested else expression["1/2"])
        if any(one.level == "error" for one in ts.review(ts.Recipe.of(expression, keep))):
            continue
        tried += 1
        wrong = combinations.faults(expression, tokens, keep, draw.randrange(3))
        assert not wrong, "\n".join(wrong)
    return tried


@cache
def _family(name: str) -> tuple[Any, Any]:
    """Return a tiny model of a family, with what makes prompts for it."""
    import torch

    import tokensieve as ts
    from tokensieve.testing.prompts import Prompts, randomize_weights

    kind = ts.default_registry().adapters[name]
    model: Any = randomize_weights(kind.tiny()).eval()
    prompts = Prompts(model, kind(model))
    # What the library itself leaves in a model that was called.
    with torch.no_grad():
        for modality in prompts.decoder.modalities:
            inputs = prompts.batch([prompts.row([2, (modality.name, 1), 3])])
            model(**inputs)
            model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)
    return model, prompts


def recipes(seed: int, folder: Path) -> int:
    """A strategy at a site of a family meets its budget or is refused, and the model is as before, to the bit."""
    import torch

    import tokensieve as ts
    from tokensieve.algebra.budget import count
    from tokensieve.errors import MissingEvidenceError, RefusedError
    from tokensieve.testing.footprint import footprint

    draw = random.Random(seed)
    registry = ts.default_registry()
    able = (name for name, one in registry.adapters.items() if one.refusal_reason is None and one.decoder_type)
    model, prompts = _family(draw.choice(sorted(able)))
    kind = registry.strategies[draw.choice(sorted(set(registry.strategies) - {"replay"}))]
    strategy = kind(**draw.choice(kind.examples))
    keep = ts.Keep.of(draw.choice(["1", "3", "1/2", "33%", "100%"]))
    site = f"decoder.{draw.choice([0, 0, 1, 2])}"
    recipe = ts.Recipe.of(strategy, keep, at=site, positions=draw.choice(["original", "compact"]))
    modality = draw.choice([one.name for one in prompts.decoder.modalities])
    rows = [prompts.row([2, (modality, draw.randrange(9)), 3 + n], seed=draw.randrange(99)) for n in range(2)]
    inputs = prompts.batch(rows)
    before = footprint(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        try:
            with ts.prune(model, recipe) as run:
                if draw.random() < 0.5:
                    model(**inputs)
                else:
                    model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=0)
            for sample in run.latest.stages[0].samples:
                judged = sample.entered if sample.judged is None else sample.judged
                # Rows are one picture each; a merger of whole windows keeps no more than it is asked for.
                assert len(sample.kept) == count(keep, judged), f"{recipe.hash()}: {len(sample.kept)} of {judged}"
            wanted = _places(inputs, prompts.decoder.modalities, modality, run.kept(site))
            found = [torch.nonzero(row >= 0).flatten().tolist() for row in run.places.output]
            assert found == wanted, f"the places are {found}, not {wanted}"
        except (RefusedError, MissingEvidenceError):
            _count("refused")
        assert torch.equal(model(**inputs).logits, plain), "the logits after the block are not those before"
    assert footprint(model) == before, "the model has something that it had not before"
    return 1


def _places(inputs: Any, modalities: Any, name: str, kept: Any) -> list[list[int]]:
    """Return the places of prompts that stay, by a loop over their words."""
    [mark] = [one.placeholder_id for one in modalities if one.name == name]
    wanted = []
    for row, ids in enumerate(kept):
        own, seen = [], 0
        for place, word in enumerate(inputs["input_ids"][row].tolist()):
            if inputs["attention_mask"][row, place] and (word != mark or seen in ids.tolist()):
                own.append(place)
            seen += word == mark
        wanted.append(own)
    return wanted


def interrupts(seed: int, folder: Path) -> int:
    """An interrupt at any line of entering, running and leaving a prune leaves the model as it was."""
    import torch
    from tests.engine import test_interrupts as tests

    import tokensieve as ts
    from tokensieve.testing.footprint import footprint

    draw = random.Random(seed)
    name = draw.choice(sorted(tests.RECIPES))
    model, request, before, lines = _interrupted(name)
    registry = ts.default_registry()
    for number in draw.sample(range(1, lines + 1), 10):
        interrupt, pruned = tests.Interrupt(number), ts.prune(model, tests.RECIPES[name], registry=registry)
        try:
            with interrupt, pruned, torch.no_grad():
                model(**request)
        except KeyboardInterrupt:
            pass
        else:
            _count("not reached")
        assert footprint(model) == before, f"changed by an interrupt at {interrupt.where} ({name})"
        assert tests.free(), f"the lock is held after an interrupt at {interrupt.where} ({name})"
    return 10


@cache
def _interrupted(name: str) -> tuple[Any, Any, Any, int]:
    """Return a model, a request, the model's footprint, and how many lines pruning it by a recipe has."""
    import torch
    from tests.engine import models
    from tests.engine import test_interrupts as tests

    import tokensieve as ts
    from tokensieve.testing.footprint import footprint

    model = models.llava(layers=2)
    request = models.batch(models.prompts(model, models.ONE))
    tests.work(model, tests.RECIPES[name], request)
    before = footprint(model)
    with tests.Interrupt(0) as every, ts.prune(model, tests.RECIPES[name]), torch.no_grad():
        model(**request)
    return model, request, before, every.lines


def corruptions(seed: int, folder: Path) -> int:
    """A damaged file of a study is no finished cell, and is named; it never reads as something else."""
    from tests.study import made
    from tests.study import test_store as tests

    from tokensieve.errors import StudyError
    from tokensieve.study.rows import Failure
    from tokensieve.study.store import Store

    draw = random.Random(seed)
    store, cell = Store(folder / "run"), made.cell()
    store.begin("name: swept\n", {"keys": [cell.key], "skipped": []})
    store.write(cell, [made.row(i, answer="word " * draw.randrange(30)) for i in range(draw.randrange(1, 40))])
    store.write_failure(Failure(made.cell("1" * 32), "ValueError: no", "trace"))
    readers: dict[str, Callable[[], object]] = {
        f"cells/{cell.key}.parquet": lambda: Store(folder / "run").read(cell.key),
        "plan.json": lambda: Store(folder / "run").plan(),
    }
    tried = 0
    for name, read in readers.items():
        file, right = folder / "run" / name, read()
        whole = file.read_bytes()
        for content in tests.damaged_copies(whole, draw):
            if content == whole:
                continue
            tried += 1
            file.write_bytes(content)
            try:
                found = read()
            except StudyError as error:
                assert str(file) in str(error), f"the error does not name {file}: {error}"
                continue
            # A plan is JSON without a checksum: a changed digit of it is another plan.
            assert name == "plan.json" or found == right, f"{name} reads silently as something else"
        file.write_bytes(whole)
    return tried


STUDY = """\
models: [world-llava]
recipes: [divprune]
keep: [16]
tasks: [world]
limit: 12
"""


def kills(seed: int, folder: Path) -> int:
    """A study that is killed again and again loses no finished cell, and ends with what it would have had."""
    from tests.study.made import timeless

    from tokensieve.study.store import Store

    draw = random.Random(seed)
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    reference = _undisturbed()
    finished: set[str] = set()
    tried = 0
    for _ in range(3):
        process = _compare(folder)
        try:
            process.wait(timeout=draw.uniform(5, 25))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            tried += 1
        if (folder / "run" / "plan.json").exists():
            store = Store(folder / "run")
            now = store.finished()
            assert finished <= now, f"{len(finished - now)} finished cells are lost"
            assert not store.damaged(), f"damaged: {store.damaged()}"
            finished = now
    process = _compare(folder)
    assert process.wait(timeout=300) == 0, "the study does not finish after it was killed"
    assert {cell.key: timeless(rows) for cell, rows in _cells(folder)} == reference, "the rows are not those of one run"
    return tried


@cache
def _undisturbed() -> dict[str, Any]:
    """Return the rows of the study when nothing kills it."""
    from tests.study.made import timeless

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
        assert _compare(folder).wait(timeout=300) == 0, "the study does not finish"
        return {cell.key: timeless(rows) for cell, rows in _cells(folder)}


def _cells(folder: Path) -> list[tuple[Any, Any]]:
    from tokensieve.study.store import Store

    store = Store(folder / "run")
    return [store.read(key) for key in sorted(store.finished())]


def _compare(folder: Path) -> subprocess.Popen[bytes]:
    """Start the study, in a process group of its own."""
    command = [sys.executable, "-m", "tokensieve", "compare", "study.yaml", "--out", "run"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet, start_new_session=True)


SWEEPS: dict[str, tuple[Sweep, float]] = {
    "cuts": (cuts, 1.0),
    "formulas": (formulas, 1.0),
    "recipes": (recipes, 1.5),
    "interrupts": (interrupts, 1.0),
    "corruptions": (corruptions, 0.5),
    "kills": (kills, 1.0),
}
"""Each sweep, and its share of the time."""
_counted: dict[str, int] = {}


def _count(what: str) -> None:
    _counted[what] = _counted.get(what, 0) + 1


@dataclass
class Result:
    """What a sweep found.

    Attributes:
        tried: how many trials.
        seeds: how many seeds.
        failures: the seed and the error of each seed that failed.
        counted: how often something else happened, such as a refusal.
    """

    tried: int = 0
    seeds: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)


def sweep(one: Sweep, seeds: Sequence[int], seconds: float) -> Result:
    """Try a sweep on seeds, on the first in any case, until its time is over."""
    result, end = Result(), time.monotonic() + seconds
    _counted.clear()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            try:
                result.tried += one(seed, Path(folder))
            # Whatever it raises is what is looked for.
            except Exception as error:
                result.tried += 1
                result.failures.append({"seed": seed, "error": f"{type(error).__name__}: {error}"[:2000]})
        result.seeds += 1
        if time.monotonic() > end or len(result.failures) >= MOST_FAILURES:
            break
    result.counted = dict(_counted)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweeps, print and write what they found, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long, all sweeps together")
    parser.add_argument("--only", choices=SWEEPS, nargs="*", help="these sweeps alone")
    parser.add_argument("--seed", type=int, help="this seed alone; by default seeds go on from a random one")
    parser.add_argument("--out", type=Path, help=f"where counts are written, such as {RESULTS.relative_to(ROOT)}")
    given = parser.parse_args(arguments)
    names = given.only or list(SWEEPS)
    whole = sum(SWEEPS[name][1] for name in names)
    first = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    seeds = range(first, first + (10**9 if given.seed is None else 1))
    found = {}
    for name in names:
        one, share = SWEEPS[name]
        found[name] = result = sweep(one, seeds, 60 * given.minutes * share / whole)
        extra = "".join(f", {number} {what}" for what, number in sorted(result.counted.items()))
        print(f"{name:12} {result.tried:7} tried, {len(result.failures)} failed{extra}", flush=True)
        for failure in result.failures:
            print(f"    --only {name} --seed {failure['seed']}: {failure['error']}", flush=True)
    if given.out is not None:
        content = {
            "minutes": given.minutes,
            "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
            "sweeps": {name: asdict(result) | {"what": SWEEPS[name][0].__doc__} for name, result in found.items()},
        }
        given.out.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return int(any(result.failures for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
