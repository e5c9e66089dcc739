"""A local task of lmms-eval, its command in this process, and this library by hand on the same documents."""

import functools
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import tokensieve as ts
from tokensieve.tasks.world import World

ROOT = Path(__file__).parents[2]
DOCUMENTS = 12


@pytest.fixture(scope="session")
def world():
    """The task from which the documents are made, and their samples."""
    task = World(pictures=4)
    return task, task.samples()[:DOCUMENTS]


@pytest.fixture(scope="session")
def folder(world, tmp_path_factory):
    """A folder of tasks, as `--include_path` takes it."""
    import datasets

    made = tmp_path_factory.mktemp("tasks")
    task, samples = world
    text, image = datasets.Value("string"), datasets.Image()
    columns = {
        "question": [sample.question for sample in samples],
        "answer": [sample.answers[0] for sample in samples],
        "yes_no": ["yes" if number % 3 else "no" for number in range(len(samples))],
        "category": ["perception" if number % 4 else "cognition" for number in range(len(samples))],
        "image": [task.picture(sample) for sample in samples],
    }
    features = datasets.Features({name: image if name == "image" else text for name in columns})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(made / "world.parquet")
    # As the documents of POPE, MME and TextVQA are.
    kinds = ["existence" if number % 4 else "code_reasoning" for number in range(len(samples))]
    others = {
        "question_id": [str(number) for number in range(len(samples))],
        "question": [f"Is sample {number} a cross?" for number in range(len(samples))],
        "answer": columns["yes_no"],
        "category": kinds,
        "image": columns["image"],
    }
    features = datasets.Features({name: image if name == "image" else text for name in others})
    datasets.Dataset.from_dict(others, features=features).to_parquet(made / "asked.parquet")
    read = {"question_id": others["question_id"], "question": others["question"], "image": columns["image"]}
    read |= {"answers": [[answer] * 10 for answer in columns["answer"]], "ocr_tokens": [["STOP"]] * len(samples)}
    features = datasets.Features(
        {name: image if name == "image" else [text] if name in ("answers", "ocr_tokens") else text for name in read}
    )
    datasets.Dataset.from_dict(read, features=features).to_parquet(made / "read.parquet")
    for name in ("world_local.yaml", "utils.py"):
        shutil.copy(ROOT / "studies" / "lmms" / name, made)
    return made


@pytest.fixture
def evaluate(folder, tmp_path, monkeypatch):
    """Run lmms-eval's command in this process, where an error is raised, and return its score and its files."""
    from lmms_eval import __main__ as harness

    # Ours alone: reading all others takes ten seconds.
    monkeypatch.setattr(harness, "TaskManager", functools.partial(harness.TaskManager, include_defaults=False))

    def run(model, arguments, *more, task="world_local"):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        command = ["--model", model, "--model_args", arguments, "--tasks", task, "--include_path", str(folder)]
        command += ["--device", "cpu", "--output_path", str(out), "--log_samples", "--verbosity", "DEBUG", *more]
        monkeypatch.setattr(sys, "argv", ["lmms-eval", *command])
        # The task names its documents by a relative path.
        monkeypatch.chdir(folder)
        harness.cli_evaluate()
        return Outcome(out)

    return run


class Outcome:
    """What a run of lmms-eval wrote."""

    def __init__(self, out):
        self.out = out
        [results] = out.rglob("*_results.json")
        self.folder = results.parent
        self.results = json.loads(results.read_text())

    def rows(self, what, task="world_local"):
        [file] = self.folder.glob(f"*_{what}_{task}.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    def score(self, metric="correct", task="world_local"):
        return self.results["results"][task][f"{metric},none"]

    @property
    def answers(self):
        return [row["filtered_resps"] for row in sorted(self.rows("samples"), key=lambda row: row["doc_id"])]

    @property
    def kept(self):
        return [row["kept_ids"]["decoder.0"] for row in self.rows("ledger")]


@pytest.fixture(scope="session")
def by_hand(world):
    """Ask the shipped model by `ts.prune` alone, one question at a time; return the answers and the kept ids."""
    checkpoint = ts.default_registry().checkpoint("world-llava")
    model = AutoModelForImageTextToText.from_pretrained(checkpoint.folder).eval()
    processor = AutoProcessor.from_pretrained(checkpoint.folder)
    task, samples = world

    def ask(recipe, keep):
        answers, kept = [], []
        for sample in samples:
            content = [{"type": "image"}, {"type": "text", "text": sample.question}]
            prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(images=task.picture(sample), text=prompt, return_tensors="pt")
            partner = str(checkpoint.query_encoder)
            pruned = ts.prune(model, recipe, keep=keep, processor=processor, query_encoder=partner)
            with torch.no_grad(), pruned as run:
                written = model.generate(**inputs, max_new_tokens=2, do_sample=False)
            answer = processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            answers.append(answer.strip())
            kept.append(run.kept("decoder.0")[0].tolist())
        return answers, kept

    return ask
