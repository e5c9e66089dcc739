"""What methods have right where a smaller image fails: the filter of VTC-Bench, as a view of any study.

Many questions of a benchmark are answered as well from an image that was shrunk to as many tokens, so they say nothing
about which tokens to keep. VTC-Bench (https://arxiv.org/abs/2510.07143) leaves them out, and so does this view. It has
methods beside controls; the smaller image itself has nothing right there by construction, and is not shown. As in all
blocks, it has as many visual tokens in the mean layer as the methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokensieve.study.analysis import significance
from tokensieve.study.analysis.comparison import Arm, Block, Comparison
from tokensieve.study.statistics import Interval

LEAST = 10
"""Of fewer questions, or about fewer than two images, nothing is said."""


@dataclass(frozen=True, eq=False)
class FilteredBlock:
    """A block on the questions that a smaller image of as many tokens does not answer.

    Attributes:
        block: the block.
        asked: the number of questions of the headline that the unpruned model answers.
        left: how many of them the smaller image does not.
        shares: methods and controls with their share of right answers on these, the best first; empty if these are too
            few.
    """

    block: Block
    asked: int
    left: int
    shares: tuple[tuple[Arm, Interval], ...]


def filtered_blocks(comparison: Comparison) -> tuple[FilteredBlock, ...]:
    """Return the blocks in which a smaller image was measured; none without the unpruned model."""
    whole = comparison.unpruned
    if whole is None:
        return ()
    asked = comparison.headline & (whole.correct >= 0.5)
    found = []
    for block in comparison.blocks:
        smaller = next((arm for arm in block.arms if arm.role == "downsampled"), None)
        if smaller is None:
            continue
        mask = asked & (smaller.correct < 0.5)
        arms = [arm for arm in block.arms if arm is not smaller]
        shares: list[tuple[Arm, Interval]] = []
        if arms and mask.sum() >= LEAST and len(set(comparison.clusters[mask])) > 1:
            scores = np.array([arm.correct[mask] for arm in arms])
            intervals = significance.mean_intervals(scores, comparison.clusters[mask])
            shares = sorted(zip(arms, intervals, strict=True), key=lambda one: (-one[1].estimate, one[0].method))
        found.append(FilteredBlock(block, int(asked.sum()), int(mask.sum()), tuple(shares)))
    return tuple(found)
