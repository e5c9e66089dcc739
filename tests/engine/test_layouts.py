"""What is remembered of layouts: right, untouched by whoever gets it, and of use under autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokensieve as ts
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.token_layout import Groups, TokenLayout
from tokensieve.evidence import NEWLINE
from tokensieve_strategies import Norm

from .models import RAGGED, SEVERAL, batch, llava, prompts, shared


def read(kinds, real):
    return PromptLayout.read([kinds == number for number in range(int(kinds.max()) + 1)], real)


PLACES = st.lists(
    st.lists(st.sampled_from([-2, -1, 0, 1]), min_size=6, max_size=6), min_size=1, max_size=4
)  # -2 is padding, -1 text


@given(PLACES)
def test_a_layout_is_what_a_loop_finds(rows):
    kinds = torch.tensor([[max(place, -1) for place in row] for row in rows])
    real = torch.tensor([[place != -2 for place in row] for row in rows])
    layout = read(
        torch.cat([kinds, torch.ones(len(rows), 1, dtype=torch.int64)], dim=1),
        torch.cat([real, real[:, :1] | True], dim=1),
    )
    rows = [[*row, 1] for row in rows]
    assert layout is read(torch.from_numpy(layout.kinds.astype(np.int64)), layout.real.on(torch.device("cpu")))
    counts = [sum(place >= 0 for place in row) for row in rows]
    assert list(layout.counts) == counts
    assert list(layout.lengths) == [sum(place != -2 for place in row) for row in rows]
    assert layout.padded == any(-2 in row for row in rows)
    cpu = torch.device("cpu")
    for row, places in enumerate(rows):
        turn = 0
        for at, place in enumerate(places):
            assert layout.ids.array[row, at] == (turn if place >= 0 else -1)
            if place >= 0:
                assert layout.places.array[row, turn] == at
            turn += place >= 0
    flat = torch.arange(float(sum(counts))).unsqueeze(1)
    spread = layout.by_id(flat)
    number = 0
    for row, count in enumerate(counts):
        assert spread[row, :count, 0].tolist() == list(range(number, number + count))
        assert not spread[row, count:].any()
        number += count
    assert torch.equal(layout.flat(spread), flat)
    keep = torch.ones(len(rows), layout.most, dtype=torch.bool)
    seen = layout.put(keep, layout.text.on(cpu))
    assert seen.all()
    assert layout.put(~keep, layout.text.on(cpu)).tolist() == [[place < 0 for place in row] for row in rows]


TOKENS = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.booleans()), max_size=7),
    min_size=1,
    max_size=3,
)


@given(TOKENS, st.sampled_from(["image", "sample", "tile", "frame"]), st.booleans(), st.data())
def test_groups_are_what_a_loop_finds(samples, per, judges, data):
    width = max(map(len, samples))
    grid = np.zeros((len(samples), width, 5), dtype=np.int64)
    for row, tokens in enumerate(samples):
        for at, (image, tile, frame, newline) in enumerate(tokens):
            grid[row, at] = image, tile, frame, 0, NEWLINE if newline else at
    layout = TokenLayout(grid, tuple(map(len, samples)))
    alive = None
    if data.draw(st.booleans()):
        alive = layout.every.array & np.array(
            data.draw(st.lists(st.booleans(), min_size=grid[..., 0].size, max_size=grid[..., 0].size)), dtype=bool
        ).reshape(grid.shape[:2])
    wanted = {}
    for row, tokens in enumerate(samples):
        for at, (image, tile, frame, newline) in enumerate(tokens):
            if (alive is None or alive[row, at]) and (judges or not newline):
                part = {"image": (image,), "sample": (), "tile": (image, tile), "frame": (image, frame)}[per]
                wanted.setdefault((row, *part), []).append(at)
    found = layout.groups(per, judges, alive)
    cpu = torch.device("cpu")
    ids, valid = found.ids.on(cpu), found.valid.array
    assert found.sizes == tuple(len(wanted[key]) for key in sorted(wanted))
    assert found.samples.array.tolist() == [key[0] for key in sorted(wanted)]
    for group, key in enumerate(sorted(wanted)):
        assert ids[group][valid[group]].tolist() == wanted[key]
    assert list(found.judged) == [
        sum(len(own) for key, own in wanted.items() if key[0] == row) for row in range(len(samples))
    ]
    chosen = torch.from_numpy(valid.copy())
    spread = found.spread(chosen, torch.zeros(grid.shape[:2], dtype=torch.bool))
    judged = {(key[0], at) for key, own in wanted.items() for at in own}
    assert spread.tolist() == [[(row, at) in judged for at in range(width)] for row in range(len(samples))]


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_groups_of_what_a_device_knows(rows):
    alive = torch.tensor(rows)
    found = Groups.of_samples(alive, tuple(map(sum, rows)))
    right = TokenLayout(np.zeros((len(rows), 5, 5), dtype=np.int64), (5,) * len(rows)).groups(
        "sample", True, alive.numpy()
    )
    cpu = torch.device("cpu")
    assert found.sizes == right.sizes
    assert found.judged == right.judged
    for name in ("ids", "valid", "samples", "flat"):
        assert torch.equal(getattr(found, name).on(cpu), getattr(right, name).on(cpu)), name


class Vandal(ts.Ranker):
    """Writes into everything that it is given, once the engine has its answer's shape."""

    name = "vandal"

    def rank(self, tokens, depth):
        chain = ts.Chain.from_scores(tokens.universe, -tokens.ids.double(), self)
        for tensor in (tokens.ids, tokens.keys, tokens.samples):
            tensor.fill_(3)
        return chain


