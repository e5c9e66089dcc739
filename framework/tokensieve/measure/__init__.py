"""Measuring: what pruning costs on a machine, in operators and in time."""

from tokensieve.measure.intervals import Estimate
from tokensieve.measure.latency import Latency, measure_latency
from tokensieve.measure.machine import Machine
from tokensieve.measure.operators import Counts, count_operators
from tokensieve.measure.overhead import Overhead, count_overhead
from tokensieve.measure.prompts import Prompts, floor_request
from tokensieve.measure.rows import Row, Setting

__all__ = [
    "Counts",
    "Estimate",
    "Latency",
    "Machine",
    "Overhead",
    "Prompts",
    "Row",
    "Setting",
    "count_operators",
    "count_overhead",
    "floor_request",
    "measure_latency",
]
