"""From a study to its jobs, each with the hash of everything that decides its rows."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from tokensieve.algebra.budget import count
from tokensieve.checkpoints.loaded_model import LoadedModel
from tokensieve.checkpoints.loading import load_processor
from tokensieve.errors import StudyError
from tokensieve.models.pictures import Images, Video, VisualInput
from tokensieve.plugins.registry import Registry
from tokensieve.study.planning.downsampling import NO_SMALLER_VIDEO, count_prompt_tokens, downsampled_size
from tokensieve.study.planning.hashing import content_hash
from tokensieve.study.planning.jobs import Job, Plan, SkippedControl
from tokensieve.study.planning.models import OpenedModel, open_model, with_absolute_paths
from tokensieve.study.planning.planner import ModelPlanner, PlannedCell
from tokensieve.study.planning.tasks import PreparedTask, knows_needed_tokens, prepare_task
from tokensieve.study.planning.versions import versions
from tokensieve.study.rows import FORMAT, Cell
from tokensieve.study.sampling import select_samples
from tokensieve.study.spec import plugins
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.study import Study


def plan_study(study: Study, registry: Registry, download: bool = False) -> Plan:
    """Check a whole study, and return its plan.

    Args:
        study: what to run.
        registry: where names are looked up; the study's plugins are registered in it.
        download: whether missing checkpoints are downloaded.

    Raises:
        TokensieveError: a `StudyError` or another kind, if anything of the study cannot run.
    """
    tasks = _prepare_tasks(study, registry)
    jobs: dict[str, Job] = {}
    skipped: list[SkippedControl] = []
    notes: list[str] = []
    not_downloaded = []
    names: dict[tuple[str, str | None, str], str] = {}
    for index, model in enumerate(study.models):
        own_tasks = [task for task in tasks if task.entry.models is None or model.name in task.entry.models]
        if not own_tasks:
            notes.append(f"no task asks the model '{model.name}', so it has no cells")
            continue
        location = study.location("models", index)
        opened = open_model(model, registry, download, location)
        same = names.setdefault((opened.hash, opened.query_encoder_hash, model.dtype), model.name)
        if same != model.name:
            raise StudyError(f"the models '{same}' and '{model.name}' are the same; name one of them{location}")
        if opened.folder is None:
            not_downloaded.append(model.name)
        planned = ModelPlanner(study, registry, opened).plan(any(knows_needed_tokens(one.task) for one in own_tasks))
        skipped += planned.skipped
        notes += planned.notes
        for task in own_tasks:
            downsampling = DownsamplingCheck(opened, task)
            # Controls share as their methods do, which were written into the study.
            for cell in sorted(planned.cells, key=lambda cell: cell.role != "method"):
                said = [*_notes_on_sharing(study, cell, task)]
                notes += said if cell.role == "method" else []
            for cell in planned.cells:
                if cell.role.endswith("oracle") and not knows_needed_tokens(task.task):
                    continue
                if cell.role == "downsampled" and (reason := downsampling.why_not(cell.keep)):
                    reason = f"{reason} (task '{task.entry.name}')"
                    skipped.append(SkippedControl(model.name, cell.role, None, str(cell.keep), reason))
                    continue
                job = make_job(study, opened, task, cell)
                first = jobs.setdefault(job.cell.key, job)
                if first is not job and first.cell.method != cell.method:
                    notes.append(f"'{cell.method}' is the same as '{first.cell.method}' at keep {cell.keep}; run once")
    return Plan(tuple(jobs.values()), tuple(skipped), tuple(dict.fromkeys(notes)), tuple(not_downloaded))


def _prepare_tasks(study: Study, registry: Registry) -> list[PreparedTask]:
    """Return the tasks of a study; two tasks with the same card are an error."""
    tasks = [prepare_task(study, index, registry) for index in range(len(study.tasks))]
    names: dict[str, str] = {}
    for index, task in enumerate(tasks):
        same = names.setdefault(content_hash(task.card), task.entry.name)
        if same != task.entry.name:
            message = f"the tasks '{same}' and '{task.entry.name}' ask the same; name one of them"
            raise StudyError(message + study.location("tasks", index))
    return tasks


def _notes_on_sharing(study: Study, cell: PlannedCell, task: PreparedTask) -> Iterator[str]:
    """Yield over what the samples of a task share the budget of a cell; nothing if they share none.

    Raises:
        StudyError: if a batch has one sample, so that nothing would be shared.
    """
    stages = () if cell.recipe is None else cell.recipe.stages
    means = [stage for stage in stages if stage.keep.mean and stage.over != "sample"]
    asked = select_samples(task.samples, study.limit) if means else []
    for stage in means:
        first = f"recipe '{cell.method}' has keep: {stage.keep} at {stage.at}"
        if stage.over == "task":
            yield (
                f"{first}, which is met over all {len(asked)} samples of task '{task.entry.name}': what each needs is "
                "found out first, by a prefill of its own"
            )
            continue
        talks = any(sample.turns for sample in asked)
        if study.batch == 1 or talks:
            why = f"the talks of task '{task.entry.name}' are answered one at a time" if talks else "batch is 1"
            raise StudyError(
                f"{first}, which the samples of a batch share, and {why}: every sample would have the budget by "
                "itself. Write over: task, or over: sample where the pictures of a prompt share it, or give a larger "
                "batch"
            )
        left = ", and the last sample has it by itself" if len(asked) % study.batch == 1 else ""
        yield (
            f"{first}, which is met over every {study.batch} samples of task '{task.entry.name}' in their order{left}; "
            "with another batch it is another method"
        )


class DownsamplingCheck:
    """Checks whether the processor of a model makes smaller images of the first image of a task."""

    def __init__(self, opened: OpenedModel, task: PreparedTask) -> None:
        self._ready = None
        self._image: VisualInput | None = None
        sample = task.samples[0]
        try:
            self._image = task.task.shown(sample)
        # An image that cannot be read is no error of the plan: its cells fail, with the reason.
        except (Exception, SystemExit, GeneratorExit):
            return
        if opened.folder is None or opened.adapter is None or isinstance(self._image, Video):
            return
        self._ready = LoadedModel(opened.adapter.model, load_processor(opened.folder), opened.adapter)
        if isinstance(self._image, Images):
            # Each is shrunk by itself.
            self._image = self._image.images[0]
        self._visual, _ = count_prompt_tokens(self._ready, self._image, sample.first_question)

    def why_not(self, budget: Budget | None) -> str | None:
        """Return why there is no smaller image for a budget; none if there is one, or this is not known yet."""
        if isinstance(self._image, Video):
            return NO_SMALLER_VIDEO
        if self._ready is None or not isinstance(self._image, Image.Image) or budget is None:
            return None
        wanted = count(budget.keeps[0], self._visual)
        if downsampled_size(self._ready, self._image, wanted) is not None:
            return None
        return f"the processor makes no picture of about {wanted} tokens of one that has {self._visual}"


def make_job(study: Study, opened: OpenedModel, task: PreparedTask, planned: PlannedCell) -> Job:
    """Return the job of a planned cell on a task, with the key of the cell."""
    recipe = planned.recipe
    leaves = [] if recipe is None else [type(leaf) for leaf in recipe.names()]
    kinds = [type(task.task), *([] if opened.adapter is None else [type(opened.adapter)]), *leaves]
    used_versions = versions(kinds)
    decides = {
        "format": FORMAT,
        "what": recipe.hash() if recipe is not None else [planned.role, str(planned.keep)],
        "model": opened.hash,
        "dtype": opened.model.dtype,
        # Part of every key, also where it is not used: two models that differ only in it need controls of their own.
        "partner": opened.query_encoder_hash,
        "card": task.card,
        "batch": study.batch,
        "share": study.share,
        "versions": {name: used_versions[name] for name in ("code", "torch", "transformers")},
    }
    cell = Cell(
        key=content_hash(decides, 32),
        model=opened.model.name,
        model_hash=opened.hash,
        adapter=opened.adapter.name if opened.adapter is not None else "",
        method=planned.method,
        role=planned.role,
        of=planned.of,
        keep=None if planned.keep is None else str(planned.keep),
        seed=planned.seed,
        recipe=None if recipe is None else recipe.to_dict(),
        recipe_hash=None if recipe is None else recipe.hash(),
        task=task.entry.name,
        card=task.card,
        card_hash=content_hash(task.card, 12),
        grid=None,
        versions=used_versions,
        shape=planned.shape,
    )
    keep = planned.keep.keeps[0] if planned.role == "downsampled" and planned.keep is not None else None
    model, named = with_absolute_paths(opened.model), plugins.with_absolute_paths(study.plugins)
    return Job(cell, model, task.entry, keep, study.batch, study.limit, study.share, named)
