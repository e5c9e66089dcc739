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
    """A family may need a later one than all others."""
    monkeypatch.setattr(SmolVLMAdapter, "oldest_transformers", (5, 99))
    said = r"transformers \d+\.\d+.* is too old to prune a SmolVLMForConditionalGeneration; it takes 5\.99"
    with pytest.raises(RefusedError, match=said), ts.prune(SmolVLMAdapter.tiny(), "gsp"):
        pytest.fail("it was let in")
    with ts.prune(LlavaAdapter.tiny(), "gsp"):
        pass


def test_a_transformers_older_than_all_need(monkeypatch):
    model = LlavaAdapter.tiny()
    # Once the model is made: the library may put another module object in its place as it loads.
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "5.22.3")
    said = r"transformers 5\.22\.3 is too old to prune a LlavaForConditionalGeneration; it takes 5\.23"
    with pytest.raises(RefusedError, match=said), ts.prune(model, "gsp"):
        pytest.fail("it was let in")
