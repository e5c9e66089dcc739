"""Drop or merge visual tokens of multimodal models, and tell honestly what it costs."""

from tokensieve.adapter import Adapter, Decoder, Encoder
from tokensieve.budget import Keep
from tokensieve.chain import Chain
from tokensieve.composers import Composer, Expression, select
from tokensieve.engine import Sights, prune, sharing
from tokensieve.errors import TokensieveError
from tokensieve.evidence import Evidence, Query, Text, Tokens, Words
from tokensieve.hookspecs import hookimpl
from tokensieve.recipe import Recipe, Stage, schema
from tokensieve.reduction import Reduction
from tokensieve.registry import Registry, default_registry
from tokensieve.replay import Replay, replay
from tokensieve.review import Finding, review
from tokensieve.run import Run
from tokensieve.sites import Site
from tokensieve.strategy import Chooser, Merger, Ranker, Scorer, Strategy
from tokensieve.universe import Universe

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
    "Query",
    "Ranker",
    "Recipe",
    "Reduction",
    "Registry",
    "Replay",
    "Run",
    "Scorer",
    "Sights",
    "Site",
    "Stage",
    "Strategy",
    "Text",
    "Tokens",
    "TokensieveError",
    "Universe",
    "Words",
    "default_registry",
    "hookimpl",
    "prune",
    "replay",
    "review",
    "schema",
    "select",
    "sharing",
]
