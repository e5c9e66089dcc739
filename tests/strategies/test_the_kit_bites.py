"""Each law of the strategy kit catches what breaks it: one deliberately broken strategy a law.

Beside the law stand the others that catch it too, so a law that grows blind is seen; at night that they are all.
"""

import re
from typing import ClassVar

import pytest
import torch
from effort import NIGHTLY
from pydantic import field_serializer

import tokensieve as ts
from tokensieve import Appraiser, Chain, Chooser, Evidence, Merger, Ranker, Reduction, Scorer
from tokensieve.algebra.reduction import nearest
from tokensieve.testing import parametrize_strategy_checks
from tokensieve.testing.strategies.conformance import APPRAISER_LAWS, CHOOSER_LAWS, LAWS, MERGER_LAWS
from tokensieve.testing.strategies.counts import exact_count

ALL = {law.__name__ for law in (*LAWS, *CHOOSER_LAWS, *APPRAISER_LAWS, *MERGER_LAWS)}


def failures(cls, laws):
    """What is said of the laws that a strategy breaks, by law; of these laws every day, and of all at night."""
    found = {}
    for instance, check in parametrize_strategy_checks(cls):
        if check.name not in laws and not NIGHTLY:
            continue
        try:
            check(instance)
        except Exception as error:
            found[check.name] = said(error)
    return found


def said(error):
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])


def says_all(law, message):
    """Whether a message has what was found, the law with what it asks, and a cure where that law is broken."""
    broken = rf"AssertionError: .+\n(?:.*\n)*the law {law}: [A-Z`].+\nusual cure: .{{20,}}"
    raised = rf"\w+Error: .+\n(?:.*\n)*raised while the law {law} was tried: [A-Z`].+(\nusual cure: .{{20,}})?"
    return re.fullmatch(f"{broken}|{raised}", message) is not None


def broken(cls, *laws):
    """The laws that a strategy breaks, of these every day, and of all at night."""
    return set(failures(cls, laws or ALL))


class Largest(Scorer):
    """Sound: what the others spoil."""

    name = "largest"

    def score(self, tokens):
        return tokens.features.double().norm(dim=-1)


class Positive(Chooser):
    """Sound, too."""

    name = "positive"

    def choose(self, tokens):
        if not tokens.features[tokens.valid].isfinite().all():
            raise ts.errors.ScoreError("positive: NaN")
        return Chain.from_set(tokens.universe, (tokens.features[..., 0] > 0) & tokens.valid, self)


class Folds(Merger):
    """Sound, too: folds every token into the most similar of the largest."""

    name = "folds"

    @property
    def needs(self):
        return frozenset({Evidence.FEATURES, Evidence.SIZES})

    def rank(self, tokens, depth):
        # Sizes weigh in a merge alone, and are told apart from NaN all the same.
        assert not tokens.sizes[tokens.valid].isnan().any()
        return Chain.from_scores(tokens.universe, tokens.features.double().norm(dim=-1), self)

    def assign(self, tokens, keep):
        kept = self.rank(tokens, 0).cut(keep)
        partner = nearest(tokens.features.masked_fill(~tokens.valid.unsqueeze(-1), 0), kept)
        return Reduction.merge(tokens.universe, kept, partner, tokens.sizes)


@pytest.mark.parametrize("sound", [Largest, Positive, Folds])
def test_what_is_sound_passes(sound):
    assert broken(sound) == set()


class LosesOne(Scorer):
    name = "loses_one"

    class Rounded(Chain):
        def cut(self, k, by=None):
            # Rounds to pairs, from four on.
            return super().cut(torch.where((k > 3) & (k < self.universe.counts), k - k % 2, k), by)

    def score(self, tokens):
        return tokens.features.double().norm(dim=-1)

    def judge(self, tokens, depth):
        chain = super().judge(tokens, depth)
        return self.Rounded(chain.universe, chain.level, chain.depth, chain.leaves)


class NeedsTwo(Scorer):
    name = "needs_two"

    def score(self, tokens):
        norms = tokens.features.double().norm(dim=-1)
        if tokens.universe.n:
            norms.kthvalue(min(2, tokens.universe.rows + 1), dim=1)
        return norms


class FourthPower(Scorer):
    name = "fourth_power"

    def score(self, tokens):
        power = tokens.features.float().pow(4).sum(dim=-1).masked_fill(~tokens.valid, 0)
        return power - power.sum(dim=1, keepdim=True)


