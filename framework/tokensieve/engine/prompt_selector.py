"""Selecting visual tokens of a prompt: evidence, questions and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokensieve.engine.batches import by_id, padded
from tokensieve.engine.question import questions, tokenizer_of
from tokensieve.engine.stage_selection import StageOutcome, TokenPool, select_stage
from tokensieve.engine.vision_cache import VisionCache
from tokensieve.errors import RefusedError
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
    """

    processor: Any = None
    text_tower: TextTower | None = None
    query: Sequence[str] | None = None
    keys: Sequence[int] | None = None

    def check(self, rows: int) -> None:
        """Refuse a batch of another size than the options are for."""
        for name, said, what in (("keys", self.keys, "sample keys"), ("query", self.query, "questions")):
            if said is not None and len(said) != rows:
                raise RefusedError(f"{name} has {len(said)} {what} for a batch of {rows} prompts")


@dataclass(frozen=True, eq=False)
class EncoderOutcome:
    """What stages inside the vision tower did to the pictures of a prompt batch.

    Attributes:
        records: what its stages did, by prompt.
        pictures: how many pictures of each prompt it took.
        patches: of each of them.
        sizes: float64 `[prompts, tokens]`, how many patches each visual token stands for, 0 where it left; none where
            the tower hands on all of them.
    """

    records: Sequence[StageRecord]
    pictures: list[int]
    patches: int
    sizes: Tensor | None


