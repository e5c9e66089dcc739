"""vLLM on the CPU with pruned models: the tokens and answers of `prune`, which another environment writes down."""

import base64
import functools
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.bridges.expected import CASES, PICTURES, samples

import tokensieve as ts
from tokensieve.serving.selector import PictureSelector
from tokensieve.tasks.world import World

pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
FOLDER = ts.default_registry().checkpoint("world-llava").folder
ARCHITECTURE = "TokensieveLlavaForConditionalGeneration"
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
ENGINE = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True, "max_num_seqs": 4}
KEEP = dict(CASES)
SAMPLES = samples()
TASK = World(pictures=PICTURES)
TOKENS = 4


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """What `prune` keeps and answers, where tokensieve's own transformers is."""
    file = tmp_path_factory.mktemp("expected") / "expected.json"
    python = os.environ["TOKENSIEVE_PYTHON"]
    subprocess.run([python, "-m", "tests.bridges.expected", "world-llava", str(file)], cwd=ROOT, check=True)
    return json.loads(file.read_text())


def settings(recipe):
    return {"recipe": recipe, "keep": KEEP[recipe], "positions": "compact"}


# In this process


@contextmanager
def engine(recipe, **options):
    """An engine in this process, and what it kept of the pictures that it encoded."""
    from vllm import LLM, SamplingParams

    kept = []
    select = PictureSelector.select

    @functools.wraps(select)
    def recorded(*args, **kwargs):
        selected = select(*args, **kwargs)
        kept.extend(selected.ids.tolist())
        return selected

    overrides = {} if recipe == "none" else {"architectures": [ARCHITECTURE], "tokensieve": settings(recipe)}
    PictureSelector.select = recorded
    try:
        made = LLM(str(FOLDER), hf_overrides=overrides, **ENGINE | options)
        kept.clear()
        greedy = SamplingParams(temperature=0, max_tokens=TOKENS, min_tokens=TOKENS)
        yield lambda requests: made.generate(requests, greedy, use_tqdm=False), kept
    finally:
        PictureSelector.select = select


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def request(number, more=()):
    """The request about a sample, whose picture others stand behind."""
    shown = [SAMPLES[number], *(SAMPLES[(number + step) % len(SAMPLES)] for step in more)]
    return {
        "prompt": "<image>" * len(shown) + f" {SAMPLES[number].question}",
        "multi_modal_data": {"image": [TASK.picture(one) for one in shown]},
    }


def words(outputs):
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize("recipe", list(KEEP))
def test_an_engine_keeps_and_answers_what_prune_does(recipe, expected):
    wanted = expected[recipe]
    with engine(recipe) as (ask, kept):
        # One after the other, so that what was kept is known to be of this picture.
        for number in range(len(SAMPLES)):
            kept.clear()
            [output] = ask([request(number)])
            assert words([output]) == [wanted["answers"][number]], number
            if recipe != "none":
                assert kept == [wanted["kept"][number]], number
                assert output.prompt_token_ids.count(4) == 16
        # All at once, out of the caches.
        kept.clear()
        requests = [request(number) for number in range(len(SAMPLES))]
        assert words(ask(requests)) == wanted["answers"]
        assert kept == []


CONFIGURATIONS = {
    # Prompts of 21 to 23 tokens come in two parts, of which the first ends inside or behind the picture.
    "chunked": {"max_num_batched_tokens": 16, "enable_chunked_prefill": True, "enable_prefix_caching": False},
    "without caches": {"enable_prefix_caching": False, "mm_processor_cache_gb": 0},
    "prefix caching": {"enable_prefix_caching": True, "block_size": 32},
}


@pytest.mark.parametrize("configuration", list(CONFIGURATIONS))
@pytest.mark.parametrize("recipe", ["divprune", "script"])
def test_answers_do_not_depend_on_how_the_engine_computes(recipe, configuration, expected):
    wanted = expected[recipe]
    with engine(recipe, **CONFIGURATIONS[configuration]) as (ask, _):
        requests = [request(number) for number in range(len(SAMPLES))]
        assert words(ask(requests)) == wanted["answers"]
        assert words(ask(requests)) == wanted["answers"]
        several = [request(number, (1, 2)) for number in range(len(SAMPLES))]
        assert words(ask(several)) == wanted["answers_to_three"]


def test_a_picture_is_chosen_from_anew_for_another_question_and_not_for_the_same():
    with engine("script", enable_prefix_caching=True) as (ask, kept):
        ask([request(0)])
        first = kept.copy()
        ask([request(0)])
        assert kept == first
        # In the prompt, or beside it.
        other = request(0) | {"prompt": f"<image> {SAMPLES[1].question}"}
        ask([other])
        ask([request(0) | {"mm_processor_kwargs": {"tokensieve_question": SAMPLES[1].question}}])
        assert len(kept) == 3
        assert kept[0] != kept[1] == kept[2]
        # Known by the name that the client gives it, too.
        kept.clear()
        named = {"multi_modal_uuids": {"image": ["mine"]}}
        ask([request(0) | named])
        ask([other | named])
        assert kept == [first[0], kept[1]]
        assert kept[1] != first[0]