class PicksAgain(Ranker):
    """Max-min that forgets what it picked: a copy of a pick is as near as the pick itself."""

    name = "picks_again"

    def rank(self, tokens, depth):
        x = tokens.features.double().masked_fill(~tokens.valid.unsqueeze(-1), 0)
        if not x.isfinite().all():
            raise ts.errors.ScoreError("picks_again: NaN")
        apart = (x.unsqueeze(1) - x.unsqueeze(2)).abs().sum(dim=-1)
        apart = apart.masked_fill(~tokens.valid.unsqueeze(1), -1)
        picks = torch.zeros(tokens.universe.rows, min(depth, tokens.universe.n), dtype=torch.int64)
        reach = torch.full(tokens.valid.shape, torch.inf, dtype=torch.float64)
        for turn in range(1, picks.shape[1]):
            last = picks[:, turn - 1 : turn]
            reach = torch.minimum(reach, apart.gather(1, last.unsqueeze(-1).expand(-1, -1, reach.shape[1]))[:, 0])
            picks[:, turn] = reach.argmax(dim=1)
        picks = picks.where(torch.arange(picks.shape[1]) < tokens.universe.counts.unsqueeze(1), -1)
        return Chain.from_picks(tokens.universe, picks, self)


class ByDepth(Ranker):
    name = "by_depth"

    def rank(self, tokens, depth):
        norms = tokens.features.double().norm(dim=-1)
        return Chain.from_scores(tokens.universe, norms if depth % 2 or norms.isnan().any() else -norms, self)


class Boasts(Ranker):
    """Claims all places, but knows those it was asked for alone."""

    name = "boasts"

    def rank(self, tokens, depth):
        true = Chain.from_scores(tokens.universe, tokens.features.double().norm(dim=-1), self).queue()
        claimed = torch.cat([true[:, :depth], true[:, depth:].flip(1)], dim=1)
        return Chain.from_picks(tokens.universe, claimed, self)


class TwoMinds(Chooser):
    """Chooses one set if asked for all places, and another if asked for some."""

    name = "two_minds"

    def choose(self, tokens):
        raise NotImplementedError

    def judge(self, tokens, depth):
        if tokens.features[tokens.valid].isnan().any():
            raise ts.errors.ScoreError("two_minds: NaN")
        sign = 1 if depth >= tokens.universe.n else -1
        return Chain.from_set(tokens.universe, (sign * tokens.features[..., 0] > 0) & tokens.valid, self)


class ReadsRubbish(Scorer):
    """Turns around by what stands at the last place, token or not."""

    name = "reads_rubbish"

    def score(self, tokens):
        x = tokens.features.double()
        return x.norm(dim=-1) * torch.where(x[:, -1:, 0] < 0, -1, 1) if tokens.universe.n else x[..., 0]


class TimesValid(Scorer):
    """Masks by a product, which NaN survives."""

    name = "times_valid"

    def score(self, tokens):
        norms = tokens.features.double().norm(dim=-1)
        mean = (norms * tokens.valid).sum(dim=1, keepdim=True) / tokens.universe.counts.clamp(min=1).unsqueeze(1)
        return norms - mean


class OfTheBatch(Scorer):
    """Compares with the mean of all rows."""

    name = "of_the_batch"

    def score(self, tokens):
        norms = tokens.features.double().norm(dim=-1).masked_fill(~tokens.valid, 0)
        return (norms - norms.sum() / tokens.valid.sum().clamp(min=1)).abs()


class Moody(Scorer):
    """Every other answer is the other way round, for large groups."""

    name = "moody"
    turn: ClassVar[list[int]] = [1]

    def score(self, tokens):
        norms = tokens.features.double().norm(dim=-1)
        if tokens.universe.n > 20:
            self.turn[0] = -self.turn[0]
        return norms * self.turn[0] if tokens.universe.n > 35 else norms


class InHalf(Scorer):
    """Cancels in whatever precision it is given."""

    name = "in_half"

    def score(self, tokens):
        first, second = tokens.features[..., 0], tokens.features[..., 1]
        return (64 * first + second) - 64 * first


class LastId(Scorer):
    name = "last_id"

    def score(self, tokens):
        return tokens.features.double().norm(dim=-1)

    def judge(self, tokens, depth):
        scores = self.score(tokens).masked_fill(~tokens.valid, -torch.inf)
        if scores.isnan().any():
            raise ts.errors.ScoreError("last_id: NaN")
        picks = tokens.universe.n - 1 - scores.flip(1).sort(dim=1, descending=True, stable=True).indices
        last = (~tokens.valid).gather(1, picks).to(torch.uint8).sort(dim=1, stable=True).indices
        return Chain.from_picks(tokens.universe, picks.gather(1, last), self)


