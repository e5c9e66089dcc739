"""What a formula accepts, runs: all composers over all kinds of operands, two levels deep.

The generator puts every composer over every kind of leaf (an order known at once, an order read only as deep as it is
asked for, a fixed set, and a set that depends on the budget), and every composer over these formulas again. Some are
refused when they are built. All others keep exactly what the budget says, whatever it is, and the same tokens whether
orders are known to the end or only as deep as they are read, and whether rows are selected together or alone.
"""

import itertools

import pytest
import torch
from effort import NIGHTLY

from tokensieve import Evidence, Keep, Tokens, Universe, select
from tokensieve.algebra.budget import counts
from tokensieve.composers.builtin import COMPOSERS
from tokensieve.composers.groups import PerGroup
from tokensieve.errors import FormulaError
from tokensieve.testing.generators import AtLeastFeature, ByFeature, PickedByFeature, SpreadByFeature

COLUMNS = 3
LEAVES = {
    "known": lambda column: ByFeature(column=column),
    "shallow": lambda column: PickedByFeature(column=column),
    "fixed": lambda column: AtLeastFeature(column=column, floor=1),
    "by budget": lambda column: SpreadByFeature(column=column),
}
SIZES = ("8", "1/3")
GROUPS = (
    {"by": "row"},
    {"by": "column", "share": "proportional"},
    {"by": "image", "share": "ranked"},
    {"by": "window", "size": 2},
)
KEEPS = ("1", "4", "1/2", "100%")


def build(composer, operands):
    """Return the formulas that the composer accepts over the operands, for settings of its own examples."""
    settings = {"best": [{"m": size} for size in SIZES], "per_group": GROUPS}.get(composer.name)
    if settings is None:
        settings = [one for one in composer.examples if len(one.get("weights", operands)) == len(operands)]
        settings += [{"weights": (2, 1)}] if composer.name == "weighted" else []
    for one in settings:
        try:
            yield composer.of(*operands, **one)
        except FormulaError:
            continue


def combined(left, right):
    """Return every composer over the operands: one or two, as many as it takes."""
    for composer in COMPOSERS:
        operands = (left,) if composer.arity[1] == 1 else (left, right)
        yield from build(composer, operands)


def formulas(step):
    """Return all formulas of one composer, and those of two over every `step`-th pair of operands."""
    leaves = {column: [make(column) for make in LEAVES.values()] for column in range(COLUMNS)}
    first = [f for a, b in itertools.product(leaves[0], leaves[1]) for f in combined(a, b)]
    first += [f for a, b in itertools.product(leaves[0], leaves[1]) for size in SIZES for f in combined(a[size], b)]
    first = list(dict.fromkeys(first))
    # What is no order can stand under a size, where it is a set.
    inner = [sized for f in first for sized in ([f] if f.is_nested else [f, f["4"], f["1/6"]])]
    pairs = [pair for f, leaf in itertools.product(inner, leaves[2]) for pair in ((f, leaf), (leaf, f), (leaf["5"], f))]
    second = dict.fromkeys(f for left, right in pairs[::step] for f in combined(left, right))
    return leaves[0] + first + list(second)


def known_to_the_end(expression):
    """Return the same formula with every shallow order known to the end."""
    if isinstance(expression, PickedByFeature):
        return ByFeature(column=expression.column)
    if not expression.parts:
        return expression
    settings = {name: getattr(expression, name) for name in expression.parameters()}
    return type(expression).of(*map(known_to_the_end, expression.parts), **settings)


@pytest.fixture(scope="module")
def tokens():
    """Three rows of different lengths, with ties and with groups of different sizes."""
    generator = torch.Generator().manual_seed(5)
    universe = Universe.of_counts([17, 3, 10])
    features = torch.randint(-2, 4, (3, 17, COLUMNS), generator=generator).double()
    grid = torch.randint(0, 3, (3, 17, 5), generator=generator)
    return Tokens(universe, {Evidence.FEATURES: features, Evidence.GRID: grid}, keys=torch.arange(3))


def faults(expression, tokens, keep, row):
    """What is wrong with what an accepted formula keeps: of all rows, and of one of them alone."""
    try:
        mask = select(expression, tokens, keep).mask
    except Exception as error:
        return [f"{expression} at {keep}: {type(error).__name__}: {error}"]
    wrong = []
    if not torch.equal(mask.sum(dim=1), counts(keep, tokens.universe.counts)) or bool((mask & ~tokens.valid).any()):
        wrong.append(f"{expression} at {keep} keeps {mask.sum(dim=1).tolist()}")
    if not torch.equal(mask, select(known_to_the_end(expression), tokens, keep).mask):
        wrong.append(f"{expression} at {keep} keeps others where its orders are read as deep as they are asked for")
    if not torch.equal(select(expression, row_of(tokens, row), keep).mask[0], mask[row][tokens.valid[row]]):
        wrong.append(f"{expression} at {keep} keeps others where row {row} is alone")
    return wrong


def test_what_is_accepted_runs_and_is_exact(tokens):
    wrong, tried = [], 0
    for number, expression in enumerate(formulas(11 if NIGHTLY else 401)):
        keep = Keep.of(KEEPS[number % len(KEEPS)])
        tried += 1
        wrong += faults(expression, tokens, keep, number % tokens.universe.rows)
    assert not wrong, f"{len(wrong)} of {tried} formulas: " + "\n".join(wrong[:20])
    assert tried > 300


def row_of(tokens, row):
    places = tokens.valid[row].nonzero().T
    return tokens.take(places, torch.ones_like(places, dtype=torch.bool), torch.tensor([row]))


def test_rows_with_other_budgets_are_read_as_deep_as_each_needs():
    # The third part of 30 is ten tokens, and that of six is two: both are taken from orders that are read on demand.
    universe = Universe.of_counts([30, 6])
    features = torch.rand(2, 30, COLUMNS, generator=torch.Generator().manual_seed(1)).double()
    grid = torch.arange(30).reshape(1, 30, 1).expand(2, 30, 5) % 2
    tokens = Tokens(universe, {Evidence.FEATURES: features, Evidence.GRID: grid})
    a, b, c = (PickedByFeature(column=column) for column in range(COLUMNS))
    spread = SpreadByFeature(column=2)
    for expression in (
        (a & b)["1/3"] >> c,
        (a & b)["1/3"] >> spread,
        PerGroup.of((a & b)["1/2"] >> spread, by="column"),
        c - PerGroup.of((a & b)["1/2"] >> spread, by="column")["1/4"],
        c - ((a & b)["1/2"] >> spread)["1/4"],
    ):
        for size in ("1/6", "1/2", "100%"):
            together = select(expression, tokens, Keep.of(size)).mask
            assert torch.equal(together, select(known_to_the_end(expression), tokens, Keep.of(size)).mask), expression
            for row in range(2):
                alone = select(expression, row_of(tokens, row), Keep.of(size)).mask[0]
                assert torch.equal(alone, together[row][tokens.valid[row]]), expression
