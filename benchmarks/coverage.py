"""How often a 95 % interval contains the true value in simulated studies: our intervals beside simpler ones.

`python -m benchmarks.coverage` prints a table; `--record` also writes it to docs/assets/coverage.json, from which
`python docs/figures.py` draws the page's figure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.random import Generator
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tokensieve.study.statistics import Design, Interval, against_best, difference_intervals, score_intervals
from tokensieve.study.statistics.design import Array, replicates
from tokensieve.study.statistics.intervals import bound

RECORD = Path(__file__).parents[1] / "docs" / "assets" / "coverage.json"
STUDIES = 2000
RESAMPLES = 1999

Found = list[tuple[str, float]]


def answers(random: Generator, count: int, pictures: int, questions: int, share: float = 0.3) -> Array:
    """Return `[count, n]` right and wrong answers, half of them right, of methods with the same accuracy.

    Half of what makes a question hard is its own, for all methods; a part `share` is its picture's, for each method.
    """
    samples = pictures * questions
    question = random.normal(size=samples) * np.sqrt(0.5)
    picture = random.normal(size=(count, pictures)).repeat(questions, axis=1) * np.sqrt(share)
    return (question + picture + random.normal(size=(count, samples)) * np.sqrt(0.5 - share) > 0).astype(float)


def labels(pictures: int, questions: int) -> list[int]:
    """Return the image of every question."""
    return np.arange(pictures).repeat(questions).tolist()


def held(intervals: tuple[Interval, ...], truth: float) -> float:
    """Return the fraction of intervals that contain the true value."""
    return float(np.mean([one.low <= truth <= one.high for one in intervals]))


def plain(values: Array, design: Design, truth: float) -> float:
    """Return how often a plain percentile bootstrap interval contains the true value."""
    low, high = np.quantile(replicates(values, design, None), [0.025, 0.975], axis=0)
    return float(np.mean((low <= truth) & (truth <= high)))


def of_pictures(pictures: int) -> Found:
    """Compare two equal methods on images with five questions each."""
    random, clusters = np.random.default_rng(pictures), labels(pictures, 5)
    pairs = [answers(random, 2, pictures, 5) for _ in range(STUDIES)]
    one, other = (np.array([pair[place] for pair in pairs]) for place in (0, 1))
    design, alone = Design(clusters, resamples=RESAMPLES), Design(resamples=RESAMPLES)
    return [
        ("questions drawn, as if independent", held(difference_intervals(one, other, alone), 0)),
        ("pictures drawn, plain percentiles", plain(one - other, design, 0)),
        ("pictures drawn, as here", held(difference_intervals(one, other, design), 0)),
    ]


def of_the_nearly_perfect() -> Found:
    """Estimate an accuracy of 98 % on fifty questions."""
    values = (np.random.default_rng(2).random((STUDIES, 50)) < 0.98).astype(float)
    design = Design(resamples=RESAMPLES)
    return [
        ("plain percentiles", plain(values, design, 0.98)),
        ("as here", held(score_intervals(values, design), 0.98)),
    ]


def of_the_best_control() -> Found:
    """Compare a method with the best of five controls, all of them equal."""
    random, design = np.random.default_rng(3), Design(labels(100, 2), resamples=RESAMPLES)
    inside = []
    for _ in track(range(STUDIES), "best control"):
        method, *controls = answers(random, 6, 100, 2, 0.1)
        best = max(controls, key=np.mean)
        drawn = replicates(np.array([method, *controls]), design, None)
        least = (drawn[:, :1] - drawn[:, 1:]).min(axis=1, keepdims=True)
        inside.append(
            (
                held(difference_intervals([method], best, design), 0),
                bound(least, 0.025, 100)[0] <= 0 <= -bound(-least, 0.025, 100)[0],
                held((against_best([method], controls, design)[0].difference,), 0),
            )
        )
    names = "to the one that came out best", "to the largest of each resample", "as here"
    return list(zip(names, np.mean(inside, axis=0).tolist(), strict=True))


def of_many() -> Found:
    """Compare eight methods with a base, all of them equal: do all intervals contain the true value?"""
    random, design = np.random.default_rng(4), Design(labels(100, 2), resamples=RESAMPLES)
    inside = []
    for _ in track(range(STUDIES), "many methods"):
        base, *methods = answers(random, 9, 100, 2, 0.1)
        inside.append(
            [
                held(difference_intervals(methods, base, design, simultaneous=together), 0) == 1
                for together in (False, True)
            ]
        )
    return list(zip(("each by itself", "together, as here"), np.mean(inside, axis=0).tolist(), strict=True))


def all_cases() -> Iterator[tuple[str, Found]]:
    """Return every case, with the coverage of each kind of interval."""
    yield "Two methods, 60 pictures with 5 questions each", of_pictures(60)
    yield "The same, 12 pictures", of_pictures(12)
    yield "An accuracy of 98 %, 50 questions", of_the_nearly_perfect()
    yield "A method and the best of 5 equal controls", of_the_best_control()
    yield "8 methods and a base, all intervals at once", of_many()


def main() -> None:
    """Print the table, and record it if asked to."""
    found = list(all_cases())
    table = Table("case", "interval", "holds the truth")
    for case, rows in found:
        for name, part in rows:
            table.add_row(case, name, f"{part:.1%}")
    Console().print(table)
    if "--record" in sys.argv:
        rounded = [[case, [[name, round(part, 3)] for name, part in rows]] for case, rows in found]
        RECORD.write_text(json.dumps(rounded) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