class InPlace(Scorer):
    name = "in_place"

    def score(self, tokens):
        return tokens.features.clamp_(min=0).double().norm(dim=-1)


class Shared(Scorer):
    """Draws from the generator that everyone shares, and does not use it."""

    name = "shared"

    def score(self, tokens):
        torch.rand(1)
        return tokens.features.double().norm(dim=-1)


class Remembers(Scorer):
    name = "remembers"
    _seen: int = 0

    def score(self, tokens):
        self.__dict__["seen"] = tokens.universe.n
        return tokens.features.double().norm(dim=-1)


class Peeks(Scorer):
    """Reads around what it declared."""

    name = "peeks"

    def score(self, tokens):
        return tokens.features.double().norm(dim=-1) * tokens.sizes

    def read(self, reading, depth):
        return self.judge(reading.tokens, depth)


class Deaf(Scorer):
    name = "deaf"

    def score(self, tokens):
        return tokens.features.double().nan_to_num().norm(dim=-1)


class Rounds(Scorer):
    """Writes its setting down in whole numbers."""

    name = "rounds"
    examples = ({"p": 1.5},)
    p: float = 2.0

    @field_serializer("p")
    def whole(self, p):
        return float(round(p))

    def score(self, tokens):
        return tokens.features.double().norm(dim=-1)


class SlotsByRank(Folds):
    name = "slots_by_rank"

    def assign(self, tokens, keep):
        good = super().assign(tokens, keep)
        size = good.valid.sum(dim=1, keepdim=True)
        return Reduction(torch.where(good.slot >= 0, size - 1 - good.slot, -1), good.weight, good.valid)


class Sums(Folds):
    name = "sums"

    def assign(self, tokens, keep):
        good = super().assign(tokens, keep)
        return Reduction(good.slot, (good.slot >= 0).double(), good.valid)


class Forgets(Folds):
    name = "forgets"

    def assign(self, tokens, keep):
        return Reduction.drop(tokens.universe, self.rank(tokens, 0).cut(keep))


class FoldsOthers(Folds):
    name = "folds_others"

    def fold(self, tokens, keep):
        return (~self.rank(tokens, 0)).cut(keep), self.assign(tokens, keep)


class FoldsElsewhere(Folds):
    name = "folds_elsewhere"

    def fold(self, tokens, keep):
        kept = self.rank(tokens, 0).cut(keep)
        return kept, Reduction.drop(tokens.universe, kept)


class Demanding(Appraiser):
    def score(self, tokens):
        return tokens.features.norm(dim=-1)


class Negative(Demanding):
    """Its demands may be negative."""

    name = "negative"

    def demand(self, tokens):
        return -tokens.features.norm(dim=-1).where(tokens.valid, 0.0).sum(dim=1)


class ByWidth(Demanding):
    """It divides by the width of the batch."""

    name = "by_width"

    def demand(self, tokens):
        return tokens.features.norm(dim=-1).where(tokens.valid, 0.0).mean(dim=1).nan_to_num()


class DemandsTogether(Demanding):
    """It compares with the other rows."""

    name = "demands_together"

    def demand(self, tokens):
        own = tokens.features.norm(dim=-1).where(tokens.valid, 0.0).sum(dim=1)
        return own / own.sum().clamp(min=1e-9)


class OfEachToken(Demanding):
    """It returns a number for each token."""

    name = "of_each_token"

    def demand(self, tokens):
        return self.score(tokens).where(tokens.valid, 0.0)


# The laws whose samples have copies among them.
COPIES = (
    "exact_count hard_inputs nested_in_keep depth_free order_free padding_free batch_free dtype_free ties_by_id "
    "declared_evidence_suffices"
)
CAUGHT = [
    ("exact_count", LosesOne, "hard_inputs no_repeats"),
    ("tiny", NeedsTwo, ""),
    ("hard_inputs", FourthPower, ""),
    ("no_repeats", PicksAgain, COPIES),
    ("nested_in_keep", ByDepth, "depth_free padding_free"),
    ("depth_free", Boasts, ""),
    ("own_size", TwoMinds, "depth_free"),
    ("order_free", ReadsRubbish, "padding_free batch_free"),
    ("padding_free", TimesValid, ""),
    ("batch_free", OfTheBatch, ""),
    ("deterministic", Moody, ""),
    ("dtype_free", InHalf, ""),
    ("ties_by_id", LastId, ""),
    ("pure", Shared, ""),
    ("pure", Remembers, ""),
    ("declared_evidence_suffices", Peeks, "ties_by_id"),
    ("no_nan", Deaf, ""),
    ("round_trip", Rounds, ""),
    ("slots_are_the_cut", SlotsByRank, ""),
    ("slots_are_the_cut", FoldsOthers, ""),
    ("slots_are_the_cut", FoldsElsewhere, ""),
    ("weights_sum_to_one", Sums, ""),
    ("mass_conserved", Forgets, ""),
    ("demands_are_numbers", Negative, ""),
    ("demands_are_numbers", OfEachToken, "demands_are_free"),
    ("demands_are_free", ByWidth, ""),
    ("demands_are_free", DemandsTogether, ""),
]


