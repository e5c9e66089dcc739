"""Loading a task of lmms-eval, and refusing what is no task of a study."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokensieve.bridges import require
from tokensieve.errors import PluginError, TaskError, did_you_mean, listing, short_message

MODEL = "tokensieve"
"""The name under which a task is asked for its prompts: that of the bridge's model, so that both ask the same."""
_KINDS = {
    "loglikelihood": "it scores given answers, and a study generates them",
    "multiple_choice": "it scores given answers, and a study generates them",
    "generate_until_multi_round": "it asks in several rounds, and a study asks once",
    "generate_until_agentic": "it asks in several rounds with tools, and a study asks once",
    "generate_visual_cot": "it asks for pictures, and a study for text",
}
_JUDGE = re.compile(r"\b(llm_judge|openai|anthropic|API_KEY|API_URL|API_TYPE|requests\.post)\b")
"""What code says that asks another model, over the network."""


@lru_cache(maxsize=8)
def load_task(name: str, include_path: str | None) -> Any:
    """Return a task of lmms-eval with its documents, loaded once.

    Args:
        name: the name of the task.
        include_path: a folder with tasks beside those of lmms-eval.

    Raises:
        PluginError: if lmms-eval is not installed, or of another version.
        TaskError: if there is no such task, it is none of a study, or it cannot be loaded.
    """
    manager = _manager(name, include_path)
    if name not in manager.all_tasks:
        raise TaskError(f"lmms-eval has no task '{name}'.{did_you_mean(name, manager.all_subtasks)}")
    if name not in manager.all_subtasks:
        parts = manager.task_index[name].get("task")
        said = listing(str(part) for part in parts) if isinstance(parts, list) else "lmms-eval tasks groups"
        raise TaskError(
            f"'{name}' of lmms-eval is no single task but a group or written in Python; single ones: {said}"
        )
    try:
        refuse_kind(name, manager._get_config(name))
        [task] = manager.load_task_or_group(name, task_type="chat").values()
    except TaskError:
        raise
    # A file, a data set or a network that is missing raises errors of many types, around which tenacity puts its own.
    except Exception as error:
        attempt = getattr(error, "last_attempt", None)
        reason = error if attempt is None else attempt.exception()
        raise TaskError(f"lmms-eval cannot load its task '{name}': {short_message(reason)}") from None
    for grading in (task.config.process_results, *task.aggregation().values()):
        # lmms-eval's own means and the like ask nobody.
        if not str(getattr(grading, "__module__", "")).startswith("lmms_eval.api"):
            refuse_judge(name, grading)
    return task


def _manager(name: str, include_path: str | None) -> Any:
    require("lmms")
    try:
        from lmms_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports] - it has its own environment
    except ImportError as error:
        raise PluginError(
            f"the task 'lmms_eval' needs lmms-eval, which cannot be imported ({short_message(error)}): "
            "pip install 'tokensieve[lmms]'"
        ) from None
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise TaskError(f"there is no folder {include_path} to take tasks of lmms-eval from")
        own = TaskManager(include_path=include_path, include_defaults=False, model_name=MODEL)
        if name in own.all_tasks:
            return own
    return _all_tasks(include_path)


@lru_cache(maxsize=2)
def _all_tasks(include_path: str | None) -> Any:
    """Return the tasks of lmms-eval with those of a folder; reading them takes ten seconds."""
    from lmms_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports] - as above

    return TaskManager(include_path=include_path, model_name=MODEL)


def refuse_kind(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a task whose configuration says that it is none of a study.

    Raises:
        TaskError: with the reason.
    """
    kind = config.get("output_type", "generate_until")
    generation = config.get("generation_kwargs") or {}
    why = None
    if kind != "generate_until":
        why = _KINDS.get(kind, f"it is of the kind {kind}, and a study generates answers")
    elif (config.get("repeats") or 1) > 1:
        why = f"it asks every question {config['repeats']} times"
    elif config.get("num_fewshot"):
        why = f"it shows {config['num_fewshot']} examples in a prompt"
    elif generation.get("do_sample") or (generation.get("temperature") or 0) > 0:
        why = "its answers are sampled, and those of a study are greedy"
    elif (generation.get("num_beams") or 1) > 1:
        why = f"its answers are searched with {generation['num_beams']} beams, and those of a study are greedy"
    if why is not None:
        raise TaskError(f"'{name}' of lmms-eval cannot be a task of a study: {why}")


def refuse_judge(name: str, grading: Any) -> None:
    """Refuse a task whose grading asks another model, as far as its code shows.

    Raises:
        TaskError: naming what was found, and where.
    """
    file = inspect.getsourcefile(grading) if callable(grading) else None
    found = _JUDGE.search(Path(file).read_text(encoding="utf-8")) if file is not None else None
    if found is not None:
        raise TaskError(
            f"'{name}' of lmms-eval cannot be a task of a study: its grading may ask another model over the network "
            f"({file} names {found[0]}), and a study grades by itself"
        )
