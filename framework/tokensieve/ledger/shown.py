"""How a ledger shows itself."""

from __future__ import annotations

import html

from tokensieve.algebra.markup import MOST_ROWS, bars, grid, table
from tokensieve.ledger.records import Prefill
from tokensieve.recipes.recipe import Recipe


class ShownRun:
    """A run as text, and as a table with grids of the kept tokens of the latest prefill."""

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
                kept = sample.kept.tolist()
                places = max([sample.entered, *(token + 1 for token in kept)])
                lit = set(kept)
                picture = grid([float(token in lit) for token in range(places)], f"kept of sample {number}")
                counts = f"{sample.entered} &rarr; {len(kept)}"
                where = f"{html.escape(stage.site)}<br><code>{html.escape(stage.formula)}</code>"
                rows.append([where, str(number), counts, picture, bars(sample.shares)])
        more = len(self.latest.keys) - MOST_ROWS
        note = f"{more} more samples; run.report() has all" if more > 0 else ""
        return table(title, ["stage", "sample", "tokens", "kept, by id", "own best"], rows, note)
