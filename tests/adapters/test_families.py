"""The conformance kit, on every registered family that answers in words.

What the laws saw is recorded in docs/families/, from which the documentation makes its table; here it is
held against that record. `make families` records anew.
"""

import json
import os
import sys
from pathlib import Path

import pytest

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.testing import AdapterConformance
from tokensieve_adapters.idefics3 import SmolVLMAdapter
from tokensieve_adapters.llava import LlavaAdapter

FAMILIES = Path(__file__).parents[2] / "docs" / "families"


def recorded(self):
    """What this run saw is what the documentation says."""
    file = FAMILIES / f"{self.adapter.name}.json"
    # Half a run makes no record.
    if os.environ.get("TOKENSIEVE_RECORD") and {"decoder.0", "from_pretrained"} <= set(self.found):
        file.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")
    said = json.loads(file.read_text(encoding="utf-8"))
    assert {capability: said.get(capability) for capability in self.found} == self.found


def models():
    for name, adapter in sorted(ts.default_registry().adapters.items()):
        if adapter(adapter.tiny()).decoder is not None:
            yield name, adapter


for _name, _adapter in models():
    # The record is a law of the subclass, so that it comes after all others.
    _family = type(f"Test_{_name}", (AdapterConformance,), {"adapter": _adapter, "test_the_record": recorded})
    globals()[_family.__name__] = _family


def test_every_family_has_a_whole_record():
    rows = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FAMILIES.glob("*.json")}
    assert set(rows) == {name for name, _ in models()}
    every = set().union(*rows.values()) - {"video"}
    for name, row in rows.items():
        assert set(row) - {"video"} == every, name
        assert all(what == "yes" or what.startswith(("refused: ", "not ")) for what in row.values()), name


def test_a_transformers_too_old_for_a_family(monkeypatch):
    """SmolVLM took encoded pictures of whole tiles only, before."""
    model, other = SmolVLMAdapter.tiny(), LlavaAdapter.tiny()
    # Once models are made: the library may put another module object in its place as it loads.
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "5.20.2")
    said = r"transformers 5\.20\.2 is too old to prune a SmolVLMForConditionalGeneration; it takes 5\.21"
    with pytest.raises(RefusedError, match=said), ts.prune(model, "gsp"):
        pytest.fail("it was let in")
    with ts.prune(other, "gsp"):
        pass
