"""Formulas: what is read, what is written, and what is refused."""

import itertools
import warnings
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from effort import examples
from hypothesis import given, settings
from pydantic import model_validator

from tokensieve import Composer, Keep, select
from tokensieve.composers.builtin import COMPOSERS
from tokensieve.composers.expression import Best, Complement, Difference, Intersection, SymmetricDifference, Then, Union
from tokensieve.composers.formula import parse
from tokensieve.composers.fusion import AtLeast, Borda, Quota, Weighted
from tokensieve.composers.groups import PerGroup
from tokensieve.composers.streaming import Stream
from tokensieve.errors import BudgetError, FormulaError, UnknownStrategyError
from tokensieve.testing.generators import ByFeature, batches, expressions

BY_NAME = {c.name: c for c in COMPOSERS}
OPERANDS = {name: ByFeature(column=place) for place, name in enumerate("abcdefgh")}
A, B, C, D = (OPERANDS[name] for name in "abcd")


def operand(name):
    if name not in OPERANDS:
        raise UnknownStrategyError(f"no strategy is named '{name}'")
    return OPERANDS[name]


def read(text, composers=BY_NAME):
    return parse(text, operand, composers)


def written(expression):
    names = {o: name for name, o in OPERANDS.items()}
    return expression.written(names.__getitem__)


def refused(text, match, error=FormulaError):
    with pytest.raises(error, match=match) as raised:
        read(text)
    assert len(str(raised.value)) < 2_000
    return str(raised.value)


# Reading


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("a", A),
        (" ( a ) ", A),
        ("a & b", Intersection.of(A, B)),
        ("a | b", Union.of(A, B)),
        ("a ^ b", SymmetricDifference.of(A, B)),
        ("a - b", Difference.of(A, B)),
        ("~a", Complement.of(A)),
        ("a[64]", Best.of(A, m=64)),
        ("a[1/2]", Best.of(A, m=Fraction(1, 2))),
        ("a[0.25]", Best.of(A, m=Fraction(1, 4))),
        ("a[ 1 / 2 ]", Best.of(A, m=Fraction(1, 2))),
        ("a[1]", Best.of(A, m=Keep(count=1))),
        ("a[1.0]", Best.of(A, m=Keep(fraction=Fraction(1)))),
        ("a[0.3333333333333333]", Best.of(A, m=Keep.of("0.3333333333333333"))),
        ("a[128] >> b", Then.of(Best.of(A, m=128), B)),
        # Precedence is Python's.
        ("a & b | c & d", (A & B) | (C & D)),
        ("a | b & c", A | (B & C)),
        ("a ^ b | c", (A ^ B) | C),
        ("a & b ^ c", (A & B) ^ C),
        ("a - b & c", (A - B) & C),
        ("a - b - c", (A - B) - C),
        ("a[8] >> b & c", (A[8] >> B) & C),
        ("a[8] >> b - c", A[8] >> (B - C)),
        ("~a[3]", ~(A[3])),
        ("(~a)[3]", (~A)[3]),
        ("~a & b", (~A) & B),
        ("a[9][3]", A[9][3]),
        # Associative operators flatten, however they are written.
        ("a & b & c", Intersection.of(A, B, C)),
        ("a & (b & c)", Intersection.of(A, B, C)),
        ("intersection(a, intersection(b, c))", Intersection.of(A, B, C)),
        ("(a | b) | (c | d)", Union.of(A, B, C, D)),
        # Composers by name.
        ("intersection(a, b)", A & B),
        ("union(a, b)", A | B),
        ("difference(a, b)", A - B),
        ("symmetric_difference(a, b)", A ^ B),
        ("complement(a)", ~A),
        ("best(a, m=64)", A[64]),
        ("best(a, m=1/2)", A["1/2"]),
        ("then(a[8], b)", A[8] >> B),
        ("at_least(2, a, b, c)", AtLeast.of(A, B, C, j=2)),
        ("at_least(a, b, c, j=2)", AtLeast.of(A, B, C, j=2)),
        ("quota(a, b)", Quota.of(A, B, share=Fraction(1, 2))),
        ("quota(a, b, share=3/4)", Quota.of(A, B, share=Fraction(3, 4))),
        ("quota(a, b, share=0.75)", Quota.of(A, B, share=0.75)),
        ("per_group(a, by=tile, share=proportional)", PerGroup.of(A, by="tile", share="proportional")),
        ("per_group(a, by='tile')", PerGroup.of(A, by="tile", share="equal")),
        ("per_group(a, by=window, size=6)", PerGroup.of(A, by="window", size=6)),
        ("per_group(a, by=frame, share=ranked)", PerGroup.of(A, share="ranked")),
        ("borda(a, b, c)", Borda.of(A, B, C)),
        ("weighted(a, b, weights=[2, 1])", Weighted.of(A, B, weights=(2, 1))),
        ("weighted(a, b, weights=(0.5, 3/2))", Weighted.of(A, B, weights=(Fraction(1, 2), Fraction(3, 2)))),
    ],
)
def test_what_a_formula_means(text, expression):
    assert read(text) == expression
    assert read(written(expression)) == expression


