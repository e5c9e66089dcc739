"""The time of selection beside straightforward loops of the same formulas in float32, side by side in one run.

The loops are what one writes first: all similarities at once, a running minimum or an incremental Cholesky, and the
host asked for every pick. Each ratio is taken turn by turn and reported as the median of the turns. Inputs are random
vectors; what is timed depends on what they say only where float32 cannot tell them apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

import tokensieve as ts
from benchmarks.engine import timed
from tokensieve.testing.memory import peak

SIZES = ((576, 64), (2880, 320))
"""Tokens and how many stay: LLaVA-1.5, and the five tiles of LLaVA-NeXT."""
WIDTH, QUERY = 4096, 768
"""Features as wide as those that enter a language model of 7 B, and CLIP-L's space of questions."""
VIDEO, VIDEO_KEEP = 12544, 1024
"""64 frames of 14 x 14 tokens."""
STREAMED_WIDTH = 1024
STREAMED = 6272


def all_ratios(repeats: int) -> dict[str, float]:
    """Return all timings of this module."""
    return beside_loops(repeats) | video(1) | batches(repeats) | graph(repeats)


def tokens(n: int, rows: int = 1, width: int = WIDTH) -> ts.Tokens:
    """Return random tokens with a question."""
    g = torch.Generator().manual_seed(n)
    query = ts.Query(
        torch.randn(rows, n, QUERY, generator=g),
        torch.randn(rows, 1, QUERY, generator=g),
        torch.ones(rows, 1, dtype=torch.bool),
        "clip",
    )
    return ts.Tokens.of(torch.randn(rows, n, width, generator=g), query=query)


def strategies() -> dict[str, ts.Expression]:
    """Return what is timed."""
    registry = ts.default_registry()
    gsp, qcsp = registry.strategy("gsp")(), registry.strategy("qcsp")()
    return {"divprune": registry.strategy("divprune")(), "qcsp": qcsp, "gsp": gsp, "script": gsp & qcsp}


def unit(x: Tensor) -> Tensor:
    """Return vectors of norm 1."""
    return x / x.norm(dim=-1, keepdim=True)


def max_min_loop(x: Tensor, k: int) -> list[int]:
    """Pick k of `x` `[n, d]` by max-min of 1 - cosine."""
    x = unit(x)
    apart = 1 - x @ x.T
    first = int(apart.clone().fill_diagonal_(torch.inf).amin(dim=1).argmax())
    picks, nearest = [first], apart[first].clone()
    while len(picks) < k:
        nearest[picks[-1]] = -1
        picks.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, apart[picks[-1]])
    return picks


def greedy_map_loop(x: Tensor, patch: Tensor, text: Tensor, k: int) -> list[int]:
    """Pick k of `x` `[n, d]` by greedy MAP with the relevance of the question as quality."""
    similar = (unit(patch) @ unit(text).T).mean(dim=1)
    q = (similar - similar.min() + 1e-6) / (similar.max() - similar.min() + 1e-6)
    x = unit(x)
    kernel = q.unsqueeze(1) * (x @ x.T) * q
    factor, gain, picks = torch.zeros(k, len(x)), kernel.diagonal().clone(), []
    for turn in range(k):
        picks.append(pick := int(gain.argmax()))
        row = (kernel[pick] - factor[:turn, pick] @ factor[:turn]) / gain[pick].sqrt()
        factor[turn] = row
        gain -= row.square()
        gain[pick] = -torch.inf
    return picks


def graph_loop(x: Tensor) -> Tensor:
    """Count the edges of `x` `[n, d]`: one product, its median, and what reaches it."""
    x = unit(x)
    similar = x[0::2] @ x[1::2].T
    edge = similar >= similar.flatten().median()
    return torch.cat([edge.sum(dim=1), edge.sum(dim=0)])


