"""The laws catch what breaks them: one deliberately broken part a law."""

import operator
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from tokensieve import Chain, Composer, Ranker, Reduction, Scorer, Tokens, Universe
from tokensieve.algebra import budget as budget_module
from tokensieve.algebra.chain import Leaf
from tokensieve.composers.expression import Difference, Intersection
from tokensieve.composers.fusion import Borda, Quota
from tokensieve.testing import laws
from tokensieve.testing.generators import ByFeature

A, B, C = (ByFeature(column=c) for c in range(3))


def tokens():
    """Two ragged rows of distinct features, in no order of memory, with a hole."""
    valid = torch.tensor([[True, True, False, True, True, True], [True, True, True, True, False, False]])
    ids = torch.tensor([[4, 0, 0, 1, 7, 3], [2, 0, 5, 1, 1, 1]])
    features = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Tokens.of(features, Universe(valid, ids))


def opposed():
    """Tokens that A ranks in memory order and B the other way round; ids run as B does."""
    up = torch.arange(8.0).reshape(1, 8, 1)
    ids = torch.arange(7, -1, -1).reshape(1, 8)
    return Tokens.of(torch.cat([-up, up], dim=2), Universe(torch.ones(1, 8, dtype=torch.bool), ids))


def broken(law, *args, match=None, **kwargs):
    """The law must not hold."""
    with pytest.raises(AssertionError, match=match):
        law(*args, **kwargs)


class Spoilt(Composer):
    """A composer of one operand that hands its chain to `spoil`."""

    name = "spoilt"
    arity = (1, 1)

    def read(self, reading, depth):
        return self.spoil(reading.of(self.operands[0], depth), reading, depth)


class UnderFilled(Chain):
    """Takes the set E_k instead of k tokens."""

    def cut(self, k, by=None):
        return self.members(k)


class NoFill(Composer):
    """A raw intersection of k and k, as published code has it."""

    name = "no_fill"

    def combine(self, chains):
        joined = Intersection.combine(self, chains)
        return UnderFilled(joined.universe, joined.level, joined.universe.n, ())


def test_exact_catches_a_cut_that_under_fills():
    broken(laws.exact, NoFill.of(A, B), tokens(), 2, match="a cut to 2 took .* instead of")


def test_exact_catches_a_cut_that_takes_padding():
    class Greedy(Chain):
        def cut(self, k, by=None):
            return torch.ones_like(self.universe.valid)

    class Everything(Spoilt):
        def spoil(self, chain, reading, depth):
            return Greedy(chain.universe, chain.level, chain.depth, chain.leaves)

    broken(laws.exact, Everything.of(A), tokens(), 2, match="no token")


class Flips(Spoilt):
    """Depends on k and says nothing about it."""

    def spoil(self, chain, reading, depth):
        return chain.complement() if depth % 2 else chain


class OwnsUp(Flips):
    nested = False


def test_nested_catches_a_composer_that_does_not_declare_itself():
    broken(laws.nested, Flips.of(A), tokens(), match="but not to")
    laws.nested(OwnsUp.of(A), tokens())


def test_set_by_set_catches_a_cut_that_is_not_in_the_order_of_levels():
    class ById(Chain):
        def cut(self, k, by=None):
            return Chain.from_scores(self.universe, -self.universe.ids, "id").cut(k)

    class Unordered(Spoilt):
        def spoil(self, chain, reading, depth):
            return ById(chain.universe, chain.level, chain.depth, chain.leaves)

    broken(laws.set_by_set, Unordered.of(A), tokens(), match="is not E_")


class Lopsided(Intersection):
    """Breaks ties by the first operand alone."""

    def combine(self, chains):
        return replace(super().combine(chains), leaves=chains[0].leaves)


def test_symmetric_cut_catches_ties_broken_by_the_first_operand():
    laws.commutative(A, ~A, tokens(), Lopsided.of)
    broken(laws.symmetric_cut, A, ~A, tokens(), 1, Lopsided.of, match="swapping the operands")


def test_collapse_catches_a_cut_that_does_not_ask_by(monkeypatch):
    cut = Chain.cut
    monkeypatch.setattr(Chain, "cut", lambda self, k, by=None: cut(self, k))
    broken(laws.collapse, B, A, opposed(), 2, match="filling an intersection")


