"""From a study to its jobs, each with the hash of everything that decides its rows."""

from __future__ import annotations

from tokensieve.algebra.budget import count
from tokensieve.checkpoints.loading import load_processor
from tokensieve.checkpoints.ready import LoadedModel
from tokensieve.errors import StudyError
from tokensieve.models.pictures import ImageOrVideo, Video
from tokensieve.plugins.registry import Registry
from tokensieve.study.planning.downsampling import NO_SMALLER_VIDEO, count_prompt_tokens, downsampled_size
from tokensieve.study.planning.hashing import content_hash
from tokensieve.study.planning.jobs import Job, Plan, SkippedControl
from tokensieve.study.planning.models import OpenedModel, open_model, with_absolute_paths
from tokensieve.study.planning.planner import ModelPlanner, PlannedCell
from tokensieve.study.planning.tasks import PreparedTask, knows_needed, prepare_task
from tokensieve.study.planning.versions import versions
from tokensieve.study.rows import FORMAT, Cell
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.study import Study


def plan_study(study: Study, registry: Registry, download: bool = False) -> Plan:
    """Check a whole study, and give its cells.

    Args:
        study: what to run.
        registry: where names are looked up; the study's plugins are registered in it.
        download: whether checkpoints that are not here are fetched.

    Raises:
        StudyError: or another kind of `TokensieveError`, for anything that could not run.
    """
    tasks = [prepare_task(study, number, registry) for number in range(len(study.tasks))]
    cards: dict[str, str] = {}
    for number, one in enumerate(tasks):
        same = cards.setdefault(content_hash(one.card), one.asked.name)
        if same != one.asked.name:
            said = f"the tasks '{same}' and '{one.asked.name}' ask the same; name one of them"
            raise StudyError(said + study.location("tasks", number))
    jobs: dict[str, Job] = {}
    skipped: list[SkippedControl] = []
    notes: list[str] = []
    absent = []
    twins: dict[tuple[str, str | None, str], str] = {}
    for number, model in enumerate(study.models):
        asked = [one for one in tasks if one.asked.models is None or model.name in one.asked.models]
        if not asked:
            notes.append(f"no task asks the model '{model.name}', so it has no cells")
            continue
        place = study.location("models", number)
        opened = open_model(model, registry, download, place)
        same = twins.setdefault((opened.hash, opened.partner, model.dtype), model.name)
        if same != model.name:
            raise StudyError(f"the models '{same}' and '{model.name}' are the same; name one of them{place}")
        if opened.folder is None:
            absent.append(model.name)
        planned = ModelPlanner(study, registry, opened).planned(any(knows_needed(one.task) for one in asked))
        skipped += planned.skipped
        notes += planned.notes
        for one in asked:
            smaller = DownsamplingCheck(opened, one)
            for entry in planned.entries:
                if entry.role.endswith("oracle") and not knows_needed(one.task):
                    continue
                if entry.role == "downsampled" and (reason := smaller.refuses(entry.keep)):
                    known = str(entry.keep)
                    skipped.append(
                        SkippedControl(model.name, entry.role, None, known, f"{reason} (task '{one.asked.name}')")
                    )
                    continue
                job = make_job(study, opened, one, entry)
                first = jobs.setdefault(job.cell.key, job)
                if first is not job and first.cell.method != entry.method:
                    notes.append(
                        f"'{entry.method}' is the same as '{first.cell.method}' at keep {entry.keep}; run once"
                    )
    return Plan(tuple(jobs.values()), tuple(skipped), tuple(dict.fromkeys(notes)), tuple(absent))


class DownsamplingCheck:
    """Tells whether a model's processor makes smaller pictures of a task's first one."""

    def __init__(self, opened: OpenedModel, asked: PreparedTask) -> None:
        self._ready = None
        self._picture: ImageOrVideo | None = None
        sample = asked.samples[0]
        try:
            self._picture = asked.task.shown(sample)
        # A picture that cannot be read is no business of a plan: it costs its cells, with the reason.
        except Exception:
            return
        if opened.folder is None or opened.adapter is None or isinstance(self._picture, Video):
            return
        self._ready = LoadedModel(opened.adapter.model, load_processor(opened.folder), opened.adapter)
        self._whole, _ = count_prompt_tokens(self._ready, self._picture, sample.question)

    def refuses(self, budget: Budget | None) -> str | None:
        """Say why there is none for a budget; nothing if there is, or nobody can know yet."""
        if isinstance(self._picture, Video):
            return NO_SMALLER_VIDEO
        if self._ready is None or self._picture is None or budget is None:
            return None
        wanted = count(budget.keeps[0], self._whole)
        if downsampled_size(self._ready, self._picture, wanted) is not None:
            return None
        return f"the processor makes no picture of about {wanted} tokens of one that has {self._whole}"


def make_job(study: Study, opened: OpenedModel, one: PreparedTask, entry: PlannedCell) -> Job:
    """Return the job of a planned cell on a task, with the key of the cell."""
    recipe = entry.recipe
    leaves = [] if recipe is None else [type(leaf) for leaf in recipe.names()]
    kinds = [type(one.task), *([] if opened.adapter is None else [type(opened.adapter)]), *leaves]
    made_of = versions(kinds)
    decides = {
        "format": FORMAT,
        "what": recipe.hash() if recipe is not None else [entry.role, str(entry.keep)],
        "model": opened.hash,
        "dtype": opened.model.dtype,
        # Also where it is not read: else the controls of one of two models that differ in it would be the other's.
        "partner": opened.partner,
        "card": one.card,
        "batch": study.batch,
        "share": study.share,
        "versions": {name: made_of[name] for name in ("code", "torch", "transformers")},
    }
    cell = Cell(
        key=content_hash(decides, 32),
        model=opened.model.name,
        model_hash=opened.hash,
        adapter=opened.adapter.name if opened.adapter is not None else "",
        method=entry.method,
        role=entry.role,
        of=entry.of,
        keep=None if entry.keep is None else str(entry.keep),
        seed=entry.seed,
        recipe=None if recipe is None else recipe.to_dict(),
        recipe_hash=None if recipe is None else recipe.hash(),
        task=one.asked.name,
        card=one.card,
        card_hash=content_hash(one.card, 12),
        grid=None,
        versions=made_of,
        shape=entry.shape,
    )
    keep = entry.keep.keeps[0] if entry.role == "downsampled" and entry.keep is not None else None
    return Job(
        cell, with_absolute_paths(opened.model), one.asked, keep, study.batch, study.limit, study.share, study.plugins
    )