def beside_loops(repeats: int) -> dict[str, float]:
    """Compare selections with loops of the same formulas; Script with GSP's and greedy MAP three times as deep."""
    out = {}
    for n, k in SIZES:
        of = tokens(n)
        x, patch, text = of.features[0], of.query.patch[0], of.query.text[0]
        loops: dict[str, Callable[[], object]] = {
            "divprune": lambda x=x, k=k: max_min_loop(x, k),
            "qcsp": lambda x=x, patch=patch, text=text, k=k: greedy_map_loop(x, patch, text, k),
            "gsp": lambda x=x: graph_loop(x),
            "script": lambda x=x, patch=patch, text=text, k=k: (
                graph_loop(x),
                greedy_map_loop(x, patch, text, 3 * k),
            ),
        }
        for name, expression in strategies().items():
            mask = selected(expression, of, k)
            if name in ("divprune", "qcsp"):
                _check_same(name, mask[0], loops[name]())
            ours = lambda expression=expression, of=of, k=k: selected(expression, of, k)  # noqa: E731
            out[f"{name}, {k} of {n:,} / loop"] = _ratio(repeats, ours, loops[name])
    return out


def video(repeats: int) -> dict[str, float]:
    """Compare Script on a long video with the greedy picks that it needs."""
    of, expression = tokens(VIDEO), strategies()["script"]
    depth = int(ts.select(expression, of, ts.Keep.of(VIDEO_KEEP)).depth)
    ours = lambda: selected(expression, of, VIDEO_KEEP)  # noqa: E731
    picks = lambda: greedy_map_loop(of.features[0], of.query.patch[0], of.query.text[0], depth)  # noqa: E731
    name = f"script, {VIDEO_KEEP:,} of {VIDEO:,} / greedy picks that it needs"
    return {name: statistics.median(timed(ours) / timed(picks) for _ in range(repeats))}


def batches(repeats: int) -> dict[str, float]:
    """Compare a batch of eight with its rows one by one."""
    of, expression = tokens(SIZES[0][0], 8), strategies()["qcsp"]
    places = torch.arange(SIZES[0][0]).unsqueeze(0)
    rows = [of.take(places, torch.ones_like(places, dtype=torch.bool), torch.tensor([row])) for row in range(8)]
    one_by_one = lambda: [selected(expression, row, SIZES[0][1]) for row in rows]  # noqa: E731
    together = lambda: selected(expression, of, SIZES[0][1])  # noqa: E731
    return {"qcsp, a batch of 8 / its rows one by one": _ratio(repeats, together, one_by_one)}


def graph(repeats: int) -> dict[str, float]:
    """Compare gsp, streamed, with one matrix product of the two halves of the tokens, and measure its memory."""
    gsp = ts.default_registry().strategy("gsp")
    of = tokens(STREAMED, width=STREAMED_WIDTH)
    even, odd = (of.features[0, side::2] for side in (0, 1))
    out = {}
    for label, strategy in (("tau", gsp(tau=0.2)), ("quantile", gsp())):

        def score(strategy: ts.Strategy = strategy) -> object:
            return strategy.judge(of, 1)

        out[f"gsp by {label}, {STREAMED:,} tokens / one product"] = _ratio(repeats, score, lambda: even @ odd.T)
        out[f"gsp by {label}, {STREAMED:,} tokens, MiB beside its input"] = peak(score) / 2**20
    return out


def selected(expression: ts.Expression, of: ts.Tokens, k: int) -> Tensor:
    """Return the mask of k tokens."""
    return ts.select(expression, of, ts.Keep.of(k)).mask


def _check_same(name: str, mask: Tensor, picks: object) -> None:
    """Raise unless both ways pick the same tokens, up to a few near-ties: otherwise their times say nothing."""
    found = set(mask.nonzero().flatten().tolist())
    other = len(found.difference(picks)) if isinstance(picks, list) else len(found)
    if other > 0.05 * len(found):
        raise RuntimeError(f"{name} and its loop pick {other} of {len(found)} tokens differently")


def _ratio(repeats: int, ours: Callable[[], object], other: Callable[[], object]) -> float:
    ours(), other()
    return statistics.median(timed(ours) / timed(other) for _ in range(repeats))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for what, value in all_ratios(9).items():
        print(f"{value:8.3f}  {what}")  # noqa: T201
