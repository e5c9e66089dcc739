"""`prune` and `install`: a model that carries fewer visual tokens."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypedDict, Unpack

from tokensieve.cost.language_model import LayerCost
from tokensieve.cost.vision import TowerCost
from tokensieve.engine.decoder_pruner import DecoderPruner
from tokensieve.engine.encoder_pruner import EncoderPruner
from tokensieve.engine.handle import PruneHandle
from tokensieve.engine.prompt_selector import PromptOptions
from tokensieve.engine.vision_cache import vision_cache_of
from tokensieve.errors import MissingEvidenceError, RefusedError
from tokensieve.ledger.records import StageRecord
from tokensieve.ledger.run import Run
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes.meant import GivenRecipe, meant
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import find_errors


class PruneOptions(TypedDict, total=False):
    """The keyword arguments of `prune`."""

    keep: object
    positions: Literal["original", "compact"] | None
    processor: Any
    query_encoder: Any
    query: Sequence[str] | None
    keys: Sequence[int] | None
    budgets: Mapping[int, Sequence[int]] | None
    registry: Registry | None


def prune(
    model: Any,
    recipe: GivenRecipe,
    *,
    keep: object = None,
    positions: Literal["original", "compact"] | None = None,
    processor: Any = None,
    query_encoder: Any = None,
    query: Sequence[str] | None = None,
    keys: Sequence[int] | None = None,
    budgets: Mapping[int, Sequence[int]] | None = None,
    registry: Registry | None = None,
) -> PruneHandle:
    """Prune a model's visual tokens, inside a `with` block or from `install()` to `remove()`.

    The model is not changed but for hooks and instance attributes, all of which are gone
    afterwards, also after an exception or an interrupt. A prune inside another one of the same
    model replaces it until it exits. Several threads or tasks may prune one model at once, each by
    a prune of its own. A thread that entered none, such as one that streams an answer, is under the
    one in force, and is refused if there are several; where one is installed, it is under that one.
    A deep copy made inside is a plain model.

    Args:
        model: a model that an adapter is registered for; or what holds one: a pipeline, or a wrapper such as those of
            PEFT and of data parallelism.
        recipe: a recipe, the name of a shipped one, a path to YAML, or a formula, as text or as an expression.
        keep: the budget; needed for a formula, and an override otherwise (one for each
            stage).
        positions: whether kept tokens keep their positions; an override of the recipe's.
        processor: the model's processor or tokenizer, for strategies that read the question.
        query_encoder: the two-tower model of the vision tower's space (a path, the model, or the
            model and its tokenizer), to judge relevance there. From a path it is loaded to the
            tower's device; a model stays on its own.
        query: one question per prompt, instead of the user turns found in the prompts.
        keys: one sample key per prompt, from which random draws are made; 0 by default.
        budgets: for a recipe with `over: task`: by sample key, how many tokens of each group stay.
        registry: where names are looked up; everything installed by default.

    Returns:
        The handle, which serves once: `with handle as run:`, `@handle`, or `handle.install()`. Its
        run is the ledger, readable at any time.

    Raises:
        RefusedError: if the model cannot be pruned like this; nothing was changed. It is raised here, and again where
            the handle is entered or installed if the model has changed in between.
        MissingEvidenceError: if a strategy needs what the model does not offer at its site.
        RecipeError: if the recipe cannot be used; and other kinds of TokensieveError for its parts.
    """
    registry = registry or default_registry()
    wanted = meant(recipe, keep, registry, positions)
    adapter = registry.adapter_for(model)
    engines = _Engines(adapter, wanted, PromptOptions(processor, None, query, keys, budgets), registry, query_encoder)
    options: PruneOptions = {
        "processor": processor,
        "query_encoder": query_encoder,
        "query": query,
        "keys": keys,
        "budgets": budgets,
        "registry": registry,
    }
    return PruneHandle(adapter.model, engines.run, engines, partial(prune, model, wanted, **options), _caller())


def install(model: Any, recipe: GivenRecipe, **options: Unpack[PruneOptions]) -> PruneHandle:
    """Prune a model's visual tokens from now on, for every thread and task, until `remove()` of the handle.

    It is `prune(...).install()`: for servers, and scripts that have no natural block.

    Args:
        model: as for `prune`.
        recipe: as for `prune`.
        options: the keyword arguments of `prune`.

    Returns:
        The handle. What is installed stays when it is dropped.

    Raises:
        RefusedError: as `prune`, and inside `share_vision`; and its other errors.
    """
    return prune(model, recipe, **options).install()


def _caller() -> tuple[str, int]:
    """Return the file and line that called `prune` or `install`."""
    frames = traceback.walk_stack(inspect.currentframe())
    return next((frame.f_code.co_filename, line) for frame, line in frames if frame.f_globals is not globals())


class _Engines:
    """The parts of a `prune`, checked when it is made and again when it starts.

    Attributes:
        run: the ledger.
    """

    def __init__(
        self, adapter: Adapter, recipe: Recipe, options: PromptOptions, registry: Registry, query_encoder: Any
    ) -> None:
        self._adapter = adapter
        self._recipe = recipe
        self._registry = registry
        self._parts = {stage.at.part for stage in recipe.stages}
        self._started: list[DecoderPruner | EncoderPruner] = []
        self._check()
        _check_budgets(recipe, options)
        decoder = adapter.decoder
        if decoder is not None:
            _check_transformers(adapter)
            if options.query is not None and options.processor is None and query_encoder is None:
                raise RefusedError("query= needs processor= to read it with the model's tokenizer, or a query_encoder")
        text_tower = None
        if decoder is not None and query_encoder is not None:
            text_tower = decoder.load_text_tower(query_encoder)
        self._options = replace(options, text_tower=text_tower)
        layers = () if decoder is None else [LayerCost.of(layer, decoder.text_config) for layer in decoder.layers]
        self.run = Run(recipe, adapter.name, layers)

    def _check(self) -> None:
        """Raise if the model cannot be pruned as it is now."""
        adapter, recipe = self._adapter, self._recipe
        for finding in find_errors(recipe, adapter):
            kind = MissingEvidenceError if finding.missing_evidence else RefusedError
            raise kind(f"recipe '{recipe.name}' cannot run on {type(adapter.model).__name__}: {finding}")
        checkpointing = any(getattr(part, "gradient_checkpointing", False) for part in adapter.model.modules())
        if checkpointing and any(stage.at.part == "decoder" and stage.at.block for stage in recipe.stages):
            raise RefusedError(
                "gradient checkpointing runs layers twice, which pruning inside the language model does not "
                "support; turn gradient checkpointing off, or prune at decoder.0"
            )

    def start(self, stays: bool) -> Sequence[DecoderPruner | EncoderPruner]:
        """Return what to install."""
        self._check()
        adapter, recipe, run = self._adapter, self._recipe, self.run
        cache = vision_cache_of(adapter.model)
        if stays and cache is not None:
            raise RefusedError("what is installed would outlast this share_vision: install it outside, or use `with`")
        tower = None
        if adapter.encoder is not None and "encoder" in self._parts:
            tower = EncoderPruner(adapter.encoder, recipe, run, self._options.keys, self._settled)
            self._started.append(tower)
            run.tower = TowerCost.of(adapter.encoder) if adapter.encoder.separates_mlp else None
        packed = adapter.packed_tower if "pixel" in self._parts else None
        if packed is not None:
            run.tower = TowerCost.of(packed)
        if adapter.decoder is not None:
            self._started.append(
                DecoderPruner(adapter.decoder, recipe, run, self._options, self._settled, tower, cache, packed)
            )
        return self._started

    def _settled(self, stage: StageRecord) -> None:
        self._registry.hook.stage_settled(run=self.run, stage=stage)

    def unpruned(self) -> str | None:
        """Return that pictures were encoded, where no prompt took them."""
        encoded = sum(engine.encoded for engine in self._started if isinstance(engine, DecoderPruner))
        # What passes the tower alone is pruned there, where the recipe says so.
        if not encoded or "encoder" in self._parts or any(any(prefill.visual) for prefill in self.run.prefills):
            return None
        return (
            f"{encoded} calls encoded pictures inside this prune, but no prompt with pictures came through the model: "
            "nothing was pruned. Pass pixels, or what the calls gave as mm_encoder_outputs, to the model itself"
        )


def _check_budgets(recipe: Recipe, options: PromptOptions) -> None:
    """Raise if budgets are lacking that are met over a task, or are given for a recipe that has none."""
    over = next((stage for stage in recipe.stages if stage.keep.mean and stage.over == "task"), None)
    if over is not None and (options.budgets is None or options.keys is None):
        raise RefusedError(
            f"recipe '{recipe.name}' meets keep: {over.keep} at {over.at} over all samples of a task, of which a call "
            "knows its own alone: a study finds out what all of them need first. Give budgets= and keys=, or write "
            "over: batch"
        )
    if over is None and options.budgets is not None:
        raise RefusedError(
            f"budgets= is for a recipe that meets a mean over a task (over: task), and '{recipe.name}' has none; give "
            "keep="
        )


def _check_transformers(adapter: Adapter) -> None:
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version < adapter.oldest_transformers:
        raise RefusedError(
            f"transformers {transformers.__version__} is too old to prune a {type(adapter.model).__name__}; it takes "
            f"{'.'.join(map(str, adapter.oldest_transformers))} or newer: pip install -U transformers"
        )
