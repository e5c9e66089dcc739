"""How a ledger shows itself."""

from __future__ import annotations

import html

from tokensieve.algebra.markup import MOST_ROWS, bars, grid, placed, table
from tokensieve.ledger.records import Prefill, SampleRecord, StageRecord
from tokensieve.recipes.recipe import Recipe


class ShownRun:
    """A run as text, and as a table that shows the kept tokens of the latest prefill.

    They lie over the picture as long as the caller holds the pixels of the request, and on its grid after that.
    """

    recipe: Recipe
    adapter: str
    prefills: list[Prefill]

    @property
    def latest(self) -> Prefill:
        """The record of the latest prefill."""
        raise NotImplementedError

    def __repr__(self) -> str:
        head = f"<Run of '{self.recipe.name}' on {self.adapter}"
        if not self.prefills:
            return f"{head}, nothing has run yet>"
        stages = "; ".join(
            f"{stage.site} {', '.join(f'{one.entered} -> {len(one.kept)}' for one in stage.samples[:MOST_ROWS])}"
            for stage in self.latest.stages
        )
        number = len(self.prefills)
        return f"{head}, {number} prefill{'s' if number > 1 else ''}, the latest: {stages}>"

    def _repr_html_(self) -> str:
        title = f"{self.recipe.name} on {self.adapter}"
        if not self.prefills:
            return table(title, [], [], "nothing has run yet")
        rows = []
        for stage in self.latest.stages:
            for number, sample in enumerate(stage.samples[:MOST_ROWS]):
                picture = _picture(self.latest, stage, sample, number)
                counts = f"{sample.entered} &rarr; {len(sample.kept)}"
                where = f"{html.escape(stage.site)}<br><code>{html.escape(stage.formula)}</code>"
                rows.append([where, str(number), counts, picture, bars(sample.shares)])
        more = len(self.latest.keys) - MOST_ROWS
        note = f"{more} more samples; run.report() has all" if more > 0 else ""
        return table(title, ["stage", "sample", "tokens", "kept", "own best"], rows, note)


def _picture(prefill: Prefill, stage: StageRecord, sample: SampleRecord, number: int) -> str:
    """Return the kept tokens of a sample over its picture, on its grid, or else in a grid by id."""
    kept, label = set(sample.kept.tolist()), f"kept of sample {number}"
    # Ids at encoder sites are those of patches, of which a token may have several.
    seen = prefill.seen if stage.site.startswith("decoder") else None
    places = None if seen is None else seen.places(number)
    if seen is None or places is None:
        count = max([sample.entered, *(token + 1 for token in kept)])
        return grid([float(token in kept) for token in range(count)], label)
    return placed(places, kept, seen.picture(number), label)
