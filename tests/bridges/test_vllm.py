"""vLLM on the CPU with pruned models: the tokens and answers of `prune`, which another environment writes down."""

import base64
import functools
import gc
import io
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.bridges.expected import (
    CASES,
    CASES_OF_TILES,
    CASES_OF_VIDEOS,
    CUT,
    RANDOM,
    SAMPLES,
    TOKENS,
    VIDEO_CASES,
    folder_of,
    metadata,
    prompt,
    recipe_of,
    shown,
    video,
)

from tokensieve.serving.families import ServedFamily
from tokensieve.serving.selector import PictureSelector
from tokensieve.vllm.overrides import overrides

pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
PLACEHOLDERS = {"world-llava": 4, "world-qwen": 7} | dict.fromkeys(RANDOM, 7) | {CUT: 4}
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
ENGINE = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True, "max_num_seqs": 4}
NUMBERS = range(len(SAMPLES))


WRITTEN = Path(tempfile.mkdtemp())
"""Where `expected` writes."""


@functools.cache
def expected(model):
    """What `prune` keeps and answers, where tokensieve's own transformers is."""
    out = WRITTEN / model
    out.mkdir()
    command = [os.environ["TOKENSIEVE_PYTHON"], "-m", "tests.bridges.expected", model, str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return json.loads((out / "expected.json").read_text())


def folder(model):
    """The folder of a model; one with random weights is saved where it is first asked."""
    if model in RANDOM:
        expected(model)
    return folder_of(model, WRITTEN / model)


@pytest.fixture(autouse=True, scope="module")
def written():
    yield
    shutil.rmtree(WRITTEN)


def answers(rows):
    return [ids for ids, _ in rows]


# In this process


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def started(model, recipe, also=None, **options):
    from vllm import LLM

    config = json.loads((folder(model) / "config.json").read_text())
    return LLM(str(folder(model)), hf_overrides=overrides(config, recipe_of(recipe)) | (also or {}), **ENGINE | options)


@contextmanager
def engine(model, recipe, **options):
    """An engine in this process, and what it kept of the pictures that it encoded."""
    from vllm import SamplingParams

    kept = []
    select = PictureSelector.select

    @functools.wraps(select)
    def recorded(*args, **kwargs):
        selected = select(*args, **kwargs)
        kept.extend(selected.ids.tolist())
        return selected

    PictureSelector.select = recorded
    try:
        made = started(model, recipe, **options)
        kept.clear()
        greedy = SamplingParams(temperature=0, max_tokens=TOKENS, min_tokens=TOKENS)

        def ask(requests):
            outputs = made.generate(requests, greedy, use_tqdm=False)
            return [list(output.outputs[0].token_ids) for output in outputs], outputs

        yield ask, kept
    finally:
        PictureSelector.select = select


def request(model, number, more=()):
    """The request about a sample, whose picture others stand behind."""
    pictures = shown(number, more, model)
    return {"prompt": prompt(model, number, len(pictures)), "multi_modal_data": {"image": pictures}}


def about_video(model, number, times=None, behind=False):
    """The request about a video; its frames are all shown, as `prune` was given them.

    Args:
        model: which.
        number: of the sample.
        times: the number of the sample whose times its frames have.
        behind: whether two pictures and their question stand before it.
    """
    frames, known = video(number), metadata(number if times is None else times)
    data = {"video": [(frames, known) if model in RANDOM else frames]}
    text = prompt(model, number, modality="video")
    if behind:
        data["image"] = shown(number, (1,))
        text = prompt(model, number, 2) + text
    return {"prompt": text, "multi_modal_data": data, "mm_processor_kwargs": {"do_sample_frames": False}}


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        *itertools.product(["world-llava", "world-qwen"], CASES),
        *itertools.product(RANDOM, ["norm", "divprune", "script"]),
        *itertools.product(RANDOM[:2], ["frames"]),
        *itertools.product(["world-qwen", *RANDOM[:2]], ["original", "original-whole"]),
        *itertools.product([CUT], ["script-merge", *CASES_OF_TILES]),
    ],
)
def test_an_engine_keeps_and_answers_what_prune_does(model, recipe):
    wanted = expected(model)[recipe]
    with engine(model, recipe) as (ask, kept):
        # One after the other, so that what was kept is known to be of this picture.
        for number in NUMBERS:
            kept.clear()
            said, [output] = ask([request(model, number)])
            assert [said[0], kept[0]] == wanted["one"][number], number
            assert output.prompt_token_ids.count(PLACEHOLDERS[model]) == len(kept[0])
            assert model == CUT or len(kept[0]) == {"norm": 144, "original-whole": 144, "frames": 5}.get(recipe, 16)
        # All at once, out of the caches.
        kept.clear()
        assert ask([request(model, number) for number in NUMBERS])[0] == answers(wanted["one"])
        assert kept == []
        for number in NUMBERS if recipe in VIDEO_CASES.get(model, ()) else ():
            kept.clear()
            assert [ask([about_video(model, number)])[0][0], kept[0]] == wanted["video"][number], number


