"""Selecting visual tokens of a prompt: evidence, questions and the ledger."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokensieve.cost.vision import Stretches
from tokensieve.engine.batches import padded
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.question import questions, tokenizer_of
from tokensieve.engine.stage_selection import StageOutcome, TokenPool, select_stage
from tokensieve.engine.token_layout import TokenLayout
from tokensieve.engine.vision_cache import VisionCache
from tokensieve.errors import RefusedError, brief
from tokensieve.evidence import Evidence, Query, Text, Value
from tokensieve.ledger.records import Prefill, StageRecord
from tokensieve.ledger.run import Run
from tokensieve.models.decoder import Decoder
from tokensieve.models.text_tower import TextTower
from tokensieve.recipes.recipe import Recipe


@dataclass(frozen=True, eq=False)
class PromptOptions:
    """The options of `prune` about prompts: processor, text tower, questions and sample keys.

    Attributes:
        processor: reads prompts, for strategies that read text.
        text_tower: the text tower of the vision tower's space.
        query: a question per sample, instead of those in the prompts.
        keys: a sample key per sample.
        budgets: by sample key how many tokens of each group stay, at a stage that meets its budget over a task.
    """

    processor: Any = None
    text_tower: TextTower | None = None
    query: Sequence[str] | None = None
    keys: Sequence[int] | None = None
    budgets: Mapping[int, Sequence[int]] | None = None

    def __post_init__(self) -> None:
        """Refuse questions that are no texts, and keys that are no numbers."""
        query, keys = self.query, self.keys
        # A text is a sequence of texts, too: one question a letter.
        if query is not None and not _are(query, lambda text: isinstance(text, str)):
            raise RefusedError(f"query is {brief(query)}; give a list of texts, one question per prompt")
        if keys is not None and not _are(keys, _is_key):
            raise RefusedError(f"keys is {brief(keys)}; give a list of whole numbers of 64 bits, one per prompt")
        if self.budgets is not None and not _are_budgets(self.budgets):
            raise RefusedError(
                f"budgets is {brief(self.budgets)}; give a mapping from sample keys to lists of numbers of tokens, one "
                "for each group"
            )

    def check(self, rows: int) -> None:
        """Refuse a batch of another size than the options are for."""
        for name, said, what in (("keys", self.keys, "sample keys"), ("query", self.query, "questions")):
            if said is not None and len(said) != rows:
                raise RefusedError(f"{name} has {len(said)} {what} for a batch of {rows} prompts")


def _are(values: Any, right: Callable[[Any], bool]) -> bool:
    """Return whether values are several, and not the signs of a text, and each is right."""
    if not isinstance(values, Collection) or isinstance(values, (str, bytes, Mapping)):
        return False
    return all(right(value) for value in values)


def _are_budgets(values: object) -> bool:
    """Return whether values are numbers of tokens, several for each sample key."""
    return isinstance(values, Mapping) and all(
        _is_key(key) and _are(own, lambda k: isinstance(k, int) and not isinstance(k, bool))
        for key, own in values.items()
    )


def _is_key(value: object) -> bool:
    """Return whether a value is a whole number that random draws can be made from."""
    try:
        return not isinstance(value, bool) and -(2**63) <= operator.index(value) < 2**63  # type: ignore[arg-type]
    except TypeError:
        return False


@dataclass(frozen=True, eq=False)
class EncoderOutcome:
    """What stages inside the vision tower did to the pictures of a prompt batch.

    Attributes:
        records: what its stages did, by prompt.
        pictures: how many pictures of each prompt it took.
        patches: of each of them.
        sizes: float64 `[prompts, tokens]`, how many patches each visual token stands for, 0 where it left; none where
            the tower hands on all of them.
        stretches: where a stage before the tower left patches out: see `Prefill.stretches`.
    """

    records: Sequence[StageRecord]
    pictures: list[int]
    patches: int
    sizes: Tensor | None
    stretches: Sequence[tuple[Stretches, Stretches]] = ()


@dataclass(eq=False)
class PromptSelection:
    """The selection of a prompt batch: its visual tokens, and the outcome of every stage so far.

    Attributes:
        pool: its visual tokens.
        record: its part of the ledger.
        arrived: the tokens that the vision tower handed on.
        outcomes: by block, what a stage decided.
    """

    pool: TokenPool
    record: Prefill
    arrived: StageOutcome
    outcomes: dict[int, StageOutcome] = field(default_factory=dict)

    @property
    def entering(self) -> StageOutcome:
        """The tokens that enter the language model: what the stage before it decided, or all that arrived."""
        return self.outcomes.get(0, self.arrived)


class PromptSelector:
    """Selects visual tokens of prompt batches at the decoder stages of a recipe.

    Attributes:
        stages: by block.
    """

    def __init__(
        self,
        decoder: Decoder,
        recipe: Recipe,
        run: Run,
        options: PromptOptions,
        on_stage: Callable[[StageRecord], None],
        vision_cache: VisionCache | None = None,
    ) -> None:
        self._vision_cache = vision_cache
        self._decoder = decoder
        self._recipe = recipe
        self._run = run
        self._options = options
        self._on_stage = on_stage
        self.stages = {stage.at.block: stage for stage in recipe.stages if stage.at.part == "decoder"}

    def needs(self, block: int) -> frozenset[Evidence]:
        """Return the evidence that the stage at a block reads."""
        return self.stages[block].needs

    def start(
        self,
        words: Tensor | None,
        tokens: TokenLayout,
        features: Tensor,
        layout: PromptLayout,
        vision: Mapping[Evidence, Callable[[], Value]],
        selected: Tensor | None,
        tower: EncoderOutcome | None,
    ) -> PromptSelection:
        """Open the ledger of a prompt batch and gather what is known before the language model.

        Args:
            words: int64 `[prompts, n]`, the prompts, or none where they came as embeddings.
            tokens: where each visual token was.
            features: `[prompts, tokens, d]`, projected features by id.
            layout: of the prompts.
            vision: what the vision tower saw.
            selected: its selected layer `[patches, c]`, where a text tower reads it and it was seen.
            tower: what left in it, where the recipe has stages there.
        """
        device, keys = features.device, self._keys(layout.shape[0])
        alive, counts, merged = tokens.every.on(device), tokens.counts, None
        if tower is not None and tower.sizes is not None:
            merged = tower.sizes.to(device)
            alive = alive & (merged > 0)
            counts = tuple(alive.sum(dim=1).tolist())
        text = layout.words.array.sum(axis=1).tolist()
        record = Prefill(keys, text, list(tokens.counts), list(counts))
        wanted = frozenset().union(*(self.needs(block) for block in self.stages))
        evidence = dict(vision)
        if wanted & {Evidence.QUERY, Evidence.TEXT_FEATURES}:
            evidence |= self._textual(words, features.detach(), layout, selected, record)
        self._run.add(record)
        if tower is not None:
            record.pictures, record.patches = tower.pictures, tower.patches
            record.stretches = list(tower.stretches)
            for done in tower.records:
                record.stages.append(done)
                self._on_stage(done)
        sizes = None if merged is None else lambda: merged
        own, budgets = self._key_row(keys, device), self._options.budgets
        pool = TokenPool(alive, tokens, own, evidence, sizes, merged is None, counts, budgets)
        return PromptSelection(pool, record, StageOutcome(alive, counts))

    def start_empty(self, mask: Tensor) -> PromptSelection:
        """Open the ledger of prompts `[rows, n]` without images; every stage keeps nothing."""
        rows = len(mask)
        tokens = TokenLayout(np.zeros((rows, 0, 5), dtype=np.int64), (0,) * rows)
        record = Prefill(self._keys(rows), mask.sum(dim=1).tolist(), [0] * rows, [0] * rows)
        self._run.add(record)
        alive = tokens.every.on(mask.device)
        pool = TokenPool(alive, tokens, self._key_row(record.keys, mask.device), {}, counts=tokens.counts)
        selection = PromptSelection(pool, record, StageOutcome(alive, tokens.counts))
        for stage in self._recipe.stages:
            if stage.at.part == "decoder":
                self.select(stage.at.block, selection, {})
            else:
                record.stages.append(select_stage(self._recipe, stage, pool, {})[1])
                self._on_stage(record.stages[-1])
        return selection

    def select_pixels(self, tokens: TokenLayout, pixels: Tensor) -> tuple[StageOutcome, StageRecord]:
        """Select at `pixel.0`, before anything is encoded.

        Args:
            tokens: where each visual token will be.
            pixels: `[prompts, tokens, d]`, normalised pixels by id.
        """
        self._options.check(len(pixels))
        stage = next(stage for stage in self._recipe.stages if stage.at.part == "pixel")
        keys = self._key_row(self._keys(len(pixels)), pixels.device)
        pool = TokenPool(tokens.every.on(pixels.device), tokens, keys, {}, counts=tokens.counts)
        return select_stage(self._recipe, stage, pool, {Evidence.FEATURES: lambda: pixels})

    def select(self, block: int, selection: PromptSelection, fresh: Mapping[Evidence, Callable[[], Value]]) -> None:
        """Select at the stage of a block, with the evidence of its own site."""
        outcome, record = select_stage(self._recipe, self.stages[block], selection.pool, fresh)
        selection.outcomes[block] = outcome
        selection.record.stages.append(record)
        self._on_stage(record)

    def _keys(self, rows: int) -> list[int]:
        return [0] * rows if self._options.keys is None else [operator.index(key) for key in self._options.keys]

    @staticmethod
    def _key_row(keys: list[int], device: torch.device) -> Tensor:
        """Return sample keys on a device, int64 `[prompts]`."""
        if any(keys):
            return torch.tensor(keys, dtype=torch.int64, device=device)
        return torch.zeros(len(keys), dtype=torch.int64, device=device)

    @torch.no_grad()
    def _textual(
        self,
        words: Tensor | None,
        features: Tensor,
        layout: PromptLayout,
        selected: Tensor | None,
        record: Prefill,
    ) -> dict[Evidence, Callable[[], Value]]:
        """Return the question, in the model's own space and in the text tower's."""
        options, text_tower = self._options, self._options.text_tower
        record.questions = self._questions(words, layout, record.notes)
        if record.questions is not None and options.processor is not None:
            reader = tokenizer_of(options.processor)
            read = {
                text: reader(text, add_special_tokens=False)["input_ids"] for text in dict.fromkeys(record.questions)
            }
            own = [torch.tensor(read[text], dtype=torch.int64) for text in record.questions]
        elif words is not None:
            # Without a processor nobody knows which words are the question: all of them are read.
            own = list(words.reshape(-1)[layout.text_places.on(words.device)].split(record.text))
            if text_tower is None:
                record.notes.append("no processor was given: all text of the prompt was read as the question")
        else:
            raise RefusedError("a strategy reads text, but the prompt is embeddings; pass query= and processor=")
        # PromptOptions once for all prompts: each call costs more than the few words of a question.
        known = torch.cat(own).to(features.device if words is None else words.device)
        vectors = self._decoder.embed_tokens(known).split([len(one) for one in own])
        text, text_mask = padded(vectors, features)
        query = Query(features, text, text_mask, "text embeddings")
        if text_tower is None:
            record.notes.append("relevance: the model's own text embeddings")
        else:
            query = self._text_tower_query(text_tower, selected, record, layout)
        return {Evidence.TEXT_FEATURES: lambda: Text(text, text_mask), Evidence.QUERY: lambda: query}

    def _text_tower_query(
        self, text_tower: TextTower, selected: Tensor | None, record: Prefill, layout: PromptLayout
    ) -> Query:
        """Return the question and the tokens in the text tower's space."""
        if selected is None:
            raise RefusedError(
                "query_encoder was given, but the images came already encoded; pass pixel_values, or leave it out"
            )
        if record.questions is None:
            raise RefusedError("query_encoder needs to read the question; pass processor= or query=")
        patches = text_tower.patches(selected)
        spread = layout.by_id(patches.reshape(-1, patches.shape[-1]))
        known = {text: self._embedded(text_tower, text) for text in dict.fromkeys(record.questions)}
        windows, mask = padded([known[text] for text in record.questions], spread)
        record.notes.append(f"relevance: {text_tower.space}, sign {text_tower.sign:+d}")
        if text_tower.warning:
            record.notes.append(f"warning: {text_tower.warning}")
        return Query(spread, windows, mask, text_tower.space, text_tower.sign)

    def _embedded(self, text_tower: TextTower, text: str) -> Tensor:
        """Return a question in the text tower's space, from the vision cache where there is one."""
        return text_tower.text(text) if self._vision_cache is None else self._vision_cache.text(text_tower, text)

    def _questions(self, words: Tensor | None, layout: PromptLayout, notes: list[str]) -> list[str] | None:
        if self._options.query is not None:
            return list(self._options.query)
        if self._options.processor is None or words is None:
            return None
        return questions(self._options.processor, words, layout.words.on(words.device), notes)
