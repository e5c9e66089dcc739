"""Whatever is refused is said in one paragraph on stderr, with the exit code that was promised."""

import copy
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from effort import NIGHTLY
from tests.cli.conftest import PHOTO

import tokensieve as ts
from tokensieve.checkpoints.loading import load_processor
from tokensieve.cli import app, console
from tokensieve.drawing.show import require_drawable
from tokensieve.errors import RecipeError, RefusedError
from tokensieve.models import pretrained
from tokensieve_adapters.llava import LlavaAdapter
from tokensieve_adapters.llava_next import LlavaNextAdapter

ASK = ("--image", PHOTO, "--prompt", "Why?")


def said(result, code=1):
    """The one paragraph on stderr."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1, result.stderr
    assert len(result.stderr) < 2_000
    return result.stderr.rstrip("\n")


@pytest.mark.parametrize(
    "command",
    [
        ("check", "gps"),
        ("run", "gps", "--model", "nowhere", *ASK),
        ("show", "script", "gps", "--image", PHOTO),
    ],
    ids=lambda command: command[0],
)
def test_an_unknown_recipe(cli, command):
    text = said(cli(*command))
    assert text.startswith("UnknownRecipeError: no shipped recipe is named 'gps'. Registered: ")
    assert "Did you mean 'gsp'?" in text


def test_a_mistake_in_a_recipe_is_named_with_an_unbroken_place(cli, tmp_path):
    folder = tmp_path / ("a folder [bold]of a long name[/bold] " * 3) / ("deep" * 20)
    folder.mkdir(parents=True)
    file = folder / "wrong.yaml"
    file.write_text("stages:\n  - at: decoder.0\n    select: gps & qcsp\n    keep: 64\n", encoding="utf-8")
    text = said(cli("check", file))
    assert text.startswith("UnknownStrategyError: no strategy is named 'gps'.")
    assert text.endswith(f"({file}:3)")


@pytest.mark.parametrize(
    ("whole", "kind"),
    [
        ("stages: [", "RecipeError: this is not YAML"),
        ("stages:\n  - {at: decoder.0, select: gsp &, keep: 64}\n", "FormulaError: "),
        ("stages:\n  - {at: decoder.0, select: gsp, keep: lots}\n", "BudgetError: "),
        ("stages:\n  - {at: decoder, select: gsp, keep: 64}\n", "RecipeError: 'decoder' is no site"),
        ("strategies: {g: {use: gsp, tau: high}}\nstages:\n  - {at: decoder.0, select: g, keep: 1}\n", "RecipeError: "),
    ],
    ids=["yaml", "formula", "budget", "site", "parameter"],
)
def test_every_kind_of_mistake_in_a_recipe_keeps_its_name(cli, recipe, whole, kind):
    text = said(cli("check", recipe(whole=whole)))
    assert text.startswith(kind)
    assert "written.yaml:" in text


def test_a_recipe_that_is_not_there(cli):
    assert said(cli("check", "none.yaml")).startswith("RecipeError: there is no file none.yaml")


@pytest.mark.parametrize("command", ["run", "show"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "RefusedError: there is no picture picture.jpg;"),
        (b"no picture", "RefusedError: picture.jpg is no picture that can be read;"),
        (PHOTO.read_bytes()[:20_000], "RefusedError: picture.jpg cannot be read as a picture: "),
    ],
    ids=["missing", "text", "truncated"],
)
def test_a_picture_that_cannot_be_read(cli, command, content, message):
    if content is not None:
        Path("picture.jpg").write_bytes(content)
    options = {"run": ("--model", "m", "--prompt", "Why?"), "show": ("--out", "made")}[command]
    assert said(cli(command, "script", "--image", "picture.jpg", *options)).startswith(message)
    assert not Path("made").exists()


@pytest.mark.parametrize(
    "command", [("check", "script"), ("run", "script", *ASK), ("show", "script", "--image", PHOTO)], ids=lambda c: c[0]
)
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "RefusedError: there is no folder m, and nothing is downloaded; --model takes a folder written by"),
        ({}, "RefusedError: m is no checkpoint: it has no config.json."),
        ({"config.json": "{"}, "RefusedError: m is no checkpoint of a model of pictures and text"),
        ({"config.json": "{}"}, "RefusedError: m is no checkpoint of a model of pictures and text"),
        (
            {"config.json": '{"model_type": "llama"}'},
            "RefusedError: m is no checkpoint of a model of pictures and text",
        ),
    ],
    ids=["missing", "empty", "broken", "no type", "text only"],
)
def test_a_folder_that_is_no_checkpoint(cli, command, files, message):
    if files is not None:
        Path("m").mkdir()
        for name, text in files.items():
            Path("m", name).write_text(text, encoding="utf-8")
    assert said(cli(*command, "--model", "m")).startswith(message)


def test_a_model_without_an_adapter(cli):
    from transformers import Kosmos2Config

    Kosmos2Config().save_pretrained("m")
    text = said(cli("check", "script", "--model", "m"))
    assert text.startswith("UnsupportedModelError: no adapter matches Kosmos2ForConditionalGeneration")


@pytest.mark.parametrize("lacks", ["model.safetensors", "processor_config.json"])
def test_a_checkpoint_that_lacks_a_part(cli, checkpoint, lacks):
    Path("m").mkdir()
    for file in checkpoint.iterdir():
        if file.name != lacks:
            Path("m", file.name).symlink_to(file)
    assert said(cli("run", "script", "--model", "m", *ASK)).startswith("RefusedError: the checkpoint m ")


@pytest.mark.parametrize("field", ["patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"])
def test_a_processor_that_cannot_count_tokens(cli, checkpoint, field):
    """As old files of LLaVA have it: the field is named, before weights are read, not the NoneType of a sum."""
    Path("m").mkdir()
    for file in checkpoint.iterdir():
        if file.name != "processor_config.json":
            Path("m", file.name).symlink_to(file)
    settings = json.loads((checkpoint / "processor_config.json").read_text())
    Path("m", "processor_config.json").write_text(json.dumps(settings | {field: None}))
    text = said(cli("run", "script", "--model", "m", *ASK))
    assert text.startswith(f"RefusedError: the checkpoint m has a LlavaProcessor without {field}, by which")
    assert f"processor.{field} = ..." in text


def test_a_processor_that_needs_no_strategy(cli, checkpoint):
    """Where the config keeps every patch there is no class token to leave out, and None counts right."""
    Path("m").mkdir()
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        if file.name in ("processor_config.json", "config.json"):
            value = None if file.name.startswith("processor") else "full"
            content = json.dumps(json.loads(content) | {"vision_feature_select_strategy": value}).encode()
        Path("m", file.name).write_bytes(content)
    assert load_processor(Path("m")).vision_feature_select_strategy is None


def test_a_processor_that_lost_its_field_later(ready, photo):
    processor = copy.copy(ready.processor)
    processor.patch_size = None
    with pytest.raises(RefusedError, match=r"'int' and 'NoneType'; it has no patch_size, by which it counts"):
        replace(ready, processor=processor).inputs(photo, "what is it?")


def test_processors_of_every_class_can_count():
    """What a class of the library cannot do without, as a text of its own init: a new one is seen here."""
    from transformers import processing_utils
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    registry = ts.default_registry()
    known = {name for kind in registry.adapters.values() for name in kind.model_types}
    parts = ("chat_template", "tokenizer", "processor", "feature_extractor", "_token", "use_single_crop")
    for name in sorted(known & PROCESSOR_MAPPING_NAMES.keys()):
        kind = getattr(transformers, PROCESSOR_MAPPING_NAMES[name])
        assert issubclass(kind, processing_utils.ProcessorMixin)
        for parameter in inspect.signature(kind.__init__).parameters.values():
            if parameter.default is None and not any(part in parameter.name for part in parts):
                assert parameter.name in pretrained._COUNTING, f"{kind.__name__} takes {parameter.name}=None"


def test_a_checkpoint_that_lacks_weights(cli, checkpoint):
    from safetensors.torch import load_file, save_file

    Path("m").mkdir()
    for file in checkpoint.iterdir():
        if file.name != "model.safetensors":
            Path("m", file.name).symlink_to(file)
    weights = load_file(checkpoint / "model.safetensors")
    gone = next(name for name in weights if "multi_modal_projector" in name)
    del weights[gone]
    save_file(weights, Path("m", "model.safetensors"), metadata={"format": "pt"})
    text = said(cli("run", "script", "--model", "m", *ASK))
    assert text.startswith("RefusedError: the checkpoint m lacks 1 of the model's weights (")


def test_a_recipe_that_the_model_cannot_run_is_refused_before_weights_are_read(cli, recipe, checkpoint, monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", None)
    for command in (("run", recipe(at="decoder.9"), *ASK), ("show", recipe(at="decoder.9"), "--image", PHOTO)):
        text = said(cli(*command, "--model", checkpoint))
        assert text.startswith("RefusedError: recipe 'written' cannot run on LlavaForConditionalGeneration: error at")
        assert "it offers decoder.0 ... decoder.3" in text


def test_evidence_that_the_model_lacks(cli, recipe, checkpoint):
    text = said(cli("run", recipe("fastv"), "--model", checkpoint, *ASK))
    assert text.startswith("MissingEvidenceError: recipe 'written' cannot run")
    assert "'fastv' needs decoder_attention" in text


def test_a_picture_of_a_stage_deeper_than_any_example(cli, recipe):
    result = cli("show", recipe(at="encoder.23"), "--image", PHOTO)
    assert result.exit_code == 1
    assert "llava has no such site; it offers decoder.0 ... decoder.3, encoder.0 ... encoder.2" in result.stderr


def test_a_picture_of_patches_that_are_no_tokens(recipe):
    adapter = LlavaNextAdapter(LlavaNextAdapter.tiny())
    inside = ts.Recipe.load(recipe(at="encoder.0"))
    with pytest.raises(RefusedError, match=r"'written' cuts at encoder\.0; .* show recipes of decoder sites"):
        require_drawable([inside], adapter)
    require_drawable([ts.Recipe.load("script")], adapter)
    require_drawable([inside], LlavaAdapter(LlavaAdapter.tiny()))


def test_a_device_that_is_not_there(cli):
    result = cli("run", "script", "--model", "m", *ASK, "--device", "abacus")
    assert said(result).startswith("RefusedError: there is no device 'abacus'; this machine has cpu")


@pytest.mark.parametrize("option", ["--json", "--save-kept"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(cli, option):
    command = ("run", "script", "--model", "m", *ASK, option)
    assert said(cli(*command, "none/x.json")).startswith("RefusedError: there is no folder none to write x.json into")
    assert said(cli(*command, ".")).startswith("RefusedError: . is a folder")


@pytest.mark.parametrize("command", [("show", "script", "--image", PHOTO), ("demo",)], ids=lambda c: c[0])
def test_a_folder_that_cannot_be_made(cli, command):
    Path("file").write_text("", encoding="utf-8")
    assert said(cli(*command, "--out", "file")).startswith("RefusedError: the folder file cannot be made")


def test_budgets_that_do_not_fit_the_stages(cli):
    text = said(cli("run", "script", "--model", "m", *ASK, "--keep", "64,32"))
    assert text.startswith("RecipeError: 'script' has 1 stage")


@pytest.mark.parametrize("keep", ["foo", "0", "1.5", "", "64,"])
def test_a_budget_that_cannot_be_read_is_a_wrong_command_line(cli, keep):
    text = said(cli("run", "script", "--model", "m", *ASK, "--keep", keep), code=2)
    assert text.startswith("BudgetError: keep ")


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("nonsense",),
        ("check",),
        ("check", "script", "--nonsense"),
        ("run", "script"),
        ("run", "script", "--model", "m", *ASK, "--max-new-tokens", "0"),
        ("demo", "--workers", "0"),
    ],
    ids=lambda c: "-".join(map(str, c[:2])) or "nothing",
)
def test_a_wrong_command_line(cli, command):
    result = cli(*command)
    assert result.exit_code == 2
    assert "Usage: " in result.output
    assert "Traceback" not in result.output


# Errors nobody foresaw


@pytest.fixture
def broken_schema(monkeypatch):
    def schema(registry=None):
        raise ZeroDivisionError("nothing [red]is[/red]\ndivided by nothing")

    monkeypatch.setattr("tokensieve.recipes.schema.schema", schema)


def test_an_unexpected_error_is_a_paragraph_too(cli, broken_schema):
    text = said(cli("schema"))
    assert text.startswith("ZeroDivisionError: nothing [red]is[/red] divided by nothing  (unexpected: ")
    assert "--debug" in text


def test_debug_shows_where_an_error_happened(cli, broken_schema):
    for command, kind in ((("schema",), "ZeroDivisionError"), (("check", "gps"), "UnknownRecipeError")):
        result = cli("--debug", *command)
        assert result.exit_code == 1
        assert result.stderr.startswith("Traceback (most recent call last):")
        assert kind in result.stderr


def test_a_long_message_keeps_its_end():
    text = console.paragraph(RecipeError("x" * 5_000 + "\n  (file.yaml:7)"))
    assert len(text) < 2_000
    assert text.startswith("RecipeError: xxx")
    assert text.endswith("(file.yaml:7)")
    assert "\n" not in text


def test_an_error_without_words_is_its_name():
    assert console.paragraph(RefusedError()) == "RefusedError"


def test_control_characters_never_reach_the_terminal():
    assert console.plain("a\x1b[2Jb\r\tc\nd\ud800") == "a\ufffd[2Jb\ufffd\tc\nd\ufffd"


def test_the_module_is_the_command_line():
    # The second as the script that pip installs; a process takes four seconds.
    for command in (["-m", "tokensieve"], *([["-c", "from tokensieve.cli import main; main()"]] if NIGHTLY else [])):
        result = subprocess.run(
            [sys.executable, *command, "check", "gps"], capture_output=True, text=True, check=False, timeout=120
        )
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr.startswith("UnknownRecipeError: ")
    assert app.info.name == "tokensieve"


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize(
    "command",
    [
        ("compare", "study.yaml"),
        ("report", "run"),
        ("demo",),
        ("show", "script", "--image", PHOTO),
        ("schema",),
    ],
    ids=lambda command: command[0],
)
def test_an_empty_place_for_results(cli, command, empty):
    result = cli(*command, "--out", empty)
    assert result.exit_code == 2, result.output
    assert "an empty name is no place for results" in " ".join(result.output.replace("│", " ").split())
    assert not [path for path in Path.cwd().iterdir() if path.name != "study.yaml"]


@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("tokensieve.study.planning.plan.plan_study", ("compare", "study.yaml", "--out", "run", "--dry-run")),
        ("tokensieve.cli.studies.plan_study", ("compare", "study.yaml", "--out", "run")),
        ("tokensieve.cli.studies.report_study", ("report", "run")),
        ("tokensieve.cli.studies.run_study", ("demo", "--quick")),
        ("tokensieve.cli.studies.report_study", ("demo", "--quick")),
        ("tokensieve.recipes.review.review", ("check", "script")),
    ],
)
def test_an_interrupt_ends_any_command_with_130(cli, monkeypatch, where, command):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if command[0] == "demo":
        monkeypatch.setattr("tokensieve.cli.studies.run_study", lambda *_: True)
    monkeypatch.setattr(where, interrupt)
    Path("study.yaml").write_text(
        "name: s\nmodels: [world-llava]\nrecipes: [gsp]\nkeep: [1/9]\nlimit: 2\ntasks: [world]\n",
        encoding="utf-8",
    )
    result = cli(*command)
    assert result.exit_code == 130, result.output
    assert "Traceback" not in result.output