def test_operators_are_sugar_for_the_named_composers():
    for sugar, named in (
        (A & B, Intersection.of(A, B)),
        (A | B, Union.of(A, B)),
        (A - B, Difference.of(A, B)),
        (A ^ B, SymmetricDifference.of(A, B)),
        (~A, Complement.of(A)),
    ):
        assert sugar == named
    assert A[0.5] == A["50%"] == A["1/2"] == A[Fraction(1, 2)] == A[Keep.of("1/2")] == Best.of(A, m=0.5)
    assert A[8] >> B == Then.of(A[8], B)
    assert A & B != B & A
    assert hash(A & B) == hash(Intersection.of(A, B))
    for bad in (lambda: A & 1, lambda: "a" | A, lambda: A ^ None):
        with pytest.raises(TypeError):
            bad()


@given(batches(max_rows=2, max_n=8), expressions(max_leaves=3), expressions(max_leaves=2), st.integers(1, 8))
def test_operators_and_composers_choose_the_same(tokens, a, b, k):
    def kept(expression):
        return select(expression, tokens, Keep.of(k)).mask.tolist()

    assert kept(a & b) == kept(AtLeast.of(a, b, j=2)) == kept(Intersection.of(a, b))
    assert kept(a | b) == kept(AtLeast.of(a, b, j=1)) == kept(Union.of(a, b))
    assert kept(a - b) == kept(a & ~b)
    assert kept(a ^ b) == kept((a - b) | (b - a))
    assert kept(~~a) == kept(a)


# Writing


@settings(max_examples=examples(300))
@given(expressions(max_leaves=8))
def test_what_is_written_is_read_as_the_same(expression):
    letters = (f"s{number}" for number in itertools.count())
    names = dict(zip(expression.strategies(), letters, strict=False))
    text = expression.written(names.__getitem__)
    by_name = {name: strategy for strategy, name in names.items()}
    assert parse(text, by_name.__getitem__, BY_NAME) == expression


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (A & B & C, "(a & b & c)"),
        ((A & B) | C, "((a & b) | c)"),
        (~A[3], "~a[3]"),
        ((~A)[3], "(~a)[3]"),
        (A[1.0], "a[1/1]"),
        (A["25%"], "a[1/4]"),
        (A["0.3333333333333333"], "a[.3333333333333333]"),
        # What is short in per cent alone.
        (A[".333333333333333331%"], "best(a, m=333333333333333331/100000000000000000000)"),
        ((A & B)[8] >> C, "((a & b)[8] >> c)"),
        (AtLeast.of(A, B, j=1), "at_least(1, a, b)"),
        (Quota.of(A, B, share=1 / 3), "quota(a, b, share=1/3)"),
        (Weighted.of(A, B, weights=[2, 0.5]), "weighted(a, b, weights=[2, 1/2])"),
        (PerGroup.of(A), "per_group(a, by=frame, share=equal)"),
        (PerGroup.of(A, by="segment", threshold=0.9), "per_group(a, by=segment, share=equal, threshold=9/10)"),
        (Stream.of(A, memory=64), "stream(a, frames=1, memory=64)"),
        (PerGroup.of(A, by="window", size=3), "per_group(a, by=window, share=equal, size=3)"),
    ],
)
def test_how_an_expression_is_written(expression, text):
    assert written(expression) == text
    assert read(text) == expression


# What a plugin adds


class Twice(Composer):
    """A composer of a stranger, with no parameter of its own."""

    name = "twice"
    arity = (1, 1)

    @model_validator(mode="after")
    def _not_d(self):
        if self.operands[0] == D:
            raise ValueError("twice does not take d")
        return self


