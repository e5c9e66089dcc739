import pytest

COMPILED = ("gemma3", "llava", "qwen2_vl")
"""Families whose layers are compiled in `make test`; each takes ten seconds, and all others do in `make nightly`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        family = getattr(getattr(item, "cls", None), "adapter", None)
        if item.name == "test_compiled_decoding" and family is not None and family.name not in COMPILED:
            item.add_marker(pytest.mark.nightly)
