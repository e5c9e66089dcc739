"""The embedded world: pictures and questions drawn from a seed, of which everything is known."""

from tokensieve.tasks.world.task import World as World
