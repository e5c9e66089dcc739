"""Asking a model under a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

from tokensieve.checkpoints.ready import LoadedModel, quiet
from tokensieve.engine import prune
from tokensieve.ledger.run import Run
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe


def answer(
    ready: LoadedModel,
    recipe: Recipe,
    image: Image.Image,
    prompt: str,
    most: int,
    query_encoder: Path | None,
    registry: Registry,
) -> tuple[str, Run]:
    """Answer a question about a picture under a recipe, greedily, and give the ledger."""
    inputs = ready.inputs(image, prompt)
    with torch.no_grad(), quiet(), pruned(ready, recipe, query_encoder, registry) as run:
        written = ready.model.generate(**inputs, max_new_tokens=most, do_sample=False)
    new = written[0, inputs["input_ids"].shape[1] :]
    return str(ready.processor.decode(new, skip_special_tokens=True)).strip(), run


@contextmanager
def pruned(ready: LoadedModel, recipe: Recipe, query_encoder: Path | None, registry: Registry) -> Iterator[Run]:
    """Prune a ready model inside a `with` block."""
    partner = None if query_encoder is None else str(query_encoder)
    with (
        quiet(),
        prune(ready.model, recipe, processor=ready.processor, query_encoder=partner, registry=registry) as run,
    ):
        yield run