def test_composers_of_plugins_are_callable_and_their_checks_run():
    known = {**BY_NAME, "twice": Twice}
    assert read("a & twice(b)", known) == A & Twice.of(B)
    with pytest.raises(FormulaError, match="does not take d"):
        read("twice(d)", known)
    with pytest.raises(FormulaError, match="twice has no parameter 'm'; it has none"):
        read("twice(a, m=1)", known)
    with pytest.raises(FormulaError, match="twice takes no number before its operands"):
        read("twice(2, a)", known)


# Refusals


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a.b", "'a.b'"),
        ("a.score", "'a.score'"),
        ("a.__class__", "'a.__class__'"),
        ("a.b(c)", r"'a\.b\(c\)'"),
        ("(a & b)(c)", r"'\(a & b\)\(c\)'"),
        ("lambda: a", "'lambda: a'"),
        ("lambda a: a & b", "'lambda a: a & b'"),
        ("(a := b)", "'a := b'"),
        ("f'{a}'", "f'{a}'"),
        ("'a'", "''a''"),
        ("b'a'", "'b'a''"),
        ("64", "'64'"),
        ("None", "'None'"),
        ("True", "'True'"),
        ("...", r"'\.\.\.'"),
        ("[a for a in b]", r"'\[a for a in b\]'"),
        ("(a for a in b)", r"'\(a for a in b\)'"),
        ("{a: b}", "'{a: b}'"),
        ("{a}", "'{a}'"),
        ("[a, b]", r"'\[a, b\]'"),
        ("a, b", "'a, b'"),
        ("()", r"'\(\)'"),
        ("a if b else c", "'a if b else c'"),
        ("await a", "'await a'"),
        ("(yield a)", "'yield a'"),
        ("a and b", "'a and b'.* Write & for and, | for or, ~ for not"),
        ("a or b", "'a or b'.* Write & for and"),
        ("not a", "'not a'.* ~ for not"),
        ("-a", "'-a'"),
        ("+a", r"'\+a'"),
        ("a + b", r"'a \+ b'.*There is no `\+`: fuse ranks by borda"),
        ("a * b", r"'a \* b'"),
        ("a ** b", r"'a \*\* b'"),
        ("a / b", "'a / b'"),
        ("a @ b", "'a @ b'"),
        ("a << b", "'a << b'"),
        ("a < b", "'a < b'"),
        ("a == b", "'a == b'"),
        ("a in b", "'a in b'"),
        ("a & b.c", "'b.c' cannot stand"),
    ],
)
def test_what_cannot_stand_in_a_formula_is_named(text, named):
    message = refused(text, named)
    assert "cannot stand in a formula" in message
    assert "composers (at_least, best, borda" in message


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("quota(3/4, a, b)", "3/4 is no operand; write share=3/4"),
        ("", "'' is not a formula"),
        ("  ", "is not a formula"),
        ("a &", "'a &' is not a formula: it ends where an operand is missing"),
        ("a b", "'a b' is not a formula"),
        ("a & & b", "not a formula"),
        ("a; b", "not a formula"),
        ("a = b", "not a formula"),
        ("import os", "not a formula"),
        ("a\n& b", "not a formula"),
        ("a\0", "not a formula"),
        ("a & (b", "not a formula"),
        ("a)", "not a formula"),
        ("a ? b", "not a formula"),
        ("a[25%25]", "is not a size"),
        ("at_least(a, 2, b)", "write j=2"),
        ("a[]", "not a formula"),
        ("010", "not a formula"),
        # Calls.
        ("eval(a)", "no composer is named 'eval'. Registered: at_least, best, borda"),
        ("__import__('os')", "no composer is named '__import__'"),
        ("intersecton(a, b)", "no composer is named 'intersecton'.*Did you mean 'intersection'"),
        ("a(b)", "'a' is a strategy, which is not called"),
        ("intersection", r"'intersection' is a composer; call it, such as intersection\(a, b\)"),
        ("a & union", "'union' is a composer"),
        ("intersection(*a)", r"'intersection\(\.\.\.\)' takes no \* or \*\*"),
        ("intersection(a, *b)", r"takes no \* or \*\*"),
        ("quota(a, b, **c)", r"takes no \* or \*\*"),
        ("intersection(a)", "intersection takes 2 or more operands, not 1"),
        ("intersection()", "intersection takes 2 or more operands, not 0"),
        ("complement(a, b)", "complement takes 1 operands, not 2"),
        ("quota(a, b, c)", "quota takes 2 operands, not 3"),
        ("intersection(a, b, k=3)", "intersection has no parameter 'k'; it has none"),
        ("quota(a, b, shar=3/4)", "quota has no parameter 'shar'; it has share"),
        ("quota(a, b, operands=3)", "quota has no parameter 'operands'"),
        ("quota(a, b, share=1/4, share=3/4)", "quota's share is given twice"),
        ("at_least(2, a, b, j=1)", "at_least's j is given twice"),
        ("intersection(2, a, b)", "intersection takes no number before its operands"),
        ("at_least(0, a, b)", "at_least takes 1 to 2 of 2 operands, not 0"),
        ("at_least(3, a, b)", "at_least takes 1 to 2 of 2 operands, not 3"),
        ("at_least(True, a, b)", "at_least's j is True: write a whole number"),
        ("at_least(1/2, a, b)", "1/2 is no operand; write j=1/2"),
        ("at_least(a, b, j=1/2)", "at_least's j is 1/2: write a whole number"),
        ("quota(a, b, share=1)", "between 0 and 1, not 1"),
        ("quota(a, b, share=0)", "between 0 and 1, not 0"),
        ("quota(a, b, share=-1)", "between 0 and 1, not -1"),
        ("quota(a, b, share=b)", "quota's share is 'b': write a finite number"),
        ("quota(a, b, share=[1, 2])", "quota's share is .*: write a finite number"),
        ("quota(a, b, share=True)", "quota's share is True: write a finite number"),
        ("quota(a, b, share=None)", "quota's share is None: write a finite number"),
        ("quota(a, b, share=1/0)", "'1/0' divides by zero"),
        ("quota(a, b, share=a.b)", "'a.b' is not a value"),
        ("quota(a, b, share=eval('1'))", r"'eval\('1'\)' is not a value"),
        ("quota(a, b, share=f'{a}')", "is not a value"),
        ("quota(a, b, share=1j)", "'1j' is not a value"),
        ("quota(a, b, share=1e-1)", "'1e-1' is not a number; write decimals without exponent"),
        ("quota(a, b, share=1e-999999999)", "'1e-999999999' is not a number"),
        ("weighted(a, b)", "weighted takes one weight an operand: 2, not 0"),
        ("weighted(a, b, weights=[1])", "weighted takes one weight an operand: 2, not 1"),
        ("weighted(a, b, weights=[0, 0])", "not all zero"),
        ("weighted(a, b, weights=[1, -1])", "not negative"),
        ("weighted(a, b, weights=[1, 9e999])", "'9e999' is not a number"),
        ("weighted(a, b, weights={1, 2})", "'{1, 2}' is not a value"),
        (
            "per_group(a, by=pane)",
            "per_group's by is one of image, tile, frame, row, column, window, segment, not 'pane'",
        ),
        ("per_group(a, share=fair)", "per_group's share is one of equal, proportional, ranked, not 'fair'"),
        ("per_group(a, by=window)", "a size of 1 or more by=window, such as size=6, and none otherwise; not 0"),
        ("per_group(a, by=window, size=0.5)", "per_group's size is 1/2: write a whole number"),
        ("per_group(a, by=window, size=-1)", "a size of 1 or more by=window"),
        ("per_group(a, by=tile, size=2)", "and none otherwise; not 2"),
        ("per_group(a, by=segment)", r"a threshold above 0 and at most 1 by=segment, such as threshold=0.9, .* not 0"),
        ("per_group(a, by=segment, threshold=1.5)", "at most 1 by=segment, such as threshold=0.9, .* not 1.5"),
        ("per_group(a, by=frame, threshold=0.9)", "and none otherwise; not 0.9"),
        ("stream(a, frames=0)", "stream's frames is 0: it is at least 1"),
        ("stream(a, memory=-1)", "stream's memory is -1: it is at least 0"),
        ("stream(a) & b", "intersection joins orders: 'stream' chooses another set for every budget"),
        ("stream(a, b)", "stream takes 1 operand"),
        ("per_group(a, by=[tile])", "per_group's by is .*: write a word"),
        ("a >> b", r"the left side of >> needs a size, such as a\[128\] >> b"),
        ("a[8] >> b >> c", "the left side of >> needs a size"),
        ("then(a, b)", "the left side of >> needs a size"),
        # Sizes.
        ("a[k]", r"'\[k\]' is not a size; write a count or a fraction"),
        ("a[auto]", r"'\[auto\]' is not a size"),
        ("a['auto']", "is not a size"),
        ("best(a, m=auto)", "best takes a count or a fraction, not auto"),
        ("a[0]", r"'\[0\]' is not a size: keep '0' cannot be read"),
        ("a[-1]", r"'\[-1\]' is not a size"),
        ("a[1.5]", r"'\[1.5\]' is not a size"),
        ("a[1:2]", r"'\[1:2\]' is not a size"),
        ("a[1, 2]", r"'\[1, 2\]' is not a size"),
        ("a[...]", r"'\[\.\.\.\]' is not a size"),
        ("a[1e-1]", r"'\[1e-1\]' is not a size"),
        ("a[1_0]", r"'\[1_0\]' is not a size"),
        ("a[0x10]", r"'\[0x10\]' is not a size"),
        ("a[2 * 3]", r"'\[2 \* 3\]' is not a size"),
        ("a[True]", r"'\[True\]' is not a size"),
        ("a[b & c]", r"'\[b & c\]' is not a size"),
        ("best(a, m=0)", "best.*keep 0 is not between"),
        ("best(a, m=b)", "best.*cannot be read"),
    ],
)
def test_refusals_say_what_is_wrong(text, match):
    refused(text, match)


