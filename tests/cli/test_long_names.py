"""Names longer than any file's: what has none is told as it always is, and nothing is made."""

from pathlib import Path

import pytest

from .conftest import PHOTO

LONG = "x" * 300
STUDY = "name: s\nmodels: [world-llava]\nrecipes: [gsp]\nkeep: [64]\nlimit: 2\ntasks: [world]\n"
ASK = ("--image", PHOTO, "--prompt", "Why?")
MODEL = ("--model", "world-llava")
TO = ("--to", "torch", "--prompt", "Why?")

SAID = [
    *(
        ((*command, "--model", LONG), f"there is no folder {LONG}, and nothing is downloaded; --model takes a folder")
        for command in (
            ("check", "gsp"),
            ("explain", "gsp"),
            ("cost", "gsp"),
            ("recommend",),
            ("bench", "gsp"),
            ("run", "gsp", *ASK),
            ("show", "gsp", "--image", PHOTO, "--out", "made"),
            ("export", "gsp", "--image", PHOTO, *TO, "--out", "x.pt2"),
        )
    ),
    (("check", LONG), "no shipped recipe is named 'xxx"),
    (("check", f"{LONG}.yaml"), f"there is no file {LONG}.yaml"),
    (("check", f"nowhere/{LONG}"), f"there is no file nowhere/{LONG}"),
    (("check", f"{LONG} & gsp", "--keep", "4"), "no strategy is named 'xxx"),
    (("check", "gsp", "--plugin", f"{LONG}.py"), "a plugin is a file of Python, or a folder with an __init__.py"),
    (("check", "~gsp", "--keep", "4", "--set", f"{LONG}.a=1"), "the recipe has no operand 'xxx"),
    (("explain", f"{LONG}.yaml"), f"there is no file {LONG}.yaml"),
    (("plugins", LONG), "nothing is named 'xxx|no strategy"),
    (("run", "gsp", *MODEL, "--prompt", "Why?", "--image", LONG), f"there is no picture {LONG}"),
    (("run", "gsp", *MODEL, *ASK, "--query-encoder", LONG), "--query-encoder is 'xxx"),
    (("run", "gsp", *MODEL, *ASK, "--device", LONG), "there is no device 'xxx"),
    (("run", "gsp", *MODEL, *ASK, "--json", LONG), f"{LONG} cannot be written (File name too long)"),
    (("run", "gsp", *MODEL, *ASK, "--save-kept", LONG), "cannot be written (File name too long)"),
    (("run", "gsp", *MODEL, *ASK, "--json", f"{LONG}/l.json"), f"there is no folder {LONG} to write l.json into"),
    (("show", "gsp", "--image", PHOTO, "--out", LONG), f"the folder {LONG} cannot be made (File name too long)"),
    (
        ("export", "gsp", *MODEL, "--image", PHOTO, *TO, "--out", f"{LONG}.pt2"),
        "cannot be written (File name too long)",
    ),
    (("schema", "--out", LONG), "cannot be written (File name too long)"),
    (("bench", "gsp", *MODEL, "--json", LONG), "cannot be written (File name too long)"),
    (("recommend", *MODEL, "--json", LONG), "cannot be written (File name too long)"),
    (("new", "strategy", LONG), "a name has at most 64 letters, 'xxxxxxxxxxxxxxxxxxxx...' has 300"),
    (("new", "strategy", "far_out", "--into", LONG), f"the folder {LONG} cannot be made (File name too long)"),
    (("compare", LONG, "--out", "made"), f"there is no study {LONG}"),
    (("compare", "study.yaml", "--out", LONG), f"nothing can be written to {LONG}: File name too long"),
    (("compare", "study.yaml", "--out", "made", "--dry-run", "--set", f"models={LONG}"), "is no shipped checkpoint"),
    (("compare", "study.yaml", "--out", "made", "--dry-run", "--set", f"recipes={LONG}"), "no shipped recipe is named"),
    (("compare", "study.yaml", "--out", "made", "--dry-run", "--set", f"tasks={LONG}"), "no task is named 'xxx"),
    (
        (
            *("compare", "study.yaml", "--out", "made", "--dry-run", "--set"),
            f"tasks=[{{use: vqa_jsonl, path: {LONG}, metric: exact}}]",
        ),
        "cannot be read: File name too long",
    ),
    (("demo", "--quick", "--out", LONG), f"the folder {LONG} cannot be made (File name too long)"),
    (("search", LONG, "--out", "made"), f"there is no study {LONG}"),
    (("search", "study.yaml", "--out", LONG), f"the folder {LONG} cannot be made (File name too long)"),
    (("report", LONG), "it has no study.yaml"),
    (("report", "study.yaml", "--published", LONG), "it has no study.yaml"),
]


def test_a_picture_whose_drawing_would_have_too_long_a_name(cli):
    picture = Path(f"{'x' * 248}.png")
    picture.write_bytes(PHOTO.read_bytes())
    result = cli("show", "gsp", "--image", picture, "--out", "made")
    assert result.exit_code == 1
    assert f"{picture.stem}.kept.png cannot be written (File name too long)" in result.stderr
    assert [path.name for path in Path.cwd().iterdir()] == [picture.name]


@pytest.mark.parametrize(("command", "said"), SAID, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_a_name_of_300_letters(cli, command, said):
    Path("study.yaml").write_text(STUDY, encoding="utf-8")
    result = cli(*command)
    assert result.exit_code in (1, 2), result.output
    assert any(one in result.stderr for one in said.split("|")), result.stderr
    assert result.stderr.count("\n") == 1
    assert not [word for word in ("Traceback", "unexpected: ", "Errno", "OSError") if word in result.output]
    assert [path.name for path in Path.cwd().iterdir()] == ["study.yaml"]