@dataclass(eq=False)
class PromptSelection:
    """The selection of a prompt batch: its visual tokens, and the outcome of every stage so far.

    Attributes:
        pool: its visual tokens.
        record: its part of the ledger.
        entering: bool `[prompts, tokens]`, those that reach the language model.
        outcomes: by block, what a stage decided.
    """

    pool: TokenPool
    record: Prefill
    entering: Tensor
    outcomes: dict[int, StageOutcome] = field(default_factory=dict)


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
        grid: Tensor,
        features: Tensor,
        ids: Tensor,
        mask: Tensor,
        expand: int,
        vision: Mapping[Evidence, Callable[[], Value]],
        selected: Tensor | None,
        tower: EncoderOutcome | None,
    ) -> PromptSelection:
        """Open the ledger of a prompt batch and gather what is known before the language model.

        Args:
            words: int64 `[rows, n]`, the prompts, or none where they came as embeddings.
            grid: int64 `[prompts, tokens, 5]`, where each visual token was.
            features: `[rows, tokens, d]`, projected features by id.
            ids: int64 `[rows, n]`, which visual token stands where, or -1.
            mask: bool `[rows, n]`, which places are real.
            expand: rows per prompt, where beams or sampling expanded it.
            vision: what the vision tower saw.
            selected: its selected layer `[patches, c]`, where a text tower reads it and it was seen.
            tower: what left in it, where the recipe has stages there.
        """
        grid = grid.to(ids.device)
        ids, mask, features = ids[::expand], mask[::expand], features[::expand].detach()
        counts = (ids >= 0).sum(dim=1)
        keys = self._keys(len(ids))
        alive = torch.arange(grid.shape[1], device=ids.device) < counts.unsqueeze(1)
        sizes = alive.double()
        if tower is not None and tower.sizes is not None:
            sizes = tower.sizes
            alive = alive & (sizes > 0)
        text = (mask & (ids < 0)).sum(dim=1).tolist()
        record = Prefill(keys, text, counts.tolist(), alive.sum(dim=1).tolist())
        wanted = frozenset().union(*(self.needs(block) for block in self.stages))
        evidence = dict(vision)
        if wanted & {Evidence.QUERY, Evidence.TEXT_FEATURES}:
            words = None if words is None else words[::expand]
            evidence |= self._textual(words, features, ids, mask, selected, record)
        self._run.add(record)
        if tower is not None:
            record.pictures, record.patches = tower.pictures, tower.patches
            for done in tower.records:
                record.stages.append(done)
                self._on_stage(done)
        key_row = torch.tensor(keys, dtype=torch.int64, device=ids.device)
        return PromptSelection(TokenPool(alive, grid, sizes, key_row, evidence), record, alive)

    def start_empty(self, mask: Tensor) -> PromptSelection:
        """Open the ledger of prompts `[rows, n]` without images; every stage keeps nothing."""
        rows = len(mask)
        empty = torch.zeros(rows, 0, dtype=torch.int64, device=mask.device)
        record = Prefill(self._keys(rows), mask.sum(dim=1).tolist(), [0] * rows, [0] * rows)
        self._run.add(record)
        key_row = torch.tensor(record.keys, dtype=torch.int64, device=mask.device)
        pool = TokenPool(empty.bool(), empty.reshape(rows, 0, 5), empty.double(), key_row, {})
        selection = PromptSelection(pool, record, pool.alive)
        for stage in self._recipe.stages:
            if stage.at.part == "decoder":
                self.select(stage.at.block, selection, {})
            else:
                record.stages.append(select_stage(self._recipe, stage, pool, {})[1])
                self._on_stage(record.stages[-1])
        return selection

    def select(self, block: int, selection: PromptSelection, fresh: Mapping[Evidence, Callable[[], Value]]) -> None:
        """Select at the stage of a block, with the evidence of its own site."""
        outcome, record = select_stage(self._recipe, self.stages[block], selection.pool, fresh)
        selection.outcomes[block] = outcome
        selection.record.stages.append(record)
        self._on_stage(record)

    def _keys(self, rows: int) -> list[int]:
        return [0] * rows if self._options.keys is None else [int(key) for key in self._options.keys]

    @torch.no_grad()
    def _textual(
        self,
        words: Tensor | None,
        features: Tensor,
        ids: Tensor,
        mask: Tensor,
        selected: Tensor | None,
        record: Prefill,
    ) -> dict[Evidence, Callable[[], Value]]:
        """Return the question, in the model's own space and in the text tower's."""
        options, text_tower = self._options, self._options.text_tower
        record.questions = self._questions(words, ids, mask, record.notes)
        if record.questions is not None and options.processor is not None:
            reader = tokenizer_of(options.processor)
            read = {
                text: reader(text, add_special_tokens=False)["input_ids"] for text in dict.fromkeys(record.questions)
            }
            own = [torch.tensor(read[text], dtype=torch.int64, device=ids.device) for text in record.questions]
        elif words is not None:
            # Without a processor nobody knows which words are the question: all of them are read.
            own = list(words[mask & (ids < 0)].split((mask & (ids < 0)).sum(dim=1).tolist()))
            if text_tower is None:
                record.notes.append("no processor was given: all text of the prompt was read as the question")
        else:
            raise RefusedError("a strategy reads text, but the prompt is embeddings; pass query= and processor=")
        # PromptOptions once for all prompts: each call costs more than the few words of a question.
        vectors = self._decoder.embed_tokens(torch.cat(own)).split([len(one) for one in own])
        text, text_mask = padded(vectors, features)
        query = Query(features, text, text_mask, "text embeddings")
        if text_tower is None:
            record.notes.append("relevance: the model's own text embeddings")
        else:
            query = self._text_tower_query(text_tower, selected, record, ids)
        return {Evidence.TEXT_FEATURES: lambda: Text(text, text_mask), Evidence.QUERY: lambda: query}

    def _text_tower_query(self, text_tower: TextTower, selected: Tensor | None, record: Prefill, ids: Tensor) -> Query:
        """Return the question and the tokens in the text tower's space."""
        if selected is None:
            raise RefusedError(
                "query_encoder was given, but the images came already encoded; pass pixel_values, or leave it out"
            )
        if record.questions is None:
            raise RefusedError("query_encoder needs to read the question; pass processor= or query=")
        patches = text_tower.patches(selected)
        spread = by_id(patches.reshape(-1, patches.shape[-1]), ids)
        known = {text: self._embedded(text_tower, text) for text in dict.fromkeys(record.questions)}
        windows, mask = padded([known[text] for text in record.questions], spread)
        record.notes.append(f"relevance: {text_tower.space}, sign {text_tower.sign:+d}")
        if text_tower.warning:
            record.notes.append(f"warning: {text_tower.warning}")
        return Query(spread, windows, mask, text_tower.space, text_tower.sign)

    def _embedded(self, text_tower: TextTower, text: str) -> Tensor:
        """Return a question in the text tower's space, from the vision cache where there is one."""
        return text_tower.text(text) if self._vision_cache is None else self._vision_cache.text(text_tower, text)

    def _questions(self, words: Tensor | None, ids: Tensor, mask: Tensor, notes: list[str]) -> list[str] | None:
        if self._options.query is not None:
            return list(self._options.query)
        if self._options.processor is None or words is None:
            return None
        return questions(self._options.processor, words, mask & (ids < 0), notes)
