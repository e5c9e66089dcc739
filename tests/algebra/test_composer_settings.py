"""Settings of composers: declared like a strategy's, checked, written and read again."""

import enum
from fractions import Fraction
from typing import Literal

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from pydantic import field_validator

import tokensieve as ts
from tokensieve import Composer, Registry
from tokensieve.composers import COMPOSERS
from tokensieve.composers.formula import parse
from tokensieve.errors import AlgebraError, FormulaError, RecipeError

from .test_formula import A, B, C, read


class Side(enum.Enum):
    """An enumeration, which a formula writes as a word."""

    LEFT = "left"
    RIGHT = "right"


class FirstThen(Composer):
    """The first n of a, then b."""

    name = "first_then"
    arity = (2, 2)

    n: int = 16
    p: float = 0.5
    q: Fraction = Fraction(1, 3)
    side: Side = Side.LEFT
    mode: Literal["hard", "soft"] = "hard"
    sizes: tuple[int, ...] = ()
    some: int | None = None
    flag: bool = False
    text: str = "x"

    @field_validator("n")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"n is 1 or more, not {value}")
        return value

    def combine(self, chains):
        return chains[0]


KNOWN = {composer.name: composer for composer in (*COMPOSERS, FirstThen)}


def parsed(text):
    return read(text, KNOWN)


def test_settings_are_fields_and_a_formula_sets_them():
    expression = parsed(
        "first_then(a, b, n=3, p=0.25, q=0.5, side=right, mode=soft, sizes=[1, 2], some=4, flag=True, text='two words')"
    )
    assert expression == FirstThen.of(
        A, B, n=3, p=0.25, q=Fraction(1, 2), side=Side.RIGHT, mode="soft", sizes=(1, 2), some=4, flag=True,
        text="two words",
    )  # fmt: skip
    assert (type(expression.p), type(expression.q), expression.side) == (float, Fraction, Side.RIGHT)
    assert parsed("first_then(3, a, b)") == parsed("first_then(a, b, n=3)")
    assert parsed("first_then(a, b)").n == 16


def test_values_from_python_may_be_lists_and_members():
    assert FirstThen.of(A, B, sizes=[1, 2], side="left") == FirstThen.of(A, B, sizes=(1, 2), side=Side.LEFT)


@given(
    n=st.integers(1, 10**6),
    p=st.floats(0, 1, allow_subnormal=False).filter(lambda x: x == 0 or x > 1e-5).map(lambda x: round(x, 6)),
    q=st.fractions(0, 1, max_denominator=999),
    side=st.sampled_from(Side),
    mode=st.sampled_from(["hard", "soft"]),
    sizes=st.lists(st.integers(0, 99), max_size=4).map(tuple),
    some=st.none() | st.integers(0, 9),
    flag=st.booleans(),
    text=st.sampled_from(["x", "two words", "1st", "class", "None", "True"]),
)
def test_what_is_written_reads_back_equal(**settings):
    expression = FirstThen.of(A, B, **settings)
    names = {A: "a", B: "b"}
    assert parsed(expression.written(names.__getitem__)) == expression


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("first_then(a, b, m=3)", "first_then has no parameter 'm'; it has n, p, q"),
        ("first_then(a, b, nn=3)", "Did you mean 'n'"),
        ("first_then(a, b, n=x)", "first_then's n is 'x': write a whole number"),
        ("first_then(a, b, n=0.5)", "first_then's n is 1/2: write a whole number"),
        ("first_then(a, b, n=True)", "first_then's n is True: write a whole number"),
        ("first_then(a, b, n=0)", "first_then: n is 1 or more, not 0"),
        ("first_then(a, b, p=x)", "first_then's p is 'x': write a number"),
        ("first_then(a, b, side=up)", "first_then's side is 'up'"),
        ("first_then(a, b, mode=other)", "first_then's mode is 'other': it is one of hard, soft"),
        ("first_then(a, b, sizes=[1, x])", "first_then's sizes.1 is 'x'"),
        ("first_then(a)", "first_then takes 2 operands, not 1"),
        ("first_then(a, b, c)", "first_then takes 2 operands, not 3"),
    ],
)
def test_a_wrong_setting_names_composer_and_field(text, said):
    with pytest.raises(FormulaError) as raised:
        parsed(text)
    assert said in str(raised.value)


def test_the_composers_own_plugin_and_line_are_named():
    class Plugin:
        @ts.hookimpl
        def register_composers(self, registry):
            registry.add_composer(FirstThen)

    registry = ts.default_registry()
    registry.register(Plugin(), "acme", "acme 1.0")
    recipe = "name: x\nstages:\n- at: decoder.0\n  select: first_then(gsp, qcsp, n=x)\n  keep: 4\n"
    with pytest.raises((FormulaError, RecipeError)) as raised:
        ts.Recipe.loads(recipe, registry, "x.yaml")
    said = str(raised.value)
    assert "first_then's n is 'x'" in said
    assert "acme (acme 1.0)" in said
    assert said.endswith("(x.yaml:4)")
    # Nobody needs to be told where the framework's own come from.
    with pytest.raises(FormulaError) as raised:
        ts.Recipe.loads(recipe.replace("first_then(gsp, qcsp, n=x)", "quota(gsp, qcsp, share=2)"), registry, "x.yaml")
    assert "tokensieve" not in str(raised.value)


def test_operands_are_expressions():
    with pytest.raises(FormulaError, match="first_then joins strategies and formulas of them, not 3"):
        FirstThen.of(A, 3)
    with pytest.raises(FormulaError, match=r"not <class .*; write .*\(\)"):
        FirstThen.of(A, type(A))


def test_combine_returns_a_chain_of_the_same_tokens():
    class Nothing(Composer):
        """Forgets to return."""

        name = "nothing"

        def combine(self, chains):
            pass

    with pytest.raises(AlgebraError, match="the composer 'nothing' returned NoneType; combine returns a Chain"):
        ts.select(Nothing.of(Norm(), Norm(p=1.0)), ts.Tokens.of(torch.randn(1, 5, 3)), ts.Keep.of(2))


class Norm(ts.Scorer):
    """The norm of features."""

    name = "norm_of"
    p: float = 2.0

    def score(self, tokens):
        return tokens.features.norm(self.p, dim=-1)


@pytest.mark.parametrize("expression", [A, A & B, ~A, A["1/2"], FirstThen.of(A, C)], ids=str)
def test_an_expression_has_no_truth_value(expression):
    with pytest.raises(FormulaError, match="write a & b for and"):
        bool(expression)
    with pytest.raises(FormulaError):
        _ = expression and B
    with pytest.raises(FormulaError):
        _ = not expression
    assert parse("a & b", {"a": A, "b": B}.__getitem__, Registry().composers) == A & B
