"""A selection that many tokens make slow, such as `script` on a long video, says so in the ledger."""

import torch

import tokensieve as ts
from tokensieve.ledger import run as ledger
from tokensieve.ledger.records import SampleRecord, StageRecord

from .models import ONE, batch, prompts, shared


def test_a_slow_selection_of_many_tokens_is_noted(monkeypatch):
    model = shared("sdpa")
    with torch.no_grad(), ts.prune(model, "script", keep=4) as run:
        model(**batch(prompts(model, ONE)))
    [stage] = run.to_dict()["stages"]
    assert not [note for note in stage["notes"] if "took" in note]
    monkeypatch.setattr(ledger, "LARGE", 16)
    monkeypatch.setattr(ledger, "SLOW", 0)
    [stage] = run.to_dict()["stages"]
    [said] = [note for note in stage["notes"] if "took" in note]
    assert said.startswith("selection at decoder.0 took 0.")
    assert f"up to 16 tokens a sample, read to place {run.latest.stages[0].samples[0].depth};" in said
    assert "selection at decoder.0 took" in str(run.table().caption)


def test_what_is_slow():
    """2,048 tokens and a second, both."""

    def notes(entered, ms):
        sample = SampleRecord(entered, torch.arange(4), {}, 9)
        return ledger._stage_notes(StageRecord("decoder.0", "a", "4", (sample,), ms, ("said",)))

    assert notes(2048, 999.0) == notes(2047, 60_000.0) == ["said"]
    assert notes(2048, 1000.0)[1:] == [
        "selection at decoder.0 took 1.0 s: up to 2048 tokens a sample, read to place 9; smaller groups (per: frame "
        "for a video), a smaller keep, or a cheaper strategy of the catalogue take less"
    ]
