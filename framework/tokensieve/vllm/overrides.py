"""The entries of `--hf-overrides` by which vLLM serves a checkpoint pruned; nothing here imports vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokensieve.errors import RefusedError, listing
from tokensieve.recipes.recipe import Positions, Recipe
from tokensieve.serving.families import ServedFamily
from tokensieve.serving.refusals import served_stage
from tokensieve.serving.settings import written

KEY = "tokensieve"
"""The entry of the model's config that holds the settings."""
QUESTION = "tokensieve_question"
"""The entry of `mm_processor_kwargs` that holds a request's question, which is read in the prompt if it is not there.
vLLM knows pictures in its caches by these entries, too, so a picture is chosen from anew for every question."""


@dataclass(frozen=True)
class ServedModel:
    """A model family in vLLM.

    Attributes:
        family: what of it is left to choose there.
        architecture: the name that our class has in vLLM.
        path: where the class is, as vLLM's registry takes it.
        towers: the vision towers whose tokens are laid out as the family's adapter says; any if empty.
    """

    family: ServedFamily
    architecture: str
    path: str
    towers: tuple[str, ...] = ()


_MROPE: tuple[Positions, ...] = ("compact", "original")
"""The positions that a model says itself can have gaps; vLLM numbers the tokens of the others."""
LLAVA = ServedModel(
    ServedFamily("llava", "LlavaForConditionalGeneration"),
    "TokensieveLlavaForConditionalGeneration",
    "tokensieve.vllm.llava:PrunedLlava",
    ("clip_vision_model", "siglip_vision_model"),
)
LLAVA_NEXT = ServedModel(
    ServedFamily("llava_next", "LlavaNextForConditionalGeneration"),
    "TokensieveLlavaNextForConditionalGeneration",
    "tokensieve.vllm.llava_next:PrunedLlavaNext",
    LLAVA.towers,
)
QWEN2_VL = ServedModel(
    ServedFamily("qwen2_vl", "Qwen2VLForConditionalGeneration", ("image", "video"), _MROPE),
    "TokensieveQwen2VLForConditionalGeneration",
    "tokensieve.vllm.qwen2_vl:PrunedQwen2VL",
)
QWEN2_5_VL = ServedModel(
    ServedFamily("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", ("image", "video"), _MROPE),
    "TokensieveQwen2_5_VLForConditionalGeneration",
    "tokensieve.vllm.qwen2_5_vl:PrunedQwen25VL",
)
QWEN3_VL = ServedModel(
    ServedFamily("qwen3_vl", "Qwen3VLForConditionalGeneration", ("image", "video"), _MROPE, merges=False),
    "TokensieveQwen3VLForConditionalGeneration",
    "tokensieve.vllm.qwen3_vl:PrunedQwen3VL",
)
SERVED = (LLAVA, LLAVA_NEXT, QWEN2_VL, QWEN2_5_VL, QWEN3_VL)


def served_model(config: Mapping[str, Any]) -> ServedModel:
    """Return what serves a checkpoint.

    Args:
        config: the content of its `config.json`.

    Raises:
        RefusedError: if nothing does.
    """
    named = list(config.get("architectures") or ())
    for served in SERVED:
        if named in ([served.family.architecture], [served.architecture]):
            tower = (config.get("vision_config") or {}).get("model_type")
            if served.towers and tower not in served.towers:
                raise RefusedError(
                    f"the checkpoint has a vision tower {tower}; pruned {served.family.name} in vLLM has "
                    f"{listing(served.towers)}"
                )
            return served
    known = listing(served.family.architecture for served in SERVED)
    raise RefusedError(
        f"the checkpoint is of the architecture {listing(named) or 'none'}; pruned in vLLM are {known}. Prune others "
        "with tokensieve.prune"
    )


def overrides(config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the entries of `--hf-overrides` that serve a checkpoint with a recipe, content and all.

    Args:
        config: the content of its `config.json`.
        recipe: the recipe.

    Raises:
        TokensieveError: if the family or the recipe cannot be served; see `served_stage`.
    """
    served = served_model(config)
    served_stage(recipe, served.family)
    return {"architectures": [served.architecture], KEY: written(recipe)}