def test_an_unknown_operand_is_the_callers_error():
    refused("a & x", "no strategy is named 'x'", UnknownStrategyError)


def test_the_same_mistakes_in_python_are_refused_too():
    with pytest.raises(BudgetError):
        A[0]
    with pytest.raises(FormulaError, match="not auto"):
        A["auto"]
    with pytest.raises(FormulaError, match="needs a size"):
        A >> B
    with pytest.raises(FormulaError, match="finite"):
        Quota.of(A, B, share=float("nan"))
    with pytest.raises(FormulaError, match="finite"):
        Weighted.of(A, B, weights=[1, float("inf")])
    assert Quota.of(A, B, share=0.1 + 0.2).share == Fraction("0.30000000000000004")


# Bounds


def test_a_thousand_characters():
    assert read("a" + " " * 999) == A
    refused("a" + " " * 1_000, "at most 1000 characters, this one 1001")
    refused("(" * 10_000_000, "at most 1000 characters")


def test_sixty_four_operands():
    assert len(read(" & ".join("a" * 64)).parts) == 64
    refused(" & ".join("a" * 65), "at most 64 operands")
    refused(f"union({', '.join('a' * 65)})", "at most 64 operands")
    # Deep on the right, and doubling as an alias would.
    refused("|".join(["(a&b)"] * 33), "at most 64 operands")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 33 + "a" + ")" * 33,
        "(" * 499 + "a" + ")" * 499,
        "(" * 1_000,
        "~" * 33 + "a",
        "~ " * 33 + "a",
        "~" * 999 + "a",
        "[" * 500,
        "a" + "[1]" * 33,
        " - ".join("a" * 34),
        "complement(" * 33 + "a" + ")" * 33,
        "~(" * 33 + "a" + ")" * 33,
    ],
)
def test_nested_deeper_than_32(text):
    refused(text, "nested at most 32 deep")


@pytest.mark.parametrize("sign", ["-", "+", "not ", "lambda:", "await ", "a if b else ", "a.", "a**", "a,", "{", "a<"])
def test_long_chains_of_what_is_no_formula(sign):
    refused(sign * (990 // len(sign)) + "a", "formula")


def test_as_deep_as_is_allowed():
    assert read("(" * 32 + "a" + ")" * 32) == A
    assert len(list(read("~" * 32 + "a").walk())) == 33
    assert len(list(read("a" + "[1]" * 32).walk())) == 33


def test_oddities_do_not_warn():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused(r"per_group(a, by='\d')", r"not '\\d'")
        refused("a[1if b else c]", "is not a size")
    assert not caught


@given(st.text(alphabet="ab&|^-~>[]()0123456789/.,= 'borda_quotweighshare\n*:", max_size=40))
def test_no_text_does_anything_but_parse_or_be_refused(text):
    try:
        read(text)
    except (FormulaError, UnknownStrategyError):
        return
