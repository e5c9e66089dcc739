"""What all pruned families share in vLLM: the recipe of an engine, checked when it starts, and what requests ask."""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from tokensieve.bridges import require
from tokensieve.errors import RefusedError
from tokensieve.plugins.registry import default_registry
from tokensieve.serving.families import ServedFamily
from tokensieve.serving.selector import PictureSelector
from tokensieve.serving.settings import ServedSettings
from tokensieve.vllm.overrides import KEY, QUESTION, served_model


def selector_of(config: Any) -> PictureSelector:
    """Return what selects for the model of a config, the same one for every call of a process.

    Raises:
        TokensieveError: if the config has no settings of tokensieve, or its recipe cannot be served.
    """
    served = served_model(config.to_dict())
    settings = getattr(config, KEY, None)
    if settings is None:
        raise RefusedError(
            f"{served.architecture} prunes by the entry '{KEY}' of --hf-overrides, which is missing; "
            "`tokensieve serve-vllm` writes it"
        )
    return _selector(served.family, json.dumps(settings, sort_keys=True))


@lru_cache(maxsize=8)
def _selector(family: ServedFamily, settings: str) -> PictureSelector:
    require("vllm")
    return PictureSelector(ServedSettings.read(json.loads(settings)).load(default_registry()), family)


def check_engine(vllm_config: Any) -> None:
    """Raise what the engine would raise later, in other processes, before it starts.

    Raises:
        TokensieveError: if the recipe cannot be served, or the engine is set up in a way that was never tried.
    """
    model = vllm_config.model_config
    selector_of(model.hf_config)
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        size = getattr(vllm_config.parallel_config, name)
        if size > 1:
            raise RefusedError(
                f"{name} is {size}; a pruned model was tried in one process alone. Leave it at 1, and start several "
                "servers"
            )
    if vllm_config.parallel_config.use_ubatching:
        raise RefusedError(
            "enable_dbo and ubatch_size compute a batch in parts, and a pruned model was tried with whole ones alone; "
            "start the engine without them"
        )
    if vllm_config.compilation_config.cudagraph_mm_encoder:
        raise RefusedError(
            "cudagraph_mm_encoder hands on what a captured vision encoder computes, before tokens are selected; start "
            "the engine without it"
        )
    if model.multimodal_config.is_multimodal_pruning_enabled():
        raise RefusedError("vLLM prunes videos itself (video_pruning_rate); start the engine with one of both")
    if model.runner_type != "generate":
        raise RefusedError(f"the engine is one for {model.runner_type}; a pruned model was tried for answers alone")
    for name, what in _NEVER_TRIED.items():
        if getattr(vllm_config, name) is not None:
            raise RefusedError(f"{what} with a pruned model was never tried; start the engine without it")


_NEVER_TRIED = {
    "lora_config": "LoRA",
    "speculative_config": "speculative decoding",
    "kv_transfer_config": "handing a cache to another engine",
    "ec_transfer_config": "a vision encoder in another engine",
}


def question_of(
    selector: PictureSelector, given: Mapping[str, Any], pictures: int, read: Callable[[], str]
) -> str | None:
    """Return the question by which a request's pictures are judged; none where they are not.

    Args:
        selector: of the engine.
        given: the request's `mm_processor_kwargs`.
        pictures: how many there are.
        read: reads the question in the prompt.

    Raises:
        ValueError: if a request cannot be served as `prune` would; vLLM answers with the message.
    """
    question = given.get(QUESTION)
    who = f"recipe '{selector.recipe.name}'"
    if pictures > 1 and selector.reads_numbers:
        raise ValueError(
            f"{who} draws tokens by their number in the prompt, and vLLM chooses from every picture by itself: this "
            f"prompt has {pictures} pictures. Ask about one"
        )
    if not selector.reads_questions or not pictures:
        if question is not None:
            raise ValueError(f"{who} reads no question; leave {QUESTION} out")
        return None
    if question is None:
        question = read()
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{who} judges tokens by the question, and the prompt has none; write one behind the picture")
    return question
