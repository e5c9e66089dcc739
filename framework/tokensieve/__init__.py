"""Drop or merge visual tokens of multimodal models, and tell honestly what it costs.

What is public is imported when it is first asked for, so that `import tokensieve` takes no time, and the command line
answers before torch is there.
"""

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from tokensieve.algebra.budget import Keep
    from tokensieve.algebra.chain import Chain
    from tokensieve.algebra.reduction import Reduction
    from tokensieve.algebra.universe import Universe
    from tokensieve.composers.expression import Composer, Expression
    from tokensieve.composers.selection import select
    from tokensieve.cost.explanation import Explanation, explain
    from tokensieve.drawing.show import show
    from tokensieve.engine import PruneHandle, VisionCache, install, prune, share_vision
    from tokensieve.errors import TokensieveError
    from tokensieve.evidence import Evidence, PromptHeads, PromptText, Query, Text, Tokens
    from tokensieve.exporting.export import Exported, export
    from tokensieve.ledger.replay import Replay, replay
    from tokensieve.ledger.run import Run
    from tokensieve.models.adapter import Adapter
    from tokensieve.models.decoder import Decoder
    from tokensieve.models.encoder import Encoder
    from tokensieve.models.packed_tower import PackedTower
    from tokensieve.plugins.hookspecs import hookimpl
    from tokensieve.plugins.registry import Registry, default_registry
    from tokensieve.recipes.findings import Finding
    from tokensieve.recipes.recipe import Recipe
    from tokensieve.recipes.review import review
    from tokensieve.recipes.schema import schema
    from tokensieve.sites import Site
    from tokensieve.stage import Stage
    from tokensieve.strategy import Appraiser, Chooser, Merger, Ranker, Scorer, Strategy

__all__ = [
    "Adapter",
    "Appraiser",
    "Chain",
    "Chooser",
    "Composer",
    "Decoder",
    "Encoder",
    "Evidence",
    "Explanation",
    "Exported",
    "Expression",
    "Finding",
    "Keep",
    "Merger",
    "PackedTower",
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
    "explain",
    "export",
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

_HOMES = {
    "Adapter": "tokensieve.models.adapter",
    "Appraiser": "tokensieve.strategy",
    "Chain": "tokensieve.algebra.chain",
    "Chooser": "tokensieve.strategy",
    "Composer": "tokensieve.composers.expression",
    "Decoder": "tokensieve.models.decoder",
    "Encoder": "tokensieve.models.encoder",
    "Evidence": "tokensieve.evidence",
    "Explanation": "tokensieve.cost.explanation",
    "Exported": "tokensieve.exporting.export",
    "Expression": "tokensieve.composers.expression",
    "Finding": "tokensieve.recipes.findings",
    "Keep": "tokensieve.algebra.budget",
    "Merger": "tokensieve.strategy",
    "PackedTower": "tokensieve.models.packed_tower",
    "PromptHeads": "tokensieve.evidence",
    "PromptText": "tokensieve.evidence",
    "PruneHandle": "tokensieve.engine",
    "Query": "tokensieve.evidence",
    "Ranker": "tokensieve.strategy",
    "Recipe": "tokensieve.recipes.recipe",
    "Reduction": "tokensieve.algebra.reduction",
    "Registry": "tokensieve.plugins.registry",
    "Replay": "tokensieve.ledger.replay",
    "Run": "tokensieve.ledger.run",
    "Scorer": "tokensieve.strategy",
    "Site": "tokensieve.sites",
    "Stage": "tokensieve.stage",
    "Strategy": "tokensieve.strategy",
    "Text": "tokensieve.evidence",
    "Tokens": "tokensieve.evidence",
    "TokensieveError": "tokensieve.errors",
    "Universe": "tokensieve.algebra.universe",
    "VisionCache": "tokensieve.engine",
    "default_registry": "tokensieve.plugins.registry",
    "explain": "tokensieve.cost.explanation",
    "export": "tokensieve.exporting.export",
    "hookimpl": "tokensieve.plugins.hookspecs",
    "install": "tokensieve.engine",
    "prune": "tokensieve.engine",
    "replay": "tokensieve.ledger.replay",
    "review": "tokensieve.recipes.review",
    "schema": "tokensieve.recipes.schema",
    "select": "tokensieve.composers.selection",
    "share_vision": "tokensieve.engine",
    "show": "tokensieve.drawing.show",
}
"""The module of every public name, as type checkers read it above; a test compares the two."""

_RENAMED = {"Sights": "VisionCache", "Words": "PromptText", "sharing": "share_vision"}


if not _TYPE_CHECKING:
    # Type checkers would take a module with this function to have every name.
    def __getattr__(name: str) -> object:
        if name in _HOMES:
            value = getattr(_import_module(_HOMES[name]), name)
        elif name in _RENAMED:
            raise AttributeError(f"tokensieve.{name} is called tokensieve.{_RENAMED[name]} now")
        elif not name.startswith("_") and _find_spec(f"tokensieve.{name}") is not None:
            # Modules are there without an import of their own, such as `tokensieve.composers`.
            value = _import_module(f"tokensieve.{name}")
        else:
            raise AttributeError(f"module 'tokensieve' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
