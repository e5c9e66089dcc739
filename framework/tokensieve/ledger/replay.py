"""`replay`: a strategy that keeps the tokens of an earlier run, read from the file that `run.save` wrote."""

from __future__ import annotations

import itertools
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tokensieve.algebra.budget import Keep, count
from tokensieve.algebra.chain import Chain
from tokensieve.errors import RecipeError, first_mistake
from tokensieve.evidence import Evidence, Tokens
from tokensieve.ledger.records import KEPT_FORMAT, checksum_of_kept
from tokensieve.sites import Site
from tokensieve.strategy import Chooser

_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Key = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Sample(BaseModel):
    """What was kept of one sample.

    Attributes:
        prefill: the number of the call.
        row: the row of the batch.
        key: the sample's key.
        visual: how many visual tokens it had.
        tokens: by site, how many tokens entered the stage, and how many of them were judged.
        kept: by site, the sorted ids of the kept tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prefill: _Count
    row: _Count
    key: _Key
    visual: _Count
    tokens: dict[str, list[_Count]]
    kept: dict[str, list[_Count]]

    @field_validator("kept")
    @classmethod
    def _ascending(cls, kept: dict[str, list[int]]) -> dict[str, list[int]]:
        for site, ids in kept.items():
            if any(later <= earlier for earlier, later in itertools.pairwise(ids)):
                raise ValueError(f"the ids kept at {site} are not sorted, or one of them stands twice")
        return kept

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.tokens.keys() != self.kept.keys():
            raise ValueError("tokens and kept have other sites")
        for site, ids in self.kept.items():
            # Sites of the vision encoder number patches instead.
            if Site.of(site).part != "encoder" and ids and ids[-1] >= self.visual:
                raise ValueError(f"the id {ids[-1]} is kept at {site}, of {self.visual} visual tokens")
            if not self.tokens[site] or len(ids) > max(self.tokens[site]):
                raise ValueError(f"{len(ids)} ids are kept at {site}, of {self.tokens[site]} tokens")
        return self


class _Recording(BaseModel):
    """A file of kept ids.

    Attributes:
        format: `KEPT_FORMAT`.
        family: the name of the adapter of the model.
        recipe: the hash of the recipe.
        samples: what was kept, of every sample of every call.
        checksum: of all else; none in files that were written by hand or by earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["tokensieve.kept/2"]
    family: str
    recipe: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    samples: list[_Sample]
    checksum: str | None = None

    @model_validator(mode="after")
    def _once(self) -> Self:
        places = [(sample.prefill, sample.row) for sample in self.samples]
        if len(set(places)) < len(places):
            raise ValueError("two samples stand in one row of one prefill")
        return self


