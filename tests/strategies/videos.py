"""Videos, and what every strategy that merges tokens of videos has to meet."""

import torch
from samples import row, sample

from tokensieve import Keep, select


def two_scenes(frames, height=2, width=3, d=8, seed=0, still=None, kind="normal", drift=0.05):
    """A video of two scenes; within one, the first places hardly change, or all of them if nothing is said."""
    places = height * width
    tokens = sample([frames * places], kind, seed, d=d)
    place = torch.arange(frames * places)
    tokens.grid[0, :, 2] = place // places
    tokens.grid[0, :, 3] = place // width % height
    tokens.grid[0, :, 4] = place % width
    x = tokens.features[0].view(frames, places, d)
    for start, stop in ((0, frames // 2), (frames // 2, frames)):
        x[start:stop, :still] = x[start, :still] + drift * x[start:stop, :still]
    return tokens


def meets_any_budget(strategy, counts, kind, seed, times):
    """Budgets are exact, every slot is a mean, and a group keeps what it keeps alone.

    Args:
        strategy: one that merges.
        counts: how many tokens groups have.
        kind: of the sample.
        seed: of the sample, and of the frames that tokens are in.
        times: how many frames there are.
    """
    tokens = sample(counts, kind, seed)
    g = torch.Generator().manual_seed(seed)
    tokens.grid[..., 2] = torch.randint(0, times, tokens.valid.shape, generator=g)
    for k in (1, 4, 11, 30):
        mask = select(strategy, tokens, Keep.of(k)).mask
        assert mask.sum(dim=1).tolist() == [min(k, n) for n in counts]
        reduction = strategy.assign(tokens, tokens.universe.counts.clamp(max=k))
        total = reduction.mass(reduction.weight)[reduction.valid]
        torch.testing.assert_close(total, torch.ones_like(total))
        for number in range(len(counts)):
            alone = select(strategy, row(tokens, number), Keep.of(k)).mask[0]
            assert torch.equal(alone, mask[number, : counts[number]])
