"""Formulas: the written form of an expression."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from fractions import Fraction

from tokensieve.algebra.budget import Keep
from tokensieve.composers.expression import Best, Complement, Composer, Expression
from tokensieve.errors import BudgetError, FormulaError, TokensieveError, did_you_mean, listing

LONGEST = 1_000
MOST_OPERANDS = 64
DEEPEST = 32

_INTEGER = re.compile(r"[0-9]+")
_DECIMAL = re.compile(r"[0-9]*\.[0-9]+|[0-9]+\.")

# A percentage as a size or a setting: [25%], share=75%. Python would take the sign for an operator.
_PERCENT = re.compile(r"(?<![\w.])([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%(?=\s*[,)\]])")

_OPERATORS: dict[type[ast.operator], str] = {
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.Sub: "-",
    ast.RShift: ">>",
}

_MADE_OF = "it is made of names of strategies, & | ^ - ~ >>, [m], parentheses and composers, such as gsp & qcsp[64]"
_AND, _OR, _MINUS = "\N{LOGICAL AND}", "\N{LOGICAL OR}", "\N{SET MINUS}"
_FOREIGN = {"∩": "&", _AND: "&", "\N{UNION}": "|", _OR: "|", "¬": "~", _MINUS: "-", "\\": "-", "△": "^", "⊕": "^"}
"""Signs of set algebra and logic, and how formulas write them."""

SYMBOLS = frozenset(_OPERATORS.values())
"""The operators between two operands."""


def parse(
    text: str,
    operand: Callable[[str], Expression],
    composers: Mapping[str, type[Composer]],
    origin: Callable[[str], str | None] = lambda name: None,
) -> Expression:
    """Read a formula.

    Operators are `&`, `|`, `^`, `-`, `~`, `>>` and `[m]`, with Python's precedence; composers are
    called by name, such as `quota(a, b, share=3/4)`.

    Args:
        text: the formula, at most 1,000 characters, 64 operands and 32 levels.
        operand: gives the expression of a name; raises if there is none.
        composers: the composers by name.
        origin: returns where a composer comes from, for messages; none where nobody needs to be told.

    Raises:
        FormulaError: if it cannot be read, naming what stands there.
    """
    if len(text) > LONGEST:
        raise FormulaError(f"a formula has at most {LONGEST} characters, this one {len(text)}")
    text = _PERCENT.sub(_as_fraction, text)
    _check_depth(text)
    try:
        with warnings.catch_warnings():
            # What Python finds odd, such as `1if`, is refused below with a message of our own.
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FormulaError(f"'{_short(text)}' is not a formula: {_syntax_cure(text) or _MADE_OF}") from None
    _check_words(text.strip())
    return _Reader(text.strip(), operand, composers, origin).read(tree, 0)


def _as_fraction(percentage: re.Match[str]) -> str:
    part = Fraction(percentage[1]) / 100
    return f"{part.numerator}/{part.denominator}"


def _syntax_cure(text: str) -> str:
    """Return what to do about a formula that is no Python, for the slips that are common; else nothing."""
    text = text.strip()
    if not text:
        return "it is empty; name a strategy, such as gsp"
    if foreign := [f"{mine} for {sign}" for sign, mine in _FOREIGN.items() if sign in text]:
        return f"write {', '.join(foreign)}"
    if re.search(r"\b(?:and|or|xor|not)\b", text, re.IGNORECASE):
        return "write & for and, | for or, ^ for xor, ~ for not"
    if re.search(r"[{}]|\[\s*\]", text):
        return "a size stands in brackets, such as gsp[64], and settings go under strategies:"
    if ";" in text:
        return "operands are separated by commas, such as union(gsp, norm)"
    if "&&" in text or "||" in text:
        return "write & and | once"
    if re.search(r"!(?!=)", text):
        return "write ~ for not"
    if re.search(r"[&|^>~-]\s*\)?$", text):
        return "it ends where an operand is missing"
    if re.match(r"[&|^>]", text):
        return "it begins where an operand is missing"
    if re.search(r"[&|^]\s*[&|^]", text):
        return "an operand is missing between two operators"
    if text.count("(") != text.count(")"):
        return f"it has {text.count('(')} '(' and {text.count(')')} ')'"
    if re.search(r"\w\s+\w", text):
        return "two words stand side by side; join them by an operator, such as & or |"
    return ""


def _check_words(text: str) -> None:
    """Refuse what Python reads as something else than what stands there.

    Raises:
        FormulaError: for a comment, or a word in letters that Python replaces by others.
    """
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            raise FormulaError(f"'{_short(token.string)}' is a comment, which a formula does not have; remove it")
        plain = unicodedata.normalize("NFKC", token.string)
        if token.type == tokenize.NAME and token.string != plain:
            raise FormulaError(
                f"'{_short(token.string)}' is written in other letters than '{_short(plain)}'; use these"
            )


def _check_depth(text: str) -> None:
    """Bound nesting before Python's parser sees it."""
    depth = deepest = run = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        run = run + 1 if sign == "~" else run if sign.isspace() else 0
        deepest = max(deepest, depth, run)
    if deepest > DEEPEST:
        raise FormulaError(f"a formula is nested at most {DEEPEST} deep, this one {deepest}")


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."


