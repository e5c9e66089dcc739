"""`run`: an answer under a recipe, and its ledger."""

import json
from pathlib import Path

from tests.cli.conftest import PHOTO, QUESTION

import tokensieve as ts
from tokensieve import default_registry
from tokensieve.checkpoints.asking import answer
from tokensieve.tasks.world import World

ASK = ("--image", PHOTO, "--prompt", QUESTION, "--max-new-tokens", "3", "--device", "cpu")


def test_run_answers_and_prints_the_ledger(cli, checkpoint):
    result = cli("run", "script", "--model", checkpoint, *ASK)
    assert result.exit_code == 0, result.output
    for part in ("script on llava", "decoder.0: graph & query, keep 64", "576", "graph ", "query ", QUESTION):
        assert part in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stderr == ""


def test_a_shipped_checkpoint_goes_by_its_name_and_brings_its_query_encoder(cli):
    task = World(pictures=1)
    sample = next(one for one in task.samples() if one.question == "what color is the cross?")
    task.picture(sample).save("scene.png")
    ask = ("--image", "scene.png", "--prompt", sample.question, "--keep", "16", "--device", "cpu")
    strong = cli("run", "script", "--model", "world-llava", *ask)
    assert strong.exit_code == 0, strong.output
    assert strong.stdout.splitlines()[0] == sample.answers[0] == "red"
    assert "relevance: clip text tower" in strong.stdout
    # Another encoder can still be named; the model's own folder has the weak one beside the strong one.
    weak = default_registry().checkpoint("world-llava-weak").query_encoder
    cli("run", "script", "--model", "world-llava", *ask, "--query-encoder", weak, "--save-kept", "weak.json")
    cli("run", "script", "--model", "world-llava-weak", *ask, "--save-kept", "own.json")
    cli("run", "script", "--model", "world-llava", *ask, "--save-kept", "strong.json")
    kept = [Path(f"{name}.json").read_text(encoding="utf-8") for name in ("weak", "own", "strong")]
    assert kept[0] == kept[1] != kept[2]
    for command in (("check", "script"), ("cost", "script", "--visual", "144"), ("show", "script", *ask[:2])):
        result = cli(*command, "--model", "world-llava")
        assert result.exit_code == 0, result.output


def test_run_writes_what_it_found(cli, checkpoint, ready, photo):
    result = cli(
        "run", "gsp", "--model", checkpoint, *ASK, "--keep", "1/9", "--json", "l.json", "--save-kept", "k.json"
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == "ledger: l.json\nkept tokens: k.json\n"
    ledger = json.loads(Path("l.json").read_text(encoding="utf-8"))
    (stage,) = ledger["stages"]
    assert stage["keep"] == "1/9"
    assert stage["samples"][0]["kept"] == 64
    assert ledger["image"] == "grace_hopper.jpg"
    assert ledger["prompt"] == QUESTION
    assert ledger["answer"] == result.stdout.split("\n\n")[0] or "\ufffd" in ledger["answer"]
    # What was kept can be replayed, and is what Python keeps.
    recipe = ts.Recipe.of(ts.replay("k.json"), "auto")
    text, run = answer(ready, recipe, photo, QUESTION, 3, None, ts.default_registry())
    assert run.kept("decoder.0")[0].tolist() == stage["samples"][0]["kept_ids"]
    assert text == ledger["answer"]


def test_a_budget_for_each_stage(cli, checkpoint, recipe):
    whole = "stages:\n  - {at: decoder.0, select: gsp, keep: 100}\n  - {at: decoder.2, select: fastv, keep: 50}\n"
    result = cli("run", recipe(whole=whole), "--model", checkpoint, *ASK, "--keep", "80, 20", "--json", "l.json")
    assert result.exit_code == 0, result.output
    ledger = json.loads(Path("l.json").read_text(encoding="utf-8"))
    assert [stage["samples"][0]["kept"] for stage in ledger["stages"]] == [80, 20]
    assert ledger["samples"][0]["mean_visual_per_layer"] == 50


def test_a_checkpoint_without_a_chat_template(cli, checkpoint):
    Path("m").mkdir()
    for file in checkpoint.iterdir():
        if file.name != "chat_template.jinja":
            Path("m", file.name).symlink_to(file)
    result = cli("run", "script", "--model", "m", *ASK, "--json", "l.json")
    assert result.exit_code == 0, result.output
    sample = json.loads(Path("l.json").read_text(encoding="utf-8"))["samples"][0]
    assert sample["visual_tokens"] == 576
    assert sample["question"] == QUESTION


def test_the_prompt_is_made_by_the_chat_template(ready):
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}
    assert ready.render_chat([turn]) == "USER: <image>\nWhy? ASSISTANT:"


def test_a_query_encoder_that_is_none(cli, checkpoint):
    result = cli("run", "script", "--model", checkpoint, *ASK, "--query-encoder", checkpoint)
    assert result.exit_code == 1
    assert result.stderr.startswith("RefusedError: ")
    assert result.stderr.count("\n") == 1


def test_the_example_has_the_real_geometry(ready, photo):
    config = ready.model.config
    inputs = ready.inputs(photo, "Any text: é 漢 \N{GRINNING FACE}")
    assert inputs["pixel_values"].shape == (1, 3, 336, 336)
    assert int((inputs["input_ids"] == config.image_token_id).sum()) == 576
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    words = inputs["input_ids"][0][inputs["input_ids"][0] != config.image_token_id]
    assert ready.processor.decode(words) == "<s>USER: \nAny text: é 漢 \N{GRINNING FACE} ASSISTANT:"
