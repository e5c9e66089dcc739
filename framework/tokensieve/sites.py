"""`Site`: the place in a model where a stage removes tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal

from tokensieve.errors import RecipeError, did_you_mean

_SITE = re.compile(r"(pixel)\.(0)|(encoder|decoder)\.(0|[1-9][0-9]{0,3})")
Part = Literal["pixel", "encoder", "decoder"]
_PARTS: tuple[Part, ...] = ("pixel", "encoder", "decoder")
"""In the order of the forward pass."""
_RANGE = re.compile(r"(encoder|decoder)\.(0|[1-9][0-9]{0,3})\.\.(0|[1-9][0-9]{0,3})")


_ALMOST_RANGE = re.compile(r"(encoder|decoder)\.([0-9]+)\s*(?:-|:|to|\.{3}|,)\s*(?:(?:en|de)coder\.)?([0-9]+)")


def _hint(value: object) -> str:
    """Return what may have been meant by what is no site."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f" Did you mean 'decoder.{value}'?"
    almost = _ALMOST_RANGE.fullmatch(str(value))
    if almost is not None:
        return f" A range has two dots: {almost[1]}.{almost[2]}..{almost[3]}."
    return did_you_mean(str(value), ("decoder.0", "decoder.2", "encoder.0", "pixel.0"))


@total_ordering
@dataclass(frozen=True)
class Site:
    """A place where tokens can be removed: the input of a block.

    `decoder.0` is the input of the language model, `decoder.K` the input of its layer K, and `encoder.K` the input of
    block K of the vision encoder; layers and blocks are counted from 0. `pixel.0` is the input of the vision tower: its
    tokens are pixels, and what leaves is never encoded. Sites are ordered as in the forward pass.

    Attributes:
        part: `pixel`, `encoder` or `decoder`.
        block: the number of the block or layer; 0 for pixels.
    """

    part: Part
    block: int

    def __post_init__(self) -> None:
        if _SITE.fullmatch(f"{self.part}.{self.block!r}") is None:
            raise RecipeError(
                f"Site({self.part!r}, {self.block!r}) is no site; Site.of('decoder.2') reads one from text"
            )

    @classmethod
    def of(cls, value: object) -> Site:
        """Return the site that a text such as `decoder.2` names.

        Raises:
            RecipeError: if it names none.
        """
        if isinstance(value, Site):
            return value
        match = _SITE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            hint = _hint(value)
            raise RecipeError(
                f"{value!r} is no site; a site is decoder.K or encoder.K, such as decoder.0 (the tokens entering "
                f"the language model), decoder.2 or encoder.4, or pixel.0 (before the vision tower).{hint}"
            )
        return cls(_PARTS[_PARTS.index(match[1] or match[3])], int(match[2] or match[4]))

    @classmethod
    def each(cls, value: object) -> tuple[Site, ...]:
        """Return the sites of a text that names one site, or a range such as `encoder.0..11` with both ends included.

        Raises:
            RecipeError: if it is neither, or the range runs backwards.
        """
        first, last = cls.ends(value)
        return tuple(cls(first.part, block) for block in range(first.block, last.block + 1))

    @classmethod
    def ends(cls, value: object) -> tuple[Site, Site]:
        """Return the first and the last site of a text that names one site or a range; `each` lists all of them.

        Raises:
            RecipeError: if it is neither, or the range runs backwards.
        """
        match = _RANGE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            site = cls.of(value)
            return site, site
        first, last = cls.of(f"{match[1]}.{match[2]}"), int(match[3])
        if last < first.block:
            raise RecipeError(f"{value!r} runs backwards; write the first site before the last")
        return first, cls(first.part, last)

    @property
    def next(self) -> Site | None:
        """The site one block deeper; none after `pixel.0`."""
        return None if self.part == "pixel" else Site(self.part, self.block + 1)

    def __str__(self) -> str:
        return f"{self.part}.{self.block}"

    def __lt__(self, other: Site) -> bool:
        return (_PARTS.index(self.part), self.block) < (_PARTS.index(other.part), other.block)
