"""One recipe file and one model folder in five places: answers and kept ids, beside those of `ts.prune`.

    make bridges                      # makes the environments of the partners
    python tools/places.py --record   # asks 64 questions in each, and writes docs/assets/places.json

Every place reads the same files: the recipe, the pictures, and the questions. `python tools/places.py PLACE FOLDER`
asks in one place, with the interpreter that has its partner.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "assets" / "places.json"
QUESTIONS, TOKENS, CLIENTS = 64, 2, 4
MODEL = "world-llava"
RECIPE = """\
name: everywhere
positions: compact
stages:
  - {at: decoder.0, select: divprune, keep: 1/9}
"""
SERVE = """\
import sys
from transformers.cli.serving.model_manager import ModelManager
import tokensieve as ts
load, handles = ModelManager._load_model, []
def load_and_prune(self, name, *arguments, **options):
    model = load(self, name, *arguments, **options)
    handles.append(ts.install(model, sys.argv[1], processor=self._load_processor(name)))
    return model
ModelManager._load_model = load_and_prune
if __name__ == "__main__":
    from transformers.cli.serve import Serve
    Serve(force_model=sys.argv[2], host="127.0.0.1", port=int(sys.argv[3]), device="cpu")
"""

Found = dict[str, Any]
"""`answers`, texts; `kept`, the ids of each, or none where the place does not tell them; and `with`, the partner."""


def questions(folder: Path) -> list[str]:
    """Return the questions."""
    found: list[str] = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    return found


def picture(folder: Path, number: int) -> Path:
    """Return the file of a question's picture."""
    return folder / f"{number:03}.png"


def model_folder() -> Path:
    """Return the folder of the model."""
    import tokensieve as ts

    return ts.default_registry().checkpoint(MODEL).folder


# ---------------------------------------------------------------------------------------------------------- places


def in_prune(folder: Path) -> Found:
    """Ask one question after the other inside `ts.prune`."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import tokensieve as ts

    model = AutoModelForImageTextToText.from_pretrained(model_folder()).eval()
    processor = AutoProcessor.from_pretrained(model_folder())
    answers, kept = [], []
    for number, question in enumerate(questions(folder)):
        inputs = _inputs(processor, folder, number, question, "pt")
        with torch.no_grad(), ts.prune(model, str(folder / "recipe.yaml"), processor=processor) as run:
            written = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        answers.append(processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
        kept.append(run.kept("decoder.0")[0].tolist())
    return {"answers": answers, "kept": kept, "with": _version("transformers")}


def in_export(folder: Path) -> Found:
    """Ask exported graphs in ONNX Runtime: one for each length of a prompt. An answer of the toy world is one token."""
    import onnxruntime
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model_folder())
    sessions: dict[int, Any] = {}
    answers, kept = [], []
    for number, question in enumerate(questions(folder)):
        inputs = _inputs(processor, folder, number, question, "np")
        length = inputs["input_ids"].shape[1]
        if length not in sessions:
            graph = folder / f"prefill-{length}.onnx"
            command = ["export", str(folder / "recipe.yaml"), "--model", MODEL, "--to", "onnx", "--out", str(graph)]
            _tokensieve([*command, "--image", str(picture(folder, number)), "--prompt", question])
            sessions[length] = onnxruntime.InferenceSession(graph)
        arrays = {name: inputs[name] for name in ("input_ids", "pixel_values")}
        logits, ids = sessions[length].run(["logits", "kept"], arrays)
        answers.append(processor.decode(logits[0, -1].argmax()).strip())
        kept.append(ids[0].tolist())
    return {"answers": answers, "kept": kept, "with": _version("onnxruntime")}


def in_serve(folder: Path) -> Found:
    """Ask `transformers serve` over HTTP."""
    script = folder / "serve.py"
    script.write_text(SERVE, encoding="utf-8")
    with _server(
        lambda port: [sys.executable, str(script), str(folder / "recipe.yaml"), str(model_folder()), port]
    ) as ask:
        return {"answers": ask(folder, str(model_folder())), "kept": None, "with": _version("transformers")}


def in_lmms(folder: Path) -> Found:
    """Ask by the command of lmms-eval, as a task of local documents."""
    import datasets  # type: ignore[import-not-found,unused-ignore]  # pyright: ignore[reportMissingImports]

    asked = questions(folder)
    columns = {"question": asked, "answer": [""] * len(asked)}
    columns["image"] = [str(picture(folder, number)) for number in range(len(asked))]
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    made.to_parquet(folder / "world.parquet")
    for name in ("world_local.yaml", "utils.py"):
        shutil.copy(ROOT / "studies" / "lmms" / name, folder)
    command = [sys.executable, "-m", "lmms_eval", "--model", "tokensieve", "--batch_size", "8", "--device", "cpu"]
    command += ["--model_args", f"pretrained={MODEL},recipe={folder / 'recipe.yaml'}", "--tasks", "world_local"]
    command += ["--include_path", str(folder), "--output_path", str(folder / "lmms"), "--log_samples"]
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603

    def rows(what: str) -> list[Any]:
        [file] = (folder / "lmms").rglob(f"*_{what}_world_local.jsonl")
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return sorted(found, key=lambda row: row["doc_id"])

    kept = [row["kept_ids"]["decoder.0"] for row in rows("ledger")]
    return {
        "answers": [row["filtered_resps"] for row in rows("samples")],
        "kept": kept,
        "with": _version("lmms_eval"),
    }


def in_vllm(folder: Path) -> Found:
    """Ask the server of vLLM over HTTP."""

    def command(port: str) -> list[str]:
        ours = [sys.executable, "-m", "tokensieve", "serve-vllm", MODEL, "--recipe", str(folder / "recipe.yaml")]
        return [*ours, "--", "--port", port, "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]

    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with _server(command) as ask:
        # transformers' processors begin prompts with the tokenizer's own first token; this server does if it is asked.
        return {
            "answers": ask(folder, str(model_folder()), add_special_tokens=True),
            "kept": None,
            "with": _version("vllm", "vllm-cpu"),
        }


PLACES: dict[str, tuple[str, Callable[[Path], Found], str | None]] = {
    "prune": ("`ts.prune`", in_prune, None),
    "export": ("`tokensieve export`, in ONNX Runtime", in_export, None),
    "serve": ("`transformers serve`, over HTTP", in_serve, "serving"),
    "lmms": ("lmms-eval", in_lmms, "lmms"),
    "vllm": ("vLLM, over HTTP", in_vllm, "vllm"),
}
"""By name: what it is called, how it is asked, and the environment in .bridges/ that has its partner."""


def _inputs(processor: Any, folder: Path, number: int, question: str, kind: str) -> Any:
    from PIL import Image

    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(images=Image.open(picture(folder, number)), text=text, return_tensors=kind)


def _version(*names: str) -> str:
    for name in names:
        try:
            return f"{name.replace('_', '-')} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    raise SystemExit(f"{names[0]} is not installed here")


def _tokensieve(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "tokensieve", *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603


@contextmanager
def _server(command: Callable[[str], Sequence[str]]) -> Iterator[Callable[..., list[str]]]:
    """Start a server on a free port; yield what asks it all questions, several at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(command(str(port)), stdout=subprocess.DEVNULL) as server:  # noqa: S603
        try:
            while True:
                if server.poll() is not None:
                    raise SystemExit("the server ended")
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)

            def ask(folder: Path, model: str, **more: Any) -> list[str]:
                with ThreadPoolExecutor(CLIENTS) as clients:
                    one = lambda number: _asked(port, folder, number, model, more)  # noqa: E731
                    return list(clients.map(one, range(len(questions(folder)))))

            yield ask
        finally:
            server.terminate()


