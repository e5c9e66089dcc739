"""What lmms-eval finds by the entry point `lmms_eval.models`: names of models, and where their classes are."""

# lmms-eval has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

MODEL, WRAP = "tokensieve", "tokensieve_wrap"
"""What `--model` of lmms-eval takes."""


def manifests() -> list[Any]:
    """Return the manifests of both models; their classes are imported when a run asks for one."""
    from lmms_eval.models.registry_v2 import ModelManifest

    package = "tokensieve.lmms"
    return [
        ModelManifest(MODEL, chat_class_path=f"{package}.model.PrunedModel"),
        ModelManifest(WRAP, chat_class_path=f"{package}.wrap.ChatWrap", simple_class_path=f"{package}.wrap.SimpleWrap"),
    ]
