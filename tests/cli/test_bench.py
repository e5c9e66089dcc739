"""`bench`: its tables, files and refusals. No time is asserted."""

import json
import re
import time

import pytest

from tokensieve.cli.progress import EVERY, reported

QUICK = ("--model", "world-llava", "--keep", "16", "--repeats", "1", "--warmup", "0", "--tokens", "2", "--text", "9")


def texts(svg):
    """The texts of a drawing."""
    return " ".join(re.findall(r"<text[^>]*>([^<]+)</text>", svg.read_text(encoding="utf-8")))


def test_tables_and_files(cli, tmp_path):
    files = [tmp_path / f"found.{kind}" for kind in ("json", "svg", "png")]
    given = [item for file in files for item in (f"--{file.suffix[1:]}", file)]
    result = cli("bench", "uniform", "fastv", *QUICK, "--visual", "144,288", *given)
    assert result.exit_code == 0, result.output
    for said in ("batch 1, 144 visual and 9 text tokens, float32, sdpa", "Throughput", "Break-even"):
        assert said in result.stdout
    for name in ("unpruned", "uniform", "fastv", "floor", "counted"):
        assert f"\n {name}" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    found = json.loads(files[0].read_text(encoding="utf-8"))
    assert [(row["name"], row["setting"]["visual"]) for row in found["rows"]] == [
        (name, visual) for visual in (144, 288) for name in ("unpruned", "uniform", "fastv", "floor")
    ]
    assert {row["kept"] for row in found["rows"]} == {144, 288, 16, 32}
    assert found["refused"] == {}
    drawn = texts(files[1])
    for name in ("unpruned", "floor", "uniform, counted FLOPs", "fastv", "visual tokens of a prompt"):
        assert name in drawn
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_bars_of_one_length(cli, tmp_path):
    result = cli("bench", "uniform", *QUICK, "--svg", "found.svg")
    assert result.exit_code == 0, result.output
    drawn = texts(tmp_path / "found.svg")
    for name in ("vision", "selection", "prefill", "counted FLOPs", "floor: 16 visual tokens"):
        assert name in drawn


def test_a_geometry_says_what_was_scaled_down_and_what_was_refused(cli):
    small = ("--model", "llava-1_5-7b", "--layers", "2", "--shrink", "16", "--text", "9")
    result = cli("bench", "uniform", "fastv", *small, "--profile")
    assert result.exit_code == 0, result.output
    assert "scaled down: language model 2 layers of 32, language model 256 wide" in " ".join(result.stdout.split())
    assert "not counted: fastv: error at decoder.2" in result.stderr


def test_what_pruning_adds(cli, tmp_path):
    result = cli("bench", "uniform", "gsp", *QUICK, "--profile", "--json", "found.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert list(found["added"]) == ["uniform", "gsp"]
    added = found["added"]["uniform"]["prefill"]
    assert f"{added['operators']:+,d}" in result.stdout
    assert found["added"]["uniform"]["step"]["synchronisations"] == 0
    assert found["unpruned"]["prefill"]["bytes_allocated"] > 1_000_000


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--dtype", "int8"), 2, "--dtype takes float32, bfloat16, float16, and not int8"),
        (("--batch", "0"), 2, "--batch 0 is no list of whole numbers above 0"),
        (("--visual", "1,x"), 2, "--visual 1,x is no list"),
        (("--attention", "sdpa,"), 2, "--attention sdpa, has an empty name"),
        (("--svg", "a.png"), 2, "a.png does not end in .svg"),
        (("--json", "none/a.json"), 1, "there is no folder none"),
        (("--attention", "x"), 1, "attention 'x' cannot be used"),
        (("--visual", "100"), 1, "take a multiple of 144"),
        (("--device", "nowhere"), 1, "there is no device 'nowhere'; this machine has"),
    ],
)
def test_a_wrong_command_line_is_refused_with_a_sentence(cli, options, code, said):
    result = cli("bench", "uniform", "--model", "world-llava", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_unknown_names_are_refused_with_the_nearest(cli):
    assert "Did you mean 'uniform'?" in cli("bench", "unifrm", "--model", "world-llava").stderr
    wrong = cli("bench", "uniform", "--model", "lava-1_5-7b")
    assert (wrong.exit_code, "Did you mean 'llava-1_5-7b'?" in wrong.stderr) == (1, True)


def test_if_no_recipe_can_run_nothing_is_made(cli):
    result = cli("bench", "fastv", "--model", "qwen3-vl-8b", "--layers", "4", "--shrink", "16")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "recipe 'fastv' cannot run: error at decoder.2" in result.stderr


def test_a_log_has_lines_while_one_piece_of_work_takes_long(capsys):
    with reported(every=0.02) as report:
        report(2, 7, "a long cell")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(re.fullmatch(r"2 of 7 after \d+ s: a long cell", line) for line in lines)


def test_a_log_has_a_line_every_half_minute(capsys):
    now = iter([0.0, 1.0, EVERY - 1, EVERY, EVERY + 5, 2 * EVERY + 1, 2 * EVERY + 2])
    with reported(lambda: next(now)) as report:
        for done in range(1, 7):
            report(done, 6, f"call {done}")
    assert capsys.readouterr().err.splitlines() == ["3 of 6 after 30 s: call 3", "5 of 6 after 61 s: call 5"]