def _asked(port: int, folder: Path, number: int, model: str, more: dict[str, Any]) -> str:
    address = "data:image/png;base64," + base64.b64encode(picture(folder, number).read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "text", "text": questions(folder)[number]},
    ]
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": TOKENS}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body | more).encode(),
        {"Content-Type": "application/json"},
    )
    # The address begins with http.
    with urllib.request.urlopen(request, timeout=300) as answered:  # noqa: S310
        return str(json.loads(answered.read())["choices"][0]["message"]["content"]).strip()


# ------------------------------------------------------------------------------------------------------------ all


def write_questions(folder: Path) -> None:
    """Write the recipe, the pictures and the questions."""
    from tokensieve.tasks.world import World

    task = World()
    samples = task.samples()
    asked = samples[:: len(samples) // QUESTIONS][:QUESTIONS]
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "questions.json").write_text(json.dumps([sample.question for sample in asked]), encoding="utf-8")
    for number, sample in enumerate(asked):
        task.picture(sample).save(picture(folder, number))


def table(folder: Path) -> list[dict[str, Any]]:
    """Return what every place says beside `ts.prune`."""
    found = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in PLACES}
    ours = found["prune"]
    rows = []
    for name, (called, *_) in PLACES.items():
        own = found[name]
        same = [one == other for one, other in zip(own["answers"], ours["answers"], strict=True)]
        kept = None
        if own["kept"] is not None:
            kept = sum(one == other for one, other in zip(own["kept"], ours["kept"], strict=True))
        rows.append({"place": called, "with": own["with"], "answers": sum(same), "kept": kept, "of": len(same)})
    return rows


def main(record: bool) -> None:
    """Ask in every place, print the table, and record it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_questions(folder)
        for name, (called, _, home) in PLACES.items():
            print(f"{called} ...", file=sys.stderr, flush=True)  # noqa: T201
            python = sys.executable if home is None else str(ROOT / ".bridges" / home / "bin" / "python")
            if not Path(python).exists():
                raise SystemExit(f"there is no {python}; `make bridges` makes it")
            subprocess.run([python, __file__, name, str(folder)], check=True)  # noqa: S603
        rows = table(folder)
    for row in rows:
        print(f"{row['place']:40} {row['with']:24} answers {row['answers']} of {row['of']}, kept ids {row['kept']}")  # noqa: T201
    if record:
        RECORD.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        place, at = sys.argv[1], Path(sys.argv[2])
        (at / f"{place}.json").write_text(json.dumps(PLACES[place][1](at)), encoding="utf-8")
    else:
        main("--record" in sys.argv)
