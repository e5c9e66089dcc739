"""Drop or merge visual tokens of multimodal models, and tell honestly what it costs."""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Never as _Never

from tokensieve.algebra.budget import Keep
from tokensieve.algebra.chain import Chain
from tokensieve.algebra.reduction import Reduction
from tokensieve.algebra.universe import Universe
from tokensieve.composers.expression import Composer, Expression
from tokensieve.composers.selection import select
from tokensieve.drawing.show import show
from tokensieve.engine import PruneHandle, VisionCache, install, prune, share_vision
from tokensieve.errors import TokensieveError
from tokensieve.evidence import Evidence, PromptHeads, PromptText, Query, Text, Tokens
from tokensieve.ledger.replay import Replay, replay
from tokensieve.ledger.run import Run
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.encoder import Encoder
from tokensieve.plugins.hookspecs import hookimpl
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import Finding, review
from tokensieve.recipes.schema import schema
from tokensieve.sites import Site
from tokensieve.stage import Stage
from tokensieve.strategy import Chooser, Merger, Ranker, Scorer, Strategy

__all__ = [
    "Adapter",
    "Chain",
    "Chooser",
    "Composer",
    "Decoder",
    "Encoder",
    "Evidence",
    "Expression",
    "Finding",
    "Keep",
    "Merger",
    "PromptHeads",
    "PromptText",
    "PruneHandle",
    "Query",
    "Ranker",
    "Recipe",
    "Reduction",
    "Registry",
    "Replay",
    "Run",
    "Scorer",
    "Site",
    "Stage",
    "Strategy",
    "Text",
    "Tokens",
    "TokensieveError",
    "Universe",
    "VisionCache",
    "default_registry",
    "hookimpl",
    "install",
    "prune",
    "replay",
    "review",
    "schema",
    "select",
    "share_vision",
    "show",
]

_RENAMED = {"Sights": "VisionCache", "Words": "PromptText", "sharing": "share_vision"}


if not _TYPE_CHECKING:
    # Type checkers would take a module with this function to have every name.
    def __getattr__(name: str) -> _Never:
        if name in _RENAMED:
            raise AttributeError(f"tokensieve.{name} is called tokensieve.{_RENAMED[name]} now")
        raise AttributeError(f"module 'tokensieve' has no attribute {name!r}")
