"""The counter of operators and waits sees what it should, and nothing else."""

import threading

import numpy as np
import pytest
import torch

from tokensieve.measure import count_operators

X = torch.arange(6.0).reshape(2, 3)
MASK = X > 2


def counted(compute, *, inference=False):
    with torch.inference_mode(inference), count_operators() as counts:
        compute()
    return counts


def test_operators_are_counted_by_name_views_included():
    counts = counted(lambda: ((X @ X.mT).relu() + 1).unsqueeze(0))
    assert counts.by_name == {"transpose": 1, "mm": 1, "relu": 1, "add": 1, "unsqueeze": 1}
    assert counts.operators == 5
    assert counts.synchronisations == 0


def test_inference_mode_counts_the_parts_of_composite_operators():
    def compute():
        return torch.nn.functional.linear(X, X).var(dim=0)

    assert counted(compute).by_name == counted(compute, inference=True).by_name


@pytest.mark.parametrize(
    "compute",
    [
        lambda: X.sum().item(),
        lambda: bool(MASK.any()),
        lambda: int(X.amax()),
        lambda: X.tolist(),
        lambda: X.numpy(),
        lambda: np.asarray(X),
        lambda: X[MASK],
        lambda: X.clone()[MASK],
        lambda: X.clone().index_put_((MASK,), torch.zeros(())),
        lambda: X.clone().__setitem__(MASK, 1.0),
        lambda: X.masked_select(MASK),
        lambda: MASK.nonzero(),
        lambda: torch.where(MASK),
        lambda: X.unique(),
        lambda: X.unique(dim=0),
        lambda: X.unique_consecutive(),
        lambda: torch.equal(X, X + 1),
        lambda: X.long().flatten().bincount(),
        lambda: torch.arange(3).repeat_interleave(torch.tensor([1, 0, 2])),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_the_host_waits_for_is_one_wait(compute, inference):
    assert counted(compute, inference=inference).synchronisations == 1


@pytest.mark.parametrize(
    "compute",
    [
        lambda: X[:, 1:].clone(),
        lambda: X[torch.tensor([1, 0])],
        lambda: X.where(MASK, 0.0).masked_fill(MASK, 1.0),
        lambda: X.sort(dim=1, stable=True).indices.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
        lambda: torch.arange(3).repeat_interleave(torch.tensor([1, 0, 2]), output_size=3),
        lambda: X.double().to("cpu").float(),
        lambda: X.clone().copy_(X),
        lambda: X.topk(2).indices,
        lambda: X.shape[0] + X.numel(),
    ],
)
def test_what_runs_on_the_device_alone_is_no_wait(compute):
    assert counted(compute).synchronisations == 0


def test_what_ran_before_after_and_in_other_threads_is_not_counted():
    X.sum()
    with count_operators() as counts:
        other = threading.Thread(target=X.sum)
        other.start()
        other.join()
    X.sum().item()
    assert counts.operators == counts.synchronisations == 0


def test_results_are_those_without_the_counter():
    counts = []
    with count_operators() as inner, count_operators() as outer:
        counts = X[MASK].tolist()
    assert counts == [3.0, 4.0, 5.0]
    assert inner.synchronisations == outer.synchronisations == 2


def test_a_mask_as_an_index_is_told_from_places():
    counts = counted(lambda: X[MASK, None])
    assert counts.waits == {"index": 1}
