"""What vLLM finds by the entry point `vllm.general_plugins`: names of architectures, and where their classes are.

vLLM calls it in each of its processes, also in those that serve models without pruning. So it imports no model.
"""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from tokensieve.vllm.overrides import SERVED


def register() -> None:
    """Let vLLM know the pruned architectures; a class is imported when a model of it is served."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for served in SERVED:
        ModelRegistry.register_model(served.architecture, served.path)
        MODELS_CONFIG_MAP[served.architecture] = AtStart


class AtStart:
    """What vLLM asks about the configuration of an engine, in the process that starts it."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Leave the model's configuration as it is."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse what cannot be served, before any process is started and any weight is read.

        Raises:
            TokensieveError: see `check_engine`.
        """
        from tokensieve.vllm.serving import check_engine

        check_engine(vllm_config)
