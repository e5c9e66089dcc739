"""Omni models: pictures and videos are chosen from, and sound stays, also between the frames of a video."""

import pytest
import torch
from tests.engine import packed

import tokensieve as ts
from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS
from tokensieve_adapters.qwen_omni import Qwen3OmniAdapter, Qwen25OmniAdapter

START, END = VISION_TOKENS["vision_start_token_id"], VISION_TOKENS["vision_end_token_id"]
SOUND, SOUND_START, SOUND_END = range(_tiny.VOCABULARY_SIZE, _tiny.VOCABULARY_SIZE + 3)
MEL = 32
"""Frames of a spectrogram."""
HEARD = {"qwen2_5_omni_thinker": 8, "qwen3_omni_moe_thinker": 4}
"""How many tokens a tower makes of them."""


@pytest.fixture(scope="module", params=[Qwen25OmniAdapter, Qwen3OmniAdapter])
def model(request):
    torch.manual_seed(0)
    return request.param.tiny().eval()


def sound(rows=1):
    draw = torch.Generator().manual_seed(5)
    return {
        "input_features": torch.randn(rows, 8, MEL, generator=draw),
        "feature_attention_mask": torch.ones(rows, MEL, dtype=torch.int64),
    }


def inputs(model, ids, **given):
    ids = torch.tensor([ids])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}


@pytest.fixture(params=["picture and sound", "video", "video with its sound"])
def prompt(request, model):
    """A prompt, and the places of its visual tokens."""
    image = Qwen25OmniAdapter.random_inputs(model, [[0]], "image")
    video = Qwen25OmniAdapter.random_inputs(model, [[1]], "video") | {"video_second_per_grid": torch.tensor([1.0])}
    heard = [SOUND] * HEARD[model.config.model_type]
    if request.param == "picture and sound":
        ids = [1, 9, START, *[_tiny.IMAGE] * 12, END, 4, SOUND_START, *heard, SOUND_END, 5, 6]
        return inputs(model, ids, **image, **sound())
    frames, rows, columns = (int(n) for n in video["video_grid_thw"][0] // torch.tensor([1, 2, 2]))
    seen = [_tiny.VIDEO] * (frames * rows * columns)
    if request.param == "video":
        return inputs(model, [1, 9, START, *seen, END, 5, 6], **video)
    # Chunks of two seconds: what is seen in one, then what is heard in it. All of this video is in the first.
    ids = [1, 9, START, SOUND_START, *seen, *heard, SOUND_END, END, 5, 6]
    return inputs(model, ids, **video, **sound(), use_audio_in_video=True)


@torch.no_grad()
def by_hand(model, prompt, kept, features=None, deep=()):
    """Delete vectors and positions from what the model itself would have given its layers.

    Args:
        features: what stands in the place of what is left, `[kept, d]`, if the tower was given something else.
        deep: what is added to it behind the first layers, in the same way.
    """
    base, seen = model.model, {}

    def note(module, args, kwargs):
        seen.update(kwargs)

    hook = base.language_model.register_forward_pre_hook(note, with_kwargs=True)
    whole = model(**prompt)
    hook.remove()
    visual = (prompt["input_ids"][0] == _tiny.IMAGE) | (prompt["input_ids"][0] == _tiny.VIDEO)
    stays = ~visual
    stays[visual.nonzero().flatten()[kept]] = True
    given = {"inputs_embeds": seen["inputs_embeds"][:, stays], "position_ids": seen["position_ids"][..., stays]}
    if seen.get("visual_pos_masks") is not None:
        # What is added to the first layers belongs to the tokens that stay.
        given["visual_pos_masks"] = seen["visual_pos_masks"][:, stays]
        given["deepstack_visual_embeds"] = list(deep) or [one[kept] for one in seen["deepstack_visual_embeds"]]
    if features is not None:
        given["inputs_embeds"] = given["inputs_embeds"].clone()
        given["inputs_embeds"][0, visual[stays]] = features
    out = base.language_model(**given, use_cache=False)
    return model.lm_head(out.last_hidden_state)[0, -1], whole.logits[0, -1]


@pytest.mark.parametrize("keep", [1, 3, 5])
def test_what_stays_has_its_own_place(model, prompt, keep):
    with torch.no_grad(), ts.prune(model, "divprune", keep=keep) as run:
        logits = model(**prompt).logits[0, -1]
    kept = run.kept("decoder.0")[0]
    assert len(kept) == keep
    expected, whole = by_hand(model, prompt, kept)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, whole, atol=1e-3)
    # Text and sound are no visual tokens.
    assert run.latest.text[0] + run.latest.visual[0] == prompt["input_ids"].shape[1]


def test_a_prompt_that_loses_nothing_is_the_models_own(model, prompt):
    with torch.no_grad():
        plain = model.generate(**prompt, max_new_tokens=3, do_sample=False, suppress_tokens=[*range(60, 67)])
        with ts.prune(model, "uniform", keep="100%"):
            assert torch.equal(
                model.generate(**prompt, max_new_tokens=3, do_sample=False, suppress_tokens=[*range(60, 67)]), plain
            )


def test_generation_goes_on_behind_the_prompt(model, prompt):
    """Token by token, against prompts that are pruned anew without a cache."""
    settings = {"do_sample": False, "suppress_tokens": [*range(60, 67)]}
    with torch.no_grad(), ts.prune(model, "uniform", keep=3):
        written = model.generate(**prompt, max_new_tokens=3, **settings)
        again = model.generate(**prompt, max_new_tokens=3, use_cache=False, **settings)
    assert torch.equal(written, again)


@pytest.mark.parametrize("per", ["image", "frame"])
def test_what_is_left_before_the_tower_has_its_own_place_among_sounds(model, prompt, per):
    """Beside sound, also between the frames of a video, and against the tower written out on the kept patches alone."""
    adapter = ts.default_registry().adapter_for(model)
    [modality] = [one for one in adapter.decoder.modalities if one.pixel_argument in prompt]
    recipe = ts.Recipe.loads(f"stages: [{{at: pixel.0, select: uniform, keep: 3, per: {per}}}]")
    with torch.no_grad(), ts.prune(model, recipe) as run:
        logits = model(**prompt).logits[0, -1]
    kept = run.kept("pixel.0")[0]
    [grid] = prompt[f"{modality.name}_grid_thw"].tolist()
    features, deep = packed.encoded(model, prompt[modality.pixel_argument], grid, kept.tolist())
    expected, whole = by_hand(model, prompt, kept, features.float(), [one.float() for one in deep])
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not torch.allclose(logits, whole, atol=1e-3)
