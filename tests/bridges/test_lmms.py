"""lmms-eval with our models: the same tokens and answers as `ts.prune` by hand, its cache, and the ledger."""

import pytest
from study import standins

pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]
MODEL = "pretrained=world-llava"


@pytest.mark.parametrize("recipe", ["script", "divprune"])
def test_a_run_keeps_and_answers_what_prune_does_by_hand(recipe, evaluate, by_hand, world):
    answers, kept = by_hand(recipe, "1/9")
    own = evaluate("tokensieve", f"{MODEL},recipe={recipe},keep=1/9", "--batch_size", "5")
    assert own.kept == kept
    assert own.answers == answers
    right = [answer == sample.answers[0] for answer, sample in zip(answers, world[1], strict=True)]
    assert own.score() == pytest.approx(sum(right) / len(right))
    wrapped = evaluate("tokensieve_wrap", f"base=llava_hf,{MODEL},recipe={recipe},keep=1/9", "--batch_size", "1")
    assert wrapped.kept == kept
    assert wrapped.answers == answers
    row = wrapped.rows("ledger")[3]
    assert (row["doc_id"], row["recipe"], row["visual_tokens"], row["kept"]) == (3, recipe, 144, {"decoder.0": 16})


def test_unpruned_it_answers_as_the_model_itself(evaluate, by_hand):
    whole, _ = by_hand("norm", "100%")
    outcome = evaluate("tokensieve", f"{MODEL},recipe=none", "--batch_size", "4")
    assert outcome.answers == whole
    # Nothing was pruned, so there is no ledger.
    assert list(outcome.folder.glob("*_ledger_*")) == []


def test_the_prompts_of_older_numbers_are_pruned_too(evaluate):
    # It writes `<image>` into a text, where the shipped template has a list of parts.
    template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    arguments = f"base=llava_hf,{MODEL},recipe=norm,keep=16,chat_template={template}"
    outcome = evaluate("tokensieve_wrap", arguments, "--force_simple")
    assert [row["kept"]["decoder.0"] for row in outcome.rows("ledger")] == [16] * 12
    assert outcome.results["config"]["model_backend"].endswith("(simple)")


def test_a_recipe_is_known_by_its_content(evaluate, tmp_path):
    file, cache = tmp_path / "mine.yaml", tmp_path / "cache"
    text = "name: mine\nstages:\n  - {at: decoder.0, select: SELECT, keep: KEEP}\n"

    def asked(select, keep, path=file):
        """How many documents a run asked the model about: what the cache knew is not in the ledger."""
        path.write_text(text.replace("SELECT", select).replace("KEEP", keep))
        outcome = evaluate("tokensieve", f"{MODEL},recipe={path}", "--use_cache", str(cache), "--limit", "4")
        return len(outcome.rows("ledger")) if list(outcome.folder.glob("*_ledger_*")) else 0

    assert asked("norm", "16") == 4
    assert asked("norm", "16") == 0
    assert asked("norm", "17") == 4
    # The same content in another file is the same recipe.
    assert asked("norm", "17", tmp_path / "other.yaml") == 0


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("tokensieve", f"{MODEL}", "has no recipe: give recipe=script"),
        ("tokensieve", f"{MODEL},recipe=script,kep=16", "has no parameter 'kep'.*Did you mean 'keep'"),
        ("tokensieve", f"{MODEL},recipe=16,keep=script", "they are swapped, recipe=script,keep=16 was meant"),
        ("tokensieve", "pretrained=nowhere,recipe=script", "there is no such folder; nothing is downloaded"),
        ("tokensieve_wrap", f"{MODEL},recipe=script", "has no base"),
        ("tokensieve_wrap", f"base=lava_hf,{MODEL},recipe=script", "base=lava_hf: Model 'lava_hf' not found"),
        ("tokensieve_wrap", f"base=tokensieve,{MODEL},recipe=script", "is this bridge itself"),
    ],
)
def test_wrong_arguments_are_told(model, arguments, said, evaluate):
    from tokensieve.errors import TokensieveError

    with pytest.raises(TokensieveError, match=said):
        evaluate(model, arguments)


def test_an_error_inside_a_class_that_goes_on_after_errors_ends_the_run(evaluate, monkeypatch):
    """llava_hf catches what `generate` raises, and answers with nothing."""
    from tokensieve.errors import RefusedError
    from tokensieve.lmms import pruning

    calls = []

    def broken(*args, **options):
        calls.append(args)
        if len(calls) > 1:
            raise RefusedError("it cannot be pruned like this")
        return prune(*args, **options)

    prune = pruning.prune
    monkeypatch.setattr(pruning, "prune", broken)
    with pytest.raises(RefusedError, match="it cannot be pruned like this"):
        evaluate("tokensieve_wrap", f"base=llava_hf,{MODEL},recipe=norm,keep=16")
    # One check, and one call that failed; no later one is tried.
    assert len(calls) == 2


def test_another_release_is_refused(evaluate, monkeypatch):
    from tokensieve import bridges
    from tokensieve.errors import PluginError

    version = bridges._version
    monkeypatch.setattr(bridges, "_version", lambda name: "0.8.1" if name == "lmms-eval" else version(name))
    with pytest.raises(PluginError, match=r"lmms-eval 0\.8\.1 is installed, and .*0\.7\.3.* works"):
        evaluate("tokensieve", f"{MODEL},recipe=script,keep=16")


def test_several_processes_are_refused(evaluate, monkeypatch):
    from tokensieve.errors import RefusedError
    from tokensieve.lmms.pruning import require_harness

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RefusedError, match="in several processes here"):
        require_harness()


VIDEO = """\
task: video_local
dataset_path: json
dataset_kwargs: {data_files: {test: videos.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function videos.visual
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 2, until: ["e"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def test_a_video_is_shown_by_its_frames(folder, evaluate, tmp_path):
    import cv2
    import numpy as np

    writer = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 4, (112, 112))
    for shade in range(0, 250, 25):
        writer.write(np.full((112, 112, 3), shade, np.uint8))
    writer.release()
    (folder / "video_local.yaml").write_text(VIDEO)
    (folder / "videos.py").write_text("def visual(doc):\n    return [doc['video']]\n")
    line = '{"video": "clip.avi", "question": "what color is it?", "answer": "grey"}\n'
    (folder / "videos.jsonl").write_text(line * 3)
    model = standins.video_llava(tmp_path)
    arguments = f"pretrained={model},recipe=norm,keep=1/4,frames=8"
    outcome = evaluate("tokensieve", arguments, "--batch_size", "2", task="video_local")
    rows = outcome.rows("ledger", "video_local")
    assert [row["doc_id"] for row in rows] == [0, 1, 2]
    assert {row["kept"]["decoder.0"] * 4 for row in rows} == {rows[0]["visual_tokens"]}

    from tokensieve.lmms.media import frames_of

    shades = [frame.getpixel((50, 50))[0] for frame in frames_of(str(folder / "clip.avi"), 4)]
    assert shades == pytest.approx([0, 75, 150, 225], abs=3)
    # Answers end at the text where the task says so.
    assert all("e" not in row["filtered_resps"] for row in outcome.rows("samples", "video_local"))
