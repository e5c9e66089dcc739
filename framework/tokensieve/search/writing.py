"""What a search writes: the best recipe with how it was found, and all results as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokensieve.search.confirmation import Comparison, Confirmation, Confirmed
from tokensieve.search.searching import Found
from tokensieve.study.statistics import Interval
from tokensieve.study.store import write_atomically

BEST = "best.yaml"
RESULT = "result.json"


def points(value: float) -> str:
    """Return a difference in points of accuracy, with its sign."""
    # Nothing that is rounded away has a sign.
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def interval_text(one: Interval) -> str:
    """Return a difference with its interval, in points of accuracy."""
    return f"{points(one.estimate)} [{points(one.low)}, {points(one.high)}]"


def verdict_text(one: Comparison) -> str:
    """Return what held-out pictures say of a found recipe, as a sentence."""
    name = one.found.name
    if one.difference is None:
        return f"no given recipe costs as little as {name}, so it is compared with none"
    against = f"the best of {one.opponents} given recipes that cost no more ({one.opponent})"
    numbers = f"{interval_text(one.difference)} points, Holm-corrected p = {one.p_holm:.3f}"
    match one.verdict:
        case "better":
            return f"{name} is better than {against}: {numbers}"
        case "worse":
            return f"{name} is worse than {against}: {numbers}"
        case _:
            return f"it is open whether {name} is better than {against}: {numbers}"


def write_best(file: Path, one: Comparison, made: Confirmation, found: Found, objective: str) -> None:
    """Write a found recipe, under a comment that says how it was found and what held-out pictures say of it."""
    candidate = one.found.candidate
    if candidate is None:
        return
    states = [trial.state for trial in found.drawn]
    head = [
        f"{one.found.name} of a search for accuracy against {objective}, by `tokensieve search`.",
        f"{states.count('measured')} recipes were drawn and measured, {states.count('refused')} were refused, "
        f"{states.count('same')} were drawn again; {len(made.given)} were given.",
        f"Accuracy: {one.found.calibration.accuracy:.1%} on the pictures of the search, "
        f"{one.found.held_out.accuracy:.1%} on {made.samples} held-out questions about {made.pictures} pictures "
        f"(95 % from {one.found.interval.low:.1%} to {one.found.interval.high:.1%}).",
        f"Cost: {one.found.held_out.cost:.1%} of the unpruned model's {objective}.",
        f"On held-out pictures, {verdict_text(one)}.",
    ]
    text = "".join(f"# {line}\n" for line in head) + candidate.recipe.dump()
    write_atomically(file, text.encode(), replace=True)


def write_result(file: Path, made: Confirmation, found: Found, objective: str) -> None:
    """Write all numbers as JSON."""
    content = {
        "format": "tokensieve.search/1",
        "objective": {"gain": "accuracy", "cost": objective},
        "trials": {
            state: sum(one.state == state for one in found.drawn)
            for state in sorted({one.state for one in found.drawn})
        },
        "held_out": {"samples": made.samples, "pictures": made.pictures},
        "unpruned": _numbers(made.unpruned),
        "found": [
            _numbers(one.found)
            | {
                "opponent": one.opponent,
                "opponents": one.opponents,
                "difference": None if one.difference is None else asdict(one.difference),
                "p": one.p,
                "p_holm": one.p_holm,
                "verdict": one.verdict,
            }
            for one in made.comparisons
        ],
        "given": [_numbers(one) for one in made.given],
    }
    write_atomically(file, (json.dumps(content, indent=1) + "\n").encode(), replace=True)


def _numbers(one: Confirmed) -> dict[str, Any]:
    recipe = (
        {} if one.candidate is None else {"recipe": one.candidate.recipe.to_dict(), "keep": str(one.candidate.budget)}
    )
    return {
        "name": one.name,
        **recipe,
        "calibration": asdict(one.calibration),
        "held_out": asdict(one.held_out),
        "interval": [one.interval.low, one.interval.high],
        "lost": one.lost,
    }
