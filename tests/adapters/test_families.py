"""The conformance kit, on every registered family that answers in words."""

import pytest

import tokensieve as ts
from tokensieve.testing.conformance import AdapterConformance

for _name, _adapter in sorted(ts.default_registry().adapters.items()):
    if _adapter(_adapter.tiny()).decoder is not None:
        globals()[f"Test_{_name}"] = pytest.mark.xdist_group(f"family-{_name}")(
            type(f"Test_{_name}", (AdapterConformance,), {"adapter": _adapter})
        )
