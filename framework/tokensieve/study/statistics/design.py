"""The clusters and kinds of samples, and their bootstrap; every interval starts from these."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError

Array: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.intp]
Labels: TypeAlias = Sequence[Hashable]

_COUNTS_AT_ONCE = 1 << 22
"""The largest number of bootstrap counts in memory."""


@dataclass(frozen=True, eq=False)
class Design:
    """The clusters and kinds of samples, and the settings of bootstrap and tests.

    Questions about the same image are not independent: what makes an image hard makes all its questions hard. So the
    bootstrap draws images, each with all its questions.

    Attributes:
        clusters: a label for each sample, such as its image; by default, every sample is its own cluster.
        kinds: a label for each sample, its type of question. With kinds, a score is the mean over kinds of the mean in
            a kind, so that all kinds have the same weight; by default, it is the mean over samples.
        level: the confidence level of every interval.
        resamples: the number of bootstrap samples, and of random sign flips.
        seed: the seed of both.
    """

    clusters: Labels | None = None
    kinds: Labels | None = None
    level: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise StudyError(f"an interval's level is a part, such as 0.95; {self.level:g} was given.")
        if self.resamples < 1:
            raise StudyError(f"a bootstrap takes at least 1 resample; {self.resamples} were asked for.")

    def layout(self, samples: int) -> Layout:
        """Return clusters and kinds of a number of samples as integer codes.

        Raises:
            StudyError: if there are more or fewer labels than samples, or no samples.
        """
        if samples == 0:
            raise StudyError("there are no samples to compare; a comparison takes at least one.")
        for name, labels in (("clusters", self.clusters), ("kinds", self.kinds)):
            if labels is not None and len(labels) != samples:
                raise StudyError(
                    f"`{name}` has {len(labels)} labels for {samples} samples; give one label a sample, in their order."
                )
        clusters = np.arange(samples) if self.clusters is None else _codes(self.clusters)
        kinds = np.zeros(samples, np.intp) if self.kinds is None else _codes(self.kinds)
        return Layout(clusters, int(clusters.max()) + 1, kinds, int(kinds.max()) + 1)


@dataclass(frozen=True, eq=False)
class Layout:
    """Clusters and kinds of samples as integer codes.

    Attributes:
        cluster: `[n]`, the cluster of each sample, from 0.
        clusters: the number of clusters.
        kind: `[n]`, the kind of each sample, from 0.
        kinds: the number of kinds.
    """

    cluster: Codes
    clusters: int
    kind: Codes
    kinds: int

    @property
    def weights(self) -> Array:
        """Return the weight of each sample in the score, `[n]`; the sum is one."""
        sizes = np.bincount(self.kind, minlength=self.kinds)
        return 1 / (self.kinds * sizes[self.kind].astype(float))

    def centred(self, values: Array) -> Array:
        """Return values `[m, n]` minus the mean of their kind."""
        one = np.ones_like(values[:1])
        means = self.by_cell(values).sum(axis=0) / self.by_cell(one).sum(axis=0)
        left: Array = values - means.T[:, self.kind]
        return left

    def by_cluster(self, values: Array) -> Array:
        """Return the sums of values `[m, n]` within each cluster, `[clusters, m]`."""
        sums = np.zeros((self.clusters, len(values)))
        np.add.at(sums, self.cluster, values.T)
        return sums

    def by_cell(self, values: Array) -> Array:
        """Return the sums of values `[m, n]` within each cluster and kind, `[clusters, kinds, m]`."""
        sums = np.zeros((self.clusters, self.kinds, len(values)))
        np.add.at(sums, (self.cluster, self.kind), values.T)
        return sums


def scores_of(values: npt.ArrayLike, name: str = "scores") -> Array:
    """Return scores as `[methods, n]` floats.

    Raises:
        StudyError: if they have another shape, or some are not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not len(array):
        raise StudyError(f"`{name}` has the shape {array.shape}; one row a method and one column a sample are needed.")
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise StudyError(f"`{name}` holds {count} values that are no finite number; leave such samples out everywhere.")
    return array


