import os

# Before anything imports transformers: no test may reach the network, and tokenizers must not fork.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import torch
from effort import examples

hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=examples(100), derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("default")

if "PYTEST_XDIST_WORKER" in os.environ:
    # The models are tiny, and threads of several workers would only wait for each other.
    torch.set_num_threads(1)
