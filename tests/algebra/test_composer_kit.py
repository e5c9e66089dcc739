"""Every registered composer passes the kit for composers, and broken ones do not."""

import re
from typing import ClassVar

import pytest
import torch

from tokensieve.algebra.chain import Chain
from tokensieve.composers import COMPOSERS, Composer, at_least
from tokensieve.testing.composers.conformance import COMPOSER_LAWS, ComposerConformance, parametrize_composer_checks

from .test_composer_settings import FirstThen


def kit(composer):
    body = {"composer": composer}
    if composer.name == "then":
        # Its left side has a size.
        body["join"] = classmethod(lambda cls, a, b: composer.of(a["1/2"], b))
    return type(f"Test_{composer.name}", (ComposerConformance,), body)


for _composer in (*COMPOSERS, FirstThen):
    _kit = kit(_composer)
    globals()[_kit.__name__] = _kit


def failures(composer):
    """What is said of the laws that a composer breaks, by law."""
    found = {}
    for case, check in parametrize_composer_checks(composer):
        try:
            check(case)
        except Exception as error:
            found[check.name] = "\n".join([f"{type(error).__name__}: {error}", *error.__notes__])
    return found


class Declared(Composer):
    """The base of the broken ones."""

    name = "declared"

    def combine(self, chains):
        return at_least(1, chains)


class NeedsAll(Declared):
    """Reads operands to the end without saying so."""

    def combine(self, chains):
        return at_least(2, [chains[0], chains[1].complement()])


class NoOrder(Declared):
    """Takes the best first where a row is alone, and the worst first in a batch."""

    whole = True

    def read(self, reading, depth):
        chain = reading.of(self.operands[0], reading.tokens.universe.n)
        if reading.tokens.universe.rows == 1:
            return chain
        return chain.complement()


class ByMemory(Declared):
    """Ranks by the place in the width of the batch, padding included."""

    def read(self, reading, depth):
        tokens = reading.tokens
        width = tokens.universe.n
        return Chain.from_scores(tokens.universe, (tokens.ids * (width + 1)) % 7, self)


class WritesInPlace(Declared):
    """Changes its operand's levels."""

    def combine(self, chains):
        chains[0].level.add_(0 if chains[0].level.numel() == 0 else 1)
        return chains[1]


class NotNested(Declared):
    """Turns with the budget, and says that it is nested."""

    def read(self, reading, depth):
        tokens = reading.tokens
        return Chain.from_scores(tokens.universe, (tokens.ids + depth) % (tokens.universe.n + 1), self)


class ReadsRubbish(Declared):
    """Turns around by what stands at the last place, token or not."""

    whole = True

    def read(self, reading, depth):
        tokens = reading.tokens
        last = tokens.features[:, -1:, 0] if tokens.universe.n else tokens.features[..., 0]
        return Chain.from_scores(tokens.universe, tokens.ids * torch.where(last < 0, -1, 1), self)


class Moody(Declared):
    """Is another every time."""

    turns: ClassVar[list[int]] = []

    def read(self, reading, depth):
        self.turns.append(0)
        chain = reading.of(self.operands[0], reading.tokens.universe.n)
        return chain if len(self.turns) % 2 else chain.complement()


class Unwritten(Declared):
    """Writes itself as its first operand."""

    def written(self, name):
        return self.operands[0].written(name)


class Greedy(Declared):
    """Needs less than its operands do."""

    @property
    def needs(self):
        return frozenset()


class AnyArity(Declared):
    """Says that it takes two, and takes any number."""

    arity = (2, 2)

    @classmethod
    def of(cls, *operands, **settings):
        return cls.model_construct(operands=operands, **settings)


BROKEN = {
    NeedsAll: {"exact_count", "depth_free"},
    NoOrder: {"batch_free"},
    ByMemory: {"batch_free"},
    ReadsRubbish: {"order_free", "padding_free"},
    Moody: {"deterministic"},
    WritesInPlace: {"pure"},
    NotNested: {"nested_in_keep", "set_by_set"},
    Unwritten: {"round_trip"},
    Greedy: {"needs_are_those_of_operands"},
    AnyArity: {"arity_is_kept", "sized_is_true", "settings_are_checked"},
}


@pytest.mark.parametrize("composer", BROKEN, ids=lambda one: one.__name__)
def test_the_kit_bites(composer):
    found = failures(composer)
    assert BROKEN[composer] <= set(found)
    # Each says what was found, which law that breaks, and the usual cure.
    for law, message in found.items():
        broken = rf"AssertionError: .+\n(?:.*\n)*the law {law}: [A-Z`].+\nusual cure: .{{20,}}"
        raised = rf"\w+Error: .+\n(?:.*\n)*raised while the law {law} was tried: [A-Z`].+(\nusual cure: .{{20,}})?"
        assert re.fullmatch(f"{broken}|{raised}", message), message
        assert law not in BROKEN[composer] or "\nusual cure: " in message


def test_every_law_is_shown_to_bite():
    assert set().union(*BROKEN.values()) == {law.__name__ for law in COMPOSER_LAWS}


def test_a_failure_says_for_which_operands():
    assert "\nfor ReadsRubbish(operands=(Ranking(column=0, steps=1000), " in failures(ReadsRubbish)["padding_free"]
    assert "set `whole = True`" in failures(NeedsAll)["depth_free"]


def test_what_is_right_breaks_nothing():
    assert failures(Declared) == {}


def test_a_declared_failure_must_happen():
    class Innocent(Declared):
        """Declares what it does not do."""

        known_failures = {"pure": "it was thought to"}  # noqa: RUF012 - as a plugin would write it

    pairs = parametrize_composer_checks(Innocent)
    case, check = next((case, check) for case, check in pairs if repr(check) == "pure")
    with pytest.raises(AssertionError, match="take that out of known_failures"):
        check(case)


def test_a_declaration_names_a_law_and_a_reason():
    class Odd(Declared):
        """Declares what is no law."""

        known_failures = {"beauty": "in the eye of the beholder"}  # noqa: RUF012 - as a plugin would write it

    with pytest.raises(ValueError, match="'beauty'"):
        parametrize_composer_checks(Odd)


def test_laws_are_named_and_described():
    assert len({law.__name__ for law in COMPOSER_LAWS}) == len(COMPOSER_LAWS) == 14
    assert all(law.__doc__ for law in COMPOSER_LAWS)
