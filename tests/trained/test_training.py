"""The embedded models' training: it goes on where it stopped, and what it saves is what it trained."""

import json

import numpy as np
import pytest
import torch
from training import clip, language, llava, qwen
from training.data import COLUMNS, ROWS, TOKENS, scenes
from training.words import EOS, IDS, encode, tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel

import tokensieve as ts
from tokensieve.tasks.world.questions import TYPES

SMALL = ["--count", "24", "--held", "8", "--every", "2", "--batch", "4"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def first(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp("clip")
    clip.main(["--out", str(out), "--scenes", str(drawn), "--steps", "4", *SMALL])
    return out


@pytest.fixture(scope="module")
def second(drawn, first, tmp_path_factory):
    out = tmp_path_factory.mktemp("llava")
    words = ["--out", str(out), "--scenes", str(drawn), "--clip", str(first / "model"), "--questions", "5"]
    llava.main([*words, "--steps", "2", "--easy", "1", *SMALL])
    return out


@pytest.fixture(scope="module")
def other(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp("qwen")
    words = ["--out", str(out), "--scenes", str(drawn), "--tower-steps", "2", "--tower-batch", "4", "--questions", "5"]
    qwen.main([*words, "--steps", "4", "--easy", "2", *SMALL])
    return out


@pytest.mark.nightly
def test_a_training_that_was_stopped_ends_as_one_that_was_not(drawn, first, tmp_path):
    words = ["--out", str(tmp_path), "--scenes", str(drawn), *SMALL]
    # The schedule is that of all steps, so it is stopped, not told to take fewer.
    kept, real = [], clip.Training._keep

    def stop(self, figures):
        real(self, figures)
        kept.append(self.step)
        if self.step == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip.Training, "_keep", stop)
        with pytest.raises(KeyboardInterrupt):
            clip.main([*words, "--steps", "4"])
    clip.main([*words, "--steps", "4"])
    assert kept == [2]
    whole, resumed = (CLIPModel.from_pretrained(folder / "model").state_dict() for folder in (first, tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert [entry["step"] for entry in curve] == [2, 4]


@pytest.mark.nightly
def test_a_weak_text_tower_stands_on_the_same_vision_tower(drawn, first, tmp_path):
    words = ["--out", str(tmp_path), "--scenes", str(drawn), "--weak-of", str(first / "model"), "--steps", "2", *SMALL]
    clip.main(words)
    strong, weak = (CLIPModel.from_pretrained(folder / "model").state_dict() for folder in (first, tmp_path))
    same = {name for name in strong if torch.equal(strong[name], weak[name])}
    assert {name for name in strong if name.startswith("vision_model.")} <= same
    assert "visual_projection.weight" not in same
    assert not [name for name in same if name.startswith("text_model.encoder") and name.endswith("proj.weight")]


def test_heads_that_look_back_do_so_at_their_start(first):
    torch.manual_seed(0)
    tower = CLIPModel.from_pretrained(first / "model")
    assert llava.build(tower, look_back=False).config.text_config.attention_bias is False
    model = llava.build(tower, look_back=True)
    text, config = model.model.language_model, model.config.text_config
    width, heads = config.hidden_size, config.num_attention_heads
    language.begin(text, torch.linalg.qr(torch.randn(width, 24)).Q.T, torch.randn(9, width))
    attention, n, size = text.layers[3].self_attn, 12, width // heads
    hidden = torch.nn.functional.normalize(torch.randn(n, width, dtype=torch.float64), dim=-1)
    weights = {name: value.double() for name, value in attention.state_dict().items()}
    query = hidden @ weights["q_proj.weight"].T + weights["q_proj.bias"]
    key = hidden @ weights["k_proj.weight"].T + weights["k_proj.bias"]
    theta = config.rope_parameters["rope_theta"]

    def turned(vector, place):
        """Rotary positions, pair by pair."""
        out = vector.clone()
        for pair in range(size // 2):
            angle = torch.tensor(place * theta ** (-pair / (size // 2)), dtype=torch.float64)
            a, b = vector[pair], vector[pair + size // 2]
            out[pair] = a * angle.cos() - b * angle.sin()
            out[pair + size // 2] = b * angle.cos() + a * angle.sin()
        return out

    for head in range(heads // 2, heads):
        rows = slice(head * size, (head + 1) * size)
        back = 1 + head % 2
        for place in range(back, n):
            seen = [turned(query[place, rows], place) @ turned(key[k, rows], k) for k in range(place + 1)]
            assert int(torch.stack(seen).argmax()) == place - back


@pytest.mark.parametrize("family", ["second", pytest.param("other", marks=pytest.mark.nightly)])
def test_questions_in_a_pack_are_answered_as_they_are_alone(family, drawn, request):
    out = request.getfixturevalue(family)
    model = AutoModelForImageTextToText.from_pretrained(out / "model", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(out / "model")
    held = scenes(drawn, "validation", 8)
    asked = held.questions(3, "x", 6)
    images = held.images(np.array([3]))
    ids, labels, types = language.packed([asked], 6)
    if family == "second":
        tower = model.model.vision_tower
        features = tower(images, output_hidden_states=True).hidden_states[-2][:, 1:]
        pack = language.Asked(model.model.multi_modal_projector, model.model.language_model, llava.frame(), 2)
    else:
        features = qwen.look(model, images)[0]
        pack = language.Asked(qwen.Merger(model.model.visual.merger.mlp), model.model.language_model, qwen.frame(), 3)
    with torch.no_grad():
        together = pack(features, ids)[0]
    from PIL import Image

    for number, one in enumerate(asked):
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": one.text}]}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        inputs = processor(images=[Image.fromarray(held.pixels[3])], text=[text], return_tensors="pt")
        with torch.no_grad():
            alone = model(**inputs).logits[0, -1]
        place = number * language.SLOT + len(encode(one.text)) - 1
        assert torch.allclose(together[place], alone, atol=2e-4)
        assert labels[0, place] == IDS[one.answer]
        assert labels[0, place + 1] == EOS
        assert TYPES[types[0, number]] == one.type


@pytest.mark.parametrize("family", ["second", pytest.param("other", marks=pytest.mark.nightly)])
def test_what_is_saved_can_be_pruned(family, drawn, request):
    from PIL import Image

    out = request.getfixturevalue(family)
    model = AutoModelForImageTextToText.from_pretrained(out / "model").eval()
    assert model.dtype == torch.float32
    processor = AutoProcessor.from_pretrained(out / "model")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color is the star?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    picture = Image.fromarray(scenes(drawn, "validation", 8).pixels[0])
    inputs = processor(images=[picture], text=[text], return_tensors="pt")
    with torch.no_grad(), ts.prune(model, "qcsp", keep=1 / 9, processor=processor) as run:
        model(**inputs)
    assert run.latest.visual == [TOKENS]
    assert len(run.kept("decoder.0")[0]) == TOKENS // 9
    assert run.latest.questions == ["what color is the star ?"]


def test_the_tokenizer_reads_what_people_write():
    words = tokenizer(end=True)
    assert words("Is there a RED star?").input_ids == [1, *encode("is there a red star ?"), EOS]
    assert words("an unknown word").input_ids[1:-1] == [2, 2, 2]
    assert words("at the top-left ?").input_ids[-3] == IDS["top-left"]


def test_a_picture_in_a_pack_sees_no_question_and_a_question_no_other():
    frame = qwen.frame()
    mask = frame.mask(3)[0, 0] == 0
    n = frame.length
    for row in range(n + 3 * language.SLOT):
        for column in range(n + 3 * language.SLOT):
            own = column < n or (row - n) // language.SLOT == (column - n) // language.SLOT
            assert bool(mask[row, column]) == (column <= row and own)
    assert frame.positions[1:, 2 : 2 + TOKENS].max() == 2 + max(ROWS, COLUMNS) - 1