class Replay(Chooser):
    """The tokens that an earlier run kept, from a file written by `run.save`.

    Samples are matched by their keys if all keys in the file are different. Otherwise they are matched by their row in
    the batch, if the file holds a single prefill. A recording of another model family is refused, and one of a sample
    that had another number of tokens at the site.

    Attributes:
        path: the file.
        at: the site of the recorded stage; needed if the file has several stages.
    """

    name = "replay"
    complexity = ("O(n)", "O(n)")
    examples = ()

    path: str
    at: str | None = None

    @property
    def needs(self) -> frozenset[Evidence]:
        """No evidence, because the tokens were chosen in the earlier run."""
        return frozenset()

    def refusal(self, family: str) -> str | None:
        """Return why the recording cannot be replayed on a family of models; None if it can.

        Raises:
            RecipeError: if the file is not readable.
        """
        recorded = _recording(self.path).family
        if recorded == family:
            return None
        return f"{self.path} is a recording of a model of {recorded}, and this one is of {family}; record it anew"

    def problem(self, left: Keep | None = None) -> str | None:
        """Return what is wrong with the file or the site, or that other tokens are left than were recorded."""
        try:
            _, found = self._by_name()
            sites = [(sample, self._site(sample)) for sample in found.values()]
        except RecipeError as error:
            return str(error)
        if left is None:
            return None
        recorded = {n for sample, site in sites for n in (*sample.tokens[site], sample.visual)}
        if any(count(left, n) in recorded for n in recorded):
            return None
        return (
            f"{self.path} is a recording of {', '.join(map(str, sorted(recorded)))} tokens, of which {left} of a group "
            f"are left here for '{self.name}' to judge: a run refuses other tokens than were recorded; let it judge all"
        )

    def choose(self, tokens: Tokens) -> Chain:
        """Return the recorded set.

        Raises:
            RecipeError: if the file is not readable, has no record of a sample or stage, or one of other tokens.
        """
        distinct, found = self._by_name()
        members = torch.zeros_like(tokens.valid)
        for place, key in torch.stack([tokens.samples, tokens.keys], dim=1).unique(dim=0).tolist():
            # A sample may be several rows: one for each of its pictures, tiles or frames.
            rows = (tokens.samples == place) & (tokens.keys == key)
            name = key if distinct else place
            if name not in found:
                what = f"the sample key {key}" if distinct else f"row {place} of a batch"
                raise RecipeError(f"{self.path} has no record of {what}; it has {len(found)} samples")
            site = self._site(found[name])
            ids = torch.tensor(found[name].kept[site], dtype=torch.int64, device=tokens.ids.device)
            inside = torch.isin(tokens.ids, ids) & tokens.valid & rows.unsqueeze(1)
            there, kept = int(tokens.valid[rows].sum()), int(inside.sum())
            # At an earlier site than that of the recording there may be all tokens of the sample.
            numbers = {*found[name].tokens[site], found[name].visual}
            if there not in numbers or kept != len(ids):
                known = " or ".join(map(str, sorted(numbers)))
                raise RecipeError(
                    f"{self.path} is a recording of other tokens: at {site} it keeps {len(ids)} of {known}, and here "
                    f"are {there}, with {kept} of these; replay it on the same sample, after the same stages"
                )
            members |= inside
        return Chain.from_set(tokens.universe, members, self)

    def _by_name(self) -> tuple[bool, dict[int, _Sample]]:
        """Return whether keys tell samples apart, and the samples by their keys, or else by their rows."""
        samples = _recording(self.path).samples
        distinct = len({sample.key for sample in samples}) == len(samples)
        if not distinct and len({sample.prefill for sample in samples}) > 1:
            raise RecipeError(
                f"{self.path} holds several prefills whose sample keys repeat; record and replay with prune(..., keys=)"
            )
        return distinct, {sample.key if distinct else sample.row: sample for sample in samples}

    def _site(self, sample: _Sample) -> str:
        if self.at is None and len(sample.kept) == 1:
            return next(iter(sample.kept))
        if self.at is None or self.at not in sample.kept:
            raise RecipeError(
                f"{self.path} has the stages {', '.join(sample.kept)}; say which with at=, not {self.at!r}"
            )
        return self.at


def replay(path: str | Path, at: str | Site | None = None) -> Replay:
    """Return the strategy that replays a file written by `run.save`."""
    return Replay(path=str(path), at=None if at is None else str(at))


def _recording(path: str) -> _Recording:
    """Return a file of kept ids.

    Raises:
        RecipeError: naming the path, if it is none.
    """
    file = Path(path)
    # Not by methods of the path, which raise where a name is too long.
    there = os.path.exists(file)
    if there and not file.is_file():
        raise RecipeError(f"{path} is no file of kept ids (run.save writes one): it is a folder, a pipe or a device")
    return _load(path, file.stat().st_mtime_ns if there else 0)


@lru_cache(maxsize=8)
def _load(path: str, changed: int) -> _Recording:
    """Return a file of kept ids, cached until its time of modification `changed` is another."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is no file of kept ids (run.save writes one): {error}") from None
    written = content.get("format") if isinstance(content, dict) else None
    if isinstance(written, str) and written != KEPT_FORMAT:
        raise RecipeError(f"{path} is written as {written[:60]}, not {KEPT_FORMAT}; record it anew with run.save")
    try:
        recording = _Recording.model_validate(content)
        if recording.checksum is not None and recording.checksum != checksum_of_kept(content):
            raise RecipeError("it was changed since it was written; record it anew, or take `checksum` out of it")
        return recording
    except (ValidationError, RecipeError) as error:
        said = first_mistake(error) if isinstance(error, ValidationError) else str(error)
        raise RecipeError(f"{path} is no file of kept ids (run.save writes one): {said}") from None
