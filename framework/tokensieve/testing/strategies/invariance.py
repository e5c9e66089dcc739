"""Laws on what must not change a choice: memory order, padding, the batch, precision, and asking again."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.strategy import Scorer, Strategy
from tokensieve.testing import laws
from tokensieve.testing.checks import cured_by, note_input, require
from tokensieve.testing.samples import (
    alike,
    changed,
    pool,
    sample,
    scrambled,
)
from tokensieve.testing.strategies.trials import (
    chosen,
    partial_budgets,
    scores_of,
)


@cured_by(
    "take no token by its column, such as `x[:, -1]`, and look at nothing beyond `tokens.valid`; a token's place "
    "in its prompt is `tokens.ids`"
)
def order_free(strategy: Strategy) -> None:
    """The order of tokens and of empty places in memory changes nothing."""
    for seed, (what, tokens) in enumerate(pool()):
        with note_input(what):
            g = torch.Generator().manual_seed(seed)
            turned = torch.stack([torch.randperm(tokens.universe.n, generator=g) for _ in tokens.valid])
            for k in partial_budgets(tokens):
                laws.order_free(strategy, tokens, k, turned, scores_of(strategy, tokens))


@cured_by(
    "leave out `~tokens.valid` before a mean, minimum, maximum, sort or softmax: `x.masked_fill(~tokens.valid, "
    "0)`; a product with the mask is not enough, because 0 times NaN is NaN",
    raised=True,
)
def padding_free(strategy: Strategy) -> None:
    """Places without a token change nothing, whatever values are there, NaN included."""
    for seed, (what, tokens) in enumerate(pool()):
        with note_input(what):
            extra, scores = 1 + seed % 3, scores_of(strategy, tokens)
            moved, went = scrambled(tokens, extra, seed)
            for k in partial_budgets(tokens):
                laws.padding_free(strategy, tokens, k, extra, (7, -1000)[seed % 2], scores)
                found = chosen(strategy, moved, k).gather(1, went)
                laws.same_choice(tokens, chosen(strategy, tokens, k), found, "NaN at empty places", scores)


@cured_by(
    "reduce over the tokens of a row (`dim=1`), never over rows, leave out `~tokens.valid`, and divide by "
    "`tokens.universe.counts`, not by the width of the batch"
)
def batch_free(strategy: Strategy) -> None:
    """A row alone has the same tokens chosen as in the batch."""
    for what, tokens in pool():
        with note_input(what):
            for k in partial_budgets(tokens):
                laws.batch_free(strategy, tokens, k, scores_of(strategy, tokens))


@cured_by(
    "keep nothing between calls, and draw random numbers from `tokensieve.algebra.universe.draw(seed, "
    "tokens.keys, tokens.ids)`"
)
def deterministic(strategy: Strategy) -> None:
    """The same call twice chooses the same tokens, and so does an equal strategy."""
    equal = type(strategy)(**strategy.model_dump())
    for tokens in (sample([40, 25], seed=1), sample([40], "integers", seed=2)):
        for k in (5, 20):
            laws.deterministic(strategy, tokens, k)
            again = chosen(equal, tokens, k)
            require(torch.equal(again, chosen(strategy, tokens, k)), "an equal strategy gives another answer")


@cured_by("compute in float32: `tokens.features.float()` before any norm, product, difference or softmax", raised=True)
def dtype_free(strategy: Strategy) -> None:
    """Evidence in half precision gives the same order as the same numbers in float32; scores may become equal."""
    for what, tokens in pool():
        for narrowed in (Tensor.bfloat16, Tensor.half):
            with note_input(f"{what} as {narrowed.__name__}"):
                narrow = changed(tokens, narrowed)
                wide = changed(narrow, Tensor.float)
                if isinstance(strategy, Scorer):
                    one, other = (strategy.score(t.only(strategy.needs)) for t in (narrow, wide))
                    rises = one.unsqueeze(1) < one.unsqueeze(2)
                    falls = other.unsqueeze(1) > other.unsqueeze(2)
                    pair = tokens.valid.unsqueeze(1) & tokens.valid.unsqueeze(2)
                    require(not (pair & rises & falls).any(), "tokens change places in half precision")
                else:
                    for k in partial_budgets(tokens):
                        before, after = chosen(strategy, wide, k), chosen(strategy, narrow, k)
                        laws.same_choice(tokens, before, after, "half precision")


@cured_by(
    "let the chain rank: `Scorer`, or `Chain.from_scores`; where you sort yourself, `sort(stable=True)` keeps "
    "equal tokens in the order of ids, which `topk` does not"
)
def ties_by_id(strategy: Strategy) -> None:
    """Equal scores rank by token id; a strategy without scores ranks indistinguishable tokens by id."""
    if not isinstance(strategy, Scorer):
        for n in (2, 5, 9):
            for k in range(n + 1):
                found = chosen(strategy, alike(n), k)[0].nonzero().flatten().tolist()
                require(found == list(range(k)), f"of {n} tokens alike, {k} are those at the places {found}")
        return
    for what, tokens in pool():
        with note_input(what):
            scores = strategy.score(tokens.only(strategy.needs)).tolist()
            for k in partial_budgets(tokens):
                mask = chosen(strategy, tokens, k)
                for own, n, row in zip(scores, tokens.universe.counts.tolist(), mask, strict=True):
                    ranked = sorted((-score, place) for place, score in enumerate(own[:n]))
                    wanted = sorted(place for _, place in ranked[:k])
                    found = row.nonzero().flatten().tolist()
                    require(found == wanted, f"{k} tokens are those at the places {found}; by score and id {wanted}")
