"""What a strategy may look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from tokensieve.algebra.universe import Universe
from tokensieve.errors import AlgebraError, MissingEvidenceError, listing


class Evidence(StrEnum):
    """The kinds of evidence. Shapes are those of `Tokens`.

    What the vision encoder saw is known of patches; a token in which several are joined has their mean.
    """

    FEATURES = "features"
    """The vectors entering the stage's own site, `[rows, n, d]`."""
    VISION_ATTENTION = "vision_attention"
    """Attention of the vision encoder's CLS row, or attention received, `[rows, n, heads]`."""
    VISION_RECEIVED = "vision_received"
    """Mean attention that a patch receives from all tokens of its picture, whether or not there is a CLS, in the
    layer of VISION_ATTENTION, `[rows, n, heads]`."""
    VISION_MIDDLE = "vision_middle"
    """Likewise, in a middle layer that the adapter names, `[rows, n, heads]`."""
    VISION_KEYS = "vision_keys"
    """Keys of the vision encoder, averaged over heads, `[rows, n, d]`."""
    VISION_FEATURES = "vision_features"
    """The vision encoder's selected layer, before the projector, `[rows, n, d]`."""
    QUERY = "query"
    """The question and the tokens in one space: a `Query`."""
    TEXT_FEATURES = "text_features"
    """The language model's own embeddings of the question: a `Text`."""
    DECODER_ATTENTION = "decoder_attention"
    """Softmaxed attention of the prompt's last token in the layer before, `[rows, n, heads]`."""
    DECODER_CONTENT = "decoder_content"
    """Like DECODER_ATTENTION, of queries and keys without rotary positions, `[rows, n, heads]`."""
    DECODER_KEYS = "decoder_keys"
    """Keys of the layer before, heads side by side, `[rows, n, d]`."""
    DECODER_TEXT = "decoder_text"
    """The prompt's text beside its visual tokens, in the layer before: `PromptText`."""
    DECODER_TEXT_HEADS = "decoder_text_heads"
    """The text's attention to visual tokens in that layer, head by head, and what positions alone make of it:
    `PromptHeads`."""
    GRID = "grid"
    """Where a token was, int64 `[rows, n, 5]`: image, tile, frame, row, column."""
    SIZES = "sizes"
    """How many original tokens a token stands for, `[rows, n]`."""

    @classmethod
    def _missing_(cls, value: object) -> Evidence | None:
        if value == "decoder_words":
            raise ValueError("the evidence decoder_words is called decoder_text now")
        return None


ATTENTION = frozenset(
    {
        Evidence.VISION_ATTENTION,
        Evidence.VISION_RECEIVED,
        Evidence.VISION_MIDDLE,
        Evidence.DECODER_ATTENTION,
        Evidence.DECODER_CONTENT,
    }
)
"""The kinds that are attention weights: each is in [0, 1]."""

# Stands for "zero for every row" until the number of rows is known.
_ZEROS = torch.zeros(0, dtype=torch.int64)

GRID_COLUMNS = ("image", "tile", "frame", "row", "column")
NEWLINE = -1
"""The grid column of newline and separator tokens."""


@dataclass(frozen=True, eq=False)
class Text:
    """A question in the language model's own embedding space.

    Attributes:
        features: `[rows, m, d]`, one vector a text token, padded.
        mask: bool `[rows, m]`; a row may have no text at all.
    """

    features: Tensor
    mask: Tensor

    def take(self, rows: Tensor, places: Tensor) -> Text:
        """Return the question of each of `rows` `[new rows]`."""
        return Text(self.features[rows], self.mask[rows])


