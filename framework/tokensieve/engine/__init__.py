"""The engine: prune an unmodified model inside a context.

It knows sites and adapters, never a family or a method.
"""

from tokensieve.engine.prune import prune

__all__ = ["prune"]
