"""Asking a loaded model a question while it is pruned by a recipe, for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tokensieve.checkpoints.loaded_model import LoadedModel, quiet
from tokensieve.engine import prune
from tokensieve.ledger.run import Run
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe


def answer(
    loaded: LoadedModel,
    recipe: Recipe,
    image: Image.Image,
    prompt: str,
    max_new_tokens: int,
    query_encoder: Path | None,
    registry: Registry,
) -> tuple[str, Run]:
    """Return the answer to a question about an image under a recipe, by greedy decoding, and the ledger of the run.

    Args:
        loaded: the loaded model.
        recipe: the recipe that prunes it.
        image: the image.
        prompt: the user's question.
        max_new_tokens: the largest number of new tokens.
        query_encoder: the folder of a CLIP or SigLIP model for query-aware strategies, or None.
        registry: where adapters are looked up.
    """
    inputs = loaded.inputs(image, prompt)
    with torch.no_grad(), quiet(), pruned(loaded, recipe, query_encoder, registry) as run:
        written = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new = written[0, inputs["input_ids"].shape[1] :]
    return str(loaded.processor.decode(new, skip_special_tokens=True)).strip(), run


@contextmanager
def pruned(loaded: LoadedModel, recipe: Recipe, query_encoder: Any, registry: Registry) -> Iterator[Run]:
    """Prune a loaded model inside a `with` block, without the messages of transformers."""
    encoder = str(query_encoder) if isinstance(query_encoder, Path) else query_encoder
    with (
        quiet(),
        prune(loaded.model, recipe, processor=loaded.processor, query_encoder=encoder, registry=registry) as run,
    ):
        yield run
