"""Tables: what stands in them, and how it is written."""

import csv
import io
import itertools
import re

import pytest

from tokensieve.errors import StudyError
from tokensieve.plugins.registry import default_registry
from tokensieve.study.analysis.benchmarks import Benchmarks
from tokensieve.study.analysis.collect import collect
from tokensieve.study.analysis.findings import make_findings
from tokensieve.study.analysis.significance import PairedDifference
from tokensieve.study.report.answers import answer_questions
from tokensieve.study.report.labels import method_labels
from tokensieve.study.report.tables.accuracy import accuracy_table
from tokensieve.study.report.tables.benchmarks import task_table
from tokensieve.study.report.tables.differences import control_table
from tokensieve.study.report.tables.formats import to_csv, to_markdown
from tokensieve.study.report.tables.latex import LatexStyle, MethodLabel, checked_columns, escape_latex, to_latex
from tokensieve.study.report.tables.ranks import rank_table
from tokensieve.study.report.tables.values import (
    Delta,
    PValue,
    RowGroup,
    Share,
    Table,
    TableRow,
    cell_text,
    slug,
    with_columns_first,
)
from tokensieve.study.statistics import Interval

from . import synthetic
from .synthetic import KEEPS, Shapes


@pytest.fixture(scope="module")
def all_findings():
    keeps = tuple(KEEPS)[1:3]
    made = synthetic.study(Shapes(pictures=16), models=("small-a",), keeps=keeps, methods=("script", "gsp", "fastv"))
    # The same model under another task, and under a third twice, with two cards.
    for name, protocol in (("other", "a"), ("both", "b"), ("both", "c")):
        again = synthetic.study(
            Shapes(pictures=16, protocol=protocol), models=("small-a",), keeps=keeps, methods=("gsp", "fastv")
        )
        for cell, rows in again.content.values():
            object.__setattr__(cell, "task", name)
            made.add(cell, rows)
    return [make_findings(comparison, default_registry()) for comparison in collect(made)]


@pytest.fixture(scope="module")
def every(all_findings):
    asked = [table for question in answer_questions(all_findings) for table in question.tables]
    return [*(accuracy_table(found) for found in all_findings), task_table(Benchmarks.of(all_findings)), *asked]


def lines(table):
    return [line for group in table.groups for line in group.rows]


def test_every_row_is_as_wide_as_the_table(every):
    assert len(every) > 12
    for table in every:
        assert lines(table)
        assert all(len(line.cells) == len(table.columns) for line in lines(table)), table.name


def test_names_of_files_are_unique(all_findings):
    [first, *_] = all_findings
    names = [table.name for question in answer_questions([first]) for table in question.tables]
    assert len(names) == len(set(names))


def test_the_main_table_has_the_numbers_of_the_comparison(all_findings):
    found = all_findings[0]
    comparison = found.comparison
    table = accuracy_table(found)
    assert table.columns[:5] == ("colour", "shape", "digit", "exist", "count †")
    assert "Needed %" in table.columns
    for group in table.groups[1:]:
        keep = group.heading.split(":")[0].removeprefix("keep ")
        for line in group.rows:
            arm = comparison.find_arm(line.label, keep)
            for column, cell in zip(table.columns, line.cells, strict=True):
                if column.removesuffix(" †") in synthetic.KINDS:
                    mask = comparison.of_kind(column.removesuffix(" †"))
                    assert cell.interval.estimate == pytest.approx(arm.correct[mask].mean())
                if column == "All":
                    assert cell.interval.estimate == pytest.approx(arm.correct[comparison.headline].mean())
                if column == "Needed %":
                    known = [one for one in arm.recall.tolist() if one == one]
                    assert (cell is None) == (not known)
                    if known:
                        assert float(cell) == pytest.approx(100 * sum(known) / len(known), abs=0.05)
                if column == "Tokens/layer":
                    assert float(cell) == pytest.approx(arm.tokens, abs=0.05)
    assert any(note.startswith("† count: the unpruned model has") for note in table.notes)


def test_only_the_best_of_a_ranking_is_bold(all_findings):
    table = accuracy_table(all_findings[0])
    for group in table.groups:
        for column in range(7):
            shares = [line.cells[column] for line in group.rows if line.role not in ("oracle", "anti_oracle")]
            best = [cell.interval.estimate for cell in shares if cell.best]
            if len(shares) == 1 or group.heading.startswith("All 144"):
                assert best == []
            else:
                assert set(best) == {max(cell.interval.estimate for cell in shares)}