def test_the_laws_of_the_lattice_catch_composers_that_are_none():
    shared = lambda a, b: Quota.of(a, b, share=Fraction(3, 4))  # noqa: E731 - a composer with its parameter
    broken(laws.commutative, A, B, tokens(), shared, match="has the levels")
    broken(laws.associative, A, B, C, tokens(), Borda.of, match="has the levels")
    broken(laws.idempotent, A, tokens(), Difference.of, match="has the levels")
    broken(laws.absorbing, A, B, tokens(), Borda.of, match="has the levels")
    broken(laws.distributive, A, B, C, tokens(), meet=Borda.of, match="has the levels")
    broken(laws.de_morgan, A, B, tokens(), turn=lambda a: a, match="has the levels")
    broken(laws.involution, A, tokens(), lambda a: ~a[2], match="has the levels")
    broken(laws.kleene, A, B, tokens(), meet=operator.or_, join=operator.and_, match="not within")
    broken(laws.boolean, A, tokens(), match="no fixed set")
    broken(laws.boolean, A[2], tokens(), join=operator.and_, match="not everything")
    broken(laws.boolean, A[2], tokens(), meet=operator.or_, match="not empty")


def test_de_morgan_catches_a_complement_that_forgets_a_leaf(monkeypatch):
    complement = Chain.complement
    laws.de_morgan(A, B, opposed())
    monkeypatch.setattr(Chain, "complement", lambda self: replace(complement(self), leaves=self.leaves[:1]))
    broken(laws.de_morgan, A, B, opposed(), match="De Morgan")


def test_order_free_catches_memory_order(monkeypatch):
    class First(Scorer):
        name = "first"

        def score(self, tokens):
            return -torch.arange(tokens.universe.n).expand_as(tokens.ids)

    turned = torch.arange(5, -1, -1).expand(2, 6)
    # Read in id order it cannot see memory.
    laws.order_free(First(), tokens(), 2, turned)
    monkeypatch.setattr(Tokens, "canonical", lambda self: (self, turned.flip(1)))
    broken(laws.order_free, First(), tokens(), 2, turned, match="permuting memory")


class AboveMean(Scorer):
    """Looks at the mean of its row, padding included."""

    name = "above_mean"

    def score(self, tokens):
        x = tokens.features[..., 0]
        return (x - x.mean(dim=1, keepdim=True)).abs()


class AgainstTheBatch(Scorer):
    """Looks at its neighbours in the batch."""

    name = "against_the_batch"

    def score(self, tokens):
        x = torch.where(tokens.valid, tokens.features[..., 0], 0)
        return (x - x.sum() / tokens.valid.sum()).abs()


def test_padding_and_neighbours_are_caught():
    laws.batch_free(ByFeature(), tokens(), 2)
    broken(laws.padding_free, AboveMean(), tokens(), 2, match="padding lost tokens")
    laws.padding_free(AgainstTheBatch(), tokens(), 2)
    broken(laws.batch_free, AgainstTheBatch(), tokens(), 2, match="out of the batch lost tokens")


def test_a_swap_of_nearly_equal_scores_is_forgiven_and_no_other():
    class Jitter(Scorer):
        """Adds rounding that depends on the row's padding."""

        name = "jitter"
        size: float = 1e-9

        def score(self, tokens):
            return 1 + self.size * torch.sin((tokens.ids * tokens.universe.n).double())

    flat = torch.ones(2, 6, dtype=torch.float64)
    broken(laws.padding_free, Jitter(), tokens(), 2)
    laws.padding_free(Jitter(), tokens(), 2, scores=flat)
    broken(laws.padding_free, Jitter(), tokens(), 2, scores=flat * torch.arange(6))


class Boaster(Ranker):
    """Claims all places but knows only as many as it was asked for."""

    name = "boaster"

    def rank(self, tokens, depth):
        true = Chain.from_scores(tokens.universe, tokens.features[..., 0], self).queue()
        claimed = torch.cat([true[:, :depth], true[:, depth:].flip(1)], dim=1)
        return Chain.from_picks(tokens.universe, claimed, self)


def test_depth_free_catches_a_ranker_that_claims_more_than_it_knows():
    full = Tokens.of(tokens().features)
    broken(laws.depth_free, Boaster() & B, full, 2, match="reading to depth")


def test_a_ranker_that_gives_less_than_it_was_asked_for_is_caught():
    class Lazy(Ranker):
        name = "lazy"

        def rank(self, tokens, depth):
            level = torch.full_like(tokens.ids, 1)
            return Chain(tokens.universe, level, 1, (Leaf(self, level, 1),))

    with pytest.raises(Exception, match="lazy was asked for 2 places and gave 1"):
        laws.exact(Lazy(), tokens(), 2)


def test_deterministic_catches_chance():
    class Chance(Scorer):
        name = "chance"

        def score(self, tokens):
            return torch.rand(tokens.ids.shape)

    torch.manual_seed(0)
    broken(laws.deterministic, Chance(), Tokens.of(torch.zeros(1, 500, 1)), 250, match="asking again")


