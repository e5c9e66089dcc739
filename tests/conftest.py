import os

# Before anything imports transformers: no test may reach the network, and tokenizers must not fork.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections import Counter

import hypothesis
import pytest
import torch
from effort import examples

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


def pytest_collection_modifyitems(items):
    seen = Counter()
    for item in items:
        test = item.nodeid.partition("[")[0]
        seen[test] += 1
        if seen[test] > MEASURED and seen[test] % EVERY:
            item.add_marker(pytest.mark.no_cover)
