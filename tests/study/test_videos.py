"""Videos in a study: what a model is shown, what is refused, and rows like those of a video asked about alone."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import tokensieve as ts
from tokensieve.checkpoints.loading import load
from tokensieve.errors import RefusedError
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.running.runner import Runner
from tokensieve.study.spec.study import Study
from tokensieve.tasks import Video

from . import standins

FRAMES = (8, 8, 4)
PROMPT = "USER: <video>\nWhy? ASSISTANT:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return standins.video_llava(tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def ready(folder):
    return load(folder, ts.default_registry(), ())


def noise(seed, frames=8):
    drawn = np.random.default_rng(seed).integers(0, 255, (frames, 30, 40, 3), dtype="uint8")
    return Video(tuple(map(Image.fromarray, drawn)))


def alone(ready, video):
    """What the library makes of a video, given as one array."""
    array = np.stack([np.asarray(frame) for frame in video.frames])
    return dict(ready.processor(text=PROMPT, videos=array, return_tensors="pt"))


def test_a_model_gets_every_frame_and_its_place_in_the_prompt(ready):
    videos = [noise(0), noise(1)]
    assert [video.size for video in videos] == [(40, 30, 8)] * 2
    both = ready.batch_inputs(videos, ["Why?", "Why?"])
    for row, video in enumerate(videos):
        one = alone(ready, video)
        assert torch.equal(ready.batch_inputs([video], ["Why?"])["input_ids"], one["input_ids"])
        assert torch.equal(both["pixel_values_videos"][row], one["pixel_values_videos"][0])
        assert torch.equal(both["input_ids"][row], one["input_ids"][0])
    assert not torch.equal(both["pixel_values_videos"][0], both["pixel_values_videos"][1])


def test_frames_are_not_left_out_where_a_processor_would(flexible):
    """Qwen2-VL's takes as many as it likes of a video at a rate, unless it is told not to."""
    ready = load(flexible, ts.default_registry(), ())
    with pytest.raises(RefusedError, match="chat template has no place for a video"):
        ready.processor_inputs([noise(0)], ["Why?"])
    ready.processor.chat_template = None
    rows = {
        frames: ready.processor_inputs([noise(0, frames)], ["Why?"])["video_grid_thw"].tolist()[0] for frames in (8, 12)
    }
    step = ready.processor.video_processor.temporal_patch_size
    assert [rows[frames][0] for frames in (8, 12)] == [8 // step, 12 // step]


def test_what_is_refused(ready, checkpoint):
    with pytest.raises(RefusedError, match="not asked about in one batch"):
        ready.processor_inputs([noise(0), Image.new("RGB", (30, 40))], ["Why?", "Why?"])
    pictures = load(checkpoint, ts.default_registry(), ())
    with pytest.raises(RefusedError, match="LlavaProcessor takes no videos"):
        pictures.processor_inputs([noise(0)], ["Why?"])


def test_rows_are_those_of_a_video_alone(folder, ready, tmp_path):
    lines = []
    for number in range(3):
        place = tmp_path / f"clip{number}"
        place.mkdir()
        # One of them is short, and so are its rows.
        for frame, picture in enumerate(noise(number, FRAMES[number]).frames):
            picture.save(place / f"{frame}.png")
        lines.append(json.dumps({"id": str(number), "video": place.name, "question": "Why?", "answer": "so"}))
    (tmp_path / "asked.jsonl").write_text("\n".join(lines))
    registry = ts.default_registry()
    study = Study.loads(
        f"models: [{folder}]\nrecipes: [gsp, {{use: fastv, keep: [20]}}]\nkeep: [1/8]\nseeds: 0\nbatch: 2\n"
        f"tasks: [{{use: vqa_jsonl, path: {tmp_path / 'asked.jsonl'}, prompt: '{{question}}', longest: 1}}]",
        registry,
    )
    found = plan_study(study, registry)
    runner = Runner(registry)
    for job in found.jobs:
        if job.cell.role != "method":
            continue
        cell, rows = runner.run(job)
        assert cell.grid is None
        assert [row.image for row in rows] == ["clip0", "clip1", "clip2"]
        kept = []
        for number, row in enumerate(rows):
            visual = 257 * FRAMES[number]
            site, keep = ("decoder.0", visual // 8) if cell.method == "gsp" else ("decoder.2", 20)
            with torch.no_grad(), ts.prune(ready.model, ts.Recipe.load(cell.method).replace(keep=keep)) as run:
                logits = ready.model(**alone(ready, noise(number, FRAMES[number]))).logits[0, -1]
            [ids] = run.kept(site)
            assert row.kept == (tuple(ids.tolist()),)
            assert len(ids) == keep
            assert row.visual == visual
            assert row.answer == ready.processor.decode(logits.argmax()).strip()
            kept.append(row.kept)
        assert len(set(kept)) == 3
