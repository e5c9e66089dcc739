"""`--set` of commands that take recipes, and `--keep` of those that take several."""

import json
from pathlib import Path

import pytest

import tokensieve as ts

from .conftest import PHOTO

TWO = "name: two\nstages:\n- {at: decoder.0, select: gsp, keep: 100}\n- {at: decoder.2, select: fastv, keep: 50}\n"
ASK = ("--image", PHOTO, "--prompt", "Why?", "--max-new-tokens", "1", "--device", "cpu")
GEOMETRY = ("--geometry", "llava-1_5-7b")


def table(text):
    """The cells of a printed table, by the first of each row."""
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in rows}


def test_check_and_explain_say_what_was_set(cli):
    given = ("gsp & norm", "--keep", "9", "--set", "gsp.quantile=0.25", "--set", "stages.0.at=decoder.2")
    result = cli("check", *given)
    assert result.exit_code == 0, result.output
    assert "quantile=0.25" in result.stdout.replace("\n", "").replace(" ", "")
    assert "decoder.2" in result.stdout
    result = cli("explain", *given)
    assert result.exit_code == 0, result.output
    assert "gsp is gsp with quantile 0.25" in result.stdout
    assert "decoder.2: before layer 2" in result.stdout


def test_a_run_is_that_of_the_recipe_with_the_setting(cli, checkpoint, recipe):
    file = recipe("norm", keep=9)
    result = cli("run", file, "--model", checkpoint, *ASK, "--set", "norm.p=1", "--json", "set.json")
    assert result.exit_code == 0, result.output
    plain = ts.Recipe.load(file).hash()
    whole = file.read_text(encoding="utf-8").replace("stages:", "strategies: {norm: {use: norm, p: 1}}\nstages:")
    cli("run", recipe(whole=whole), "--model", checkpoint, *ASK, "--json", "written.json")
    found, wanted = (json.loads(Path(f"{name}.json").read_text(encoding="utf-8")) for name in ("set", "written"))
    assert found["recipe_hash"] == wanted["recipe_hash"] != plain
    assert found["stages"][0]["samples"] == wanted["stages"][0]["samples"]


def test_a_setting_changes_the_recipes_that_have_its_operand(cli, checkpoint):
    keep = ("--keep", "9")
    result = cli("show", "norm", "gsp", "--model", checkpoint, "--image", PHOTO, *keep, "--set", "size.p=1")
    assert result.exit_code == 0, result.output
    assert result.stderr == "note: --set size.p=1 changes 'norm' alone\n"
    result = cli("cost", "norm", "gsp", *GEOMETRY, *keep, "--set", "stages.0.at=decoder.16")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert [table(result.stdout)[name][1] for name in ("norm", "gsp")] == [f"{(16 * 576 + 16 * 9) / 32:.1f}"] * 2
    result = cli("cost", "norm", "gsp", *GEOMETRY, *keep, "--set", "fastv.x=1")
    assert (result.exit_code, "the recipe has no operand 'fastv'; it has size (norm)" in result.stderr) == (1, True)


@pytest.mark.parametrize("command", ["check", "explain", "cost", "run", "show"])
def test_mistakes_have_the_same_messages_everywhere(cli, command):
    more = {"cost": GEOMETRY, "run": (*ASK, "--model", "world-llava"), "show": ("--image", PHOTO, "--out", "made")}
    for setting, said in (
        ("quantile", "'quantile' is no setting; write PATH=VALUE, such as gsp.quantile=0.75"),
        ("gps.quantile=1", "the recipe has no operand 'gps'; it has gsp, norm. Did you mean 'gsp'?"),
        ("gsp.quantil=1", "Did you mean 'quantile'?  (--set gsp.quantil=1)"),
        ("keep=4", "it is a key of a stage: stages.0.keep=VALUE, or --keep VALUE"),
    ):
        result = cli(command, "gsp & norm", "--keep", "9", *more.get(command, ()), "--set", setting)
        assert (result.exit_code, said in result.stderr) == (1, True), result.output
        assert result.stderr.count("\n") == 1
    assert not Path("made").exists()


@pytest.mark.parametrize("order", [("gsp & norm", "two.yaml"), ("two.yaml", "gsp & norm")])
def test_a_recipe_of_several_stages_keeps_its_budgets_beside_a_formula(cli, order):
    """A formula needs one budget, which is none for two stages."""
    Path("two.yaml").write_text(TWO, encoding="utf-8")
    result = cli("cost", *order, *GEOMETRY, "--keep", "64")
    assert result.exit_code == 0, result.output
    assert result.stderr == "note: 'two.yaml' keeps its own budget: it has 2 stages, and --keep 64 is 1 budget\n"
    rows = table(result.stdout)
    alone = [cli("cost", "gsp & norm", *GEOMETRY, "--keep", "64"), cli("cost", "two.yaml", *GEOMETRY)]
    assert rows["gsp & norm"] == table(alone[0].stdout)["gsp & norm"]
    assert rows["two"] == table(alone[1].stdout)["two"]


def test_budgets_that_no_recipe_takes_are_refused(cli):
    Path("two.yaml").write_text(TWO, encoding="utf-8")
    result = cli("cost", "two.yaml", "two.yaml", *GEOMETRY, "--keep", "64")
    assert (result.exit_code, "'two' has 2 stages (decoder.0, decoder.2), so keep" in result.stderr) == (1, True)
    result = cli("cost", "gsp & norm", "two.yaml", *GEOMETRY, "--keep", "64,32")
    assert (result.exit_code, "'gsp & norm' has 1 stage (decoder.0), so keep takes 1" in result.stderr) == (1, True)
    # A list of the recipe's own goes by its count.
    Path("two.yaml").write_text(TWO + "budgets: {64: [100, 30]}\n", encoding="utf-8")
    result = cli("cost", "gsp", "two.yaml", *GEOMETRY, "--keep", "64")
    assert (result.exit_code, result.stderr) == (0, "")
    assert table(result.stdout)["two"][0] == "100, 30"