CONFIGURATIONS = {
    # Prompts of 21 tokens and more come in several parts, some of which end inside a picture.
    "chunked": {"max_num_batched_tokens": 16, "enable_chunked_prefill": True, "enable_prefix_caching": False},
    "without caches": {"enable_prefix_caching": False, "mm_processor_cache_gb": 0},
    "prefix caching": {"enable_prefix_caching": True, "block_size": 32},
}


@pytest.mark.parametrize("configuration", list(CONFIGURATIONS))
@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("world-llava", "divprune"),
        ("world-llava", "script"),
        ("world-qwen", "script"),
        (RANDOM[0], "divprune"),
        (RANDOM[1], "script"),
        (RANDOM[0], "original"),
        (RANDOM[1], "original"),
        (CUT, "tiles"),
        (CUT, "lines-keep"),
    ],
)
def test_answers_do_not_depend_on_how_the_engine_computes(model, recipe, configuration):
    wanted = expected(model)[recipe]
    with engine(model, recipe, **CONFIGURATIONS[configuration]) as (ask, _):
        requests = [request(model, number) for number in NUMBERS]
        assert ask(requests)[0] == answers(wanted["one"])
        assert ask(requests)[0] == answers(wanted["one"])
        assert ask([request(model, number, (1, 2)) for number in NUMBERS])[0] == answers(wanted["three"])
        if "video" in wanted:
            videos = [about_video(model, number) for number in NUMBERS]
            both = [about_video(model, number, behind=True) for number in NUMBERS]
            assert ask(videos)[0] == answers(wanted["video"])
            assert ask([*videos, *both])[0] == answers([*wanted["video"], *wanted["both"]])


@pytest.mark.parametrize(
    ("model", "recipe"), [(CUT, "tiles"), (RANDOM[0], "script"), (RANDOM[0], "original"), (RANDOM[1], "original")]
)
def test_answers_of_a_compiled_model_are_the_same(model, recipe, monkeypatch):
    # By default vLLM compiles with the machine's C++ compiler.
    monkeypatch.setenv("VLLM_DISABLE_COMPILE_CACHE", "1")
    wanted = expected(model)[recipe]
    with engine(model, recipe, enforce_eager=False) as (ask, _):
        assert ask([request(model, number) for number in NUMBERS])[0] == answers(wanted["one"])
        assert ask([request(model, number, (1, 2)) for number in NUMBERS])[0] == answers(wanted["three"])
        if "video" in wanted:
            assert ask([about_video(model, number, behind=True) for number in NUMBERS])[0] == answers(wanted["both"])


@pytest.mark.parametrize("model", ["world-llava", "world-qwen"])
def test_a_picture_is_chosen_from_anew_for_another_question_and_not_for_the_same(model):
    with engine(model, "script", enable_prefix_caching=True) as (ask, kept):
        ask([request(model, 0)])
        first = kept.copy()
        ask([request(model, 0)])
        assert kept == first
        # In the prompt, or beside it.
        other = request(model, 0) | {"prompt": prompt(model, 1)}
        ask([other])
        ask([request(model, 0) | {"mm_processor_kwargs": {"tokensieve_question": SAMPLES[1].question}}])
        assert len(kept) == 3
        assert kept[0] != kept[1] == kept[2]
        # Known by the name that the client gives it, too.
        second = kept[1]
        kept.clear()
        named = {"multi_modal_uuids": {"image": ["mine"]}}
        ask([request(model, 0) | named])
        ask([other | named])
        assert kept == [first[0], second]


