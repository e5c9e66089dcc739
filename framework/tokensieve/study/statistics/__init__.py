"""Statistics of paired comparisons, from arrays of scores. docs/ideas/statistics.md says what each number means."""

from tokensieve.study.statistics.controls import AgainstBest, Alarm, against_best, inverse_alarm
from tokensieve.study.statistics.design import Design
from tokensieve.study.statistics.draws import Draws, budget_weights, over_draws
from tokensieve.study.statistics.intervals import Interval, difference_intervals, ratio_intervals, score_intervals
from tokensieve.study.statistics.overlap import chance_jaccard, jaccard, overlaps
from tokensieve.study.statistics.paired import McNemar, holm, mcnemar, sign_flip
from tokensieve.study.statistics.pareto import front, front_shares
from tokensieve.study.statistics.power import Power, design_effect, detectable, samples_needed, smallest_difference
from tokensieve.study.statistics.ranks import (
    Agreement,
    Friedman,
    Rank,
    Record,
    Transfer,
    agreement,
    critical_difference,
    friedman,
    groups,
    rank_intervals,
    transfer,
    win_tie_loss,
)

__all__ = [
    "AgainstBest",
    "Agreement",
    "Alarm",
    "Design",
    "Draws",
    "Friedman",
    "Interval",
    "McNemar",
    "Power",
    "Rank",
    "Record",
    "Transfer",
    "against_best",
    "agreement",
    "budget_weights",
    "chance_jaccard",
    "critical_difference",
    "design_effect",
    "detectable",
    "difference_intervals",
    "friedman",
    "front",
    "front_shares",
    "groups",
    "holm",
    "inverse_alarm",
    "jaccard",
    "mcnemar",
    "over_draws",
    "overlaps",
    "rank_intervals",
    "ratio_intervals",
    "samples_needed",
    "score_intervals",
    "sign_flip",
    "smallest_difference",
    "transfer",
    "win_tie_loss",
]
