"""Loading a query encoder once, for everything that is asked of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokensieve.checkpoints.loaded_model import quiet
from tokensieve.models.pretrained import model_from_pretrained, tokenizer_from_pretrained


def query_encoder_from(folder: Path, name: str, device: Any) -> tuple[Any, Any]:
    """Load a query encoder and its tokenizer, as `prune` takes them.

    Args:
        folder: its checkpoint.
        name: what it was called. Adapters recognise a release by its name, which the folder of a copy does not have.
        device: where it goes.

    Raises:
        RefusedError: if it cannot be loaded.
    """
    from transformers import AutoModel

    with quiet():
        model = model_from_pretrained(AutoModel, folder).to(device)
        model.config._name_or_path = name
        return model, tokenizer_from_pretrained(folder)