def test_a_method_with_another_ledger_stands_alone(all_findings):
    groups = {group.heading: [line.label for line in group.rows] for group in accuracy_table(all_findings[0]).groups}
    assert groups["keep 1/9: 58.7 visual tokens per layer (↓ 59.3 %)"] == ["fastv"]
    assert "fastv" not in groups["keep 1/9: 16 visual tokens per layer (↓ 88.9 %)"]


def test_tasks_of_two_cards_are_in_no_table_with_others(all_findings):
    table = task_table(Benchmarks.of(all_findings))
    assert table.columns == ("shapes", "other", "Rel. %", "Tokens/layer", "GFLOPs")
    assert any("both was run under several cards" in note for note in table.notes)
    cells = {line.label: line.cells for line in lines(table) if line.label in ("script", "gsp")}
    # Not measured on the other task: a dash, and no average.
    assert cells["script"][1:] == (None,) * 4
    for line in lines(table):
        if line.label == "unpruned":
            assert line.cells[2].interval.estimate == pytest.approx(1)
    assert Benchmarks.of(all_findings[:1]) is None


def test_the_difference_to_the_best_control_is_in_points(all_findings):
    found = all_findings[0]
    table = control_table(found)
    by = {(one.arm.method, one.arm.keep): one for one in found.controls}
    assert table.columns == ("2/9", "p at 2/9", "1/9", "p at 1/9")
    for line in lines(table)[1:]:
        for column, cell in zip(table.columns, line.cells, strict=True):
            difference = by[line.label.removesuffix(" ‡"), column.removeprefix("p at ")].difference
            assert (
                cell == PValue(difference.mcnemar_holm) if column.startswith("p at ") else cell.difference is difference
            )
    assert [line.label for line in lines(table)] == ["best control", "script", "gsp", "fastv ‡"]
    assert any("mixed" in note for note in table.notes)


def test_p_values_stand_beside_differences_to_best_controls_and_operands(all_findings, every):
    for table in every:
        places = [place for place, column in enumerate(table.columns) if column == "p" or column.startswith("p at ")]
        assert bool(places) == table.name.startswith(("accuracy", "controls", "compositions", "attention")), table.name
        for place in places:
            for line in lines(table):
                beside, p = line.cells[place - 1], line.cells[place]
                assert p == (PValue(beside.difference.mcnemar_holm) if isinstance(beside, Delta) else None)
        if places:
            [note] = [note for note in table.notes if "McNemar" in note]
            assert "too small where a picture has several" in note
            assert ("control that came out best" in note) == table.name.startswith(("accuracy", "controls"))
    table = next(table for table in every if table.name.startswith("compositions"))
    [line] = lines(table)
    operands = {one.arm.keep: one for composed in all_findings[0].compositions for one in composed.differences}
    assert line.label == "script vs gsp"
    assert [cell.p for cell in line.cells[1::2]] == [
        operands[keep].difference.mcnemar_holm for keep in table.columns[::2]
    ]


def test_of_one_question_a_picture_mcnemar_is_not_too_small():
    keeps = tuple(KEEPS)[2:3]
    made = synthetic.study(Shapes(pictures=12, asked=1), models=("small-a",), keeps=keeps, methods=("gsp",))
    [comparison] = collect(made)
    notes = control_table(make_findings(comparison, default_registry())).notes
    assert any("McNemar" in note for note in notes)
    assert not any("too small" in note for note in notes)


@pytest.mark.parametrize(
    ("p", "said"), [(None, "n/a"), (0.0004, "<0.001"), (0.001, "0.001"), (0.0499, "0.050"), (1.0, "1.000")]
)
def test_a_p_value_is_printed_to_three_places(p, said):
    table = Table("t", "t", ("p",), (RowGroup("", (TableRow("a", (PValue(p),)),)),))
    assert cell_text(PValue(p)) == said
    assert f"| a | {said.replace('<', chr(92) + '<')} |" in to_markdown(table)
    assert f"a & {said.replace('<', '$<$')} " in to_latex(table)
    assert to_csv(table).splitlines()[1] == f",a,method,{'' if p is None else f'{p:.6g}'}"


def test_markdown_is_a_table(every):
    for table in every:
        rows = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert widths == {len(table.columns) + 2}, table.name


def tabulars(text):
    """The tabular environments of a LaTeX text, as rows of cells."""
    for body in re.findall(r"\\begin\{tabular\}.*?\\toprule(.*?)\\bottomrule", text, re.DOTALL):
        rows = [row for row in body.replace("\\midrule", "").split("\n") if row.strip()]
        yield [re.split(r"(?<!\\)&", row.strip().removesuffix("\\\\")) for row in rows if "multicolumn" not in row]


