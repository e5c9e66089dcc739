"""The embedded world: pictures, clips and questions drawn from a seed, of which everything is known."""

from tokensieve.tasks.world.task import World as World
from tokensieve.tasks.world.task import WorldPictures as WorldPictures
from tokensieve.tasks.world.task import WorldText as WorldText
from tokensieve.tasks.world.task import WorldTurns as WorldTurns
from tokensieve.tasks.world.task import WorldVideo as WorldVideo