def test_requests_that_cannot_be_served_as_prune_would_are_refused():
    with engine("world-llava", "script") as (ask, _):
        for change in ({"prompt": "<image>"}, {"mm_processor_kwargs": {"tokensieve_question": " "}}):
            with pytest.raises(ValueError, match="judges tokens by the question, and the prompt has none"):
                ask([request("world-llava", 0) | change])
        # The engine goes on.
        assert len(ask([request("world-llava", 0)])[0]) == 1
    with engine("world-llava", "random") as (ask, _):
        with pytest.raises(ValueError, match=r"recipe 'random' draws tokens by their number.*has 2 pictures"):
            ask([request("world-llava", 0, (1,))])
        with pytest.raises(ValueError, match="recipe 'random' reads no question; leave tokensieve_question out"):
            ask([request("world-llava", 0) | {"mm_processor_kwargs": {"tokensieve_question": "which?"}}])


def test_a_video_may_lose_more_tokens_of_one_frame_than_of_another():
    # What the test of videos above says of Qwen3-VL, whose frames have text between them.
    frames = [[one < 36 for one in ids] for _, ids in expected("random-qwen3")["divprune"]["video"]]
    assert any(sum(first) not in (0, 4, 8) for first in frames)


@pytest.mark.parametrize("model", ["world-qwen", *RANDOM[:2]])
def test_original_positions_are_others(model):
    # What is tested above of them would say nothing if they changed no answer.
    found = expected(model)
    for kind in ("one", "three", "video", "both"):
        assert [ids for _, ids in found["original"][kind]] == [ids for _, ids in found["script"][kind]]
        assert answers(found["original"][kind]) != answers(found["script"][kind])


def test_caches_know_the_times_of_frames():
    model, said = "random-qwen3", []
    first, other = about_video(model, 0), about_video(model, 0, times=1)
    for options in ({"enable_prefix_caching": True}, {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}):
        with engine(model, "divprune", **options) as (ask, _):
            said.append([ask([one])[0] for one in (first, other, first, other)])
        # One engine at a time.
        del ask
        gc.collect()
    assert said[0] == said[1]
    # The comparison would say nothing if times changed no answer.
    assert said[0][0] != said[0][1]


def test_kinds_of_pictures_that_a_family_is_not_served_with_have_no_place_in_a_prompt():
    from vllm.multimodal.processing import BaseProcessingInfo

    from tokensieve.vllm.requests import PrunedInfo

    class Theirs(BaseProcessingInfo):
        def get_supported_mm_limits(self):
            return {"image": None, "video": 2, "audio": None}

    class Ours(PrunedInfo, Theirs):
        selector = SimpleNamespace(family=ServedFamily("theirs", "Theirs", ("image", "video")))

    assert object.__new__(Ours).get_supported_mm_limits() == {"image": None, "video": 2, "audio": 0}


def test_embeddings_are_refused():
    import torch

    with engine("world-llava", "divprune", enable_mm_embeds=True) as (ask, _):
        given = {"image": torch.zeros(1, 144, 128)}
        with pytest.raises(ValueError, match="the request brings image embeddings"):
            ask([request("world-llava", 0) | {"multi_modal_data": given}])


DIVPRUNE = {"recipe": "divprune", "keep": 16, "positions": "compact"}


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ({"recipe": "divprune", "keep": 16}, {}, "has positions: original; in a server the tokens"),
        ({"recipe": "fastv", "keep": 16, "positions": "compact"}, {}, r"cuts at decoder\.2"),
        ({"recipe": "visionzip", "positions": "compact"}, {}, "reads vision_attention"),
        ({"recipe": "norm", "kep": 16}, {}, "no parameter 'kep'"),
        (None, {}, "prunes by the entry 'tokensieve' of --hf-overrides, which is missing"),
        (DIVPRUNE, {"tensor_parallel_size": 2}, "tensor_parallel_size is 2; a pruned model was"),
        (DIVPRUNE, {"ubatch_size": 2}, "ubatch_size compute a batch in parts"),
        (DIVPRUNE, {"video_pruning_rate": 0.5}, "vLLM prunes videos itself"),
        (DIVPRUNE, {"runner": "pooling"}, "the engine is one for pooling"),
        (DIVPRUNE, {"enable_lora": True}, "LoRA with a pruned model was never tried"),
        (DIVPRUNE, {"compilation_config": {"cudagraph_mm_encoder": True}}, "cudagraph_mm_encoder hands on"),
    ],
)
def test_an_engine_that_cannot_be_right_does_not_start(given, options, said):
    from vllm import LLM

    settings = {} if given is None else {"tokensieve": given}
    changed = {"architectures": ["TokensieveLlavaForConditionalGeneration"]} | settings
    with pytest.raises(Exception, match=said):
        LLM(str(folder("world-llava")), hf_overrides=changed, **ENGINE | options)


