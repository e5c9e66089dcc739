import pytest

EVERY_DAY = ("gemma3", "idefics3", "internvl", "llava", "llava_next", "molmo2", "qwen2_vl", "qwen3_5", "qwen3_vl")
"""Families whose kit runs in `make test`, one of each mechanism. `make nightly` has the others."""
COMPILED = ("llava",)
"""Those whose layers are compiled there; each takes ten seconds."""
IN_TURN = (
    "test_a_loss",
    "test_a_static_cache",
    "test_beams",
    "test_flops_are_those_that_torch_counts",
    "test_half_precision",
    "test_keeping_all_changes_no_form_of_a_call",
    "test_merging",
    "test_prompt_lookup",
    "test_sampling",
    "test_several_turns",
    "test_without_a_cache",
)
"""Laws that say more of the engine than of a family: every day each is tried on three families, and each family on a
third of them."""


def every_day(family, law):
    """Whether a law of the kit is tried on a family in `make test`."""
    if family not in EVERY_DAY or (law == "test_compiled_decoding" and family not in COMPILED):
        return False
    return law not in IN_TURN or (IN_TURN.index(law) - EVERY_DAY.index(family)) % 3 == 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        family = getattr(getattr(item, "cls", None), "adapter", None)
        if family is not None and not every_day(family.name, item.name):
            item.add_marker(pytest.mark.nightly)
