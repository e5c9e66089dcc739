"""Hooks of mkdocs: tables of the registry and of reports, and figures inside pages.

A page asks for a table by a comment such as `<!-- table: strategies -->`. Tables are made when the site is built, so
none is stale.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import tokensieve as ts
from tokensieve.cli.adapters import offered_evidence
from tokensieve.plugins.parameters import differences, parameters, sentence
from tokensieve.recipes.cards import kind_of_strategy, needs_of, recipe_sentence, sites_for
from tokensieve.recipes.formulas import format_budget
from tokensieve.study.report.figures.style import inlined
from tokensieve_strategies._provenance import Origin, provenance

DOCS = Path(__file__).parent
FINDINGS = DOCS / "assets" / "findings"
"""The folder with tables of reports, as `tokensieve report` wrote them."""
SHOWN = ("unpruned", "text_only", "method", "random", "uniform", "pool", "downsampled", "oracle", "anti_oracle")
LONG_FIRST = re.compile(r"(<tr>\s*)<td>(?=<code>[^<]{33,}</code></td>)")
"""The first cell of a row with a line of code that is too long to keep other columns on the screen."""
CODE = re.compile(r"(?<!</span>)<code>(?:[^<]|<wbr>)*-(?:[^<]|<wbr>)*</code>")
"""Code in a line, which a `pre` begins otherwise, with a hyphen, behind which a browser would break it."""
OPTION = re.compile(r"(?<=[ >])[\[(]*-[^ <>]*")
CURVES = re.compile(r'<p><img alt="([^"]*)" src="[^"]*assets/findings/([\w/-]+)\.svg"\s*/?></p>')
"""A figure of a report."""
FIGURE = re.compile(r'<p><img [^>]*src="[^"]*assets/(\w+\.svg)"[^>]*/?></p>')


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments of a page that ask for tables by these tables."""
    return re.sub(r"<!-- table: (\w+) -->", lambda mark: TABLES[mark[1]](), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Replace links to figures by the figures, put tables where they can be scrolled, and keep options whole."""
    html = CURVES.sub(lambda found: _curves(found[2], found[1]), html)
    html = FIGURE.sub(lambda found: f'<div class="figure">{_svg(found[1])}</div>', html)
    html = re.sub(r"<table>.*?</table>", lambda found: _scrolled(found[0]), html, flags=re.DOTALL)
    return CODE.sub(lambda code: OPTION.sub(r'<span class="word">\g<0></span>', code[0]), html)


def _scrolled(table: str) -> str:
    """Return a table in a frame of its own. Commands in it wrap between words, and paths behind slashes."""
    # A bar in a cell of Markdown is written so; Python-Markdown leaves the backslash in code.
    table = table.replace(r"\|", "|")
    table = LONG_FIRST.sub(r'\1<td class="usage">', table)
    table = re.sub(r"<code>[^<]*\w/\w[^<]*</code>", lambda code: re.sub(r"(?<=\w)/(?=\w)", "/<wbr>", code[0]), table)
    # An interval stays on one line.
    table = re.sub(r"\[([-+\d.]+), ([-+\d.]+)\]", r"[\1,&nbsp;\2]", table)
    # Focusable, so that the keyboard can scroll it, too.
    return f'<div class="scrolled" tabindex="0">{table}</div>'


def strategies() -> str:
    """Return a table of the registered strategies."""
    registry = ts.default_registry()
    return _table(
        ("name", "kind", "evidence", "settings", "what it does", "paper"),
        (
            (
                f"`{name}`",
                kind_of_strategy(strategy),
                _needs(strategy),
                _settings(strategy),
                sentence(strategy),
                _paper(strategy),
            )
            for name, strategy in sorted(registry.strategies.items())
        ),
    )


def recipes() -> str:
    """Return a table of the shipped recipes, with the strategy of every operand."""
    registry = ts.default_registry()
    rows = []
    for name in sorted(registry.recipes):
        recipe = ts.Recipe.load(name, registry)
        data = recipe.to_dict()
        rows.append(
            (
                f"`{name}`",
                recipe_sentence(registry.recipes[name].read_text(encoding="utf-8")),
                "<br>".join(f"`{stage['at']}`" for stage in data["stages"]),
                "<br>".join(f"`{stage['select']}`" for stage in data["stages"]),
                "<br>".join(
                    f"{format_budget(stage)}, {stage.get('rest', 'drop')} the rest" for stage in data["stages"]
                ),
                ", ".join(f"{operand} is `{one.name}`" for operand, one in recipe.strategies.items()),
                _paper(recipe),
            )
        )
    return _table(("name", "what it is", "at", "select", "keep", "operands", "paper"), rows)


def composers() -> str:
    """Return a table of the registered composers."""
    registry = ts.default_registry()
    rows = ((f"`{name}`", _written(composer), sentence(composer)) for name, composer in registry.composers.items())
    return _table(("name", "written", "result"), rows)


def adapters() -> str:
    """Return a table of the registered adapters."""
    registry = ts.default_registry()
    known = sorted(registry.adapters.items())
    return _table(
        ("adapter", "for"), ((f"`{name}`", sentence(one)) for name, one in known if one.refusal_reason is None)
    )


def refused() -> str:
    """Return a table of the families that cannot be pruned, with the reason."""
    known = sorted(ts.default_registry().adapters.items())
    rows = ((f"`{name}`", sentence(one), one.refusal_reason) for name, one in known if one.refusal_reason is not None)
    return _table(("family", "for", "why not"), rows)


def evidence() -> str:
    """Return a table of the evidence that adapters offer, at their first site and at their last."""
    rows = []
    for names, sites, here, deeper in offered_evidence(ts.default_registry()):
        said = ", ".join(f"`{kind}`" for kind in here)
        said += f"; deeper also {', '.join(f'`{kind}`' for kind in deeper)}" if deeper else ""
        rows.append((", ".join(f"`{name}`" for name in names), f"`{sites}`", said))
    return _table(("adapters", "sites", "evidence"), rows)


def families() -> str:
    """Return the results of the conformance kit: what all families can do, and a table of what only some can."""
    rows = {
        file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((DOCS / "families").glob("*.json"))
    }
    capabilities = list(dict.fromkeys(capability for row in rows.values() for capability in row))
    # A family without a modality says nothing of it.
    differ = [one for one in capabilities if any(row.get(one) != "yes" for row in rows.values())]
    alike = ", ".join(one for one in capabilities if one not in differ)
    reasons = list(dict.fromkeys(what for row in rows.values() for what in row.values() if what != "yes"))

    def cell(what: str | None) -> str:
        return "none" if what is None else "yes" if what == "yes" else f"no ({reasons.index(what) + 1})"

    table = _table(
        ("family", *differ), ((f"`{name}`", *(cell(row.get(one)) for one in differ)) for name, row in rows.items())
    )
    notes = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    return f"Every family: {alike}.\n\n{table}\n\n{notes}"


def catalogue() -> str:
    """Return a table of the registered strategies with their sources and costs."""
    known = provenance()
    rows = []
    for name, strategy in _catalogued():
        origin = known.strategies[name]
        published = [known.publications[one] for one in origin.publications]
        rows.append(
            (
                f"[`{name}`](#{name})",
                kind_of_strategy(strategy),
                _needs(strategy),
                "<br>".join(_published(one) for one in origin.publications) or origin.note or "a control",
                "<br>".join(one.licence for one in published) or "ours",
                *(strategy.complexity or ("not said", "not said")),
            )
        )
    return _table(("name", "kind", "evidence", "source", "licence of the original", "time", "memory"), rows)


def others() -> str:
    """Return a section for every registered composer and task with parameters."""
    registry = ts.default_registry()
    parts = []
    for kind, table in (("composer", registry.composers), ("task", registry.tasks)):
        for name, cls in table.items():
            if parameters(cls):
                parts += [f"### {name}", "", f"A {kind}. {sentence(cls)}", "", *_parameters(cls)]
    return "\n".join(parts)


def methods() -> str:
    """Return a section for every registered strategy: its source, how it differs from that, and published claims."""
    return "\n\n".join(_section(name, strategy) for name, strategy in _catalogued())


def published() -> str:
    """Return the tables of published results, each with its source and what it measures."""
    known = provenance()
    parts = []
    for number, table in enumerate(known.tables, 1):
        by = known.publications[table.by]
        rows = (
            (_published(one), *("not given" if value is None else f"{value}" for value in values))
            for one, values in table.rows.items()
        )
        parts.append(
            f"### Table {number}\n\n{table.title}. Printed by {by.title}, {table.source}: {table.measure}.\n\n"
            + _table(("method", *map(str, table.columns)), rows)
        )
    return "\n\n".join(parts)


def decisions() -> str:
    """Return a list of links to the decisions, by their headings."""
    return "\n".join(f"- [{_heading(file)}]({file.name})" for file in _decisions())


def measured() -> str:
    """Return the right answers of the demo's methods and controls, by model and budget."""
    return _each("accuracy", _accuracies)


def over_controls() -> str:
    """Return the differences of the demo's methods to the best control of the same cost, by model and budget."""
    return _each("accuracy", _over_control)


def operands() -> str:
    """Return the differences of the demo's compositions to their operands, by model and budget."""
    return _each("compositions", _differences)


def needed() -> str:
    """Return the part of the needed tokens that the demo's methods and controls kept, by model and budget."""
    return _each("accuracy", _needed)


def over_plain() -> str:
    """Return the differences of the demo's methods to uniform and random tokens, by model and budget."""
    return _each("plain", _differences)


def filtered() -> str:
    """Return what the demo's methods have right where a smaller image fails, by model and budget."""
    return _each("filtered", _where_smaller_fails)


def seeds() -> str:
    """Return the right answers of models that differ in the seed of their training, for each model that ships."""
    return "\n\n".join(_seeds("seeds", family) for family in ("llava", "qwen"))


def look_back() -> str:
    """Return the right answers of models of three seeds whose heads looked back at first."""
    return _seeds("look-back", "")


def _seeds(study: str, family: str) -> str:
    """Return the right answers of a study's models in one table, seed by seed in a cell, by method and budget."""
    found: dict[str, dict[str, list[float]]] = {}
    for file in sorted((FINDINGS / study).glob(f"accuracy-{family}*.csv")):
        for line in _lines(file):
            if line["role"] in SHOWN:
                budgets = found.setdefault(line["row"], {})
                budgets.setdefault(_budget(line["group"]), []).append(float(line["All"]))
    keeps = list(dict.fromkeys(keep for budgets in found.values() for keep in budgets))
    rows = [
        (name, *(" / ".join(f"{value:.1f}" for value in budgets.get(keep, ())) for keep in keeps))
        for name, budgets in found.items()
    ]
    return _table((f"right answers of `world-{family}`, %" if family else "right answers, %", *keeps), rows)


def photographs() -> str:
    """Return agreement on photographs with its interval, and KL divergence, by model and budget."""
    parts = []
    for file in sorted((FINDINGS / "photographs").glob("accuracy-*.csv")):
        measures = _lines(file.with_name(file.name.replace("accuracy", "measures")))
        kl = {(line["row"], line["group"]): float(line["kl"]) for line in measures}

        def said(line: dict[str, str], kl: Mapping[tuple[str, str], float] = kl) -> str:
            return f"{_interval(line, 'All', '')}; {kl[line['row'], line['group']]:.2f}"

        parts.append(_by_budget(file, "agreement in %; KL in nats", "All", said))
    return "\n\n".join(parts)


def wide() -> str:
    """Return the right answers of `world-qwen-wide` on every drawn task, by method and budget."""
    return _of_tasks("wide", "All", "", "_")


def wide_over() -> str:
    """Return the differences of methods to the best control of the same cost on every drawn task, by budget."""
    return _of_tasks("wide", "Δ best control", "+", "_")


def more() -> str:
    """Return the right answers of the demo's methods and controls of three times as many questions."""
    return _each("accuracy", _accuracies, "more")


def more_over() -> str:
    """Return the differences to the best control of the same cost of three times as many questions."""
    return _each("accuracy", _over_control, "more")


def more_operands() -> str:
    """Return the differences of compositions to their operands of three times as many questions."""
    return _each("compositions", _differences, "more")


def towers() -> str:
    """Return the right answers by text tower, by method and budget."""
    return _each("accuracy", _accuracies, "towers")


def newer() -> str:
    """Return the right answers of newer methods, by task and budget."""
    return _of_tasks("methods", "All", "", "_")


def newer_over() -> str:
    """Return the differences of newer methods to the best control of the same cost, by task and budget."""
    return _of_tasks("methods", "Δ best control", "+", "_")


def failures() -> str:
    """Return the right answers in the suites of what fails first, by method and budget."""
    return _of_tasks("failures", "All", "", " ")


def _of_tasks(study: str, column: str, sign: str, between: str) -> str:
    """Return a table for each task of a study of one model; in names of files, dashes are between their words."""
    what = "points over the best control" if sign else "right answers in %"
    files = sorted((FINDINGS / study).glob("accuracy-*.csv"))
    tasks = {file: file.stem.partition("-on-")[2].replace("-", between) for file in files}
    said = partial(_interval, column=column, sign=sign)
    return "\n\n".join(_by_budget(file, what, column, said, name=tasks[file]) for file in files)


def places() -> str:
    """Return what one recipe answers in every place where it can run, from what `tools/places.py` recorded."""
    found = json.loads((DOCS / "assets" / "places.json").read_text(encoding="utf-8"))
    rows = (
        (
            one["place"],
            one["with"],
            f"{one['answers']} of {one['of']}",
            "not told" if one["kept"] is None else f"{one['kept']} of {one['of']}",
        )
        for one in found
    )
    return _table(("place", "with", "answers of `ts.prune`", "kept ids of `ts.prune`"), rows)


def scale() -> str:
    """Return the time and memory of selecting by every strategy, as `benchmarks/scale.py --record` found them."""
    found = json.loads((DOCS / "assets" / "scale.json").read_text(encoding="utf-8"))
    strategies = ts.default_registry().strategies
    lengths = sorted({row["n"] for sweeps in found.values() for row in sweeps["length"]})
    rows = []
    for name, measured in found.items():
        at = {row["n"]: f"{1000 * row['seconds']:,.0f} / {row['bytes'] / 2**20:,.0f}" for row in measured["length"]}
        time, memory = strategies[name].complexity if name in strategies else ("that of its parts", "that of its parts")
        rows.append((f"`{name}`", *(at.get(length, "—") for length in lengths), time, memory))
    return _table(("strategy", *(f"{length:,}" for length in lengths), "time", "memory"), rows)


def sweeps() -> str:
    """Return a table of what the last `make sweep` tried, from the counts that it wrote."""
    found = json.loads((DOCS / "assets" / "sweeps.json").read_text(encoding="utf-8"))
    rows = (
        (
            f"`{name}`",
            result["what"],
            f"{result['tried']:,}",
            ", ".join(f"{number:,} {what}" for what, number in sorted(result["counted"].items())) or "none",
            f"{len(result['failures']):,}",
        )
        for name, result in found["sweeps"].items()
    )
    versions = " and ".join(f"{name} {version}" for name, version in found["versions"].items())
    table = _table(("sweep", "what is tried", "trials", "of these", "failed"), rows)
    return f"The last run took {found['minutes']:g} minutes, with {versions}.\n\n{table}"


TABLES: dict[str, Callable[[], str]] = {
    "strategies": strategies,
    "recipes": recipes,
    "composers": composers,
    "adapters": adapters,
    "refused": refused,
    "evidence": evidence,
    "families": families,
    "catalogue": catalogue,
    "methods": methods,
    "others": others,
    "published": published,
    "decisions": decisions,
    "measured": measured,
    "over_controls": over_controls,
    "operands": operands,
    "over_plain": over_plain,
    "needed": needed,
    "seeds": seeds,
    "look_back": look_back,
    "filtered": filtered,
    "photographs": photographs,
    "wide": wide,
    "wide_over": wide_over,
    "failures": failures,
    "more": more,
    "more_over": more_over,
    "more_operands": more_operands,
    "towers": towers,
    "newer": newer,
    "newer_over": newer_over,
    "sweeps": sweeps,
    "places": places,
    "scale": scale,
}


def _catalogued() -> list[tuple[str, type[ts.Strategy]]]:
    """Return the registered strategies with an entry in the provenance file; a test shows that all have one."""
    known = provenance().strategies
    return [(name, one) for name, one in sorted(ts.default_registry().strategies.items()) if name in known]


def _section(name: str, strategy: type[ts.Strategy]) -> str:
    known, registry = provenance(), ts.default_registry()
    origin: Origin = known.strategies[name]
    lines = [f"### {name}", "", sentence(strategy), "", differences(strategy), "", *_parameters(strategy)]
    needs = needs_of(strategy)
    lines.append(f"- Can stand at: {'by its settings' if needs is None else sites_for(needs)}.")
    for one in origin.publications:
        work = known.publications[one]
        recipe = f"the recipe [`{one}`](recipes.md#shipped-recipes)" if one in registry.recipes else "no recipe yet"
        places = ", ".join(f"[{n}](#table-{n})" for n, table in enumerate(known.tables, 1) if one in table.rows)
        lines.append(f"- **{_published(one)}**{f', {work.venue}' if work.venue else ''}. Code: {work.code};")
        lines.append(f"  licence: {work.licence}. To reproduce it: {recipe}. Tables: {places or 'none seen'}.")
        lines += [f"    - {claim.text} ({claim.source})" for claim in work.claims]
    if origin.note and origin.publications:
        lines.append(f"- Of it: {origin.note}.")
    used = [f"`{recipe}`" for recipe, parts in _used_by(registry).items() if name in parts]
    if used:
        lines.append(f"- Recipes with it: {', '.join(used)}.")
    for law, reason in strategy.known_failures.items():
        lines.append(f"- Does not keep `{law}`: {reason}.")
    return "\n".join(lines)


def _parameters(cls: type[BaseModel]) -> list[str]:
    """Return the lines of a table of parameters, or that there are none."""
    if not parameters(cls):
        return ["It has no parameters.", ""]
    rows = (
        (f"`{one.name}`", one.values, "required" if one.default is None else f"`{one.default}`", one.meaning)
        for one in parameters(cls)
    )
    return [_table(("parameter", "values", "default", "meaning"), rows), ""]


def _used_by(registry: ts.Registry) -> dict[str, set[str]]:
    """Return the names of the strategies by shipped recipe."""
    return {
        name: {one.name for one in ts.Recipe.load(name, registry).strategies.values()}
        for name in sorted(registry.recipes)
    }


def _published(name: str) -> str:
    work = provenance().publications[name]
    return f"[{work.title}]({work.paper})" if work.paper else work.title


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _each(kind: str, table: Callable[[Path], str], study: str = "demo") -> str:
    """Return one table for each model of a study, the demo by default, made from the report's tables of a kind."""
    return "\n\n".join(table(file) for file in sorted((FINDINGS / study).glob(f"{kind}-*.csv")))


def _lines(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def _budget(group: str) -> str:
    """Return the budget at the beginning of a table group's title, or `all` without one."""
    found = re.match(r"keep ([^:]+):", group)
    return found[1] if found else "all"


def _accuracies(file: Path) -> str:
    """Return a model's table of right answers, with intervals: one row for each method, one column for each budget."""
    return _by_budget(file, "right answers in %", "All", lambda line: _interval(line, "All", ""))


def _over_control(file: Path) -> str:
    """Return a model's table of differences to the best control, with intervals."""
    column = "Δ best control"
    return _by_budget(file, "points over the best control", column, lambda line: _interval(line, column, "+"))


def _where_smaller_fails(file: Path) -> str:
    """Return a model's table of right answers where a smaller image has none, with the questions of each budget."""
    counts = {_budget(line["group"]): line["group"].split("; ")[1] for line in _lines(file)}
    table = _by_budget(file, "right answers in %", "Right", lambda line: _interval(line, "Right", ""))
    said = "; ".join(f"{keep}: {count}" for keep, count in counts.items())
    return f"{table}\n\nQuestions that the unpruned model has right, and with a smaller image wrong. {said}."


def _needed(file: Path) -> str:
    """Return a model's table of the part of the needed tokens that were kept."""
    return _by_budget(file, "needed tokens that stayed", "Needed %", lambda line: f"{line['Needed %']} %")


def _by_budget(file: Path, what: str, column: str, said: Callable[[dict[str, str]], str], name: str = "") -> str:
    found: dict[str, dict[str, str]] = {}
    for line in _lines(file):
        if line["role"] in SHOWN and line[column]:
            found.setdefault(line["row"], {})[_budget(line["group"])] = said(line)
    keeps = list(dict.fromkeys(keep for budgets in found.values() for keep in budgets))
    rows = [(row, *(budgets.get(keep, "") for keep in keeps)) for row, budgets in found.items()]
    return _table((f"`{name or _model(file)}`, {what}", *keeps), rows)


def _differences(file: Path) -> str:
    lines = _lines(file)
    keeps = [name for name in lines[0] if f"{name} low" in lines[0]]
    rows = [(line["row"], *(_interval(line, keep, "+") for keep in keeps)) for line in lines]
    return _table((f"`{_model(file)}`, points of difference", *keeps), rows)


def _interval(line: Mapping[str, str], column: str, sign: str) -> str:
    value, low, high = (float(line[f"{column}{end}"]) for end in ("", " low", " high"))
    return f"{value:{sign}.1f} [{low:.1f}, {high:.1f}]"


def _model(file: Path) -> str:
    return file.stem.partition("-")[2].rpartition("-on-")[0]


def _needs(strategy: type[ts.Strategy]) -> str:
    # A strategy without an example of its settings cannot be made here, nor what it needs be asked.
    kinds = sorted(strategy(**strategy.examples[0]).needs) if strategy.examples else []
    return ", ".join(f"`{kind}`" for kind in kinds) or "nothing"


def _settings(strategy: type[ts.Strategy]) -> str:
    fields = strategy.model_fields.items()
    return ", ".join(f"`{name}`" + ("" if f.is_required() else f" = {f.default}") for name, f in fields) or "none"


def _paper(what: Any) -> str:
    return f"[{what.paper.rsplit('/', 1)[-1]}]({what.paper})" if what.paper else "none"


def _written(composer: type[ts.Composer]) -> str:
    if composer.symbol is not None:
        return f"`a {composer.symbol} b`"
    if composer.name in ("complement", "best"):
        return {"complement": "`~a`", "best": "`a[m]`"}[composer.name]
    operands = ["a"] if composer.arity[1] == 1 else ["a", "b"]
    return f"`{composer.name}({', '.join([*operands, *(f'{p}=...' for p in composer.parameters())])})`"


def _decisions() -> list[Path]:
    return sorted(file for file in (DOCS / "decisions").glob("*.md") if file.name != "index.md")


def _heading(file: Path) -> str:
    return file.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")


def _curves(path: str, said: str) -> str:
    """Return a figure of a report in the colours of the page, with its description; search does not read its ticks."""
    file = (FINDINGS / f"{path}.svg").read_text(encoding="utf-8").replace('style="fill: #ffffff"', 'style="fill: none"')
    drawn = inlined(file, path.replace("/", "-")).replace("<svg", f'<svg role="img" aria-label="{said}"', 1)
    return f'<div class="figure" data-search-exclude>{drawn.strip()}</div>'


def _svg(name: str) -> str:
    return (DOCS / "assets" / name).read_text(encoding="utf-8").strip()