def test_a_class_token_among_the_tiles_is_refused():
    given = {"vision_feature_select_strategy": "full"}
    with pytest.raises(Exception, match="which is no square grid; with vision_feature_select_strategy='full'"):
        started(CUT, "divprune", also=given)


# Over HTTP


@contextmanager
def served(model, recipe, *more):
    """The server that `tokensieve serve-vllm` starts; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name, keep, _ = CASES_OF_VIDEOS.get(recipe) or (recipe, CASES[recipe], {})
    ours = [sys.executable, "-m", "tokensieve", "serve-vllm", model, "--recipe", name, "--keep", keep]
    theirs = ["--port", str(port), "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    command = [*ours, "--positions", recipe_of(recipe).positions, "--", *theirs, "--served-model-name", "world", *more]
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
    """Ask over HTTP; return the answer's tokens, and how many tokens the prompt had."""
    content = []
    for picture in shown(number, more):
        saved = io.BytesIO()
        picture.save(saved, "PNG")
        address = "data:image/png;base64," + base64.b64encode(saved.getvalue()).decode()
        content.append({"type": "image_url", "image_url": {"url": address}})
    content.append({"type": "text", "text": SAMPLES[number].question})
    body = {"model": "world", "messages": [{"role": "user", "content": content}], "temperature": 0}
    # transformers' processors begin prompts with the tokenizer's own first token, and this server does if it is asked.
    body |= {"max_tokens": TOKENS, "min_tokens": TOKENS, "return_token_ids": True, "add_special_tokens": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body | changes).encode(),
        {"Content-Type": "application/json"},
    )
    # The address begins with http.
    with urllib.request.urlopen(request, timeout=120) as answered:  # noqa: S310
        found = json.loads(answered.read())
    return found["choices"][0]["token_ids"], found["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("model", "recipe"),
    [("world-llava", "divprune"), ("world-llava", "script"), ("world-qwen", "script"), ("world-qwen", "original")],
)
def test_answers_over_http_are_those_of_prune(model, recipe):
    wanted = expected(model)[recipe]
    with served(model, recipe, "--trust-request-mm-kwargs") as port, ThreadPoolExecutor(8) as clients:
        # Every question twice, so that some are answered out of the caches, from eight clients at a time.
        answered = list(clients.map(lambda number: asked(port, number), [*NUMBERS, *NUMBERS]))
        assert [ids for ids, _ in answered] == answers(wanted["one"]) * 2
        several = list(clients.map(lambda number: asked(port, number, (1, 2)), NUMBERS))
        assert [ids for ids, _ in several] == answers(wanted["three"])
        # The usage is what the model computes: two pictures more are 32 tokens more, and what stands around them.
        around = {"world-llava": 0, "world-qwen": 2}[model]
        assert {three - one for (_, one), (_, three) in zip(answered, several, strict=False)} == {2 * (16 + around)}
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(port, 0, mm_processor_kwargs={"tokensieve_question": " "})
        assert refused.value.code == 400
        said = json.loads(refused.value.read())["error"]["message"]
        assert re.search("judges tokens by the question|reads no question", said)
        assert asked(port, 0)[0] == wanted["one"][0][0]
    # The comparison would say nothing if pruning changed no answer.
    assert answers(wanted["one"]) != answers(expected(model)["norm"]["one"])


def test_the_command_refuses_before_vllm_starts():
    command = [sys.executable, "-m", "tokensieve", "serve-vllm", "world-llava", "--recipe", "divprune"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Serve it with positions: compact" in " ".join(done.stderr.split())
