"""The report as files: figures, the viewer's content, and the page around them."""

import base64
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tokensieve.errors import StudyError, TaskError
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.study.analysis.collect import collect
from tokensieve.study.report import tasks, viewer, write_report
from tokensieve.study.report.figures import style
from tokensieve.study.report.figures.curves import legend
from tokensieve.study.report.figures.kept import keep_frequency, middle_block
from tokensieve.study.report.figures.style import new_figure, plot_settings

from . import synthetic
from .synthetic import KEEPS, Made, Shapes

TASK = Shapes(pictures=12)
EVIL = "</script><img src=x onerror=alert(1)>"


class Broken(Shapes):
    """Its second picture cannot be read."""

    def picture(self, sample):
        if sample.image == "p01":
            raise TaskError("p01.png is no picture (pictures.jsonl:2)")
        return super().picture(sample)


@pytest.fixture(scope="module")
def made():
    made = synthetic.study(
        TASK, models=("small-a",), keeps=tuple(KEEPS)[1:4], methods=("script", "gsp", "qcsp", "fastv")
    )
    cell = synthetic.cell(TASK, "small-a", "gsp", "method", "1/9")
    rows = made.content[cell.key][1]
    made.add(cell, [replace(rows[0], answer=EVIL), *rows[1:]])
    return made


@pytest.fixture(scope="module")
def comparison(made):
    [comparison] = collect(made)
    return comparison


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "deep" / "er"
    steps = []
    registry = default_registry()
    found = write_report(
        made,
        folder,
        registry,
        title="A <b>study</b>",
        studies=["name: x"],
        tasks={TASK.hash(): TASK},
        progress=steps.append,
    )
    assert steps == ["reading cells", "comparing", "drawing", "writing"]
    return found


@pytest.fixture(scope="module")
def page(written):
    return written.page.read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- files


def test_everything_is_written(written):
    assert written.problems == ()
    folder = written.page.parent
    assert all(file.is_file() and file.stat().st_size for file in written.files)
    figures_ = {file.stem for file in (folder / "figures").iterdir()}
    assert {name.split("-")[0] for name in figures_} == {
        *("tokens", "flops", "time", "kinds", "recall", "overlap", "shares", "maps", "ranks", "methods")
    }
    for name in figures_:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        ET.parse(folder / "figures" / f"{name}.svg")  # noqa: S314 - our own file
    for file in (folder / "tables").iterdir():
        assert {file.with_suffix(end).is_file() for end in (".md", ".tex", ".csv")} == {True}
    text = (folder / "report.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (folder / link).is_file()
    assert "### Does a composition beat each of its operands?" in text


def test_the_page_asks_nothing_of_the_network(page):
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:link|script|img|iframe)\b[^>]*(?:src|href)=\"(?!data:|#)[^\"]*\"", page)
    assert not re.search(r"url\((?!#)|@import", page)
    assert len(page) < 5_000_000


def test_what_others_wrote_is_text(page):
    assert "A &lt;b&gt;study&lt;/b&gt;" in page
    assert EVIL not in page
    data = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page, re.DOTALL).group(1)
    answers = [
        row[1]
        for view in json.loads(data)["views"]
        for m in view["methods"]
        for at in m["at"].values()
        for row in at["rows"]
    ]
    assert EVIL in answers


def test_what_is_missing_is_said_with_its_reason(page):
    assert "OutOfMemoryError: 2.1 GB asked, 1.0 GB free" in page
    assert "n/a: one size of picture" in page
    assert TASK.hash() in page
    assert "relevance: text tower" in page


