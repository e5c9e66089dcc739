"""Copy trained models into the package, each with its model card.

    python -m training.ship llava --model runs/llava --clip runs/clip --weak runs/clip-weak
    python -m training.ship qwen --model runs/qwen
    python -m training.ship wide --model runs/wide

Every figure of a card is measured here, on scenes of the test split, with the model as users load it.
"""

from __future__ import annotations

import argparse
import collections
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel

from tokensieve.plugins.registry import default_registry
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.running.runner import Runner
from tokensieve.study.spec.study import Study
from tokensieve.tasks import Answer
from tokensieve.tasks.world import World
from tokensieve.tasks.world.questions import TYPES
from tokensieve.tasks.world.scenes import Density
from training.loop import save_half

CHECKPOINTS = Path(__file__).parents[1] / "adapters" / "tokensieve_adapters" / "checkpoints"
MOST = 12_000_000
"""The largest size of a family's folder, in bytes."""
DENSITIES: tuple[Density, ...] = ("sparse", "dense")
HEADLINE = TYPES[:5]
FLOOR = 0.8
"""Types of questions with a lower accuracy are left out of headlines."""


@torch.no_grad()
def right(folder: Path, task: World, blind: bool = False) -> dict[str, tuple[int, int]]:
    """Return right answers and questions, counted by type.

    Args:
        folder: of a checkpoint.
        task: what to ask.
        blind: whether the picture is left out.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    samples = list(task.samples())
    for first in track(range(0, len(samples), 32), description=f"asking {task.density} scenes", transient=True):
        chosen = samples[first : first + 32]
        texts = []
        for sample in chosen:
            content: list[dict[str, Any]] = [] if blind else [{"type": "image"}]
            content.append({"type": "text", "text": sample.question})
            turn = [{"role": "user", "content": content}]
            texts.append(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
        pictures = {} if blind else {"images": [[task.picture(sample)] for sample in chosen]}
        inputs = processor(text=texts, return_tensors="pt", padding=True, **pictures)
        words = processor.batch_decode(model(**inputs).logits[:, -1:].argmax(dim=-1))
        for sample, word in zip(chosen, words, strict=True):
            counts[sample.kind][0] += int(task.grade(sample, Answer(word.strip()), None)[task.metric])
            counts[sample.kind][1] += 1
    return {kind: (good, asked) for kind, (good, asked) in counts.items()}


def share(counts: Mapping[str, tuple[int, int]], kinds: Sequence[str]) -> str:
    """Return the percentage of right answers over some types."""
    good, asked = (sum(counts[kind][place] for kind in kinds) for place in (0, 1))
    return f"{100 * good / asked:.1f}"


def figures(folder: Path, pictures: int) -> dict[str, dict[str, tuple[int, int]]]:
    """Return the measures of a model on test scenes, with images and without."""
    found = {density: right(folder, World(density=density, pictures=pictures)) for density in DENSITIES}
    found["blind"] = right(folder, World(density="dense", pictures=pictures), blind=True)
    return found


def table(found: Mapping[str, Mapping[str, tuple[int, int]]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| questions | sparse scenes | dense scenes | dense, without the picture | questions (sparse, dense) |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = [("**attributes and existence**", HEADLINE), *((kind, (kind,)) for kind in TYPES), ("all", TYPES)]
    for name, kinds in rows:
        cells = [share(found[column], kinds) for column in ("sparse", "dense", "blind")]
        asked = ", ".join(str(sum(found[density][kind][1] for kind in kinds)) for density in DENSITIES)
        lines.append(f"| {name} | {' | '.join(f'{cell} %' for cell in cells)} | {asked} |")
    return "\n".join(lines)


WIDE = ("world", "world_text", "world_pictures", "world_turns", "world_video")
"""The tasks of the wide model."""


def asked(folder: Path, pictures: int) -> dict[str, dict[str, tuple[int, int]]]:
    """Return right answers and questions of every task by type, as a study asks a model; `blind` ones without pictures.

    Args:
        folder: of a checkpoint.
        pictures: how many pictures, clips or prompts of each task.
    """
    tasks = "".join(f"  - {{use: {name}, pictures: {pictures}}}\n" for name in WIDE)
    study = Study.loads(
        f"models: [{{path: {folder}, name: m}}]\nrecipes: [uniform]\nkeep: [1/9]\nbatch: 32\ntasks:\n{tasks}"
    )
    registry = default_registry()
    runner = Runner(registry)
    found: dict[str, dict[str, tuple[int, int]]] = {}
    jobs = [job for job in plan_study(study, registry).jobs if job.cell.role in ("unpruned", "text_only")]
    for job in track(jobs, description="asking", transient=True):
        counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        for row in runner.run(job)[1]:
            counts[row.kind][0] += int(row.correct)
            counts[row.kind][1] += 1
        name = job.cell.task if job.cell.role == "unpruned" else f"{job.cell.task}, blind"
        found[name] = {kind: (good, all_) for kind, (good, all_) in counts.items()}
    return found


def wide_table(found: Mapping[str, Mapping[str, tuple[int, int]]]) -> str:
    """Return the figures of the wide model as a Markdown table."""
    lines = ["| task | questions | right | without the picture | questions |", "| --- | --- | --- | --- | --- |"]
    for task in WIDE:
        counts, blind = found[task], found[f"{task}, blind"]
        kept = headline(counts)
        rows = [(f"**types from {FLOOR:.0%}**", kept), *((kind, (kind,)) for kind in counts), ("all", tuple(counts))]
        for name, kinds in rows:
            number = sum(counts[kind][1] for kind in kinds)
            lines.append(f"| `{task}` | {name} | {share(counts, kinds)} % | {share(blind, kinds)} % | {number} |")
    return "\n".join(lines)


def headline(counts: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """Return the types of questions that the model answers often enough."""
    return tuple(kind for kind, (good, asked) in counts.items() if good >= FLOOR * asked)


def wide_low(found: Mapping[str, Mapping[str, tuple[int, int]]]) -> str:
    """Return a sentence with the types that are below the floor."""
    below = [f"{kind} of `{task}`" for task in WIDE for kind in found[task] if kind not in headline(found[task])]
    return (
        f"Below 80 %, and so left out of headlines: {', '.join(below)}."
        if below
        else "No type of question is below 80 %."
    )


def halved(source: Path, target: Path) -> None:
    """Copy a two-tower model; weights are stored in half precision and loaded in float32."""
    save_half(CLIPModel.from_pretrained(source), target)
    for file in source.iterdir():
        if file.suffix == ".json" and file.name != "config.json":
            shutil.copy(file, target / file.name)


def low(found: Mapping[str, Mapping[str, tuple[int, int]]]) -> str:
    """Return a sentence with the types that are below the floor on dense scenes."""
    below = [kind for kind in TYPES if found["dense"][kind][0] < FLOOR * found["dense"][kind][1]]
    if not below:
        return "No type of question is below 80 % on dense scenes."
    return f"Below 80 % on dense scenes, and so left out of headlines: {', '.join(below)}."


def weight(folder: Path) -> int:
    """Return the total size of a folder's files, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def card(
    family: str,
    folder: Path,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    found: Mapping[str, Mapping[str, tuple[int, int]]],
    note: str,
) -> str:
    """Write the model card of a family.

    Args:
        family: whose template in `cards/`.
        folder: of the shipped checkpoint.
        curves: of every training, by name.
        found: right answers and questions, by scenes and type.
        note: what else to say of the training.
    """
    last = []
    for name, curve in curves.items():
        shares = ", ".join(f"{what} {100 * part:.1f} %" for what, part in curve[-1].items() if what != "step")
        last.append(f"- `{name}`, step {curve[-1]['step']}: {shares}")
    parameters = sum(p.numel() for p in AutoModelForImageTextToText.from_pretrained(folder).parameters())
    template = (Path(__file__).parent / "cards" / f"{family}.md").read_text(encoding="utf-8")
    return template.format(
        table=wide_table(found) if family == "wide" else table(found),
        low=wide_low(found) if family == "wide" else low(found),
        last="\n".join(last),
        megabytes=f"{weight(folder) / 1e6:.1f}",
        parameters=f"{parameters / 1e6:.2f}",
        note=note,
    )


