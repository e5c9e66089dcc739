"""The functions of world_local.yaml."""

from typing import Any


def visual(doc: dict[str, Any]) -> list[Any]:
    """Return the picture of a document."""
    return [doc["image"].convert("RGB")]


def text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any]) -> str:
    """Return the question of a document."""
    return f"{lmms_eval_specific_kwargs['pre_prompt']}{doc['question']}{lmms_eval_specific_kwargs['post_prompt']}"


def results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return whether the answer is right."""
    return {"correct": float(results[0].strip().lower() == doc["answer"].strip().lower())}