def paired(scores: npt.ArrayLike, base: npt.ArrayLike) -> Array:
    """Return the differences `[methods, n]` of scores to a base, `[n]` or `[methods, n]`.

    Raises:
        StudyError: if the base does not have the same samples.
    """
    values = scores_of(scores)
    other = scores_of(np.atleast_2d(np.asarray(base, dtype=np.float64)), "base")
    if other.shape[1] != values.shape[1] or len(other) not in (1, len(values)):
        raise StudyError(
            f"scores of the shape {values.shape} cannot be paired with a base of the shape {other.shape}; "
            "both need the same samples, in the same order."
        )
    return values - other


def within(values: Array, bounds: tuple[float, float]) -> None:
    """Check that scores are within `bounds`.

    Raises:
        StudyError: if a score is not.
    """
    low, high = bounds
    if values.size and not (low <= values.min() and values.max() <= high):
        raise StudyError(
            f"scores lie in [{values.min():g}, {values.max():g}], outside of `bounds` [{low:g}, {high:g}]; "
            "say what the smallest and largest possible score are."
        )


def estimates(values: Array, layout: Layout) -> Array:
    """Return the score of each row of `[m, n]`: the mean over samples, or over kinds of the mean of a kind."""
    return values @ layout.weights


def replicates(values: Array, design: Design, bounds: tuple[float, float] | None) -> Array:
    """Return the score of each row of `[m, n]` in every bootstrap sample, `[resamples, m]`.

    Clusters are drawn with replacement, with all their samples. A kind without samples in a bootstrap sample keeps its
    observed mean there.

    Args:
        values: `[m, n]`.
        design: clusters and kinds of the samples.
        bounds: the smallest and largest possible value. With bounds, two clusters of one question each are added
            before drawing, one with the smallest and one with the largest value. They keep intervals from having no
            width if the observed values do not vary, like adding a success and a failure for a proportion.
    """
    added = None if bounds is None else np.repeat(np.array(bounds)[:, None], len(values), axis=1)
    drawn = np.empty((design.resamples, len(values)))
    for place, means in kind_replicates(values, design, added):
        drawn[place] = means.mean(axis=1)
    return drawn


def kind_replicates(values: Array, design: Design, added: Array | None) -> Iterator[tuple[slice, Array]]:
    """Yield the mean of each kind and row of `[m, n]` in every bootstrap sample, `[resamples, kinds, m]` in parts.

    Args:
        values: `[m, n]`.
        design: clusters and kinds of the samples.
        added: `[clusters, m]`, the values of clusters of one question of each kind, all kinds together weighing as
            much as one question, that are added before drawing; see `replicates`.
    """
    layout = design.layout(values.shape[1])
    sums, sizes = layout.by_cell(values), layout.by_cell(np.ones_like(values[:1]))[..., 0]
    observed = sums.sum(axis=0) / sizes.sum(axis=0)[:, None]
    if added is not None:
        part = 1 / layout.kinds
        more = added[:, None] * part
        sums = np.concatenate([sums, np.broadcast_to(more, (len(added), *sums.shape[1:]))])
        sizes = np.concatenate([sizes, np.full((len(added), layout.kinds), part)])
    flat = sums.reshape(len(sums), -1)
    for place, counts in _counts(len(sums), design):
        top = (counts @ flat).reshape(len(counts), *sums.shape[1:])
        bottom = (counts @ sizes)[..., None]
        yield place, np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), observed)


def _counts(clusters: int, design: Design) -> Iterator[tuple[slice, Array]]:
    """Yield how often each cluster is in each bootstrap sample, some bootstrap samples at a time."""
    random = np.random.default_rng(design.seed)
    step = max(1, _COUNTS_AT_ONCE // clusters)
    for start in range(0, design.resamples, step):
        rows = min(step, design.resamples - start)
        drawn = random.integers(0, clusters, (rows, clusters)) + np.arange(rows)[:, None] * clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)
        yield slice(start, start + rows), counts.astype(float)


def _codes(labels: Labels) -> Codes:
    """Number labels in an order that does not depend on the order of samples, as far as they can be ordered."""
    # By text: labels of several types have no order of their own, and are told apart by type.
    known = sorted(set(labels), key=lambda label: (type(label).__name__, str(label)))
    number = {label: place for place, label in enumerate(known)}
    return np.array([number[label] for label in labels], dtype=np.intp)
