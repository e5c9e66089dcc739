import os

# Before anything imports transformers: no test may reach the network, and tokenizers must not fork.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections import Counter, defaultdict

import hypothesis
import pytest
import torch
from effort import covering, examples, in_part

hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=examples(100), derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("default")

if "PYTEST_XDIST_WORKER" in os.environ:
    # The models are tiny, and threads of several workers would only wait for each other.
    torch.set_num_threads(1)

MEASURED, EVERY = 3, 7
"""Coverage is measured on a test's first cases, and on every seventh: it makes Python take half as long again, and more
cases of a test run few other lines. What is reported is at most what all cases cover."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    part = os.environ.get("TOKENSIEVE_PART")
    if part:
        # By module or class, which share what is slow to make.
        groups = [item.nodeid.partition("[")[0].rpartition("::")[0] for item in items]
        others = [item for item, group in zip(items, groups, strict=True) if not in_part(group, part)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item, group in zip(items, groups, strict=True) if in_part(group, part)]
    wide = defaultdict(list)
    seen = Counter()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if item.get_closest_marker("covering"):
            wide[test].append(item)
        seen[test] += 1
        if seen[test] > MEASURED and seen[test] % EVERY:
            item.add_marker(pytest.mark.no_cover)
    for cases in wide.values():
        [size] = cases[0].get_closest_marker("covering").args
        every_day = covering(
            [{name: repr(value) for name, value in case.callspec.params.items()} for case in cases], size
        )
        for number, case in enumerate(cases):
            if number not in every_day:
                case.add_marker(pytest.mark.nightly)
