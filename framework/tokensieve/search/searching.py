"""A search: recipes that are given are measured first, then rounds of those that the optimiser draws.

```
DIR/search.json        what is searched; another search in the same folder is refused
    optuna.journal     the state of the optimiser
    trials.jsonl       every trial with its recipe and its outcome
    calibration/       the cells of the trials, a folder as `compare` writes it
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokensieve.errors import RefusedError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.search.grammar import Genes, Grammar
from tokensieve.search.optimiser import POPULATION, Optimiser
from tokensieve.search.trial import Candidate, Trial
from tokensieve.study.statistics import front
from tokensieve.study.store import write_atomically

TRIALS = "trials.jsonl"
SETTINGS = "search.json"
MOST_REFUSED = 20
"""The search ends if so many rounds, one after the other, bring no recipe that can be measured."""


class Measuring(Protocol):
    """What measures candidates: `MeasuredByCells`, or any object with these methods."""

    def why_not(self, candidate: Candidate) -> str | None:
        """Return why a candidate is refused, or none."""
        raise NotImplementedError

    def measure(self, candidates: Mapping[str, Candidate]) -> Mapping[str, Trial]:
        """Return a measured or failed trial for every candidate, by its name."""
        raise NotImplementedError


@dataclass(frozen=True)
class Found:
    """The trials of a search.

    Attributes:
        given: the recipes that were given, measured or failed.
        drawn: the trials that were drawn, in their order.
    """

    given: tuple[Trial, ...]
    drawn: tuple[Trial, ...]

    def on_front(self) -> tuple[Trial, ...]:
        """Return the drawn trials that no other drawn one beats in accuracy and cost, the cheapest first.

        Of trials with the same accuracy and cost, the one with the shortest formula is returned.
        """
        measured = [(one, one.candidate, one.measured) for one in self.drawn if one.candidate and one.measured]
        chosen: dict[tuple[float, float], tuple[int, int, Trial]] = {}
        places = front([found.cost for *_, found in measured], [found.accuracy for *_, found in measured])
        for place in places:
            trial, candidate, found = measured[place]
            key = len(candidate.formula), place, trial
            chosen[found.cost, found.accuracy] = min(chosen.get((found.cost, found.accuracy), key), key, key=_first_two)
        return tuple(trial for _, _, trial in chosen.values())


def _first_two(key: tuple[int, int, Trial]) -> tuple[int, int]:
    return key[:2]


class Search:
    """A search in a folder; a search that was stopped goes on.

    Args:
        folder: the folder.
        grammar: what is drawn.
        given: recipes that are measured first, by name.
        measuring: what measures candidates.
        registry: where recipes of trials are read.
        seed: the seed of draws.
        settings: what else decides the outcome, as plain data; another search in the same folder is refused.
        population: the recipes of a generation.

    Raises:
        PluginError: if Optuna is not installed.
        RefusedError: if the folder holds another search.
    """

    def __init__(
        self,
        folder: Path,
        grammar: Grammar,
        given: Mapping[str, Candidate],
        measuring: Measuring,
        registry: Registry,
        seed: int,
        settings: Mapping[str, Any],
        population: int = POPULATION,
    ) -> None:
        self._folder = folder
        self._grammar = grammar
        self._given = dict(given)
        self._measuring = measuring
        own = {"grammar": grammar.hash, "given": {name: one.hash for name, one in given.items()}}
        _claim(folder, {**settings, **own, "seed": seed, "population": population})
        in_grammar = {name: genes for name, one in given.items() if (genes := grammar.genes_of(one)) is not None}
        self._in_grammar = tuple(in_grammar)
        self._optimiser = Optimiser(folder, grammar.genes, seed, list(in_grammar.values()), population)
        self._known = {trial.name: trial for trial in _read_trials(folder / TRIALS, registry)}
        self._by_hash = {
            one.candidate.hash: one.name for one in self._known.values() if one.candidate and one.state != "same"
        }

    def run(self, trials: int, progress: Callable[[int, str], None] = lambda done, what: None) -> Found:
        """Measure what is given, and draw until a number of trials is measured.

        Args:
            trials: how many drawn recipes are measured in the end. Refused ones and those that were there do not count.
            progress: is told how many are measured, and what goes on.
        """
        progress(0, f"{len(self._given)} recipes that are given")
        self._measure({name: one for name, one in self._given.items() if name not in self._known})
        idle = 0
        while (left := trials - self._measured_draws()) > 0 and idle < MOST_REFUSED:
            progress(trials - left, "the next recipes")
            before = self._measured_draws()
            self._round(left)
            idle = 0 if self._measured_draws() > before else idle + 1
        drawn = tuple(one for name, one in self._known.items() if name not in self._given)
        return Found(tuple(self._known[name] for name in self._given), drawn)

    def _round(self, most: int) -> None:
        """Measure at most a number of trials of a round, and tell their outcomes in their order."""
        # By the number of the trial: a trial with its outcome, or the name of one that is measured now.
        outcomes: dict[int, Trial | str] = {}
        new: dict[str, Candidate] = {}
        for draw in self._optimiser.ask():
            given = self._in_grammar[draw.number] if draw.number < len(self._in_grammar) else None
            name = given or f"trial {draw.number}"
            # It was given, or the search was stopped before its outcome was told.
            drawn = self._known[name] if name in self._known else self._drawn(name, draw.genes)
            if isinstance(drawn, Trial):
                outcomes[draw.number] = drawn
            elif len(new) == most:
                # This one and those after it wait for a search of more trials.
                break
            else:
                new[name], outcomes[draw.number] = drawn, name
            candidate = drawn.candidate if isinstance(drawn, Trial) else drawn
            if candidate is not None:
                self._by_hash.setdefault(candidate.hash, name)
        measured = self._measuring.measure(new)
        for number, outcome in outcomes.items():
            trial = measured[outcome] if isinstance(outcome, str) else outcome
            self._write([trial])
            self._optimiser.tell(number, trial.measured)

    def _drawn(self, name: str, genes: Genes) -> Candidate | Trial:
        """Return what is to be measured of a draw, or a trial with the reason why nothing is."""
        try:
            candidate = self._grammar.candidate(genes, name.replace(" ", "-"))
        except TokensieveError as error:
            return Trial(name, "refused", reason=str(error))
        if candidate.hash in self._by_hash:
            return Trial(name, "same", candidate, reason=self._by_hash[candidate.hash])
        why = self._measuring.why_not(candidate)
        return candidate if why is None else Trial(name, "refused", candidate, reason=why)

    def _measure(self, candidates: Mapping[str, Candidate]) -> None:
        measured = self._measuring.measure(candidates)
        self._write(measured[name] for name in candidates)

    def _write(self, trials: Iterable[Trial]) -> None:
        """Write trials that are not written yet."""
        new = [trial for trial in trials if trial.name not in self._known]
        with (self._folder / TRIALS).open("a", encoding="utf-8") as opened:
            opened.writelines(f"{trial.to_line()}\n" for trial in new)
        for trial in new:
            self._known[trial.name] = trial
            if trial.candidate is not None and trial.state != "same":
                self._by_hash.setdefault(trial.candidate.hash, trial.name)

    def _measured_draws(self) -> int:
        return sum(one.state in ("measured", "failed") for name, one in self._known.items() if name not in self._given)


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what is searched in a folder, or refuse if it is something else.

    Raises:
        RefusedError: if the folder holds another search.
    """
    file = folder / SETTINGS
    wanted = json.loads(json.dumps(settings))
    if not os.path.exists(file):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RefusedError(
                f"the folder {folder} cannot be made ({error.strerror or error}); name another with --out"
            ) from None
        write_atomically(file, json.dumps(wanted, indent=1).encode(), replace=True)
        return
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(f"{file} cannot be read: {error}; name another folder with --out") from None
    different = sorted(key for key in wanted if not isinstance(there, dict) or there.get(key) != wanted[key])
    if different:
        raise RefusedError(
            f"{folder} holds another search: it differs in {', '.join(different)}; name another folder with --out"
        )


def _read_trials(file: Path, registry: Registry) -> Iterator[Trial]:
    if not file.exists():
        return
    lines: Sequence[str] = file.read_text(encoding="utf-8").split("\n")
    # What follows the last end of a line was cut off when the search was killed; its trial is measured again.
    whole, torn = lines[:-1], lines[-1]
    for line in whole:
        yield Trial.from_line(line, registry)
    if torn:
        write_atomically(file, "".join(f"{line}\n" for line in whole).encode(), replace=True)
