"""What the framework itself brings to a registry, by the same door as any plugin: its tasks."""

from tokensieve.plugins.hookspecs import Registrar, hookimpl


@hookimpl
def register_tasks(registry: Registrar) -> None:
    """Add the tasks that come with tokensieve."""
    from tokensieve.tasks.fidelity import Fidelity
    from tokensieve.tasks.jsonl import VqaJsonl
    from tokensieve.tasks.lmms.task import LmmsEvalTask
    from tokensieve.tasks.photographs import Photographs
    from tokensieve.tasks.world import World, WorldPictures, WorldText, WorldTurns, WorldVideo

    own = (Fidelity, LmmsEvalTask, Photographs, VqaJsonl, World, WorldPictures, WorldText, WorldTurns, WorldVideo)
    for task in own:
        registry.add_task(task)
