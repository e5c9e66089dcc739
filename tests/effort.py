"""How many examples a property is tried on: a part of them in `make test`, all of them in `make nightly`."""

import os

NIGHTLY = bool(os.environ.get("TOKENSIEVE_NIGHTLY"))


def examples(most: int) -> int:
    """Return how many examples to try, of `most`."""
    return most if NIGHTLY else max(10, most // 6)
