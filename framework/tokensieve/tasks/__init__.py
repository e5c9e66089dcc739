"""Tasks: what a model is asked. Plugins bring their own by the hook `register_tasks`, and so do those here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokensieve.hookspecs import hookimpl
from tokensieve.tasks.base import Answer as Answer
from tokensieve.tasks.base import Sample as Sample
from tokensieve.tasks.base import Task as Task
from tokensieve.video import Video as Video

if TYPE_CHECKING:
    from tokensieve.registry import Registry


@hookimpl
def register_tasks(registry: Registry) -> None:
    """Add the tasks that come with tokensieve."""
    from tokensieve.tasks.fidelity import Fidelity
    from tokensieve.tasks.jsonl import VqaJsonl
    from tokensieve.tasks.world import World

    for task in (Fidelity, VqaJsonl, World):
        registry.add_task(task)
