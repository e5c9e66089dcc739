"""`replay`: a strategy that keeps the tokens of an earlier run, read from the file that `run.save` wrote."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tokensieve.algebra.chain import Chain
from tokensieve.errors import RecipeError
from tokensieve.evidence import Evidence, Tokens
from tokensieve.ledger.records import KEPT_FORMAT
from tokensieve.sites import Site
from tokensieve.strategy import Chooser


class Replay(Chooser):
    """The tokens that an earlier run kept, from a file written by `run.save`.

    Samples are matched by their keys if all keys in the file are different. Otherwise they are matched by their row in
    the batch, if the file holds a single prefill.

    Attributes:
        path: the file.
        at: the site of the recorded stage; needed if the file has several stages.
    """

    name = "replay"
    examples = ()

    path: str
    at: str | None = None

    @property
    def needs(self) -> frozenset[Evidence]:
        """No evidence, because the tokens were chosen in the earlier run."""
        return frozenset()

    def choose(self, tokens: Tokens) -> Chain:
        """Return the recorded set.

        Raises:
            RecipeError: if the file is not readable, or has no record of a sample or stage.
        """
        samples = _load(self.path, Path(self.path).stat().st_mtime_ns if Path(self.path).exists() else 0)
        keys = [sample["key"] for sample in samples]
        distinct = len(set(keys)) == len(keys)
        if not distinct and len({sample["prefill"] for sample in samples}) > 1:
            raise RecipeError(
                f"{self.path} holds several prefills whose sample keys repeat; record and replay with prune(..., keys=)"
            )
        members = torch.zeros_like(tokens.valid)
        for row, (key, place) in enumerate(zip(tokens.keys.tolist(), tokens.samples.tolist(), strict=True)):
            found = [s for s in samples if (s["key"] == key if distinct else s["row"] == place)]
            if not found:
                what = f"the sample key {key}" if distinct else f"row {place} of a batch"
                raise RecipeError(f"{self.path} has no record of {what}; it has {len(samples)} samples")
            ids = torch.tensor(self._kept(found[0]), dtype=torch.int64, device=tokens.ids.device)
            members[row] = torch.isin(tokens.ids[row], ids) & tokens.valid[row]
        return Chain.from_set(tokens.universe, members, self)

    def _kept(self, sample: dict[str, Any]) -> list[int]:
        kept: dict[str, list[int]] = sample["kept"]
        if self.at is None and len(kept) == 1:
            return next(iter(kept.values()))
        if self.at is None or self.at not in kept:
            raise RecipeError(f"{self.path} has the stages {', '.join(kept)}; say which with at=, not {self.at!r}")
        return kept[self.at]


def replay(path: str | Path, at: str | Site | None = None) -> Replay:
    """Return the strategy that replays a file written by `run.save`."""
    return Replay(path=str(path), at=None if at is None else str(at))


@lru_cache(maxsize=8)
def _load(path: str, changed: int) -> list[dict[str, Any]]:
    """Return the samples of a file of kept ids, cached until its time of modification `changed` is another."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != KEPT_FORMAT:
            raise RecipeError(f"{path} is written as {content['format']}, not {KEPT_FORMAT}")
        samples: list[dict[str, Any]] = content["samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path} is no file of kept ids (run.save writes one): {error}") from None
    return samples