def test_ids_are_unique(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_no_cell_no_report(tmp_path):
    with pytest.raises(StudyError, match="'Study' has no finished cell"):
        write_report(Made(), tmp_path, default_registry())


def test_a_place_that_cannot_be_written_is_named(made, tmp_path):
    (tmp_path / "file").write_text("")
    small = Made({key: pair for key, pair in made.content.items() if pair[0].method == "unpruned"})
    with pytest.raises(StudyError, match=r"cannot be written into .*file"):
        write_report(small, tmp_path / "file", default_registry(), tasks={})


# --------------------------------------------------------------------------------------------------------- figures


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", ["#ffffff", "#14171c"])
def test_lines_stand_out_from_both_papers(paper):
    for colour in style.PALETTE:
        light, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, colour


def test_methods_never_look_alike():
    found = style.line_styles({f"m{number}": "method" for number in range(40)} | {role: role for role in style.DASHES})
    assert len({(styles.colour, styles.marker, str(styles.dash)) for styles in found.values()}) == 44
    assert found["random"].colour == style.INK


def test_a_figure_in_the_page_takes_the_colour_of_its_text(page):
    drawn = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(drawn) == 10
    for svg in drawn:
        assert style.INK not in svg
        assert "currentColor" in svg
        assert 'role="img" aria-label="small-a on shapes' in svg
        root = ET.fromstring(svg)  # noqa: S314 - our own
        assert "width" not in root.attrib
        targets = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
        assert targets <= set(re.findall(r'id="([^"]+)"', svg))


def test_places_are_counted(comparison):
    for name, keep in (("gsp", "1/9"), ("random", "1/9")):
        arm = comparison.find_arm(name, keep)
        counts = [0] * synthetic.TOKENS
        for cell in arm.cells:
            for row in cell.kept:
                for token in row[-1]:
                    counts[token] += 1
        expected = np.array(counts).reshape(12, 12) / (len(arm.cells) * len(comparison.samples))
        np.testing.assert_allclose(keep_frequency(arm), expected)
    assert keep_frequency(comparison.unpruned) is None


def test_the_middle_is_where_most_can_be_compared(comparison):
    block = middle_block(comparison)
    assert block.keep == "1/9"
    assert len(block.arms) == max(len(one.arms) for one in comparison.blocks)


# ---------------------------------------------------------------------------------------------------------- viewer


def bits_of(text, size):
    data = base64.b64decode(text)
    return {number for number in range(size) if data[number // 8] >> (number % 8) & 1}


def test_the_viewer_shows_what_the_rows_say(made, comparison):
    content = viewer.viewer_content([comparison], {TASK.hash(): TASK}, samples=7)
    [view] = content.views
    assert view["grid"] == (12, 12)
    assert view["keeps"] == ["2/9", "1/9", "1/18"]
    assert [one["id"] for one in view["samples"]] == [
        comparison.samples[n] for n in viewer.stratified_indices(comparison.kinds, 7)
    ]
    assert {one["name"] for one in view["methods"]} >= {"script", "random (seed 0)", "oracle", "inverted fastv"}
    rows = {
        (cell.method, cell.keep, cell.seed): {row.sample: row for row in rows} for cell, rows in made.content.values()
    }
    asked = {sample.id: sample for sample in TASK.samples()}
    for method in view["methods"]:
        seed = 0 if "seed 0" in method["name"] else None
        for keep, at in method["at"].items():
            own = rows[method["name"].removesuffix(" (seed 0)"), keep, seed]
            for sample, (kept, answer, right) in zip(view["samples"], at["rows"], strict=True):
                assert bits_of(kept, view["size"]) == set(own[sample["id"]].kept[-1])
                assert (answer, right) == (own[sample["id"]].answer, own[sample["id"]].correct)
    for number, sample in enumerate(view["samples"]):
        assert sample["question"] == asked[sample["id"]].question
        assert bits_of(sample["needed"], view["size"]) == set(synthetic.needed(sample["id"]))
        assert view["whole"][number][1] == rows["unpruned", None, None][sample["id"]].answer
        assert content.pictures[sample["picture"]].startswith("data:image/png;base64,")


@pytest.mark.parametrize("count", [1, 4, 5, 12, 24, 59, 60, 100])
def test_samples_are_spread_over_types_and_over_the_task(count):
    kinds = ["a", "b", "c"] * 18 + ["rare"] * 6
    places = viewer.stratified_indices(kinds, count)
    assert places == sorted(set(places))
    assert len(places) == min(count, 60)
    each = [sum(kinds[place] == kind for place in places) for kind in ("a", "b", "c", "rare")]
    assert max(each[:3]) - min(each[:3]) <= 1
    assert each[3] >= min(6, count // 4)
    if 12 <= count < 60:
        # Of the common types, from the first third of the task as from the last.
        assert {place // 18 for place in places if place < 54} == {0, 1, 2}


def test_samples_of_one_picture_share_it(comparison):
    content = viewer.viewer_content([comparison], {TASK.hash(): TASK}, samples=1000)
    assert len(content.views[0]["samples"]) == 60
    assert len(content.pictures) == 12


def test_the_viewer_stays_small(comparison, monkeypatch):
    monkeypatch.setattr(viewer, "BYTES", 20_000)
    content = viewer.viewer_content([comparison], {TASK.hash(): TASK}, samples=60)
    assert 1 <= len(content.views[0]["samples"]) < 60
    assert len(json.dumps(content.views)) <= 20_000


def test_without_its_task_neither_picture_nor_question_is_known(comparison):
    content = viewer.viewer_content([comparison], {}, samples=2)
    assert content.pictures == []
    assert {(one["picture"], one["question"], one["needed"]) for one in content.views[0]["samples"]} == {
        (None, "", None)
    }


def test_a_picture_that_cannot_be_read_costs_itself_only(comparison):
    content = viewer.viewer_content([comparison], {TASK.hash(): Broken(pictures=12)}, samples=60)
    assert content.problems == ["A picture of shapes is not shown: p01.png is no picture (pictures.jsonl:2)"]
    gone = [one["id"] for one in content.views[0]["samples"] if one["picture"] is None]
    assert gone == [name for name in comparison.samples if name.startswith("p01")]


def test_large_pictures_are_made_smaller():
    made = viewer.inlined(Image.new("RGBA", (2000, 1000), "red"))
    assert made.startswith("data:image/jpeg;base64,")
    assert len(made) < 20_000


def registry_with(task):
    registry = Registry()
    registry.add_task(task)
    return registry


def test_a_task_is_made_again_from_its_card(comparison):
    found, problems = tasks.rebuild_tasks([comparison], registry_with(Shapes))
    assert problems == []
    assert found == {TASK.hash(): TASK}
    assert tasks.unchanged_tasks([comparison], found) == (found, [])
    part = replace(comparison, card={**comparison.card, "samples": 60}, card_hash="part")
    assert tasks.unchanged_tasks([part], {"part": TASK}) == ({"part": TASK}, [])


def test_a_task_that_is_not_what_it_was_is_not_shown(comparison):
    class Later(Shapes):
        version = 2

    found, [problem] = tasks.rebuild_tasks([comparison], registry_with(Later))
    assert found == {}
    assert problem == "The pictures and measures of shapes are not shown: the task is not what it was at the run."
    found, [problem] = tasks.unchanged_tasks([comparison], {TASK.hash(): Shapes(pictures=13)})
    assert found == {}
    assert problem == "The pictures of shapes are not shown: the task is not what it was at the run."
    found, [problem] = tasks.rebuild_tasks([comparison], Registry())
    assert found == {}
    assert "no task is named 'shapes'" in problem


@pytest.mark.parametrize(
    ("names", "columns"), [(["a", "b", "c"], 3), (["uniform at decoder.20"] * 16, 2), (["x" * 40] * 3, 1)]
)
def test_a_legend_fits_its_figure_and_leaves_the_plot_its_height(names, columns):
    with plot_settings():
        figure = new_figure()
        axes = figure.subplots()
        for number, name in enumerate(names):
            axes.plot([0, 1], [0, number], label=name)
        before = figure.get_figheight()
        legend(axes)
        [made] = figure.legends
        figure.draw_without_rendering()
        assert made._ncols == columns
        assert made.get_window_extent().width <= figure.bbox.width
        assert (figure.get_figheight() > before) == (len(names) / columns > 5)
        assert axes.get_window_extent().height > 0.45 * 72 * before
