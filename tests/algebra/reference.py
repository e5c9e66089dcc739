"""The algebra once more, by another route: Python sets and loops, straight from the definitions.

Nothing here knows levels, depths, padding or tensors. One row is a list of `Token`s. An expression
gives its chain as the list of sets A_0, ..., A_n; the cut takes tokens in the order in which these
sets let them in, and breaks ties by an explicit sum over the literals of the negation normal form.
"""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import count

from tokensieve import Keep, Tokens
from tokensieve.composers.expression import Best, Complement, Difference, Intersection, SymmetricDifference, Then, Union
from tokensieve.composers.fusion import AtLeast, Borda, Quota, Weighted
from tokensieve.composers.groups import PerGroup
from tokensieve.composers.streaming import Stream
from tokensieve.testing.generators import AtLeastFeature, ByFeature, PickedByFeature

OUTER = {"image": (0,), "tile": (0, 1), "frame": (0, 1, 2), "row": (0, 1, 2, 3), "column": (0, 1, 2, 4)}


@dataclass(frozen=True)
class Token:
    id: int
    features: tuple[float, ...]
    grid: tuple[int, ...]


def rows_of(tokens: Tokens) -> list[list[Token]]:
    rows = []
    for valid, ids, features, grid in zip(tokens.valid, tokens.ids, tokens.features, tokens.grid, strict=True):
        zipped = zip(valid.tolist(), ids.tolist(), features.tolist(), grid.tolist(), strict=True)
        rows.append([Token(i, tuple(f), tuple(g)) for v, i, f, g in zipped if v])
    return rows


def size(keep: Keep, n: int) -> int:
    if keep.count is not None:
        return min(keep.count, n)
    return min(n, max(1, math.floor(keep.fraction * n)))


def sets(e, row: list[Token]) -> list[set[Token]]:
    """A_0, ..., A_n."""
    n, everything = len(row), set(row)
    match e:
        case ByFeature() | PickedByFeature():
            order = sorted(row, key=lambda t: (-t.features[e.column], t.id))
            return [set(order[:m]) for m in range(n + 1)]
        case AtLeastFeature():
            return [{t for t in row if t.features[e.column] >= e.floor}] * (n + 1)
        case Intersection():
            return [set.intersection(*a) for a in zip(*(sets(o, row) for o in e.operands), strict=True)]
        case Union():
            return [set.union(*a) for a in zip(*(sets(o, row) for o in e.operands), strict=True)]
        case Complement():
            (a,) = (sets(o, row) for o in e.operands)
            return [everything - a[n - m] for m in range(n + 1)]
        case Difference():
            a, b = (sets(o, row) for o in e.operands)
            return [a[m] & (everything - b[n - m]) for m in range(n + 1)]
        case SymmetricDifference():
            a, b = (sets(o, row) for o in e.operands)
            return [(a[m] & (everything - b[n - m])) | (b[m] & (everything - a[n - m])) for m in range(n + 1)]
        case AtLeast():
            operands = [sets(o, row) for o in e.operands]
            return [{t for t in row if sum(t in a[m] for a in operands) >= e.j} for m in range(n + 1)]
        case Best():
            return [set(cut(e.operands[0], row, size(e.m, n)))] * (n + 1)
        case _:
            order = total(e, row)
            return [set(order[:m]) for m in range(n + 1)]


def total(e, row: list[Token]) -> list[Token]:
    """The total order of a composer whose chain is one, or any expression's by its own cut."""
    match e:
        case Then():
            best, judge = e.operands
            order = total(best.operands[0], row)
            m = size(best.m, len(row))
            return total(judge, order[:m]) + order[m:]
        case Quota():
            orders = [total(o, row) for o in e.operands]
            taken: list[Token] = []
            for party in dealt([e.share, 1 - e.share], [len(row)] * 2)[: len(row)]:
                taken.append(next(t for t in orders[party] if t not in taken))
            return taken
        case Borda() | Weighted():
            orders = [total(o, row) for o in e.operands]
            weights = e.weights if isinstance(e, Weighted) else [1] * len(orders)
            points = {t: sum(w * o.index(t) for w, o in zip(weights, orders, strict=True)) for t in row}
            return sorted(row, key=lambda t: (points[t], t.id))
        case PerGroup():
            groups: dict[tuple[int, ...], list[Token]] = {}
            for token in row:
                groups.setdefault(group_of(e, token, row), []).append(token)
            orders = [total(e.operands[0], groups[number]) for number in sorted(groups)]
            weights = [Fraction(1)] * len(orders)
            if e.share == "proportional":
                weights = [Fraction(len(o)) for o in orders]
            if e.share == "ranked":
                # The first of n tokens has n points, the last one.
                last_first = total(e.operands[0], row)[::-1]
                weights = [Fraction(sum(1 + last_first.index(t) for t in o)) for o in orders]
            heads = [iter(o) for o in orders]
            return [next(heads[party]) for party in dealt(weights, [len(o) for o in orders])]
        case Stream():
            memory: list[Token] = []
            gone: list[list[Token]] = []
            frames = sorted({t.grid[:3] for t in row})
            for first in range(0, len(frames), e.frames):
                pool = memory + [t for t in row if t.grid[:3] in frames[first : first + e.frames]]
                memory = total(e.operands[0], sorted(pool, key=lambda t: t.id))[: e.memory]
                gone.insert(0, sorted(set(pool) - set(memory), key=lambda t: t.id))
            return memory + [t for step in gone for t in step]
        case _:
            return cut(e, row, len(row))


