"""What has no exact graph of fixed shape: refused before anything is traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokensieve.errors import MissingEvidenceError, RefusedError, listing
from tokensieve.evidence import Evidence
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.recipes.recipe import Recipe
from tokensieve.stage import Stage

IN_GRAPH = frozenset({Evidence.FEATURES, Evidence.GRID, Evidence.SIZES})
"""The evidence that the graph has."""
_TRACED = ("sdpa", "eager")
"""The attention implementations that are plain operators."""


def exported_stage(recipe: Recipe) -> Stage:
    """Return the one stage of a recipe that the graph will hold.

    Raises:
        RefusedError: if it cuts at another site than `decoder.0`, or its counts depend on the picture.
        MissingEvidenceError: if it needs evidence that the graph does not have.
    """
    elsewhere = [str(stage.at) for stage in recipe.stages if str(stage.at) != "decoder.0"]
    if elsewhere or not recipe.stages:
        raise RefusedError(
            f"recipe '{recipe.name}' cuts at {listing(elsewhere)}; the exported graph selects before the language "
            "model alone. Export a recipe with one stage, at decoder.0"
        )
    (stage,) = recipe.stages
    if stage.keep.auto:
        raise RefusedError(
            f"recipe '{recipe.name}' keeps as many tokens as its formula finds (keep: auto), and a graph of fixed "
            "shape keeps as many of every picture; give it a budget with --keep"
        )
    if stage.keep.mean:
        raise RefusedError(
            f"recipe '{recipe.name}' has keep: {stage.keep}, which pictures share by what each needs, and a graph of "
            "fixed shape keeps as many of every picture; export it with a budget of each picture and without a demand"
        )
    missing = stage.needs - IN_GRAPH
    if missing:
        raise MissingEvidenceError(
            f"recipe '{recipe.name}' reads {listing(sorted(missing))}; the exported graph has "
            f"{listing(sorted(IN_GRAPH))} alone, because the rest is recorded by hooks while a model runs, or read "
            "from the question. Export a recipe that judges by features"
        )
    return stage


def exported_decoder(adapter: Adapter) -> Decoder:
    """Return the language model of an adapter, if its prefill can be exported as it is now.

    Raises:
        RefusedError: if the family is not known to be exact, or the model is on another device than the CPU, not in
            float32, in training mode, or has another attention implementation than sdpa and eager.
    """
    decoder, model = adapter.decoder, adapter.model
    if decoder is None or not decoder.prefills_from_embeddings:
        raise RefusedError(
            f"{type(model).__name__} (family '{adapter.name}') is of no family whose prefill is known to be exact as a "
            "graph of embeddings: its adapter does not set prefills_from_embeddings. Prune it with tokensieve.prune"
        )
    implementation = getattr(decoder.text_config, "_attn_implementation", None)
    if implementation not in _TRACED:
        raise RefusedError(
            f"the model's attention implementation is {implementation}, which is no plain operator; load it with "
            "attn_implementation='sdpa'"
        )
    if model.training:
        raise RefusedError("the model is in training mode, in which dropout is part of the graph; call model.eval()")
    parameters = list(model.parameters())
    devices = sorted({str(one.device) for one in parameters} - {"cpu"})
    if devices:
        raise RefusedError(
            f"the model is on {listing(devices)}, and devices become part of a graph; move it: model.cpu()"
        )
    dtypes = sorted({str(one.dtype).removeprefix("torch.") for one in parameters} - {"float32"})
    if dtypes:
        raise RefusedError(
            f"the model has weights in {listing(dtypes)}, in which runtimes differ by more than is allowed here; "
            "convert it: model.float(). Runtimes can convert an exported graph to half precision"
        )
    return decoder


def exported_modality(decoder: Decoder, inputs: Mapping[str, Any]) -> Modality:
    """Return the kind of the one picture of a request.

    Raises:
        RefusedError: if the request is no single prompt without padding, has an argument that the graph would not read,
            or holds anything but one image.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or len(ids) != 1:
        found = f"{list(ids.shape)}" if isinstance(ids, Tensor) else "none"
        raise RefusedError(f"the graph is made for one prompt, input_ids [1, n]; given were {found}")
    if isinstance(mask, Tensor) and not bool(torch.all(mask == 1)):
        raise RefusedError("attention_mask hides places of the prompt; the graph is made for a prompt without padding")
    given = [one for one in decoder.modalities if inputs.get(one.pixel_argument) is not None]
    if [one.name for one in given] != ["image"]:
        found = listing([one.name for one in given]) or "none"
        raise RefusedError(f"the graph is made for a prompt with one image; given were {found}")
    (modality,) = given
    known = {"input_ids", "attention_mask", "mm_token_type_ids", *decoder.encoder_arguments(modality)}
    unknown = sorted(name for name, value in inputs.items() if value is not None and name not in known)
    if unknown:
        raise RefusedError(f"the graph does not read {listing(unknown)}; leave it out")
    return modality