def test_requests_that_cannot_be_served_as_prune_would_are_refused():
    with engine("script") as (ask, _):
        for change in ({"prompt": "<image>"}, {"mm_processor_kwargs": {"tokensieve_question": " "}}):
            with pytest.raises(ValueError, match="judges tokens by the question, and the prompt has none"):
                ask([request(0) | change])
        # The engine goes on.
        assert len(ask([request(0)])) == 1
    with engine("random") as (ask, _):
        with pytest.raises(ValueError, match=r"recipe 'random' draws tokens by their number.*has 2 pictures"):
            ask([request(0, (1,))])
        with pytest.raises(ValueError, match="recipe 'random' reads no question; leave tokensieve_question out"):
            ask([request(0) | {"mm_processor_kwargs": {"tokensieve_question": "which?"}}])


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (
            {"recipe": "divprune", "keep": 16},
            {},
            "has positions: original; in a server the tokens",
        ),
        ({"recipe": "fastv", "keep": 16, "positions": "compact"}, {}, r"cuts at decoder\.2"),
        ({"recipe": "visionzip", "positions": "compact"}, {}, "reads vision_attention"),
        ({"recipe": "norm", "kep": 16}, {}, "no parameter 'kep'"),
        (None, {}, "prunes by the entry 'tokensieve' of --hf-overrides, which is missing"),
        (
            settings("divprune"),
            {"tensor_parallel_size": 2},
            "tensor_parallel_size is 2; a pruned model was",
        ),
        (settings("divprune"), {"enable_lora": True}, "LoRA"),
    ],
)
def test_an_engine_that_cannot_be_right_does_not_start(given, options, said):
    from vllm import LLM

    overrides = {"architectures": [ARCHITECTURE]} | ({} if given is None else {"tokensieve": given})
    with pytest.raises(Exception, match=said):
        LLM(str(FOLDER), hf_overrides=overrides, **ENGINE | options)


# Over HTTP


@contextmanager
def served(recipe, *more):
    """The server that `tokensieve serve-vllm` starts; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = [sys.executable, "-m", "tokensieve", "serve-vllm", "world-llava", "--recipe", recipe, "--keep", KEEP[recipe]]
    theirs = ["--port", str(port), "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    command = [*ours, "--positions", "compact", "--", *theirs, "--served-model-name", "world", *more]
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with subprocess.Popen(command, env=environment) as server:
        try:
            for _ in range(600):
                assert server.poll() is None, "the server ended"
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)
            yield port
        finally:
            server.terminate()


def asked(port, number, more=(), **changes):
    """Ask over HTTP; return the answer's tokens and the usage."""
    shown = [SAMPLES[number], *(SAMPLES[(number + step) % len(SAMPLES)] for step in more)]
    content = []
    for one in shown:
        saved = io.BytesIO()
        TASK.picture(one).save(saved, "PNG")
        address = "data:image/png;base64," + base64.b64encode(saved.getvalue()).decode()
        content.append({"type": "image_url", "image_url": {"url": address}})
    content.append({"type": "text", "text": SAMPLES[number].question})
    body = {"model": "world", "messages": [{"role": "user", "content": content}], "temperature": 0}
    body |= {"max_tokens": TOKENS, "min_tokens": TOKENS, "return_token_ids": True, "add_special_tokens": True}
    body |= changes
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    # The address begins with http.
    with urllib.request.urlopen(request, timeout=120) as answered:  # noqa: S310
        found = json.loads(answered.read())
    return found["choices"][0]["token_ids"], found["usage"]["prompt_tokens"]


@pytest.mark.parametrize("recipe", ["divprune", "script"])
def test_answers_over_http_are_those_of_prune(recipe, expected):
    wanted = expected[recipe]
    numbers = [*range(len(SAMPLES)), *range(len(SAMPLES))]
    with served(recipe, "--trust-request-mm-kwargs") as port, ThreadPoolExecutor(8) as clients:
        answered = list(clients.map(lambda number: asked(port, number), numbers))
        assert [ids for ids, _ in answered] == wanted["answers"] * 2
        several = list(clients.map(lambda number: asked(port, number, (1, 2)), range(len(SAMPLES))))
        assert [ids for ids, _ in several] == wanted["answers_to_three"]
        # What the model computes: two pictures more are 32 tokens more.
        assert {three - one for (_, one), (_, three) in zip(answered, several, strict=False)} == {32}
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(port, 0, mm_processor_kwargs={"tokensieve_question": " "})
        assert refused.value.code == 400
        said = json.loads(refused.value.read())["error"]["message"]
        assert re.search("judges tokens by the question|reads no question", said)
        assert asked(port, 0)[0] == wanted["answers"][0]
    # The comparison would say nothing if pruning changed no answer.
    assert wanted["answers"] != expected["none"]["answers"]


def test_the_command_refuses_before_vllm_starts():
    command = [sys.executable, "-m", "tokensieve", "serve-vllm", "world-llava", "--recipe", "divprune"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Serve it with positions: compact" in " ".join(done.stderr.split())
