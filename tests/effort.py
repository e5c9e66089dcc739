"""How much is tried every day: a part of a property's examples and of a wide product; all in `make nightly`."""

import os
import zlib
from collections import Counter
from itertools import combinations

NIGHTLY = bool(os.environ.get("TOKENSIEVE_NIGHTLY"))


def examples(most: int) -> int:
    """Return how many examples to try, of `most`."""
    return most if NIGHTLY else max(10, most // 6)


def in_part(name: str, part: str) -> bool:
    """Return whether a module or class of tests is in a part such as `2/3`: each is in one.

    Raises:
        ValueError: if the part is none, such as `4/3`.
    """
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"a part is written as 2/3, and '{part}' was given")
    return zlib.crc32(name.encode()) % int(count) == int(number) - 1


def covering(cases: list[dict[str, object]], size: int) -> set[int]:
    """Return which cases of a product to take so that any values of `size` parameters meet in one of them.

    Args:
        cases: by parameter, the value that each case has, or what stands for it.
        size: 1 if each value shall be there, 2 if each pair of values shall.
    """
    sets = [set(combinations(sorted(case.items()), min(size, len(case)))) for case in cases]
    missing, used, taken = set().union(*sets), Counter(), set()
    while missing:
        # The case that shows most; of those, the one whose values were tried least.
        best = max(range(len(cases)), key=lambda n: (len(sets[n] & missing), -sum(used[v] for v in cases[n].items())))
        missing -= sets[best]
        used.update(cases[best].items())
        taken.add(best)
    return taken
