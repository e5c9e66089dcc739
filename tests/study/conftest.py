import multiprocessing
import os
import sys

import pytest
import torch

import tokensieve as ts
from tokensieve.checkpoints.loaded_model import quiet
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.running.worker_pool import PRELOAD
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store
from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters import _example
from tokensieve_adapters.qwen2_vl import Qwen2VLAdapter

from . import fake

SIDE = 6
"""Tokens in a row of the small model's pictures."""

# Processes that tests start find this module by its name.
ROOT = str(__import__("pathlib").Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
PLUGIN = fake.__name__


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A model of 36 tokens a picture, saved with its processor. It writes every token as a sign of its own."""
    from tokenizers import decoders
    from transformers import LlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("small")
    tokenizer = _example._tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    config = _example._model(tokenizer, 3, 4).config
    config.vision_config.image_size = SIDE * _example.PATCH
    config.image_seq_length = SIDE**2
    config.vision_config.hidden_size, config.text_config.hidden_size = 32, 64
    config.text_config.eos_token_id = None
    with quiet(), torch.no_grad():
        model = randomize_weights(LlavaForConditionalGeneration(config).eval(), 3)
        model.generation_config.eos_token_id = None
        model.save_pretrained(folder)
    processor = _example._processor(tokenizer)
    side = SIDE * _example.PATCH
    processor.image_processor.size = {"shortest_edge": side}
    processor.image_processor.crop_size = {"height": side, "width": side}
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def flexible(tmp_path_factory):
    """A model that makes as many tokens of a picture as it is large, saved with its processor."""
    from tokenizers import decoders
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    folder = tmp_path_factory.mktemp("flexible")
    bytewise = _example._tokenizer().backend_tokenizer
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    bytewise.add_special_tokens(marks)
    bytewise.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        bos_token=_example.BEGIN,
        eos_token=_example.END,
        pad_token=_example.PAD,
        extra_special_tokens={"image_token": marks[2], "video_token": marks[3]},
    )
    start, end, image, video = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    config = Qwen2VLAdapter.tiny().config
    config.text_config.vocab_size = len(tokenizer)
    config.vision_start_token_id, config.vision_end_token_id = start, end
    config.image_token_id, config.video_token_id = image, video
    config.text_config.pad_token_id, config.text_config.eos_token_id = tokenizer.pad_token_id, None
    with quiet(), torch.no_grad():
        model = randomize_weights(Qwen2VLForConditionalGeneration(config).eval(), 4)
        model.generation_config.eos_token_id = None
        model.save_pretrained(folder)
    settings = {
        "patch_size": 4,
        "merge_size": config.vision_config.spatial_merge_size,
        "temporal_patch_size": config.vision_config.temporal_patch_size,
        "size": {"shortest_edge": 64, "longest_edge": 96 * 96},
    }
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{% endfor %}"
    )
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=template,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def registry():
    """A registry with the tests' tasks."""
    known = ts.default_registry()
    known.register(fake, PLUGIN)
    return known


@pytest.fixture
def written(registry, checkpoint):
    """Read a study of the small model from the parts that matter."""

    def write(recipes="[]", keep="[9]", tasks="[colours]", models=None, more=""):
        return Study.loads(
            f"plugins: [{PLUGIN}]\nmodels: {models or f'[{checkpoint}]'}\nrecipes: {recipes}\nkeep: {keep}\n"
            f"tasks: {tasks}\nbatch: 4\n{more}",
            registry,
            "study.yaml",
        )

    return write


@pytest.fixture
def planned(written, registry):
    """Plan a study."""
    return lambda *args, **kwargs: plan_study(written(*args, **kwargs), registry)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "run")
    made.begin("name: none\n", {})
    return made


@pytest.fixture(scope="session")
def processes():
    """Processes that start at once: their imports are made before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


# Nothing here needs more, and the machine has other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
