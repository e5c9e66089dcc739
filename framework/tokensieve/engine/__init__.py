"""The engine: prune an unmodified model inside a context.

It knows sites and adapters, never a family or a method.
"""

from tokensieve.engine.handle import PruneHandle
from tokensieve.engine.prune import install, prune
from tokensieve.engine.vision_cache import VisionCache, share_vision

__all__ = ["PruneHandle", "VisionCache", "install", "prune", "share_vision"]