@dataclass(frozen=True, eq=False)
class Query:
    """Tokens and question in one space.

    Attributes:
        patch: `[rows, n, e]`, one vector a visual token.
        text: `[rows, m, e]`, one vector a text window or text token, padded.
        mask: bool `[rows, m]`; a row may have no text at all.
        space: which space, for the ledger, such as `clip` or `text embeddings`.
        sign: +1 where a larger similarity means more relevant, -1 where the checkpoint's patches
            are known to be turned around.
    """

    patch: Tensor
    text: Tensor
    mask: Tensor
    space: str
    sign: int = 1

    def take(self, rows: Tensor, places: Tensor) -> Query:
        """Return the tokens at `places` `[new rows, m]` of `rows` `[new rows]`, with their rows' questions."""
        patch = self.patch[rows.unsqueeze(1), places]
        return replace(self, patch=patch, text=self.text[rows], mask=self.mask[rows])


@dataclass(frozen=True, eq=False)
class PromptText:
    """The text tokens of a prompt beside its visual tokens, at a layer of the decoder.

    Attributes:
        attention: `[rows, n, m]`, softmaxed attention of each text token to each visual one in the
            layer before the cut, averaged over heads; zero from text before the picture.
        keys: `[rows, m, d]`, keys of the text tokens in that layer, heads side by side, as DECODER_KEYS.
        features: `[rows, m, d]`, the text tokens entering the site.
        embeddings: `[rows, m, d]`, the text tokens as they entered the language model.
        patch: `[rows, n, d]`, the visual tokens as they entered the language model.
        mask: bool `[rows, m]`; a row may have no text at all.
        after: bool `[rows, m]`, which of them stand after the prompt's last visual token.
    """

    attention: Tensor
    keys: Tensor
    features: Tensor
    embeddings: Tensor
    patch: Tensor
    mask: Tensor
    after: Tensor

    def take(self, rows: Tensor, places: Tensor) -> PromptText:
        """Return the tokens at `places` `[new rows, m]` of `rows` `[new rows]`, with their rows' text."""
        at = rows.unsqueeze(1)
        return PromptText(
            self.attention[at, places],
            self.keys[rows],
            self.features[rows],
            self.embeddings[rows],
            self.patch[at, places],
            self.mask[rows],
            self.after[rows],
        )


@dataclass(frozen=True, eq=False)
class PromptHeads:
    """The attention of a prompt's text tokens in each head of a decoder layer, the one before the cut.

    Attributes:
        attention: `[rows, n, m, heads]`, softmaxed attention of each text token to each visual one; its mean over heads
            is that of `PromptText`.
        bias: `[rows, n, m]`, the score that rotary positions alone give a text and a visual token: that of two vectors
            of ones, turned to their positions.
        mask: bool `[rows, m]`; a row may have no text at all.
    """

    attention: Tensor
    bias: Tensor
    mask: Tensor

    def take(self, rows: Tensor, places: Tensor) -> PromptHeads:
        """Return the tokens at `places` `[new rows, m]` of `rows` `[new rows]`, with their rows' text."""
        at = rows.unsqueeze(1)
        return PromptHeads(self.attention[at, places], self.bias[at, places], self.mask[rows])


Value = Tensor | Query | Text | PromptText | PromptHeads
PER_TOKEN = frozenset({"patch", "attention", "bias"})
"""The fields of these records that have one entry for each visual token; the others have one for each text."""


def take_rows(value: Value, rows: Tensor, places: Tensor) -> Value:
    """Return what is known of the tokens at `places` `[new rows, m]` of `rows` `[new rows]`."""
    return value[rows.unsqueeze(1), places] if isinstance(value, Tensor) else value.take(rows, places)


def tensors_of(value: Value) -> dict[str, Tensor]:
    """Return the tensors of a value by the names of its fields; a tensor itself has the empty name."""
    if isinstance(value, Tensor):
        return {"": value}
    parts = {part.name: getattr(value, part.name) for part in fields(value)}
    return {name: part for name, part in parts.items() if isinstance(part, Tensor)}


