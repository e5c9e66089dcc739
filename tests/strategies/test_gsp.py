import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, sample, vectors
from torch.utils._python_dispatch import TorchDispatchMode

from tokensieve import Keep, Tokens, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import GSP
from tokensieve_strategies._maths import bipartite, streamed


class LargestOutput(TorchDispatchMode):
    """Remembers the most bytes that any one operation gave."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample_of(x):
    return Tokens.of(x.unsqueeze(0))


@given(
    n=st.integers(0, 17),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    tau=st.sampled_from([None, -1.0, 0.0, 0.3, 0.8, 1.0]),
    q=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    gamma=st.sampled_from([0.0, 1.0, 4.0]),
    few=st.sampled_from([1, 2, 4]),
)
@settings(deadline=None, max_examples=examples(150))
def test_it_is_the_formula(n, kind, seed, tau, q, gamma, few):
    x = vectors(kind, (n, 5), generator(seed))
    strategy = GSP(tau=tau, quantile=q, gamma=gamma, low_degree=few)
    _, expected = loops.gsp(x.tolist(), tau, q, gamma, few)
    assert strategy.redundancy(x).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    tokens = sample([n], kind, seed, d=5)
    _, expected = loops.gsp(tokens.features[0].tolist(), tau, q, gamma, few)
    order = strategy.judge(tokens, n).queue()[0].tolist()
    assert order == loops.falling([-value for value in expected])


@pytest.mark.parametrize("setting", [{"tau": 0.999}, {"quantile": 0.99}, {"tau": 0.9, "gamma": 32.0}], ids=repr)
def test_tokens_without_edges_go_by_their_mean_similarity(setting):
    """They all had 0, and the first places won: of unlike features, all of them at a tau of 0.999."""
    x = torch.randn(40, 6, generator=generator(3))
    x[30:] = x[30] + 0.01 * x[30:]
    degree, _ = loops.gsp(x.tolist(), setting.get("tau"), setting.get("quantile", 0.5))
    alone = [token for token in range(40) if not degree[token]]
    assert len(alone) >= 25
    means = [
        sum(loops.cosine(one, other) for other in x[1 - token % 2 :: 2].tolist()) / 20
        for token, one in enumerate(x.tolist())
    ]
    order = GSP(**setting).judge(sample_of(x), 40).queue()[0].tolist()
    # First those without edges, and of these first what resembles the other side the least.
    assert order[: len(alone)] == sorted(alone, key=lambda token: means[token])
    assert order[: len(alone)] != alone


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 300, 301])
@pytest.mark.parametrize("tau", [None, 0.1])
def test_tiles_change_nothing(monkeypatch, n, tau):
    x = torch.randn(n, 7, generator=generator(n))
    strategy = GSP(tau=tau)
    at_once = strategy.redundancy(x)
    monkeypatch.setattr(streamed, "SIDE", 37)
    assert len(list(streamed.cosine_tiles(x[0::2], x[1::2]))) == -(-((n + 1) // 2) // 37) * -(-(n // 2) // 37)
    torch.testing.assert_close(strategy.redundancy(x), at_once, rtol=1e-12, atol=0)


def dense(x, tau, gamma=1.0):
    direction = torch.nn.functional.normalize(x.double(), dim=1)
    similarity = direction @ direction.T
    place = torch.arange(len(x))
    edge = ((place.unsqueeze(1) + place) % 2 == 1) & (similarity >= tau - 1e-6)
    degree = edge.sum(dim=1)
    mean = (similarity * edge).sum(dim=1) / degree.clamp(min=1)
    return degree * (gamma * (mean - tau)).exp(), similarity[0::2, 1::2]


def test_a_long_video_is_streamed():
    x = torch.randn(6272, 64, generator=generator())
    expected, similarity = dense(x, 0.1)
    with LargestOutput() as largest:
        found = GSP(tau=0.1).redundancy(x)
        automatic = streamed.cosine_quantile(x[0::2], x[1::2], 0.5)
        GSP().redundancy(x)
    # In float32 an edge whose cosine is the threshold up to rounding may be missed: a token here has 300 to 1,300.
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)
    assert ((found - expected).abs() > 1e-6 * expected).double().mean() < 0.01
    # n x n in float32 is 157 MB, n/2 x n/2 is 39 MB.
    assert largest.bytes <= 8 * 2**20
    exact = similarity.flatten().sort().values[(similarity.numel() - 1) // 2]
    assert exact - 2.1e-6 <= automatic <= exact


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("kind", ["normal", "integers", "equal"])
def test_a_counted_quantile_is_at_most_a_bin_below_the_sorted_one(monkeypatch, q, kind):
    x = vectors(kind, (151, 6), generator())
    left, right = x[0::2], x[1::2]
    values = torch.cat([tile.flatten() for *_, tile in streamed.cosine_tiles(left, right)]).sort().values
    lower = values[int(q * (len(values) - 1))]
    monkeypatch.setattr(streamed, "EXACT", 0)
    counted = streamed.cosine_quantile(left, right, q)
    assert lower - 3e-6 <= counted <= lower + 1e-12


def test_the_way_to_the_quantile_is_the_rows_own_affair(monkeypatch):
    # A row of 20 tokens sorts its 100 similarities, also beside one of 60 that counts its 900.
    monkeypatch.setattr(streamed, "EXACT", 500)
    tokens = sample([20, 60])
    alone = sample([20, 60]).take(torch.arange(20).unsqueeze(0), torch.ones(1, 20, dtype=torch.bool))
    assert torch.equal(GSP().score(tokens)[0, :20], GSP().score(alone)[0])


def test_long_vectors_make_small_tiles():
    x = torch.randn(300, 16384, generator=generator())
    assert {tile.shape for *_, tile in streamed.cosine_tiles(x[0::2], x[1::2])} <= {
        (64, 64),
        (22, 64),
        (64, 22),
        (22, 22),
    }


def test_another_device_s_rounding_changes_nothing(monkeypatch):
    tokens = sample([60], d=37)
    tokens.features[:] = tokens.features[:, torch.arange(60) % 20].clone()
    plain = GSP().score(tokens)

    def rounded(left, right):
        for rows, columns, tile in streamed.cosine_tiles(left, right):
            yield rows, columns, tile * (1 + 1e-15 * torch.randn(tile.shape, generator=generator(1)))

    monkeypatch.setattr(bipartite, "cosine_tiles", rounded)
    assert torch.equal(GSP().score(tokens), plain)


def test_scale_does_not_matter():
    x = torch.randn(40, 8, generator=generator())
    order = GSP().redundancy(x)
    scale = 2.0 ** torch.randint(-60, 60, (40, 1), generator=generator())
    assert torch.equal(GSP().redundancy(x * scale), order)


def test_a_bad_vector_is_refused():
    tokens = sample([4, 3])
    tokens.features[1, 2, 0] = torch.nan
    with pytest.raises(ScoreError, match="gsp: the features hold NaN"):
        select(GSP(), tokens, Keep.of(2))
    # Only if it is a token's.
    tokens = sample([4, 3])
    tokens.features[1, 3, 0] = torch.nan
    assert select(GSP(), tokens, Keep.of(2)).mask.sum() == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": 1.1},
        {"tau": float("nan")},
        {"quantile": -0.1},
        {"quantile": 1.5},
        {"gamma": -1.0},
        {"gamma": 33.0},
        {"low_degree": 0},
        {"k": 4},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(SettingError):
        GSP(**wrong)
