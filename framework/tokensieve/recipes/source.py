"""What a text means where a recipe is wanted: a shipped one, a path, an address on the hub, or a formula."""

from __future__ import annotations

import os
import re
from typing import Literal

from tokensieve.errors import UnknownRecipeError, did_you_mean, listing
from tokensieve.plugins.plugin import broken
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.hub import SCHEME

_SIGN = re.compile(r"[&|^~()\[\]>\s]")
"""What formulas have, and names and most paths do not."""

Kind = Literal["name", "path", "formula", "hub"]


def kind_of(text: str, registry: Registry) -> Kind:
    """Return what a text means. The name of a shipped recipe comes first, then a file that is there.

    Raises:
        UnknownRecipeError: if it is none of these.
    """
    if text.startswith(SCHEME):
        return "hub"
    if text in registry.recipes:
        return "name"
    if os.path.exists(text) or text.lower().endswith((".yaml", ".yml")):
        return "path"
    # `share=3/4` has a slash, so slashes do not decide before signs do.
    if _SIGN.search(text):
        return "formula"
    if any(sign in text for sign in "/\\."):
        return "path"
    # A difference without spaces; no strategy has a hyphen in its name.
    if text and all(word in registry.strategies for word in text.split("-")):
        return "formula"
    hint = did_you_mean(text, {**registry.recipes, **registry.strategies})
    raise UnknownRecipeError(
        f"no shipped recipe is named '{text}'. Registered: {listing(registry.recipes)}. It is no strategy, no path and "
        f"no formula such as gsp & qcsp either.{hint}{broken(registry.plugins)}"
    )
