"""`Run`: the ledger of a `with prune(...)` block: kept tokens, counts and FLOPs, as tables and files."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tokensieve.cost.language_model import LayerCost, prefill_flops
from tokensieve.cost.vision import TowerCost, kept_patches_by_block
from tokensieve.errors import TokensieveError, listing
from tokensieve.ledger.places import Places
from tokensieve.ledger.records import KEPT_FORMAT, Prefill, SampleRecord, StageRecord, checksum_of_kept
from tokensieve.ledger.shown import ShownRun
from tokensieve.recipes.formulas import format_budget
from tokensieve.recipes.recipe import Recipe
from tokensieve.sites import Site

LARGE, SLOW = 2048, 1000
"""The visual tokens of a sample, and the milliseconds of a selection, from which on the ledger says that it is slow."""

_UNREAD = 16
"""How many of the latest prefills may still be on the device, and know where their tokens were."""


class Run(ShownRun):
    """The ledger of a pruned run.

    Attributes:
        recipe: the recipe.
        adapter: the name of the adapter.
        layers: the cost of each decoder layer; empty for a model without a language model.
        tower: the cost of the vision encoder, if the recipe has stages in it, or before it.
        prefills: the record of every prefill, the latest last.
    """

    def __init__(
        self, recipe: Recipe, adapter: str, layers: Sequence[LayerCost] = (), tower: TowerCost | None = None
    ) -> None:
        self.recipe = recipe
        self.adapter = adapter
        self.layers = tuple(layers)
        self.tower = tower
        self.prefills: list[Prefill] = []
        self._own = threading.local()

    def add(self, prefill: Prefill) -> None:
        """Add the record of a prefill, which is the latest of this thread from now on."""
        self.prefills.append(prefill)
        self._own.latest = prefill
        # What nobody has read by now waits on the host: a server makes many prefills, and devices are small.
        if len(self.prefills) > _UNREAD:
            self.prefills[-1 - _UNREAD].fetch()
            self.prefills[-1 - _UNREAD].seen = None

    @property
    def latest(self) -> Prefill:
        """The record of the latest prefill of this thread; in a thread that made none, the latest of all.

        Raises:
            TokensieveError: if the model has not been called yet.
        """
        if not self.prefills:
            raise TokensieveError("nothing has run yet: call the model inside `with prune(...) as run:` first")
        own: Prefill | None = getattr(self._own, "latest", None)
        return self.prefills[-1] if own is None else own

    def kept(self, site: str | Site) -> list[Tensor]:
        """Return the ids of the tokens kept at a site in the latest prefill.

        Returns:
            One int64 tensor of sorted ids for each input row, before beams are expanded; empty for rows without visual
            tokens. At encoder sites, ids are places of patches.

        Raises:
            TokensieveError: if nothing ran yet, or no stage is at the site.
        """
        for stage in self.latest.stages:
            if stage.site == str(site):
                return [sample.kept for sample in stage.samples]
        known = listing(stage.site for stage in self.latest.stages)
        raise TokensieveError(f"no stage acted at {site} in the latest prefill; stages acted at: {known}")

    @property
    def places(self) -> Places:
        """Where the places of the request stand in the outputs of the latest prefill of this thread, and back.

        Raises:
            TokensieveError: if nothing ran yet, the model has no language model, or the prefill raised an error.
        """
        places = self.latest.places
        if places is None:
            raise TokensieveError(
                "the latest prefill has no places: it is of a model without a language model, or it ended in an error"
            )
        return places

    def restore(self, x: Tensor) -> Tensor:
        """Return outputs of the latest prefill of this thread in the length of the request; see `Places.restore`.

        `run.restore(model(**inputs).logits)` can be sliced by the places of the unpruned prompt. (In
        `run.places.restore(model(...).logits)` Python looks up `run.places` first, which is of the call before.)

        Raises:
            TokensieveError: if nothing ran yet, or x is of another prefill.
        """
        return self.places.restore(x)

    def visual_per_layer(self, sample: int) -> list[int]:
        """Return the number of visual tokens in each decoder layer, for a sample of the latest prefill."""
        prefill = self.latest
        now = prefill.entering[sample]
        counts = []
        for layer in range(len(self.layers)):
            for stage in prefill.stages:
                site = Site.of(stage.site)
                if site.part == "decoder" and site.block == layer:
                    now = len(stage.samples[sample].kept)
            counts.append(now)
        return counts

    def mean_visual(self, sample: int) -> float | None:
        """Return the mean number of visual tokens per decoder layer; None without a language model."""
        counts = self.visual_per_layer(sample)
        return sum(counts) / len(counts) if counts else None

    def flops(self, sample: int) -> tuple[int, int] | None:
        """Return the counted FLOPs of the language model's prefill, unpruned and pruned; None without a language model.

        A multiply-add counts as two. Attention is counted in full, not halved for causality. The language-modelling
        head and the selection itself are not counted.
        """
        if not self.layers:
            return None
        text = self.latest.text[sample]
        before = prefill_flops(self.layers, [text + self.latest.visual[sample]] * len(self.layers))
        after = prefill_flops(self.layers, [text + visual for visual in self.visual_per_layer(sample)])
        return before, after

    def tower_flops(self, sample: int) -> tuple[int, int] | None:
        """Return the counted FLOPs of the vision encoder's blocks, unpruned and pruned, counted as in `flops`.

        None if the recipe has no stage in the encoder, or before it.
        """
        prefill = self.latest
        if self.tower is not None and prefill.stretches:
            whole, left = prefill.stretches[sample]
            return self.tower.packed_flops(whole), self.tower.packed_flops(left)
        if self.tower is None or not prefill.patches:
            return None
        planned = kept_patches_by_block(self.recipe, prefill.patches)
        one = self.tower.flops(prefill.patches, {}), self.tower.flops(prefill.patches, planned)
        return prefill.pictures[sample] * one[0], prefill.pictures[sample] * one[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the ledger of the latest prefill as plain data for JSON."""
        prefill = self.latest
        samples = []
        for i, key in enumerate(prefill.keys):
            flops, tower = self.flops(i), self.tower_flops(i)
            samples.append(
                {
                    "key": key,
                    "text_tokens": prefill.text[i],
                    "visual_tokens": prefill.visual[i],
                    "question": prefill.questions[i] if prefill.questions else None,
                    "visual_per_layer": self.visual_per_layer(i),
                    "mean_visual_per_layer": self.mean_visual(i),
                    "flops_unpruned": flops[0] if flops else None,
                    "flops_pruned": flops[1] if flops else None,
                    "tower_flops_unpruned": tower[0] if tower else None,
                    "tower_flops_pruned": tower[1] if tower else None,
                }
            )
        stages = [
            {
                "at": stage.site,
                "select": stage.formula,
                "keep": stage.keep,
                "selection_ms": stage.ms,
                "notes": _stage_notes(stage),
                "samples": [
                    {
                        "entered": sample.entered,
                        "kept": len(sample.kept),
                        "kept_ids": sample.kept.tolist(),
                        "shares": sample.shares,
                        "depth": sample.depth,
                    }
                    for sample in stage.samples
                ],
            }
            | ({} if stage.shared is None else {"shared": stage.shared.to_dict()})
            for stage in prefill.stages
        ]
        return {
            "recipe": self.recipe.name,
            "recipe_hash": self.recipe.hash(),
            "adapter": self.adapter,
            "positions": self.recipe.positions,
            "prefills": len(self.prefills),
            "notes": list(prefill.notes),
            "samples": samples,
            "stages": stages,
        }

    def table(self) -> Table:
        """Return the ledger of the latest prefill as a rich table, a row for each stage and sample, in 80 columns."""
        prefill = self.latest
        head = [f"{self.recipe.name} on {self.adapter}  (recipe {self.recipe.hash()})"]
        head += [
            f"{entry['at']}: {entry['select']}, {'' if 'r' in entry else 'keep '}{format_budget(entry)}"
            for entry in self.recipe.to_dict()["stages"]
        ]
        title = Text("\n".join(head))
        # Without frames, so that a row fits into 80 columns without line breaks in numbers.
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        several = len(prefill.keys) > 1
        table.add_column("stage", no_wrap=True)
        if several:
            table.add_column("sample", justify="right", no_wrap=True)
        table.add_column("in", justify="right", no_wrap=True)
        table.add_column("kept", justify="right", no_wrap=True)
        table.add_column("own best", overflow="fold")
        table.add_column("depth", justify="right", no_wrap=True)
        table.add_column("select\nms", justify="right", no_wrap=True)
        if self.layers:
            table.add_column("visual\n/ layer", justify="right", no_wrap=True)
            table.add_column("LM\nGFLOPs", justify="right", no_wrap=True)
        for stage in prefill.stages:
            for i, sample in enumerate(stage.samples):
                shares = "\n".join(f"{name} {share:.0%}" for name, share in sample.shares.items())
                row = [
                    stage.site if i == 0 else "",
                    *([str(i)] if several else []),
                    str(sample.entered),
                    str(len(sample.kept)),
                    shares or "-",
                    str(sample.depth),
                    f"{stage.ms:.1f}" if i == 0 else "",
                ]
                flops = self.flops(i)
                if flops is not None:
                    before, after = flops
                    row += [f"{self.mean_visual(i):.1f}", f"{before / 1e9:.3f}\n-> {after / 1e9:.3f}"]
                # Names come from plugins and may hold brackets, which are not markup.
                table.add_row(*(Text(content) for content in row))
        said = [*prefill.notes, *(note for stage in prefill.stages for note in _stage_notes(stage))]
        if prefill.questions:
            said += [f"question {i}: {text!r}" for i, text in enumerate(prefill.questions)]
        towers = [self.tower_flops(i) for i in range(len(prefill.keys))]
        if whole := sum(tower[0] for tower in towers if tower):
            spent = sum(tower[1] for tower in towers if tower)
            said.append(f"blocks of the vision encoder: {whole / 1e9:.3f} -> {spent / 1e9:.3f} GFLOPs, all samples")
        if any(len(sample.shares) > 1 for stage in prefill.stages for sample in stage.samples):
            said.append("own best: the part of the kept tokens that the operand had among its own best")
        table.caption = Text("\n".join(said))
        table.caption_justify = "left"
        return table

    def report(self, console: Console | None = None) -> None:
        """Print the ledger of the latest prefill."""
        (console or Console()).print(self.table())

    def save(self, path: str | Path) -> None:
        """Write the kept ids of every prefill to a JSON file, for `replay`."""
        samples = []
        for number, prefill in enumerate(self.prefills):
            for i, key in enumerate(prefill.keys):
                kept = {stage.site: stage.samples[i].kept.tolist() for stage in prefill.stages}
                tokens = {stage.site: _numbers_of_tokens(stage.samples[i]) for stage in prefill.stages}
                entry = {"prefill": number, "row": i, "key": key, "visual": prefill.visual[i]}
                samples.append({**entry, "tokens": tokens, "kept": kept})
        content: dict[str, Any] = {
            "format": KEPT_FORMAT,
            "family": self.adapter,
            "recipe": self.recipe.hash(),
            "samples": samples,
        }
        content["checksum"] = checksum_of_kept(content)
        Path(path).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _stage_notes(stage: StageRecord) -> list[str]:
    """Return the notes of a stage, and one where many tokens, such as those of a long video, made it slow."""
    notes = list(stage.notes)
    if stage.shared is not None:
        groups, alone = stage.shared.groups, "one group alone has the budget by itself"
        kept = f"{stage.shared.total} tokens of {groups} groups together"
        notes.append(f"{stage.site}: {alone if groups == 1 and stage.shared.over != 'task' else kept}")
    most = max((sample.entered for sample in stage.samples), default=0)
    if most < LARGE or stage.ms < SLOW:
        return notes
    depth = max(sample.depth for sample in stage.samples)
    return [
        *notes,
        f"selection at {stage.site} took {stage.ms / 1000:.1f} s: up to {most} tokens a sample, read to place {depth}; "
        "smaller groups (per: frame for a video), a smaller keep, or a cheaper strategy of the catalogue take less",
    ]


def _numbers_of_tokens(sample: SampleRecord) -> list[int]:
    """Return how many tokens entered a stage, and how many were judged if that is another number."""
    judged = sample.entered if sample.judged is None else sample.judged
    return list(dict.fromkeys([sample.entered, judged]))
