"""The methods' formulas as slow float64 loops over one group, each by another route than the code.

Ties are decided like a reader would: numbers closer than rounding are one, and the lowest place wins.
"""

import math
from fractions import Fraction

import numpy as np

CLOSE = 1e-9


def cosine(a, b):
    norms = math.sqrt(sum(float(v) ** 2 for v in a)) * math.sqrt(sum(float(v) ** 2 for v in b))
    return sum(float(v) * float(w) for v, w in zip(a, b, strict=True)) / norms if norms else 0.0


def first_best(values, among):
    """The lowest of the places `among` whose value is the largest, up to rounding."""
    best = max(values[i] for i in among)
    return min(i for i in among if values[i] >= best - CLOSE * max(1.0, abs(best)))


def falling(values):
    """Places by falling value, the lowest place first where values are one."""
    left, order = set(range(len(values))), []
    while left:
        order.append(first_best(values, left))
        left.remove(order[-1])
    return order


def quantile(values, q):
    ordered = sorted(values)
    at = Fraction(q) * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + float(at - low) * (ordered[high] - ordered[low])


def gsp(x, tau=None, q=0.5, gamma=1.0, few=1):
    """Degree and redundancy of every token; with fewer than `few` edges it is half the mean over all pairs."""
    n = len(x)
    edges = {(i, j): cosine(x[i], x[j]) for i in range(0, n, 2) for j in range(1, n, 2)}
    if tau is None:
        tau = quantile(edges.values(), q) if edges else 0.0
    degree, redundancy = [], []
    for token in range(n):
        mine = [c for pair, c in edges.items() if token in pair and c >= tau - 1e-6]
        degree.append(len(mine))
        redundancy.append(len(mine) * math.exp(gamma * (sum(mine) / len(mine) - tau)) if mine else 0.0)
        if len(mine) < few:
            every = [c for pair, c in edges.items() if token in pair]
            redundancy[-1] = 0.5 * redundancy[-1] + 0.5 * (sum(every) / len(every) if every else 0.0)
    return degree, redundancy


def product(a, b):
    return math.fsum(float(v) * float(w) for v, w in zip(a, b, strict=True))


def relevance(patch, texts, sign, similar=cosine):
    if not len(texts):
        return [1.0] * len(patch)
    s = [sign * sum(similar(e, t) for t in texts) / len(texts) for e in patch]
    return [(v - min(s) + 1e-6) / (max(s) - min(s) + 1e-6) for v in s]


def greedy_map(x, r, depth):
    """Picks, gains and rank. A gain is a Schur complement, solved anew at every step."""
    n = len(x)
    kernel = np.array([[r[i] * r[j] * cosine(x[i], x[j]) for j in range(n)] for i in range(n)])
    least = 1e-10 * max((kernel[i, i] for i in range(n)), default=0.0)
    picks, gains = [], []
    while len(picks) < min(depth, n):
        gain = kernel.diagonal().copy() if n else np.zeros(0)
        if picks:
            inner = kernel[np.ix_(picks, picks)]
            across = kernel[:, picks]
            gain -= (across * np.linalg.solve(inner, across.T).T).sum(axis=1)
        left = [i for i in range(n) if i not in picks]
        best = max(gain[i] for i in left)
        if best <= least:
            break
        telling = [i for i in left if gain[i] > least]
        pick = min(i for i in telling if gain[i] >= best * (1 - CLOSE) - 1e-12 * r[i] ** 2)
        picks.append(pick)
        gains.append(gain[pick])
    rank = len(picks)
    rest = [i for i in falling(r) if i not in picks]
    return (picks + rest)[:depth], gains, rank


def subtracting(x, r, depth):
    """Picks, and how many of them changed the gains: every pick takes all that it shares, also what others took."""
    n = len(x)
    inner = np.array(x, dtype=float) @ np.array(x, dtype=float).T if n else np.zeros((0, 0))
    length = np.sqrt(inner.diagonal()) + (inner.diagonal() == 0)
    kernel = inner / np.outer(length, length) * np.outer(r, r)
    kernel /= kernel.diagonal().max(initial=0.0) or 1.0
    gain, picks, updates = kernel.diagonal().tolist(), [], 0
    while len(picks) < min(depth, n):
        left = [i for i in range(n) if i not in picks]
        pick = max(left, key=lambda i: (round(gain[i], 12), -i))
        picks.append(pick)
        if round(gain[pick], 12) > 0:
            gain = [gain[i] - kernel[i, pick] ** 2 / gain[pick] for i in range(n)]
            updates += 1
    return picks, updates


def max_min(distance, depth, first=None):
    """Picks from a matrix of distances; the minimum is taken anew at every step."""
    n = len(distance)
    if not n:
        return []
    if first is None:
        lonely = [min((distance[i][j] for j in range(n) if j != i), default=math.inf) for i in range(n)]
        first = 0 if n == 1 else first_best(lonely, range(n))
    picks = [first]
    while len(picks) < min(depth, n):
        reach = [min(distance[i][p] for p in picks) for i in range(n)]
        picks.append(first_best(reach, [i for i in range(n) if i not in picks]))
    return picks[:depth]


def tome(x, sizes, keep):
    """The groups of tokens, by the token that stands for each, and the order in which others went."""
    groups = {i: [i] for i in range(len(x))}
    vector = {i: np.array(x[i], dtype=float) for i in groups}
    mass = {i: float(sizes[i]) for i in groups}
    went = []
    while len(groups) > max(keep, 1):
        alive = sorted(groups)
        a, b = alive[0::2], alive[1::2]
        partner = {i: b[first_best([cosine(vector[i], vector[j]) for j in b], range(len(b)))] for i in a}
        best = [cosine(vector[i], vector[partner[i]]) for i in a]
        for turn in falling(best)[: min(len(alive) // 2, len(alive) - keep)]:
            source = a[turn]
            went.append(source)
            groups[partner[source]] += groups.pop(source)
        for i, members in groups.items():
            mass[i] = sum(float(sizes[m]) for m in members)
            vector[i] = sum(float(sizes[m]) * np.array(x[m], dtype=float) for m in members) / mass[i]
    return groups, went