class Deep(Intersection):
    """Reads four times as deep as it is asked to."""

    def read(self, reading, depth):
        return self.combine([reading.of(operand, 4 * depth) for operand in self.operands])


def test_shallow_catches_a_composer_that_reads_on():
    wide = Tokens.of(torch.arange(30.0).reshape(1, 30, 1))
    laws.shallow(A & A, wide, 3)
    broken(laws.shallow, Deep.of(A, A), wide, 3, match=r"settled at depth 3, but depths \[12\]")


def test_the_laws_of_scores_catch_an_unstable_sort_and_nan(monkeypatch):
    def by_memory(universe, scores, key):
        scores = torch.where(universe.valid, scores, -torch.inf)
        return Chain.from_picks(universe, scores.sort(dim=1, descending=True, stable=True).indices, key)

    universe = tokens().universe
    ones = torch.ones(2, 6)
    laws.ties_by_id(universe, ones)
    laws.nan_raises(universe, ones)
    laws.infinities_rank(universe, ones)
    monkeypatch.setattr(Chain, "from_scores", by_memory)
    broken(laws.ties_by_id, universe, ones, match="by value, then id")
    broken(laws.nan_raises, universe, ones, match="did not raise")
    broken(laws.infinities_rank, universe, ones)


def test_dtype_free_catches_a_sort_in_the_wrong_precision(monkeypatch):
    from_scores = Chain.from_scores

    def backwards_in_half(universe, scores, key):
        return from_scores(universe, -scores if scores.dtype == torch.float16 else scores, key)

    monkeypatch.setattr(Chain, "from_scores", backwards_in_half)
    broken(laws.dtype_free, Universe.full(1, 4), torch.arange(4.0).reshape(1, 4), torch.float16, match="swapped")


def test_house_monotone_catches_other_apportionments():
    def d_hondt(weights, capacity):
        seats = [0] * len(weights)
        for _ in range(sum(capacity)):
            room = [p for p in range(len(weights)) if seats[p] < capacity[p]]
            party = max(room, key=lambda p: (weights[p] / (seats[p] + 1), -p))
            seats[party] += 1
            yield party

    def stops_early(weights, capacity):
        yield from list(budget_module.apportion(weights, capacity))[:-1]

    parties = [Fraction(6), Fraction(2), Fraction(1)], [9, 9, 9]
    laws.house_monotone(*parties)
    broken(laws.house_monotone, *parties, d_hondt, match="not to")
    broken(laws.house_monotone, *parties, stops_early, match="there is room for")


def halves():
    """Three tokens: the first alone in its slot, the others sharing one."""
    slot = torch.tensor([[0, 1, 1]])
    weight = torch.tensor([[1.0, 0.5, 0.5]], dtype=torch.float64)
    return Reduction(slot, weight, torch.ones(1, 2, dtype=torch.bool))


def test_the_laws_of_reductions_catch_broken_ones():
    class Overwrites(Reduction):
        """The last token of a slot counts alone."""

        def mass(self, sizes):
            return sizes.new_zeros(self.valid.shape).scatter(1, self.slot, sizes)

    class Rounds(Reduction):
        """Adds in half precision, onto positive zero."""

        def apply(self, x):
            return super().apply(x.half()).to(x.dtype) + 0.0

    class Forgets(Reduction):
        """Takes the weights of the second alone."""

        def then(self, following):
            return replace(super().then(following), weight=following.weight.gather(1, self.slot))

    good, x = halves(), torch.tensor([[[0.1], [0.2], [-0.3]]], dtype=torch.float64)
    fields = good.slot, good.weight, good.valid
    again = Reduction(torch.tensor([[0, 0]]), torch.tensor([[0.25, 0.75]]).double(), good.valid[:, :1])
    for law, bad, args in (
        (laws.reduction_mass, Overwrites(*fields), (torch.ones(1, 3),)),
        (laws.reduction_single, Rounds(*fields), (x,)),
        (laws.reduction_applies, Rounds(*fields), (again, x)),
        (laws.reduction_identity, Forgets(*fields), ()),
    ):
        law(good, *args)
        broken(law, bad, *args)
    last = Reduction(torch.tensor([[0]]), torch.tensor([[0.5]]).double(), good.valid[:, :1])
    laws.reduction_associative(good, again, last)
    forgetful = Forgets(again.slot, again.weight, again.valid)
    broken(laws.reduction_associative, good, forgetful, last, match="other weights")


def test_a_token_keeps_the_sign_of_its_zero():
    out = halves().apply(torch.tensor([[[-0.0], [1.0], [2.0]]]))
    assert torch.signbit(out[0, 0, 0])