def test_latex_is_a_table(every):
    for table in every:
        text = to_latex(table)
        panels = list(tabulars(text))
        assert {len({len(row) for row in rows}) for rows in panels} == {1}, table.name
        # All columns are there, once for each row, whether side by side or below each other.
        assert sum(len(row) - 1 for rows in panels for row in rows[1:]) == len(lines(table)) * len(table.columns)
        assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
        assert not re.search(r"[^\x00-\x7f]", text), re.findall(r"[^\x00-\x7f]", text)
        assert text.count("\\label{") == 1


def wide(rows, columns, groups=1):
    cell = Share(Interval(0.5, 0.4, 0.6, 0.95, 10, 5))
    return Table(
        "wide",
        "wide",
        tuple(f"benchmark {number}" for number in range(columns)),
        tuple(
            RowGroup(f"group {group}", tuple(TableRow(f"row {group}.{row}", (cell,) * columns) for row in range(rows)))
            for group in range(groups)
        ),
    )


def test_a_narrow_table_takes_a_column_and_a_wide_one_the_page():
    assert "\\begin{table}[tp]" in to_latex(wide(3, 2))
    assert "\\begin{table*}[tp]" in to_latex(wide(3, 7))
    [rows] = tabulars(to_latex(wide(3, 7)))
    assert len(rows[0]) == 8


def test_a_table_wider_than_the_page_has_its_columns_below_each_other():
    panels = list(tabulars(to_latex(wide(3, 30))))
    assert len(panels) > 2
    assert sum(len(rows[0]) - 1 for rows in panels) == 30
    assert [[row[0].strip() for row in rows[1:]] for rows in panels] == [["row 0.0", "row 0.1", "row 0.2"]] * len(
        panels
    )


def test_p_values_stay_beside_their_differences(all_findings):
    for rows in tabulars(to_latex(control_table(all_findings[0]))):
        heads = [re.sub(r"\\shortstack\[r\]|[{}\\]", " ", head).split() for head in rows[0]]
        for before, head in itertools.pairwise(heads):
            assert head[:1] != ["p"] or head[-1] == before[-1]


def test_a_table_higher_than_the_page_goes_on_in_other_floats():
    text = to_latex(wide(40, 2, groups=3))
    floats = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.DOTALL)
    assert len(floats) == 3
    assert [len(re.findall(r"row \d", one)) for one in floats] == [40, 40, 40]
    assert all("group" in one and "\\caption{wide" in one for one in floats)
    long = to_latex(wide(100, 2))
    assert sorted(re.findall(r"row 0\.\d+", long)) == sorted(f"row 0.{row}" for row in range(100))


def test_an_author_sees_no_intervals_if_none_are_asked_for():
    text = to_latex(wide(1, 1), LatexStyle(intervals=False))
    assert "50.0" in text
    assert "pm" not in text
    assert "\\tokensieveinterval{$\\pm$10.0}" in to_latex(wide(1, 1))


def test_columns_are_chosen_in_order(all_findings):
    table = accuracy_table(all_findings[0])
    [rows] = tabulars(to_latex(table, LatexStyle(columns=("Rel. %", "shape"))))
    assert [head.strip() for head in rows[0]] == ["", "Rel. \\%", "shape"]
    with pytest.raises(StudyError, match=r"no main table has a column 'shap'; there are .*'shape'"):
        checked_columns(("shap",), [table])


def test_papers_name_methods_by_title_and_citation(all_findings):
    comparisons = [found.comparison for found in all_findings]
    for comparison in comparisons:
        for arm in comparison.arms:
            if arm.method == "gsp":
                arm.cells[0].cell.recipe.update(title="GSP & co", paper="https://arxiv.org/abs/2512.01949")
            elif arm.method == "fastv":
                arm.cells[0].cell.recipe.update(title="GSP & co", paper="https://example.org/x")
    labels, references = method_labels(comparisons)
    assert labels["gsp"] == MethodLabel("GSP & co (gsp)", "gsp")
    assert labels["script"] == MethodLabel("script", None)
    assert "@misc{gsp,\n  key = {GSP \\& co},\n  title = {{GSP \\& co}},\n  eprint = {2512.01949}," in references
    assert "year = {2025}" in references
    assert (
        "@misc{fastv,\n  key = {GSP \\& co},\n  title = {{GSP \\& co}},\n  url = {https://example.org/x},\n}"
        in references
    )
    text = to_latex(accuracy_table(all_findings[0]), LatexStyle(labels))
    assert "GSP \\& co (gsp)~\\cite{gsp}" in text