@pytest.mark.parametrize(("law", "mutant", "also"), CAUGHT, ids=[f"{law}-{mutant.name}" for law, mutant, _ in CAUGHT])
def test_a_law_catches_what_breaks_it(law, mutant, also):
    found = failures(mutant, {law, *also.split()})
    assert set(found) == {law, *also.split()}
    # Each says what was found, which law that breaks, and the usual cure.
    for broken_law, message in found.items():
        assert says_all(broken_law, message), message
    assert "\nusual cure: " in found[law]
    assert CURES[law, mutant] in found[law]


CURES = {(law, mutant): "" for law, mutant, _ in CAUGHT} | {
    ("no_repeats", PicksAgain): "set its score to -inf before the next pick",
    ("padding_free", TimesValid): "leave out `~tokens.valid` before a mean",
    ("batch_free", OfTheBatch): "reduce over the tokens of a row (`dim=1`), never over rows",
    ("dtype_free", InHalf): "compute in float32",
    ("pure", Shared): "judging drew from torch's own generator\nthe law pure: Choosing tokens changes neither",
    ("pure", Remembers): "keep results in local variables",
    ("declared_evidence_suffices", Peeks): "add to `needs` whatever you look at",
    ("mass_conserved", Forgets): "give every token of `tokens.valid` a slot",
}


def test_writing_into_the_evidence_is_caught_wherever_it_happens():
    """It raises at once, so it breaks every law that asks for a choice."""
    assert {"pure", "exact_count", "deterministic"} <= broken(InPlace, "pure", "exact_count", "deterministic")


def test_every_law_is_shown_to_bite():
    assert {law for law, *_ in CAUGHT} == ALL


def test_a_declared_failure_is_strict():
    class Honest(Deaf):
        known_failures: ClassVar[dict[str, str]] = {"no_nan": "reads NaN as zero"}

    class Modest(Largest):
        known_failures: ClassVar[dict[str, str]] = {"no_nan": "might read NaN as zero"}

    [reason] = [check(one) for one, check in parametrize_strategy_checks(Honest) if check.name == "no_nan"]
    assert reason == "reads NaN as zero"
    assert broken(Honest, "no_nan") == set()
    assert broken(Modest, "no_nan") == {"no_nan"}
    [(one, check)] = [pair for pair in parametrize_strategy_checks(Modest()) if pair[1].name == "no_nan"]
    with pytest.raises(AssertionError, match=r"Modest declares that it breaks no_nan .* but keeps it; take that out"):
        check(one)


def test_a_declaration_is_for_the_class():
    """It is enough that one of the examples breaks the law."""

    class Sometimes(Scorer):
        name = "sometimes"
        examples = ({}, {"deaf": True})
        known_failures: ClassVar[dict[str, str]] = {"no_nan": "where it is deaf"}
        deaf: bool = False

        def score(self, tokens):
            x = tokens.features.double()
            return (x.nan_to_num() if self.deaf else x).norm(dim=-1)

    assert broken(Sometimes, "no_nan") == set()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"known_failures": {"orderfree": "by place"}}, "breaks 'orderfree', which is none of its laws: exact_count, "),
        ({"known_failures": {"own_size": "no set"}}, "breaks 'own_size', which is none of its laws"),
        ({"known_failures": {"no_nan": " "}}, "breaks no_nan, and not why"),
        ({"examples": ()}, "declares no examples, so it would not be tried"),
    ],
)
def test_what_a_class_cannot_declare(fields, message):
    wrong = type("Wrong", (Largest,), {"__module__": __name__, **fields})
    with pytest.raises(ValueError, match=message):
        parametrize_strategy_checks(wrong)


def test_an_error_says_for_which_sample():
    with pytest.raises(AssertionError) as caught:
        exact_count(LosesOne())
    assert caught.value.__notes__[0].startswith("for sample([9, 0, 4], ")
