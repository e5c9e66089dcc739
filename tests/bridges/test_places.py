"""The table of one recipe in five places: what was recorded is of this script, and the script tells a difference."""

import json

from tools import places


def test_what_is_recorded_is_of_every_place():
    found = json.loads(places.RECORD.read_text(encoding="utf-8"))
    assert [row["place"] for row in found] == [called for called, *_ in places.PLACES.values()]
    for row in found:
        assert row["of"] == places.QUESTIONS
        # What differs has to be explained on the page, which says of none that it does.
        assert row["answers"] == row["of"]
        assert row["kept"] in (None, row["of"])


def test_a_place_that_answers_or_keeps_something_else_is_counted(tmp_path):
    same = {"answers": ["red", "two", "no"], "kept": [[1], [2], [3]], "with": "x 1"}
    for name in places.PLACES:
        (tmp_path / f"{name}.json").write_text(json.dumps(same))
    other = {"answers": ["red", "one", "no"], "kept": [[1], [2], [4]], "with": "x 1"}
    (tmp_path / "lmms.json").write_text(json.dumps(other))
    (tmp_path / "vllm.json").write_text(json.dumps(same | {"kept": None}))
    rows = {row["place"]: (row["answers"], row["kept"]) for row in places.table(tmp_path)}
    assert list(rows.values()) == [(3, 3), (3, 3), (3, 3), (2, 2), (3, None)]


def test_questions_are_written_once_for_all_places(tmp_path):
    places.write_questions(tmp_path)
    assert len(places.questions(tmp_path)) == places.QUESTIONS == len(list(tmp_path.glob("*.png")))
    assert "positions: compact" in (tmp_path / "recipe.yaml").read_text()


def test_the_answers_of_prune_are_those_of_another_way(tmp_path, monkeypatch):
    """A few questions by `run`, the command."""
    from typer.testing import CliRunner

    from tokensieve.cli import app

    monkeypatch.setattr(places, "QUESTIONS", 3)
    places.write_questions(tmp_path)
    found = places.in_prune(tmp_path)
    for number, question in enumerate(places.questions(tmp_path)):
        words = ["run", str(tmp_path / "recipe.yaml"), "--model", places.MODEL, "--prompt", question]
        file = tmp_path / "run.json"
        words += ["--image", str(places.picture(tmp_path, number)), "--json", str(file)]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        said = json.loads(file.read_text(encoding="utf-8"))
        assert said["answer"].strip() == found["answers"][number]
        assert said["stages"][0]["samples"][0]["kept"] == len(found["kept"][number]) == 16
