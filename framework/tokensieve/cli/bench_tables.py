"""The tables of the command `bench`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from tokensieve.cli.console import cell

if TYPE_CHECKING:
    from tokensieve.measure import Estimate, Latency, Overhead, Row, Setting

_COLUMNS = ("TTFT\nms", "vision\nms", "select\nms", "prefill\nms", "token\nms", "over\nunpr.", "over\nfloor")


def latency_tables(latency: Latency) -> Iterator[Table]:
    """Return a table for each setting, with what counted FLOPs promise, and one of throughput."""
    yield _head(latency)
    for setting in dict.fromkeys(row.setting for row in latency.rows):
        yield _setting_table(setting, [row for row in latency.rows if row.setting == setting])
    yield _throughput_table(latency.rows)


def _head(latency: Latency) -> Table:
    head = Table.grid(padding=(0, 2))
    head.add_column(no_wrap=True)
    head.add_column(overflow="fold")
    head.add_row(cell("model"), cell(f"{latency.model} ({latency.parameters / 1e6:,.0f} M weights)"))
    head.add_row(cell("machine"), cell(str(latency.machine)))
    head.add_row(
        cell("times"),
        cell(
            f"medians of {latency.repeats} turns, for the whole batch; under a TTFT the interval of its median; "
            f"in brackets what counted FLOPs promise; answers of {latency.tokens} tokens; "
            "over unpruned and over the floor: ratios without vision, turn by turn"
        ),
    )
    return head


def _setting_table(setting: Setting, rows: Sequence[Row]) -> Table:
    title = (
        f"\nbatch {setting.batch}, {setting.visual} visual and {setting.text} text tokens, {setting.dtype}, "
        f"{setting.attention}"
    )
    # Without frames, so that a row fits into 80 columns.
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    table.add_column("", overflow="fold", min_width=9)
    for column in ("kept", *_COLUMNS):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(cell(row.name), str(row.kept), *_cells(row))
    promised: dict[tuple[int, float], list[str]] = {}
    for row in rows:
        if row.expected is not None:
            promised.setdefault((row.kept, row.expected), []).append(row.name)
    several = len(promised) > 1
    for (kept, ms), names in promised.items():
        of = f" of {', '.join(names)}" if several else ""
        table.add_row(cell(f"counted FLOPs{of}"), str(kept), f"({number(ms)})")
    return table


def _cells(row: Row) -> list[str]:
    first = f"{number(row.first.median)}\n{number(row.first.low)}-{number(row.first.high)}"
    parts = [number(part.median) for part in (row.vision, row.selection, row.prefill, row.step)]
    floor = "" if row.of_floor is None else _ratio(row.of_floor)
    return [first, *parts, _ratio(row.of_unpruned), floor]


def _ratio(estimate: Estimate) -> str:
    return f"{estimate.median:.2f}"


def _throughput_table(rows: Sequence[Row]) -> Table:
    """Return new tokens a second and the peak of memory, by batch size."""
    table = Table(title="\nThroughput", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.caption = (
        "tokens/s: new tokens of whole answers, prefill included; MiB: the peak of memory beside the weights"
    )
    table.caption_justify = "left"
    table.add_column("", overflow="fold")
    table.add_column("kept", justify="right", no_wrap=True)
    batches = sorted({row.setting.batch for row in rows})
    for batch in batches:
        table.add_column(f"batch {batch}\ntokens/s", justify="right", no_wrap=True)
        table.add_column("\nMiB", justify="right", no_wrap=True)
    of: dict[tuple[Setting, str, int], dict[int, Row]] = {}
    for row in rows:
        of.setdefault((replace(row.setting, batch=0), row.name, row.kept), {})[row.setting.batch] = row
    several = len({setting for setting, _, _ in of}) > 1
    for (setting, name, kept), own in of.items():
        where = f"\n{setting.visual}+{setting.text} tokens, {setting.dtype}, {setting.attention}" if several else ""
        found = [own.get(batch) for batch in batches]
        figures = [("", "") if one is None else (number(one.throughput.median), _mebibytes(one)) for one in found]
        table.add_row(cell(name + where), str(kept), *(text for pair in figures for text in pair))
    return table


def _mebibytes(row: Row) -> str:
    return number(row.peak_bytes / 2**20)


def number(value: float) -> str:
    """Return a number with three digits or more, without a fraction from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def break_even_table(latency: Latency) -> Table:
    """Return from how many visual tokens on each recipe is faster than the unpruned model."""
    table = Table(title="\nBreak-even", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("recipe", overflow="fold")
    for column in ("batch", "text", "dtype", "attention", "faster from", "lengths measured"):
        table.add_column(column, justify="right", no_wrap=column != "lengths measured")
    for one in latency.break_evens:
        where = one.visual if isinstance(one.visual, str) else f"{one.visual:,.0f} visual"
        setting = one.setting
        of = str(setting.batch), str(setting.text), setting.dtype, setting.attention
        table.add_row(cell(one.recipe), *of, where, str(one.lengths))
    return table


def overhead_table(title: str, plain: Overhead, found: Sequence[Overhead]) -> Table:
    """Return what runs in a prefill and in a decode step, unpruned, and what each recipe adds."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    columns = ("prefill\noperators", "waits", "MiB", "step\noperators", "waits", "MiB")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("waits in", overflow="fold")
    both = plain.prefill, plain.step
    own = [(one.operators, one.synchronisations, one.bytes_allocated) for one in both]
    table.add_row("unpruned", *(text for counts in own for text in _counts(*counts, sign="")), "")
    for one in found:
        added = one.over(plain)
        parts = [(part.operators, part.synchronisations, part.bytes_allocated) for part in added]
        waits = ", ".join(f"{name} {n:+d}" for name, n in added[0].waits.items())
        table.add_row(cell(one.name), *(text for counts in parts for text in _counts(*counts, sign="+")), cell(waits))
    table.caption = "one prefill and one decode step after a first call; a recipe's row is what it adds to the unpruned"
    table.caption_justify = "left"
    return table


def _counts(operators: int, waits: int, made: int, sign: str) -> tuple[str, str, str]:
    return f"{operators:{sign},d}", f"{waits:{sign}d}", f"{made / 2**20:{sign},.1f}"
