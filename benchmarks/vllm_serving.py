"""Requests a second of vLLM's server under several clients at a time, pruned and unpruned, by turns.

`python -m benchmarks.vllm_serving` runs where vLLM is (see docs/howto/vllm.md). The model has random weights and the
576 visual tokens of LLaVA-1.5; every picture is another one, so that no cache answers for the model.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from tokensieve.cli.serve_vllm import server_module
from tokensieve_adapters._example import save_example

TEXT = "What is in the picture, and where is it? Answer in a few words."
UNPRUNED = "unpruned"


def save_model(folder: Path, layers: int, width: int) -> None:
    """Save a LLaVA whose language model costs most, with its processor."""
    save_example(folder)
    config = LlavaForConditionalGeneration.from_pretrained(folder).config
    text: Any = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = width, 11 * width // 4, layers
    text.num_attention_heads = text.num_key_value_heads = width // 64
    text.head_dim = 64
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    # As released checkpoints name them, which is all that vLLM's own class knows.
    file, old, new = folder / "model.safetensors", "vision_tower.", "vision_tower.vision_model."
    named = {name.replace(new, old).replace(old, new): weight for name, weight in load_file(file).items()}
    save_file(named, file, {"format": "pt"})


@contextmanager
def served(folder: Path, recipe: str | None, keep: str, log: Any) -> Iterator[int]:
    """Run a server, and yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    ours = ["serve-vllm", str(folder), "--recipe", str(recipe), "--keep", keep, "--positions", "compact", "--"]
    start = ["-m", "tokensieve", *ours] if recipe else server_module(str(folder))
    common = ["--port", str(port), "--max-model-len", "1024", "--enforce-eager", "--served-model-name", "model"]
    with subprocess.Popen([sys.executable, *start, *common], stdout=log, stderr=log) as server:
        try:
            _wait_for(port, server)
            yield port
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("the server ended; see its log")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise SystemExit("the server did not start within five minutes")


def ask(port: int, seed: int, tokens: int) -> int:
    """Ask about a picture of noise; return how many tokens the prompt had."""
    noise = np.random.default_rng(seed).integers(0, 256, (336, 336, 3), dtype=np.uint8)
    saved = io.BytesIO()
    Image.fromarray(noise).save(saved, "PNG")
    address = "data:image/png;base64," + base64.b64encode(saved.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": TEXT}]
    body = {"model": "model", "messages": [{"role": "user", "content": content}], "temperature": 0}
    body |= {"max_tokens": tokens, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    # The address begins with http.
    with urllib.request.urlopen(request, timeout=600) as answered:  # noqa: S310
        return int(json.load(answered)["usage"]["prompt_tokens"])


def measured(port: int, chosen: argparse.Namespace, seed: int) -> tuple[float, int]:
    """Return requests a second, and the tokens of a prompt."""
    seeds = range(seed, seed + chosen.requests)
    with ThreadPoolExecutor(chosen.clients) as clients:
        ask(port, seed + 10**6, chosen.tokens)
        started = time.perf_counter()
        prompts = list(clients.map(lambda one: ask(port, one, chosen.tokens), seeds))
        seconds = time.perf_counter() - started
    return chosen.requests / seconds, prompts[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="*", default=["divprune"])
    parser.add_argument("--keep", default="64")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log", type=Path, default=Path("vllm_serving.log"))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found: dict[str, list[tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory() as folder, chosen.log.open("wb") as log:
        save_model(Path(folder), chosen.layers, chosen.width)
        for turn in range(chosen.rounds):
            for name in (None, *chosen.recipes):
                with served(Path(folder), name, chosen.keep, log) as port:
                    found.setdefault(name or UNPRUNED, []).append(measured(port, chosen, turn * 1000))
    title = f"{chosen.clients} clients, {chosen.tokens} tokens an answer, width {chosen.width}, {chosen.layers} layers"
    table = Table("variant", "prompt tokens", "requests a second", "fewest to most", "of unpruned", title=title)
    whole = statistics.median(rate for rate, _ in found[UNPRUNED])
    for name, rows in found.items():
        rates = sorted(rate for rate, _ in rows)
        middle = statistics.median(rates)
        spread = f"{rates[0]:.2f} to {rates[-1]:.2f}"
        table.add_row(name, str(rows[0][1]), f"{middle:.2f}", spread, f"{middle / whole:.2f}")
    Console().print(table)
    if chosen.json:
        chosen.json.write_text(json.dumps({"title": title, "rates": found}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
