"""The training of `world-qwen-wide`: packs of questions are answered as transformers answers the same prompts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from training import wide
from training.words import EOS
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2VLForConditionalGeneration

import tokensieve as ts
from tokensieve.tasks.world.clips import Clip, clip
from tokensieve.tasks.world.signs import signs

COUNT = 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def out(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    words = ["--out", str(folder), "--scenes", str(drawn), "--count", str(COUNT), "--held", "8", "--every", "2"]
    wide.main([*words, "--steps", "4", "--tower-steps", "2", "--examined", "1", "--questions", "4"])
    return folder


@pytest.fixture(scope="module")
def shown(drawn, out):
    return {what: wide.drawn(drawn, what, "train", COUNT) for what in ("scene", "signs", "clip")}


@pytest.fixture(scope="module")
def saved(out):
    folder = out / "model"
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def test_tokens_are_labelled_by_what_is_drawn_on_them(shown):
    """By a loop over the fine pixels of each token."""
    which = np.arange(3)
    for what, draw in (("signs", signs), ("clip", clip)):
        colors, kinds, ways, appears = shown[what].labels(which)
        times, rows, columns = shown[what].grid
        for number in which:
            one = draw("train", int(number))
            owner = one.owner if what == "clip" else np.stack([one.owner] * 2)
            place = 0
            for time in range(times):
                for row in range(rows):
                    for column in range(columns):
                        cell = owner[2 * time : 2 * time + 2, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
                        parts = [int((cell == n + 1).sum()) / cell.size for n in range(len(one.things))]
                        best = max(range(len(parts)), key=parts.__getitem__)
                        if parts[best] < 0.12:
                            assert colors[number, place] == 8
                            assert ways[number, place] == 5
                        else:
                            thing = one.things[best]
                            assert list(wide.COLORS)[colors[number, place]] == thing.color
                            assert wide.LABELS[kinds[number, place]] == thing.kind
                            if isinstance(one, Clip):
                                event = one.events[best]
                                assert wide.DIRECTIONS[ways[number, place]] == event.direction
                                # It is half there in the pair of frames in which it appears.
                                new = (owner[2 * time] == best + 1).sum() == 0
                                assert bool(appears[number, place]) == bool(new)
                        place += 1


@pytest.mark.parametrize("what", ["scene", "signs", "pair", "triple", "clip"])
def test_questions_in_chains_are_answered_as_transformers_answers_the_talk(what, shown, saved, out):
    hf, processor = saved
    model = Qwen2VLForConditionalGeneration.from_pretrained(out / "model").eval()
    model.set_attn_implementation("eager")
    many = {"pair": 2, "triple": 3}.get(what, 1)
    source, which = shown["scene" if many > 1 else what], np.arange(many) + 1
    with torch.no_grad():
        features = [wide.see(model, source, which[place : place + 1])[0] for place in range(many)]
        asked = wide.about(what, [source.said[n] for n in which], "x", 4)
        assert len(asked) == 4
        packed = wide.pack([asked])
        together = wide.Asked(model)(features, [source.grid] * many, packed)[0]
    frames = [[Image.fromarray(frame) for frame in source.frames[n]] for n in which]
    if what == "clip":
        given = {"videos": frames, "do_sample_frames": False}
        around = "<|vision_start|><|video_pad|><|vision_end|>"
    else:
        given = {"images": [one[0] for one in frames]}
        around = "<|vision_start|><|image_pad|><|vision_end|>" * many
    for number, one in enumerate(asked):
        first = asked[number - number % 2]
        before = "" if first is one else f" {first.text} {first.answer} </s>"
        inputs = processor(text=[f"{around}{before} {one.text}"], return_tensors="pt", **given)
        with torch.no_grad():
            alone = hf(**inputs).logits[0, -1]
        own = [place for place, label in enumerate(packed.labels[0].tolist()) if label not in (wide.IGNORED, EOS)]
        assert packed.labels[0, own[number]] == wide.IDS[one.answer]
        assert packed.asked[number] == (one.type, number % 2 == 1)
        assert torch.allclose(together[own[number]], alone, atol=2e-4)


def test_the_template_writes_videos_and_talks(saved):
    _, processor = saved
    talk = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which way?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "up"}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    text = processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == "<|vision_start|><|video_pad|><|vision_end|> Which way? up </s> Why?"


def test_what_is_saved_can_be_pruned_and_knows_what_the_first_model_knew(out, saved, shown):
    model, processor = saved
    assert model.dtype == torch.float32
    picture = Image.fromarray(shown["signs"].frames[0][0])
    inputs = processor(
        images=[picture], text=["<|vision_start|><|image_pad|><|vision_end|> what word is red?"], return_tensors="pt"
    )
    with torch.no_grad(), ts.prune(model, "divprune", keep=16) as run:
        model(**inputs)
    assert run.latest.visual == [144]
    first = AutoProcessor.from_pretrained(ts.default_registry().checkpoint("world-qwen").folder).tokenizer.get_vocab()
    assert first.items() <= processor.tokenizer.get_vocab().items()
    curve = json.loads((out / "curve.json").read_text())
    assert [entry["step"] for entry in curve] == [2, 4]