def test_the_unpruned_model_is_first(all_findings):
    for table in (accuracy_table(all_findings[0]), task_table(Benchmarks.of(all_findings))):
        assert table.groups[0].heading == "All 144 visual tokens per layer (100 %), and none"
        assert [line.label for line in table.groups[0].rows] == ["unpruned", "text_only"]


def test_the_relative_average_over_tasks_is_that_of_a_loop(all_findings):
    table = task_table(Benchmarks.of(all_findings))
    singles = [found.comparison for found in all_findings if found.comparison.task in ("shapes", "other")]
    seen = 0
    for group in table.groups:
        keep = group.heading.split(":")[0].removeprefix("keep ") if "keep" in group.heading else None
        for line in group.rows:
            arms = [comparison.find_arm(line.label, keep) for comparison in singles]
            if None in arms:
                continue
            ratios, tokens, flops = [], [], []
            for comparison, arm in zip(singles, arms, strict=True):
                counted = [at for at, kind in enumerate(comparison.kinds) if kind != "count"]
                whole = sum(comparison.unpruned.correct[at] for at in counted)
                ratios.append(sum(arm.correct[at] for at in counted) / whole)
                tokens.append(sum(arm.per_layer) / len(arm.per_layer))
                flops.append(arm.flops / 1e9)
            assert line.cells[2].interval.estimate == pytest.approx(sum(ratios) / 2)
            assert line.cells[2].interval.low < line.cells[2].interval.estimate < line.cells[2].interval.high
            assert float(line.cells[3]) == pytest.approx(sum(tokens) / 2, abs=0.051)
            assert float(line.cells[4]) == pytest.approx(sum(flops) / 2, rel=1e-3)
            seen += 1
    assert seen > 8


def test_csv_has_the_numbers(every):
    for table in every:
        head, *rows = csv.reader(io.StringIO(to_csv(table)))
        assert len(rows) == len(lines(table))
        for line, row in zip(lines(table), rows, strict=True):
            assert len(row) == len(head)
            for column, cell in zip(table.columns, line.cells, strict=True):
                place = head.index(column)
                if isinstance(cell, Share):
                    found = cell.interval.estimate, cell.interval.low, cell.interval.high
                elif isinstance(cell, Delta):
                    found = cell.difference.value, cell.difference.low, cell.difference.high
                elif isinstance(cell, PValue):
                    assert row[place] == ("" if cell.p is None else f"{cell.p:.6g}")
                    continue
                else:
                    assert row[place] == ("" if cell is None else cell_text(cell))
                    continue
                assert [float(value) for value in row[place : place + 3]] == pytest.approx(
                    [100 * value for value in found], abs=6e-4
                )


def test_nothing_is_minus_zero():
    difference = PairedDifference(-0.0001, -0.0004, 0.02, 1, 1, 0, 1, 0, "open")
    assert cell_text(Delta(difference)) == "+0.0 [0.0, 2.0]"


def test_columns_can_stand_first(all_findings):
    table = accuracy_table(all_findings[0])
    first = with_columns_first(table, ("All", "Rel. %"))
    assert first.columns[:2] == ("All", "Rel. %")
    assert sorted(first.columns) == sorted(table.columns)
    for line, other in zip(lines(table), lines(first), strict=True):
        assert dict(zip(table.columns, line.cells, strict=True)) == dict(zip(first.columns, other.cells, strict=True))


def test_ranks_of_other_ledgers_are_in_other_groups(all_findings):
    headings = {line.label: group.heading for group in rank_table(all_findings[0]).groups for line in group.rows}
    assert headings["script"] == headings["random"] == "32 / 16 visual tokens per layer"
    assert "fastv" not in headings


def test_signs_of_names_are_escaped():
    table = Table("t", "a_b", ("x|y", "50%"), (RowGroup("g & h", (TableRow("a | b", ("{1}", None)),)),), ("~#$",))
    assert "| a \\| b | {1} | \\u2013 |".replace("\\u2013", chr(0x2013)) in to_markdown(table)
    assert "a \\textbar{} b & \\{1\\} & -- \\\\" in to_latex(table)
    assert "\\emph{g \\& h}" in to_latex(table)
    assert escape_latex("a_b 5% $#^~") == r"a\_b 5\% \$\#\textasciicircum{}\textasciitilde{}"
    assert slug("Small A on (shapes)!") == "small-a-on-shapes"
