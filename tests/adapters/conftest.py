import pytest

EVERY_DAY = ("gemma3", "idefics3", "internvl", "llava", "llava_next", "molmo2", "qwen2_vl", "qwen3_5", "qwen3_vl")
"""Families whose kit runs in `make test`, one of each mechanism. `make nightly` has the others."""
COMPILED = ("gemma3", "llava", "qwen2_vl")
"""Those whose layers are compiled there; each takes ten seconds."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        family = getattr(getattr(item, "cls", None), "adapter", None)
        if family is None:
            continue
        if family.name not in EVERY_DAY or (item.name == "test_compiled_decoding" and family.name not in COMPILED):
            item.add_marker(pytest.mark.nightly)