@pytest.mark.parametrize("per", ["image", "sample"])
@torch.no_grad()
def test_what_is_remembered_cannot_be_written_into(per):
    model = shared("sdpa")
    inputs = batch(prompts(model, SEVERAL))
    recipe = ts.Recipe(stages=(ts.Stage(at="decoder.0", select=Norm(), keep=3, per=per),))
    with ts.prune(model, recipe) as run:
        model(**inputs)
        right = run.kept("decoder.0")[0].tolist()
    broken = ts.Recipe(stages=(ts.Stage(at="decoder.0", select=Vandal(), keep=3, per=per),))
    with ts.prune(model, broken), pytest.raises(ts.TokensieveError):
        model(**inputs)
    with ts.prune(model, recipe) as run:
        model(**inputs)
        assert run.kept("decoder.0")[0].tolist() == right


def test_a_layout_first_seen_in_inference_mode_can_be_trained_with():
    model = llava(seed=11)
    inputs = batch(prompts(model, [*RAGGED, [9]]))
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    recipe = ts.Recipe(
        stages=(ts.Stage(at="decoder.0", select=Norm(), keep=3), ts.Stage(at="decoder.2", select=Norm(), keep=2))
    )
    with ts.prune(model, recipe):
        with torch.inference_mode():
            model(**{name: value for name, value in inputs.items() if name != "labels"})
        model.train()
        model(**inputs).loss.backward()
    assert all(p.grad is not None for p in model.model.language_model.layers.parameters())


@torch.no_grad()
def test_the_ledger_is_right_when_it_is_read_late():
    model = shared("sdpa")
    recipe = ts.Recipe(
        stages=(
            ts.Stage(at="decoder.0", select=Norm() & Norm(p=1.0), keep=3),
            ts.Stage(at="decoder.2", select=Norm(), keep=2),
        )
    )
    batches = [batch(prompts(model, layout, seed)) for seed, layout in enumerate([RAGGED, SEVERAL, [[3]]])]

    def told(prefill):
        return [
            [(one.entered, one.kept.tolist(), one.shares, one.depth, one.judged) for one in stage.samples]
            for stage in prefill.stages
        ]

    early = []
    with ts.prune(model, recipe) as run:
        for inputs in batches:
            model(**inputs)
            early.append((told(run.latest), run.places.request.tolist()))
    with ts.prune(model, recipe) as run:
        for _ in range(8):
            for inputs in batches:
                model(**inputs)
    assert [(told(one), one.places.request.tolist()) for one in run.prefills] == early * 8