class _Reader:
    def __init__(
        self,
        text: str,
        operand: Callable[[str], Expression],
        composers: Mapping[str, type[Composer]],
        origin: Callable[[str], str | None],
    ) -> None:
        self._text = text
        self._origin = origin
        self._operand = operand
        self._composers = composers
        self._symbols = {c.symbol: c for c in composers.values() if c.symbol is not None}
        self._operands = 0

    def read(self, node: ast.expr, depth: int) -> Expression:
        if depth > DEEPEST:
            raise FormulaError(f"a formula is nested at most {DEEPEST} deep")
        match node:
            case ast.Name(id=name):
                self._operands += 1
                if self._operands > MOST_OPERANDS:
                    raise FormulaError(f"a formula has at most {MOST_OPERANDS} operands")
                if name in self._composers:
                    raise FormulaError(f"'{name}' is a composer; call it, such as {name}(a, b)")
                return self._operand(name)
            case ast.UnaryOp(op=ast.Invert(), operand=inner):
                return Complement.of(self.read(inner, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                symbol = _OPERATORS[type(op)]
                a = self.read(left, depth + (symbol not in "&|" or not _same(left, op)))
                b = self.read(right, depth + 1)
                return {
                    "&": a.__and__,
                    "|": a.__or__,
                    "^": a.__xor__,
                    "-": a.__sub__,
                    ">>": a.__rshift__,
                }[symbol](b)
            case ast.Subscript(value=inner, slice=size):
                return Best.of(self.read(inner, depth + 1), m=self._size(size))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                return self._call(name, args, keywords, depth)
        hint = ""
        if isinstance(node, ast.Tuple):
            hint = " Join operands by & or |, or give them to a composer: union(a, b)."
        if isinstance(node, ast.Compare):
            hint = " Nothing is compared; a[64] >> b lets b judge what a keeps."
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult | ast.Div):
            hint = " There is no `+`: fuse ranks by borda(a, b) or weighted(a, b, weights=[2, 1])."
        if isinstance(node, ast.BoolOp | ast.UnaryOp):
            hint = " Write & for and, | for or, ~ for not."
        raise FormulaError(
            f"'{self._source(node)}' cannot stand in a formula; it is made of operands, & | ^ - ~ >>, [m], "
            f"parentheses and composers ({listing(self._composers)}).{hint}"
        )

    def _call(self, name: str, args: list[ast.expr], keywords: list[ast.keyword], depth: int) -> Expression:
        composer = self._composers.get(name)
        if composer is None:
            self._refuse_settings(name, args, keywords)
            raise FormulaError(
                f"no composer is named '{name}'. Registered: {listing(self._composers)}."
                f"{did_you_mean(name, self._composers)}"
            )
        if any(isinstance(arg, ast.Starred) for arg in args) or any(k.arg is None for k in keywords):
            raise FormulaError(f"'{name}(...)' takes no * or **")
        parameters: dict[str, object] = {}
        # at_least(2, a, b) takes its number first, as it is said.
        if args and isinstance(args[0], ast.Constant):
            if not composer.parameters():
                raise FormulaError(f"{name} takes no number before its operands")
            parameters[composer.parameters()[0]] = self._value(args[0])
            args = args[1:]
        for arg in args:
            if _is_value(arg):
                self._refuse_positional(name, composer, arg)
        operands = [self.read(arg, depth + 1) for arg in args]
        for keyword in keywords:
            if str(keyword.arg) in parameters:
                raise FormulaError(f"{name}'s {keyword.arg} is given twice")
            parameters[str(keyword.arg)] = self._value(keyword.value)
        try:
            return composer.of(*operands, **parameters)
        except FormulaError as error:
            plugin = self._origin(name)
            raise FormulaError(f"{error}" if plugin is None else f"{error} ('{name}' is {plugin})") from None

    def _refuse_positional(self, name: str, composer: type[Composer], node: ast.expr) -> None:
        """Refuse a value among operands, naming the setting that it may be for."""
        value, settings = self._source(node), composer.parameters()
        cure = f"write {' or '.join(f'{one}={value}' for one in settings)}" if settings else "it has no settings"
        raise FormulaError(f"{name} takes operands without names, and settings by name: {value} is no operand; {cure}")

    def _refuse_settings(self, name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> None:
        """Refuse a strategy that is called; nothing happens if the name is no operand."""
        try:
            self._operand(name)
        except TokensieveError:
            return
        given = ", ".join(f"{one.arg}: {self._source(one.value)}" for one in keywords if one.arg is not None)
        settings = given or (f"...: {self._source(args[0])}" if args else "...")
        raise FormulaError(
            f"'{name}' is a strategy, which is not called in a formula: its settings go under strategies:, such as "
            f"strategies: {{mine: {{use: {name}, {settings}}}}}, and the formula says mine"
        )

    def _size(self, node: ast.expr) -> Keep:
        if isinstance(node, ast.Name):
            raise FormulaError(f"'[{node.id}]' is not a size; write a count or a fraction, such as [64] or [1/2]")
        # Decimals are exact as written, so the size is read from the source.
        source = self._source(node)
        try:
            return Keep.of(source)
        except BudgetError as error:
            raise FormulaError(f"'[{source}]' is not a size: {error}") from None

    def _value(self, node: ast.expr) -> object:
        match node:
            case ast.Constant(value=None | bool() | str() as value):
                return value
            case ast.Constant(value=int()):
                return self._integer(node)
            case ast.Constant(value=float()):
                return self._decimal(node)
            case ast.Name(id=name):
                return name
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return tuple(self._value(item) for item in items)
            case ast.BinOp(
                left=ast.Constant(value=int()) as left, op=ast.Div(), right=ast.Constant(value=int()) as right
            ):
                a, b = self._integer(left), self._integer(right)
                if b == 0:
                    raise FormulaError(f"'{self._source(node)}' divides by zero")
                return Fraction(a, b)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int()) as inner):
                return -self._integer(inner)
        raise FormulaError(
            f"'{self._source(node)}' is not a value; write a number (64, 0.25, 3/4), a name or a list of them"
        )

    def _integer(self, node: ast.expr) -> int:
        source = self._source(node)
        # Python also has other bases, underscores, and truth values that are numbers.
        if not _INTEGER.fullmatch(source):
            raise FormulaError(f"'{source}' is not a number; write it in digits, such as 64")
        return int(source)

    def _decimal(self, node: ast.expr) -> Fraction:
        source = self._source(node)
        # An exponent would be short to write and long to compute.
        if not _DECIMAL.fullmatch(source):
            raise FormulaError(f"'{source}' is not a number; write decimals without exponent, such as 0.25")
        return Fraction(source)

    def _source(self, node: ast.expr) -> str:
        return _short(ast.get_source_segment(self._text, node) or ast.unparse(node))


def _is_value(node: ast.expr) -> bool:
    """Return whether a node is a number, a text, a quotient of numbers or a list, none of which is an operand."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Div) and _is_value(node.left) and _is_value(node.right)
    return isinstance(node, ast.Constant | ast.List)


def _same(left: ast.expr, op: ast.operator) -> bool:
    return isinstance(left, ast.BinOp) and type(left.op) is type(op)
