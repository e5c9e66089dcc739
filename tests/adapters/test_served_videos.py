"""What EVS, VidCom2 and those that merge keep of a video on the layouts of real families, and what servers reserve."""

from collections import Counter

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.evidence import NEWLINE
from tokensieve_strategies import EVS, FastVID, HoliTom, PruneVid, VidCom2

from .test_groups import made

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")


@pytest.fixture(scope="module", params=FAMILIES)
def video(request):
    """A model, a prompt with one video, and the frame of each of its tokens; newlines of the end are of no frame."""
    model, inputs, grid = made(request.param, ("video", 3))
    return model, inputs, [None if place[4] == NEWLINE else place[2] for place in grid]


@torch.no_grad()
def kept(video, select, keep):
    model, inputs, _ = video
    with ts.prune(model, ts.Recipe.of(select, keep)) as run:
        model(**inputs)
    return run.kept("decoder.0")[0].tolist()


def size(frames):
    """How many frames there are, and how many tokens each of them has."""
    by_frame = Counter(frame for frame in frames if frame is not None)
    [each] = set(by_frame.values())
    return len(by_frame), each


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_evs_keeps_the_first_frame_and_as_many_as_are_reserved(video, q):
    frames = video[2]
    number, each = size(frames)
    found = kept(video, EVS(q=q), "auto")
    if None in frames:
        # A newline at the end is one token more, and has none before it, so it stays.
        assert len(found) == max(each + 1, int(len(frames) * (1 - q)))
    else:
        assert len(found) == EVS.reserved(number, each, q)
    assert {place for place, frame in enumerate(frames) if frame == 0} <= set(found)


@pytest.mark.parametrize("q", [0.5, 0.75])
def test_vidcom2_keeps_tokens_of_every_frame(video, q):
    frames = video[2]
    number, each = size(frames)
    k = VidCom2.reserved(number, each, q)
    found = kept(video, VidCom2(), k)
    assert len(found) == k
    # A newline at the end is unlike everything, and takes a place, too.
    assert len({frames[place] for place in found}) >= number


@pytest.mark.parametrize(
    "strategy",
    [HoliTom(threshold=0.0), FastVID(segments=1, interval=2), PruneVid(threshold=0.0)],
    ids=lambda one: one.name,
)
@torch.no_grad()
def test_a_video_is_merged_to_its_budget(video, strategy):
    model, inputs, frames = video
    if None in frames and ts.Evidence.VISION_ATTENTION in strategy.needs:
        # LLaVA-OneVision: its adapter reads the vision tower for pictures alone.
        with pytest.raises(RefusedError, match="images alone"), ts.prune(model, strategy, keep=4):
            model(**inputs)
        return
    for k in (1, len(frames) // 3, len(frames)):
        with ts.prune(model, ts.Recipe.of(strategy, k, rest="merge")) as run:
            logits = model(**inputs).logits
        assert len(run.kept("decoder.0")[0]) == k
        assert logits.isfinite().all()
