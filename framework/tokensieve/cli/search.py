"""The command `search`: recipes are drawn and measured on one part of the pictures, and confirmed on the other."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich import box
from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.files import require_name
from tokensieve.cli.options import PluginFiles, Settings, open_registry, output_path

if TYPE_CHECKING:
    from tokensieve.plugins.registry import Registry
    from tokensieve.search.bench import Bench, Cost, Workers
    from tokensieve.search.confirmation import Confirmation, Confirmed
    from tokensieve.search.grammar import Grammar
    from tokensieve.search.searching import Found
    from tokensieve.search.trial import Candidate
    from tokensieve.study.spec.budget import Budget
    from tokensieve.study.spec.study import Study
    from tokensieve.study.store import Store

REPORT = "report"
"""The folder of the report, in that of the search."""
MOST_GIVEN = 8
"""The given recipes of which the terminal has a row; all are in the JSON."""


def search(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's YAML: its recipes are tried first.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", parser=output_path, help="The folder of the search; it goes on there."),
    ],
    trials: Annotated[int, typer.Option("--trials", min=1, help="How many drawn recipes are measured.")] = 60,
    objective: Annotated[
        str, typer.Option("--objective", metavar="G:C", help="accuracy:tokens, accuracy:flops or accuracy:ms.")
    ] = "accuracy:tokens",
    budget: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Option("--budget", metavar="K", help="Budgets instead of the study's keep, such as 1/9,32."),
    ] = None,
    calibration: Annotated[
        str, typer.Option("--calibration", metavar="PART", help="The part of the pictures that is searched on.")
    ] = "1/2",
    no_shipped: Annotated[
        bool, typer.Option("--no-shipped", help="Try and compare with the study's recipes alone, not the shipped ones.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The seed of what is drawn.")] = 0,
    settings: Settings = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="For debugging: run cells in this process, which they can end or hang.")
    ] = False,
    plugin: PluginFiles = None,
) -> None:
    """Search for recipes that beat the shipped ones, and confirm what is found on pictures it did not see."""
    from tokensieve.plugins.files import plugin_file
    from tokensieve.search.bench import Bench, Workers, with_part
    from tokensieve.search.given import budgets_of_study
    from tokensieve.search.optimiser import import_optuna
    from tokensieve.study.planning.versions import versions
    from tokensieve.study.spec.study import Study
    from tokensieve.study.store import Store

    if in_process and workers > 1:
        raise typer.BadParameter(
            "it runs one cell after the other, so --workers does not go with it", param_hint="--in-process"
        )
    cost = _cost(objective)
    share = _share(calibration)
    budgets = _budgets(budget)
    require_name(out)
    import_optuna()
    registry = open_registry(plugin)
    loaded = Study.load(study, registry, settings or [])
    if plugin:
        loaded = loaded.model_copy(update={"plugins": (*loaded.plugins, *(str(plugin_file(file)) for file in plugin))})
    loaded = loaded.model_copy(update={"keep": budgets or budgets_of_study(loaded)})
    seen, unseen = (Fraction(0), share), (share, Fraction(1))
    with console.working("checking the study"):
        first = Bench(loaded, seen, Store(out / "calibration"), registry, cost)
        second = Bench(loaded, unseen, Store(out / "confirmed"), registry, cost, first.models)
    ran = Workers(workers, in_process)
    given = _given(loaded, registry, first, shipped=not no_shipped)
    grammar = _grammar(loaded, registry, first, given)
    kinds = [one for table in (registry.strategies, registry.adapters, registry.tasks) for one in table.values()]
    # Cells are known by these as well: with others, none of an earlier run would be found.
    claimed = {"study": first.study.dump(), "cost": cost, "calibration": str(share), "versions": versions(kinds)}
    found = _searched(out, grammar, given, first, ran, registry, seed, claimed, trials)
    made = _confirmed(with_part(loaded, unseen), found, given, first, second, registry, ran)
    _show(made, found, cost)
    _write(out, made, found, cost)
    _report(out, made, second.store, registry, cost)


def _cost(objective: str) -> Cost:
    from tokensieve.search.bench import COSTS

    known: dict[str, Cost] = {f"accuracy:{one}": one for one in COSTS}
    if objective not in known:
        raise typer.BadParameter(f"'{objective}' is none of {', '.join(known)}", param_hint="--objective")
    return known[objective]


def _share(text: str) -> Fraction:
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise typer.BadParameter(f"'{text}' is no part of the pictures, such as 1/2 or 0.6", param_hint="--calibration")
    return share


def _budgets(text: str | None) -> tuple[Budget, ...]:
    from tokensieve.errors import BudgetError
    from tokensieve.study.spec.budget import Budget

    try:
        return () if text is None else tuple(dict.fromkeys(Budget.of(part) for part in text.split(",")))
    except BudgetError as error:
        raise typer.BadParameter(str(error), param_hint="--budget") from None


def _given(study: Study, registry: Registry, bench: Bench, shipped: bool) -> dict[str, Candidate]:
    """Return the recipes that are given, by name, and print why others are not."""
    from tokensieve.search.given import given_candidates

    given, left_out = given_candidates(study, registry, bench, shipped)
    for name, reason in left_out.items():
        console.warn(f"n/a: {name}: {reason}")
    return given


def _grammar(study: Study, registry: Registry, bench: Bench, given: dict[str, Candidate]) -> Grammar:
    from tokensieve.search.grammar import Grammar, sites_of

    recipes = [one.recipe for one in given.values()]
    return Grammar(registry, sites_of([one.adapter for one in bench.models], recipes), study.keep, recipes)


def _searched(
    out: Path,
    grammar: Grammar,
    given: dict[str, Candidate],
    bench: Bench,
    workers: Workers,
    registry: Registry,
    seed: int,
    claimed: dict[str, Any],
    trials: int,
) -> Found:
    """Search, with progress on stderr."""
    from tokensieve.cli.progress import reported
    from tokensieve.cli.studies import INTERRUPTED
    from tokensieve.search.bench import CellMeasuring
    from tokensieve.search.searching import Search
    from tokensieve.study.running.attempt import cell_name

    done = 0
    with reported(over=600) as report:

        def progress(measured: int, what: str) -> None:
            nonlocal done
            done = measured
            report(done, trials, what)

        measuring = CellMeasuring(bench, workers, lambda result: report(done, trials, cell_name(result.cell)))
        try:
            return Search(out, grammar, given, measuring, registry, seed, claimed).run(trials, progress)
        except KeyboardInterrupt:
            console.warn(f"stopped; what is finished is in {out}. The same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None


def _confirmed(
    study: Study,
    found: Found,
    given: dict[str, Candidate],
    first: Bench,
    second: Bench,
    registry: Registry,
    workers: Workers,
) -> Confirmation:
    """Run the study of what was found on held-out pictures, and compare."""
    from tokensieve.cli.studies import Engine, run_study
    from tokensieve.errors import RefusedError
    from tokensieve.search.bench import CellMeasuring
    from tokensieve.search.confirmation import chosen, confirm, confirmation_study
    from tokensieve.search.given import matched_candidates

    front = chosen(found.on_front())
    if not front:
        raise RefusedError("no recipe that was drawn could be measured; trials.jsonl has the reasons")
    known = [one for one in found.given if one.state == "measured"]
    tokens = {one.name: first.scores(one.candidate).tokens for one in [*known, *front]}
    matched = matched_candidates(front, known, tokens, first)
    opponents = [*known, *CellMeasuring(first, workers).measure(matched).values()]
    engine = Engine("local", workers.count, in_process=workers.in_process)
    tried = {one.name: (given | matched)[one.name] for one in opponents if one.measured}
    run_study(confirmation_study(study, front, tried), second.store, registry, engine)
    return confirm(front, opponents, first, second)


def _show(made: Confirmation, found: Found, cost: Cost) -> None:
    """Print what was found, what was given, and how much of the calibration's accuracy was luck."""
    from tokensieve.search.writing import interval_text, verdict_text

    states = [one.state for one in found.drawn]
    said = ", ".join(f"{states.count(state)} {word}" for state, word in _STATES.items() if state in states)
    console.echo(f"{len(found.drawn)} recipes were drawn: {said}. {len(made.given)} were given.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("recipe", overflow="fold", min_width=12)
    for name in (f"{cost} %", "search", "held out", "lost"):
        table.add_column(name, justify="right")
    table.add_column("to the best given", overflow="fold")
    table.add_column("Holm p", justify="right")
    for one in made.comparisons:
        formula = "" if one.found.candidate is None else f"{one.found.name}: {one.found.candidate.formula}"
        difference = "none costs as little" if one.difference is None else interval_text(one.difference)
        table.add_row(
            cell(formula), *_numbers(one.found), difference, "" if one.difference is None else f"{one.p_holm:.3f}"
        )
    table.add_section()
    ranked = sorted(made.given, key=lambda one: -one.held_out.accuracy)
    for row in [made.unpruned, *ranked[:MOST_GIVEN]]:
        table.add_row(cell(row.name), *_numbers(row), "", "")
    console.show(table)
    console.echo(
        f"accuracy in %: on the pictures of the search, and on {made.samples} held-out questions about "
        f"{made.pictures} pictures. lost: what the first says too much. Of {len(ranked)} given recipes, the best "
        f"{min(MOST_GIVEN, len(ranked))} are shown."
    )
    ours, theirs = ([one.lost for one in group] for group in ([c.found for c in made.comparisons], made.given))
    if theirs:
        console.echo(
            f"what was found lost {100 * sum(ours) / len(ours):+.1f} points on new pictures, what was given "
            f"{100 * sum(theirs) / len(theirs):+.1f}: the difference is the luck that a search selects."
        )
    for one in made.comparisons:
        console.echo(f"{verdict_text(one)}.")


_STATES = {"measured": "measured", "same": "the same as an earlier one", "refused": "refused", "failed": "failed"}


def _numbers(one: Confirmed) -> tuple[str, ...]:
    values = (one.held_out.cost, one.calibration.accuracy, one.held_out.accuracy)
    return (*(f"{100 * value:.1f}" for value in values), f"{100 * one.lost:+.1f}")


def _write(out: Path, made: Confirmation, found: Found, cost: Cost) -> None:
    from tokensieve.search.writing import BEST, RESULT, write_best, write_result

    write_result(out / RESULT, made, found, cost)
    if made.best is not None:
        write_best(out / BEST, made.best, made, found, cost)
    console.echo(f"{out / BEST}, {out / RESULT}")


def _report(out: Path, made: Confirmation, store: Store, registry: Registry, cost: Cost) -> None:
    """Write the report of the held-out pictures, which starts with what was found."""
    from tokensieve.search.report import search_section
    from tokensieve.study.report import write_report

    with console.working("writing the report"):
        section = search_section(made, cost)
        written = write_report(
            store, out / REPORT, registry, title=f"Search {out.name}", studies=[store.study()], section=section
        )
    for problem in written.problems:
        console.warn(problem)
    console.echo(f"report: {written.page}")
