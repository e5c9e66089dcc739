"""The peak memory of a computation on the CPU, for tests of strategies; see `tokensieve.measure.memory`."""

from tokensieve.measure.memory import peak

__all__ = ["peak"]
