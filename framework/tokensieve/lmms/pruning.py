"""What both models share: a recipe with its query encoder, loaded once, and the ledger that every call adds to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokensieve.bridges import require
from tokensieve.checkpoints.query_encoders import query_encoder_from
from tokensieve.engine import prune
from tokensieve.errors import RefusedError
from tokensieve.lmms.arguments import QueryEncoderPlace, reads_questions
from tokensieve.lmms.ledger import Document, Ledger
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe


def require_harness() -> None:
    """Check that this process is one that the bridge runs in.

    Raises:
        PluginError: if lmms-eval or what it needs is of another version.
        RefusedError: if this is one of several processes.
    """
    require("lmms")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RefusedError(
            "lmms-eval runs in several processes here, and the ledger is that of one: start one process, and give each "
            "its part of a task by --offset and --limit"
        )


class Pruning:
    """A recipe for a model of lmms-eval.

    Attributes:
        recipe: the recipe.
        ledger: what was kept so far.
    """

    def __init__(
        self, recipe: Recipe, registry: Registry, query_encoder: QueryEncoderPlace | None, device: Any, ledger: Ledger
    ) -> None:
        self.recipe = recipe
        self.ledger = ledger
        self._registry = registry
        # It stays loaded; a path would be read again for every batch.
        self._query_encoder = None
        if query_encoder is not None and reads_questions(recipe):
            self._query_encoder = query_encoder_from(query_encoder.folder, query_encoder.name, device)

    def check(self, model: Any, processor: Any) -> None:
        """Raise what `prune` would raise for this model, before any document is read.

        Raises:
            TokensieveError: of the kinds that `prune` raises.
        """
        with prune(model, self.recipe, processor=processor, registry=self._registry, query_encoder=self._query_encoder):
            pass

    @contextmanager
    def of(self, model: Any, processor: Any, documents: Sequence[Document], rows: int, task: str) -> Iterator[None]:
        """Prune one call of a model, and add what was kept to the ledger.

        Args:
            model: the model.
            processor: its processor.
            documents: the documents of the prompts, in their order.
            rows: how many prompts there are. Random draws of a prompt are made from the number of its document.
            task: the task of the prompts.
        """
        keys = [document.id for document in documents] if len(documents) == rows else None
        with prune(
            model,
            self.recipe,
            processor=processor,
            query_encoder=self._query_encoder,
            keys=keys,
            registry=self._registry,
        ) as run:
            yield
        if run.prefills:
            self.ledger.add(run, documents, task)