def copy_value(value: Value) -> Value:
    """Return the value with tensors of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    parts: dict[str, Any] = {name: part.clone() for name, part in tensors_of(value).items()}
    return replace(value, **parts)


@dataclass(frozen=True, eq=False)
class Tokens:
    """One row per group of visual tokens, with the evidence about them.

    A strategy receives its tokens in canonical form: valid tokens first, by ascending id. So a
    column is a token's place in its group, and the lowest index breaks ties.

    Attributes:
        universe: which tokens there are.
        evidence: what is known about them, by kind.
        keys: int64 `[rows]`, the sample key of each row, from which random draws are made; zeros by default.
        samples: int64 `[rows]`, the number of each row's sample in the batch; zeros by default.
    """

    universe: Universe
    evidence: Mapping[Evidence, Value] = field(default_factory=dict)
    keys: Tensor = _ZEROS
    samples: Tensor = _ZEROS

    def __post_init__(self) -> None:
        for name in ("keys", "samples"):
            if getattr(self, name) is _ZEROS:
                rows = torch.zeros(self.universe.rows, dtype=torch.int64, device=self.universe.device)
                # A frozen dataclass can only set a derived default this way.
                object.__setattr__(self, name, rows)
        for kind, value in self.evidence.items():
            for name, part in tensors_of(value).items():
                if (not name or name in PER_TOKEN) and part.shape[:2] != self.universe.valid.shape:
                    raise AlgebraError(
                        f"{f'{kind} {name}'.rstrip()} has the shape {list(part.shape)}, which does not begin with "
                        f"[rows, n] = {list(self.universe.valid.shape)}"
                    )

    @classmethod
    def of(cls, features: Tensor, universe: Universe | None = None, **evidence: Value) -> Tokens:
        """Return tokens from `features` `[rows, n, d]` and further evidence by name."""
        rows, n = features.shape[:2]
        known: dict[Evidence, Value] = {Evidence.FEATURES: features}
        known |= {Evidence(name): value for name, value in evidence.items()}
        return cls(universe or Universe.full(rows, n, features.device), known)

    def _get(self, kind: Evidence) -> Value:
        if kind not in self.evidence:
            raise MissingEvidenceError(
                f"{kind} is not among the evidence given here ({listing(self.evidence)}); "
                "a strategy sees what its `needs` declares"
            )
        return self.evidence[kind]

    def _tensor(self, kind: Evidence) -> Tensor:
        value = self._get(kind)
        if not isinstance(value, Tensor):
            raise MissingEvidenceError(f"{kind} is given as a {type(value).__name__}, not a tensor")
        return value

    @property
    def valid(self) -> Tensor:
        """Bool `[rows, n]`."""
        return self.universe.valid

    @property
    def ids(self) -> Tensor:
        """int64 `[rows, n]`."""
        return self.universe.ids

    @property
    def features(self) -> Tensor:
        """`[rows, n, d]`."""
        return self._tensor(Evidence.FEATURES)

    @property
    def vision_attention(self) -> Tensor:
        """`[rows, n, heads]`."""
        return self._tensor(Evidence.VISION_ATTENTION)

    @property
    def vision_received(self) -> Tensor:
        """`[rows, n, heads]`."""
        return self._tensor(Evidence.VISION_RECEIVED)

    @property
    def vision_middle(self) -> Tensor:
        """`[rows, n, heads]`."""
        return self._tensor(Evidence.VISION_MIDDLE)

    @property
    def vision_keys(self) -> Tensor:
        """`[rows, n, d]`."""
        return self._tensor(Evidence.VISION_KEYS)

    @property
    def vision_features(self) -> Tensor:
        """`[rows, n, d]`."""
        return self._tensor(Evidence.VISION_FEATURES)

    @property
    def query(self) -> Query:
        """The question and the tokens in one space."""
        value = self._get(Evidence.QUERY)
        if not isinstance(value, Query):
            raise MissingEvidenceError(f"query is given as a {type(value).__name__}, not a Query")
        return value

    @property
    def text_features(self) -> Text:
        """The language model's own embeddings of the question."""
        value = self._get(Evidence.TEXT_FEATURES)
        if not isinstance(value, Text):
            raise MissingEvidenceError(f"text_features are given as a {type(value).__name__}, not a Text")
        return value

    @property
    def decoder_attention(self) -> Tensor:
        """`[rows, n, heads]`."""
        return self._tensor(Evidence.DECODER_ATTENTION)

    @property
    def decoder_content(self) -> Tensor:
        """`[rows, n, heads]`."""
        return self._tensor(Evidence.DECODER_CONTENT)

    @property
    def decoder_keys(self) -> Tensor:
        """`[rows, n, d]`."""
        return self._tensor(Evidence.DECODER_KEYS)

    @property
    def decoder_text(self) -> PromptText:
        """The prompt's text beside its visual tokens."""
        value = self._get(Evidence.DECODER_TEXT)
        if not isinstance(value, PromptText):
            raise MissingEvidenceError(f"decoder_text are given as a {type(value).__name__}, not PromptText")
        return value

    @property
    def decoder_text_heads(self) -> PromptHeads:
        """The text's attention in each head."""
        value = self._get(Evidence.DECODER_TEXT_HEADS)
        if not isinstance(value, PromptHeads):
            raise MissingEvidenceError(f"decoder_text_heads are given as a {type(value).__name__}, not PromptHeads")
        return value

    @property
    def grid(self) -> Tensor:
        """int64 `[rows, n, 5]`: image, tile, frame, row, column."""
        return self._tensor(Evidence.GRID)

    @property
    def sizes(self) -> Tensor:
        """`[rows, n]`; ones where nothing was merged yet."""
        if Evidence.SIZES not in self.evidence:
            return torch.ones(self.valid.shape, device=self.valid.device)
        return self._tensor(Evidence.SIZES)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Return every tensor here, with a name such as `tokens.query.patch` for messages."""
        named = {"valid": self.valid, "ids": self.ids, "keys": self.keys, "samples": self.samples}
        yield from ((f"tokens.{name}", tensor) for name, tensor in named.items())
        for kind, value in self.evidence.items():
            yield from ((f"tokens.{kind}.{name}".rstrip("."), tensor) for name, tensor in tensors_of(value).items())

    def copied(self) -> Tokens:
        """Return the same tokens with tensors of their own."""
        evidence = {kind: copy_value(value) for kind, value in self.evidence.items()}
        return Tokens(self.universe.copied(), evidence, self.keys.clone(), self.samples.clone())

    def only(self, kinds: Iterable[Evidence]) -> Tokens:
        """Return the same tokens with no other evidence than `kinds`."""
        wanted = set(kinds)
        return replace(self, evidence={k: v for k, v in self.evidence.items() if k in wanted})

    def take(self, places: Tensor, valid: Tensor, rows: Tensor | None = None) -> Tokens:
        """Return the tokens at memory `places`, with all that is known about them.

        Args:
            places: int64 `[new rows, m]`, places in the row they are taken from.
            valid: bool `[new rows, m]`, which of them are tokens.
            rows: int64 `[new rows]`, the row each new row is taken from; its own by default.
        """
        source = torch.arange(self.universe.rows, device=places.device) if rows is None else rows
        at = source.unsqueeze(1)
        evidence = {kind: take_rows(value, source, places) for kind, value in self.evidence.items()}
        universe = Universe(valid & self.valid[at, places], self.ids[at, places])
        return Tokens(universe, evidence, self.keys[source], self.samples[source])

    def canonical(self) -> tuple[Tokens, Tensor]:
        """Return the tokens by ascending id, invalid ones last, and the places they came from."""
        if self.universe.canonical:
            # What is known of them need not be moved.
            return self, self.universe.order()
        order = self.universe.order()
        moved = self.take(order, torch.ones_like(order, dtype=torch.bool))
        moved.universe.knowing(self.universe.sizes, canonical=True)
        return moved, order
