"""vLLM with models whose visual tokens are pruned: an out-of-tree plugin, found by `vllm.general_plugins`.

Only `plugin` and `overrides` can be imported without vLLM.
"""
