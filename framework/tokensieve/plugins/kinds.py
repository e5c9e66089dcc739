"""What is registered, by kind."""

from __future__ import annotations

from collections.abc import Mapping

from tokensieve.plugins.registry import Registry

PLURALS = {
    "strategy": "strategies",
    "composer": "composers",
    "recipe": "recipes",
    "adapter": "adapters",
    "task": "tasks",
    "checkpoint": "checkpoints",
    "geometry": "geometries",
}
"""The kinds of what plugins bring, as messages name one and many of them."""


def by_kind(registry: Registry) -> dict[str, Mapping[str, object]]:
    """Return all that is registered: by kind, and by name."""
    return {
        "strategy": registry.strategies,
        "composer": registry.composers,
        "recipe": registry.recipes,
        "adapter": registry.adapters,
        "task": registry.tasks,
        "checkpoint": registry.checkpoints,
        "geometry": registry.geometries,
    }
