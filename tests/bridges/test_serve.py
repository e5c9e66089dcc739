"""`transformers serve` with the script of the page on serving: pruned answers over HTTP, those of `ts.prune`."""

import base64
import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import tokensieve as ts
from tokensieve.tasks.world import World

pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "serving.md"
CHECKPOINT = ts.default_registry().checkpoint("world-llava")
SAMPLES = World().samples()[:12]


def script(port):
    """The page's own script, for the shipped model and a free port."""
    code = re.search(r'```python title="serve.py"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    said = code.replace('"MODEL"', repr(str(CHECKPOINT.folder))).replace("port=8000", f"port={port}, device='cpu'")
    assert said.count(str(CHECKPOINT.folder)) == said.count(f"port={port}") == 1
    return said


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Ask the server of the page's script; return the answer and the usage."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path_factory.mktemp("serve") / "serve.py"
    file.write_text(script(port), encoding="utf-8")
    with subprocess.Popen([sys.executable, str(file)]) as server:
        try:
            _wait_for(port, server)
            yield lambda *asked, **settings: _asked(port, *asked, **settings)
        finally:
            server.terminate()


def _wait_for(port, server):
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("the server did not start")


def _asked(port, picture, question, stream=False):
    saved = io.BytesIO()
    picture.save(saved, "PNG")
    address = "data:image/png;base64," + base64.b64encode(saved.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
    body = {
        "model": str(CHECKPOINT.folder),
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 2,
        "temperature": 0,
        "stream": stream,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    # The address begins with http.
    with urllib.request.urlopen(request, timeout=120) as answered:  # noqa: S310
        text = answered.read().decode()
    if not stream:
        found = json.loads(text)
        return found["choices"][0]["message"]["content"].strip(), found["usage"]["prompt_tokens"]
    parts = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    deltas = [part["choices"][0]["delta"].get("content") or "" for part in parts if part["choices"]]
    return "".join(deltas).strip(), None


@pytest.fixture(scope="module")
def by_hand():
    """What the model answers without a server: pruned as the page's script does it, and unpruned."""
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT.folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(CHECKPOINT.folder)
    task = World()

    def answer(sample):
        content = [{"type": "image", "image": task.picture(sample)}, {"type": "text", "text": sample.question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        said = model.generate(**inputs, max_new_tokens=2, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        return processor.decode(said, skip_special_tokens=True).strip(), inputs["input_ids"].shape[1]

    plain = [answer(sample) for sample in SAMPLES]
    with ts.prune(model, "script", keep="1/9", processor=processor):
        return plain, [answer(sample) for sample in SAMPLES]


def test_answers_over_http_are_those_of_prune(ask, by_hand):
    plain, pruned = by_hand
    task = World()
    with ThreadPoolExecutor(4) as clients:
        answered = list(clients.map(lambda sample: ask(task.picture(sample), sample.question), SAMPLES))
    assert [said for said, _ in answered] == [said for said, _ in pruned]
    # The comparison would say nothing if pruning changed no answer.
    assert [said for said, _ in pruned] != [said for said, _ in plain]
    # The server counts the placeholders of the request, not what the model computes.
    assert [tokens for _, tokens in answered] == [tokens for _, tokens in plain]


def test_streamed_answers_are_the_same(ask, by_hand):
    task = World()
    for sample, (said, _) in list(zip(SAMPLES, by_hand[1], strict=True))[:3]:
        assert ask(task.picture(sample), sample.question, stream=True)[0] == said