def main() -> None:
    """Copy a family into the package, with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["llava", "qwen", "wide"])
    parser.add_argument("--model", type=Path, required=True, help="the folder of the second stage's training")
    parser.add_argument("--clip", type=Path, help="of the first stage's, with a strong text tower")
    parser.add_argument("--weak", type=Path, help="of the weak text tower's")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--note", default="", help="what else the card says of the training")
    arguments = parser.parse_args()
    target = CHECKPOINTS / {"wide": "world_qwen_wide"}.get(arguments.family, f"world_{arguments.family}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(arguments.model / "model", target)
    curves: dict[str, Any] = {"language": json.loads((arguments.model / "curve.json").read_text(encoding="utf-8"))}
    if arguments.family == "llava":
        for name, source in (("clip", arguments.clip), ("clip_weak", arguments.weak)):
            halved(source / "model", target / name)
            curves[name] = json.loads((source / "curve.json").read_text(encoding="utf-8"))
    else:
        curves["tower"] = json.loads((arguments.model / "tower" / "curve.json").read_text(encoding="utf-8"))
    (target / "curve.json").write_text(json.dumps(curves) + "\n", encoding="utf-8")
    found = (asked if arguments.family == "wide" else figures)(target, arguments.pictures)
    (target / "figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (target / "README.md").write_text(card(arguments.family, target, curves, found, arguments.note), encoding="utf-8")
    size = weight(target)
    if size > MOST:
        raise SystemExit(f"{target} has {size} bytes, more than {MOST}")


if __name__ == "__main__":
    main()
