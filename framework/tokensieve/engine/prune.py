"""`prune`: the context in which a model carries fewer visual tokens."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tokensieve.composers.expression import Expression
from tokensieve.cost.language_model import LayerCost
from tokensieve.cost.vision import TowerCost
from tokensieve.engine.decoder_pruner import DecoderPruner
from tokensieve.engine.encoder_pruner import EncoderPruner
from tokensieve.engine.prompt_selector import PromptOptions
from tokensieve.engine.sessions import PruneSession
from tokensieve.engine.vision_cache import vision_cache_of
from tokensieve.errors import MissingEvidenceError, RecipeError, RefusedError
from tokensieve.ledger.records import StageRecord
from tokensieve.ledger.run import Run
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import find_errors


@contextmanager
def prune(
    model: Any,
    recipe: Recipe | Expression | str | Path,
    *,
    keep: object = None,
    positions: Literal["original", "compact"] | None = None,
    processor: Any = None,
    query_encoder: Any = None,
    query: Sequence[str] | None = None,
    keys: Sequence[int] | None = None,
    registry: Registry | None = None,
) -> Iterator[Run]:
    """Prune a model's visual tokens inside a `with` block.

    The model is not changed but for hooks and instance attributes, all of which are gone
    afterwards, also after an exception or an interrupt. A prune inside another one of the same
    model replaces it until it exits. Several threads or tasks may prune one model at once, each by
    a prune of its own. A thread that entered none, such as one that streams an answer, is under the
    one in force, and is refused if there are several. A deep copy made inside is a plain model.

    Args:
        model: a model that an adapter is registered for; or what holds one: a pipeline, or a wrapper such as those of
            PEFT and of data parallelism.
        recipe: a recipe, the name of a shipped one, a path to YAML, or a bare expression.
        keep: the budget; needed for a bare expression, and an override otherwise (one for each
            stage).
        positions: whether kept tokens keep their positions; an override of the recipe's.
        processor: the model's processor or tokenizer, for strategies that read the question.
        query_encoder: the two-tower model of the vision tower's space (a path, the model, or the
            model and its tokenizer), to judge relevance there. From a path it is loaded to the
            tower's device; a model stays on its own.
        query: one question per prompt, instead of the user turns found in the prompts.
        keys: one sample key per prompt, from which random draws are made; 0 by default.
        registry: where names are looked up; everything installed by default.

    Yields:
        The run: its ledger, readable inside and after the block.

    Raises:
        RefusedError: if the model cannot be pruned like this; nothing was changed.
        MissingEvidenceError: if a strategy needs what the model does not offer at its site.
        RecipeError: if the recipe cannot be used; and other kinds of TokensieveError for its parts.
    """
    registry = registry or default_registry()
    recipe = _recipe(recipe, keep, positions, registry)
    adapter = registry.adapter_for(model)
    model = adapter.model
    for finding in find_errors(recipe, adapter):
        kind = MissingEvidenceError if finding.missing_evidence else RefusedError
        raise kind(f"recipe '{recipe.name}' cannot run on {type(model).__name__}: {finding}")
    decoder, encoder = adapter.decoder, adapter.encoder
    parts = {stage.at.part for stage in recipe.stages}
    engines: list[DecoderPruner | EncoderPruner] = []
    run = Run(recipe, adapter.name)

    def on_stage(stage: StageRecord) -> None:
        registry.hook.stage_settled(run=run, stage=stage)

    tower = None
    if encoder is not None and "encoder" in parts:
        tower = EncoderPruner(encoder, recipe, run, keys, on_stage)
        engines.append(tower)
        run.tower = TowerCost.of(encoder) if encoder.separates_mlp else None
    if decoder is not None:
        _check_transformers(adapter)
        if query is not None and processor is None and query_encoder is None:
            raise RefusedError("query= needs processor= to read it with the model's tokenizer, or a query_encoder")
        checkpointing = any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
        if checkpointing and any(stage.at.part == "decoder" and stage.at.block for stage in recipe.stages):
            raise RefusedError(
                "gradient checkpointing runs layers twice, which pruning inside the language model does not "
                "support; turn gradient checkpointing off, or prune at decoder.0"
            )
        text_tower = decoder.load_text_tower(query_encoder) if query_encoder is not None else None
        run.layers = tuple(LayerCost.of(layer, decoder.text_config) for layer in decoder.layers)
        options = PromptOptions(processor, text_tower, query, keys)
        engines.append(DecoderPruner(decoder, recipe, run, options, on_stage, tower, vision_cache_of(model)))
    session = PruneSession(model)
    # Left twice: an interrupt may fall into the first time.
    with session, session:
        session.open(engines)
        yield run
    encoded = sum(engine.encoded for engine in engines if isinstance(engine, DecoderPruner))
    # What passes the tower alone is pruned there, where the recipe says so.
    if encoded and tower is None and not any(any(prefill.visual) for prefill in run.prefills):
        warnings.warn(
            f"{encoded} calls encoded pictures inside this prune, but no prompt with pictures came through the model: "
            "nothing was pruned. Pass pixels, or what the calls gave as mm_encoder_outputs, to the model itself",
            stacklevel=3,
        )


def _recipe(
    recipe: Recipe | Expression | str | Path,
    keep: object,
    positions: Literal["original", "compact"] | None,
    registry: Registry,
) -> Recipe:
    """Return the recipe that was meant."""
    if isinstance(recipe, Expression):
        if keep is None:
            raise RecipeError("a bare expression needs a budget: prune(model, expression, keep=64)")
        return Recipe.of(recipe, keep, positions=positions or "original")
    if isinstance(recipe, (str, Path)):
        recipe = Recipe.load(recipe, registry)
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"{recipe!r} is no recipe; pass a Recipe, the name of a shipped one, a path, or an expression with keep="
        )
    if keep is not None:
        recipe = recipe.replace(keep=keep)
    return recipe if positions is None else recipe.replace(positions=positions)


def _check_transformers(adapter: Adapter) -> None:
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version < adapter.oldest_transformers:
        raise RefusedError(
            f"transformers {transformers.__version__} is too old to prune a {type(adapter.model).__name__}; it takes "
            f"{'.'.join(map(str, adapter.oldest_transformers))} or newer: pip install -U transformers"
        )
