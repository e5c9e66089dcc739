"""The optimiser: NSGA-II over genes, by Optuna's ask and tell, with a journal from which it goes on.

Trials are asked in rounds. All of a round are drawn before any is measured, and each is drawn by a sampler of its own
seed, so what is drawn depends neither on workers nor on where a search was stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensieve.bridges import require
from tokensieve.errors import PluginError, RefusedError
from tokensieve.search.grammar import Choice
from tokensieve.search.trial import Measured

JOURNAL = "optuna.journal"
POPULATION = 16
"""The recipes of a generation, and of a round."""
_MUTATION = 0.08
"""The share of genes that are drawn anew. Most genes of a simple recipe have no effect, so one in 62 is too few."""
_NAME = "search"
_REMOVE = "remove it: the same command then draws the same trials again, and measures none of them twice"


@dataclass(frozen=True)
class Draw:
    """A trial that was drawn and has no outcome yet.

    Attributes:
        number: the number of the trial.
        genes: its genes.
    """

    number: int
    genes: dict[str, Choice]


class HeldJournal:
    """A journal of Optuna that can hold what is written, to write it all at once.

    Optuna writes every gene by itself, and waits for the disk each time. A round that is written at once is also either
    there or not, wherever a search is killed.

    Args:
        inner: the journal, which no other process writes.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._held: list[dict[str, Any]] | None = None
        self._written = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold what is written until the `with` block ends; if it ends by an error, nothing is written."""
        self._written = sum(1 for _ in self._inner.read_logs(0))
        held: list[dict[str, Any]] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
        if held:
            self._inner.append_logs(held)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, or hold them."""
        if self._held is None:
            self._inner.append_logs(logs)
        else:
            self._held += logs

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Yield entries from a number on, also those that are held."""
        if self._held is None or log_number_from < self._written:
            yield from self._inner.read_logs(log_number_from)
        if self._held is not None:
            yield from self._held[max(0, log_number_from - self._written) :]


def import_optuna() -> Any:
    """Return the module `optuna`, which prints errors only.

    Raises:
        PluginError: if it is not installed, or in a version that does not work.
    """
    require("search")
    try:
        import optuna
    except ImportError:
        raise PluginError("a search needs Optuna: pip install 'tokensieve[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Optimiser:
    """Draws genes, and learns from accuracy and cost which to draw.

    Args:
        folder: where the journal is.
        genes: the choices of every gene, or the range of numbers.
        seed: the seed of all draws.
        first: genes of recipes that are tried first.
        population: the recipes of a generation.

    Raises:
        PluginError: if Optuna is not installed.
        RefusedError: if the journal cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        genes: Mapping[str, Sequence[Choice]],
        seed: int,
        first: Sequence[Mapping[str, Choice]] = (),
        population: int = POPULATION,
    ) -> None:
        self._optuna = import_optuna()
        self._seed = seed
        self._population = population
        spaces = self._optuna.distributions
        self._spaces = {
            name: spaces.IntDistribution(choices.start, choices.stop - 1)
            if isinstance(choices, range)
            else spaces.CategoricalDistribution(list(choices))
            for name, choices in genes.items()
        }
        file = folder / JOURNAL
        self._journal = HeldJournal(self._optuna.storages.journal.JournalFileBackend(str(file)))
        # Looked at first: Optuna would write on behind half a line.
        written = file.read_bytes()
        try:
            if not written.endswith(b"\n") and written:
                raise ValueError("its last line is cut off")
            self._study = self._optuna.create_study(
                study_name=_NAME,
                storage=self._optuna.storages.JournalStorage(self._journal),
                directions=["maximize", "minimize"],
                sampler=self._sampler(0),
                load_if_exists=True,
            )
            if any(set(one.genes) != set(genes) for one in self._waiting()):
                raise ValueError("a trial has no genes")
        except (ValueError, KeyError) as error:
            raise RefusedError(f"{file} cannot be read ({error}); {_REMOVE}") from None
        if not self._trials():
            with self._journal.held():
                for one in first:
                    self._study.enqueue_trial(dict(one))

    def ask(self) -> list[Draw]:
        """Return the trials without an outcome; if there are none, those of a new round."""
        waiting = self._waiting()
        if waiting:
            return waiting
        drawn = sum(trial.state != self._optuna.trial.TrialState.WAITING for trial in self._trials())
        with self._journal.held():
            for number in range(drawn, drawn + self._population):
                self._study.sampler = self._sampler(number)
                self._study.ask(self._spaces)
        return self._waiting()

    def tell(self, number: int, measured: Measured | None) -> None:
        """Write the outcome of a trial; none if it was refused, failed, or is the same as an earlier one."""
        if measured is None:
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(number, [measured.accuracy, measured.cost])

    def _waiting(self) -> list[Draw]:
        running = [one for one in self._trials() if one.state == self._optuna.trial.TrialState.RUNNING]
        return [Draw(one.number, one.params) for one in running]

    def _trials(self) -> list[Any]:
        trials: list[Any] = self._study.get_trials(deepcopy=False)
        return trials

    def _sampler(self, number: int) -> Any:
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {number}".encode()).digest()[:4], "big")
        return self._optuna.samplers.NSGAIISampler(population_size=self._population, mutation_prob=_MUTATION, seed=seed)