def unlike(one: list[Token], other: list[Token], threshold: Fraction) -> bool:
    """Whether the cosine of the sums of two frames' tokens is below the threshold, in whole numbers."""
    a, b = ([Fraction(sum(t.features[c] for t in f)) for c in range(len(f[0].features))] for f in (one, other))
    product, squares = sum(x * y for x, y in zip(a, b, strict=True)), sum(x * x for x in a) * sum(y * y for y in b)
    return not squares or product < 0 or product**2 < threshold**2 * squares


def group_of(e: PerGroup, token: Token, row: list[Token]) -> tuple[int, ...]:
    if e.by == "segment":
        frames: dict[tuple[int, ...], list[Token]] = {}
        for other in sorted((t for t in row if t.grid[:2] == token.grid[:2]), key=lambda t: t.grid[2]):
            frames.setdefault(other.grid[:3], []).append(other)
        before = [number for number in frames if number <= token.grid[:3]]
        cuts = [unlike(frames[a], frames[b], Fraction(e.threshold)) for a, b in itertools.pairwise(before)]
        return *token.grid[:2], sum(cuts)
    if e.by == "window":
        return *token.grid[:3], math.floor(token.grid[3] / e.size), math.floor(token.grid[4] / e.size)
    return tuple(token.grid[c] for c in OUTER[e.by])


def dealt(weights: list[Fraction], capacity: list[int]) -> list[int]:
    """Sainte-Laguë by sorting all quotients, instead of dealing seat by seat."""
    claims = [(-w / (2 * s + 1), p) for p, w in enumerate(weights) for s in range(capacity[p])]
    return [party for _, party in sorted(claims)]


def literals(e, negated: bool = False, fixed: bool = False) -> set[tuple[object, bool, bool]]:
    """The distinct leaves of the negation normal form: (leaf, negated, under [m])."""
    match e:
        case Intersection() | Union() | AtLeast():
            return set().union(*(literals(o, negated, fixed) for o in e.operands))
        case Complement():
            return literals(e.operands[0], not negated, fixed)
        case Difference():
            a, b = e.operands
            return literals(a, negated, fixed) | literals(b, not negated, fixed)
        case SymmetricDifference():
            a, b = e.operands
            return {x for o in (a, b) for sign in (True, False) for x in literals(o, sign, fixed)}
        case Best():
            return literals(e.operands[0], negated, True)
        case _:
            return {(e, negated, fixed)}


def level(chain: list[set[Token]], token: Token) -> int:
    """One below the first m whose set holds the token; n where none does."""
    return next((m - 1 for m in count() if m == len(chain) or token in chain[m]), None)


def ranked(e, row: list[Token], by=None) -> list[Token]:
    """All tokens in the order in which the cut takes them."""
    n, chain = len(row), sets(e, row)
    levels = {t: level(chain, t) for t in row}
    if by is not None:
        order = total(by, row)
        ties = {t: order.index(t) for t in row}
    else:
        ties = dict.fromkeys(row, 0)
        for leaf, negated, fixed in literals(e):
            own = sets(leaf, row)
            for token in row:
                place = level(own, token)
                place = n - 1 - place if negated else place
                ties[token] += place if fixed else min(place, levels[token] + 1)
    return sorted(row, key=lambda t: (levels[t], ties[t], t.id))


def cut(e, row: list[Token], k: int, by=None) -> list[Token]:
    return ranked(e, row, by)[:k]
