"""What a server's own implementation of a model family leaves to choose, and what it shows of a picture."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.evidence import Evidence
from tokensieve.recipes.recipe import Positions

EVIDENCE = frozenset(
    {Evidence.FEATURES, Evidence.GRID, Evidence.SIZES, Evidence.QUERY, Evidence.TEXT_FEATURES},
)
"""What is known between the projector and the language model of a server: vectors, their places, and, where a request
brings it, the question in the language model's own embeddings."""
TEXTUAL = frozenset({Evidence.QUERY, Evidence.TEXT_FEATURES})
"""Of these, what is learnt from a question."""


@dataclass(frozen=True)
class ServedFamily:
    """A model family in a server.

    Attributes:
        name: as its adapter is called.
        architecture: the class of transformers that checkpoints name.
        modalities: the kinds of pictures whose tokens are chosen from.
        positions: which positions the kept tokens can have there.
        merges: whether tokens can be merged; not where vision features are added inside the language model, too.
    """

    name: str
    architecture: str
    modalities: tuple[str, ...] = ("image",)
    positions: tuple[Positions, ...] = ("compact",)
    merges: bool = True
