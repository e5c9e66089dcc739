"""Cells: the product of a study, checked before any work, each with the hash of all that decides its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

from tokensieve.algebra.budget import Keep, count
from tokensieve.checkpoints.loading import load_adapter, load_processor
from tokensieve.checkpoints.ready import LoadedModel
from tokensieve.cost.geometry import Geometry
from tokensieve.errors import BudgetError, StudyError, TokensieveError, UnsupportedModelError
from tokensieve.models.adapter import Adapter
from tokensieve.models.pictures import ImageOrVideo, Video
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import review
from tokensieve.study.controls import PLAIN, Needed, alike, draws, inverted, reseeded, shape
from tokensieve.study.resolution import NOT_SMALLER, size_for, visual_tokens
from tokensieve.study.rows import FORMAT, Cell
from tokensieve.study.sampling import spread
from tokensieve.study.sources import checkpoint_hash, folder_of, partner_of, versions
from tokensieve.study.spec import Budget, Method, Model, Study, TaskEntry
from tokensieve.tasks.base import Sample, Task


@dataclass(frozen=True)
class Job:
    """A cell with what it takes to run it anywhere: plain values only.

    Attributes:
        cell: as it is known before it ran.
        model: what to load.
        task: what to ask.
        keep: the budget of a control that has no recipe.
        batch: samples in a forward pass.
        limit: samples of the task; all if none.
        share: whether cells share pictures that were encoded.
        plugins: modules to register first.
    """

    cell: Cell
    model: Model
    task: TaskEntry
    keep: Keep | None
    batch: int
    limit: int | None
    share: bool
    plugins: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """A control that does not apply.

    Attributes:
        model: in the study.
        role: of the control.
        of: the method it would belong to, or none.
        keep: the budget, or none where it holds for all.
        reason: why it does not apply.
    """

    model: str
    role: str
    of: str | None
    keep: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a study comes to.

    Attributes:
        jobs: model by model, task by task.
        skipped: controls that do not apply, with the reason.
        notes: what is worth knowing: warnings of the review, methods that are the same.
        absent: models of the hub that are not here; their cells have no true keys yet.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Opened:
    """A model of a study, as far as it is known without its weights.

    Attributes:
        model: what the study says.
        folder: of its checkpoint, or none where it is not here.
        adapter: of its config, or none where it is not known.
        hash: of config and weights.
        partner: the hash of its query encoder, or none.
    """

    model: Model
    folder: Path | None
    adapter: Adapter | None
    hash: str
    partner: str | None


@dataclass(frozen=True, eq=False)
class _Task:
    """A task of a study: as it was asked for, made, with its samples and the card of those that are asked."""

    asked: TaskEntry
    task: Task
    samples: Sequence[Sample]
    card: dict[str, Any]


@dataclass(frozen=True)
class _Entry:
    """A cell of one model, before it is known of which task."""

    role: str
    method: str
    of: str | None = None
    keep: Budget | None = None
    seed: int | None = None
    recipe: Recipe | None = None
    shape: str | None = None


@dataclass(eq=False)
class _Planned:
    """What is planned for one model."""

    entries: list[_Entry] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan(study: Study, registry: Registry, download: bool = False) -> Plan:
    """Check a whole study, and give its cells.

    Args:
        study: what to run.
        registry: where names are looked up; the study's plugins are registered in it.
        download: whether checkpoints that are not here are fetched.

    Raises:
        StudyError: or another kind of `TokensieveError`, for anything that could not run.
    """
    tasks = [_task(study, number, registry) for number in range(len(study.tasks))]
    cards: dict[str, str] = {}
    for number, one in enumerate(tasks):
        same = cards.setdefault(_hash(one.card), one.asked.name)
        if same != one.asked.name:
            said = f"the tasks '{same}' and '{one.asked.name}' ask the same; name one of them"
            raise StudyError(said + study.place("tasks", number))
    jobs: dict[str, Job] = {}
    skipped: list[Skipped] = []
    notes: list[str] = []
    absent = []
    twins: dict[tuple[str, str | None, str], str] = {}
    for number, model in enumerate(study.models):
        asked = [one for one in tasks if one.asked.models is None or model.name in one.asked.models]
        if not asked:
            notes.append(f"no task asks the model '{model.name}', so it has no cells")
            continue
        place = study.place("models", number)
        opened = open_model(model, registry, download, place)
        same = twins.setdefault((opened.hash, opened.partner, model.dtype), model.name)
        if same != model.name:
            raise StudyError(f"the models '{same}' and '{model.name}' are the same; name one of them{place}")
        if opened.folder is None:
            absent.append(model.name)
        planned = _Planner(study, registry, opened).planned(any(knows_needed(one.task) for one in asked))
        skipped += planned.skipped
        notes += planned.notes
        for one in asked:
            smaller = _Smaller(opened, one)
            for entry in planned.entries:
                if entry.role.endswith("oracle") and not knows_needed(one.task):
                    continue
                if entry.role == "downsampled" and (reason := smaller.refuses(entry.keep)):
                    known = str(entry.keep)
                    skipped.append(Skipped(model.name, entry.role, None, known, f"{reason} (task '{one.asked.name}')"))
                    continue
                job = _job(study, opened, one, entry)
                first = jobs.setdefault(job.cell.key, job)
                if first is not job and first.cell.method != entry.method:
                    notes.append(
                        f"'{entry.method}' is the same as '{first.cell.method}' at keep {entry.keep}; run once"
                    )
    return Plan(tuple(jobs.values()), tuple(skipped), tuple(dict.fromkeys(notes)), tuple(absent))


def knows_needed(task: Task) -> bool:
    """Return whether a task can say which tokens an answer needs."""
    return type(task).needed is not Task.needed


def chosen(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """Return at most `limit` samples, evenly spread over types of question and over all of them."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[place] for place in spread([sample.kind for sample in samples], limit)]


def sample_key(sample: str) -> int:
    """Return the number from which a sample's random draws are made: another for every sample."""
    return int.from_bytes(hashlib.sha256(sample.encode()).digest()[:8], "big") >> 1


def open_model(model: Model, registry: Registry, download: bool = False, place: str = "") -> Opened:
    """Find a model, and read its config.

    Raises:
        TokensieveError: if it is not there, or cannot be pruned.
    """
    try:
        folder = folder_of(model.path, registry, model.revision, download)
        partner = partner_of(model, registry, download)
        if folder is not None:
            adapter = load_adapter(folder, registry)
        elif model.geometry is not None:
            adapter = registry.adapter_for(Geometry.load(registry.geometry(model.geometry)).model())
        else:
            return Opened(model, None, None, f"not here: {model.path}", None)
        if adapter.decoder is None:
            raise UnsupportedModelError(f"{type(adapter.model).__name__} has no language model to ask")
    except TokensieveError as error:
        raise type(error)(f"model '{model.name}': {error}{place}") from None
    known = checkpoint_hash(folder) if folder is not None else f"not here: {model.path}"
    return Opened(model, folder, adapter, known, None if partner is None else checkpoint_hash(partner))


def budgeted(recipe: Recipe, budget: Budget) -> Recipe:
    """Return a recipe at a study's budget.

    One budget is that of the last stage: of what the picture has, also where it is a fraction and earlier stages leave
    a part of it. A recipe's own `budgets` go first, and a list has one for each stage.

    Raises:
        BudgetError: if the recipe has no such place for it.
    """
    if not budget.keeps:
        return recipe
    stages = recipe.stages
    if len(budget.keeps) == len(stages):
        return recipe.replace(keep=list(budget.keeps))
    if len(budget.keeps) > 1:
        raise BudgetError(f"'{recipe.name}' has {len(stages)} stages, so it takes no {len(budget.keeps)} budgets")
    last = next(iter(budget.keeps))
    if last.count in recipe.budgets:
        return recipe.replace(keep=last.count)
    before = [stage.keep for stage in stages[:-1]]
    own = "; give it budgets of its own: {use: ..., keep: [[...], own]}"
    if any(keep.less is not None or keep.auto for keep in [*before, stages[-1].keep]):
        raise BudgetError(f"'{recipe.name}' says how many tokens go in each of {len(stages)} stages{own}")
    fractions = [keep.fraction for keep in before if keep.fraction is not None]
    if last.fraction is not None:
        if len(fractions) < len(before):
            raise BudgetError(f"'{recipe.name}' has counts in earlier stages, so {last} says no number{own}")
        left = prod(fractions, start=Fraction(1))
        if last.fraction >= left:
            raise BudgetError(f"'{recipe.name}' keeps only {left} before its last stage, so not {last}{own}")
        last = Keep(fraction=last.fraction / left)
    fewest = min((keep.count for keep in before if keep.count is not None), default=None)
    if fewest is not None and (last.count or 0) >= fewest:
        raise BudgetError(f"'{recipe.name}' keeps only {fewest} before its last stage, so not {last}{own}")
    return recipe.replace(keep=[*before, last])


class _Smaller:
    """Tells whether a model's processor makes smaller pictures of a task's first one."""

    def __init__(self, opened: Opened, asked: _Task) -> None:
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
        self._whole, _ = visual_tokens(self._ready, self._picture, sample.question)

    def refuses(self, budget: Budget | None) -> str | None:
        """Say why there is none for a budget; nothing if there is, or nobody can know yet."""
        if isinstance(self._picture, Video):
            return NOT_SMALLER
        if self._ready is None or self._picture is None or budget is None:
            return None
        wanted = count(budget.keeps[0], self._whole)
        if size_for(self._ready, self._picture, wanted) is not None:
            return None
        return f"the processor makes no picture of about {wanted} tokens of one that has {self._whole}"


class _Planner:
    """Plans the cells of one model."""

    def __init__(self, study: Study, registry: Registry, opened: Opened) -> None:
        self._study = study
        self._registry = registry
        self._opened = opened
        self._keep = study.keep if opened.model.keep is None else opened.model.keep
        self._done = _Planned()
        self._shapes: dict[tuple[Any, ...], tuple[Recipe, Budget]] = {}

    def planned(self, needed: bool) -> _Planned:
        """Return what is planned; `needed` says whether any task knows which tokens an answer needs."""
        done = self._done
        done.entries += [_Entry("unpruned", "unpruned"), _Entry("text_only", "text_only")]
        cuts = list(self._cuts())
        plain = [budget for budget in self._keep if len(budget.keeps) == 1]
        everywhere = self._study.controls.at_every_site
        for budget in plain:
            # Any choice will do: only where and how much is taken from it.
            start = Recipe.of(Needed(), budget.keeps[0])
            self._shapes.setdefault(shape(start), (start, budget))
        for method, budget, cut in cuts:
            if any(stage.keep.auto for stage in cut.stages):
                said = "the method keeps a set of its own size, so no control costs the same"
                self._skip("random", method.name, budget, said)
            elif everywhere:
                self._shapes.setdefault(shape(cut), (cut, budget))
        for where, (pattern, budget) in self._shapes.items():
            self._controls(pattern, budget, where, needed)
        done.entries += [_Entry("downsampled", "downsampled", keep=b, shape=_hash(shape(_at(b)))) for b in plain]
        for method, budget, cut in cuts:
            self._method(method, budget, cut)
        return done

    def _cuts(self) -> Iterator[tuple[Method, Budget, Recipe]]:
        """Return every method at every budget, reviewed.

        Raises:
            StudyError: for a recipe that cannot run on the model.
        """
        for number, method in enumerate(self._study.recipes):
            if method.models is not None and self._opened.model.name not in method.models:
                continue
            place = self._study.place("recipes", number)
            for budget in method.keep if method.keep is not None else self._keep:
                try:
                    cut = budgeted(method.recipe, budget)
                except TokensieveError as error:
                    raise StudyError(f"{error}{place}") from None
                for finding in review(cut, self._opened.adapter):
                    if finding.level == "error":
                        raise StudyError(
                            f"recipe '{method.name}' cannot run on model '{self._opened.model.name}' at keep {budget}: "
                            f"{finding}{place}"
                        )
                    if finding.level == "warning":
                        self._done.notes.append(f"recipe '{method.name}': {finding}")
                yield method, budget, cut

    def _method(self, method: Method, budget: Budget, cut: Recipe) -> None:
        where = _hash(shape(cut))
        controls = {entry.recipe.hash() for entry in self._done.entries if entry.role in PLAIN and entry.recipe}
        if all(drawn.hash() in controls for _, drawn in self._drawn(cut)):
            self._done.notes.append(f"recipe '{method.name}' is a control at keep {budget}; it runs once, as that")
            return
        self._add("method", method.name, None, budget, cut, where)
        asked = self._study.controls.inverted
        if asked is not None and budget not in asked:
            return
        try:
            turned = inverted(cut)
        except TokensieveError as error:
            self._skip("inverted", method.name, budget, str(error))
            return
        if self._fits("inverted", method.name, budget, turned):
            self._add("inverted", f"inverted {method.name}", method.name, budget, turned, where)

    def _controls(self, pattern: Recipe, budget: Budget, where: tuple[Any, ...], needed: bool) -> None:
        """Add the controls of one shape."""
        at = _label(pattern)
        for role in PLAIN:
            name = f"{role}{at}"
            try:
                shipped = Recipe.load(role, self._registry)
            except TokensieveError as error:
                self._skip(role, None, budget, str(error))
                continue
            first = shipped.stages[0]
            try:
                recipe = alike(pattern, first.select, name, first.rest)
            except TokensieveError as error:
                self._skip(role, None, budget, str(error))
                continue
            if self._fits(role, None, budget, recipe):
                self._add(role, name, None, budget, recipe, _hash(where))
        if needed:
            for role, first_kept in (("oracle", True), ("anti_oracle", False)):
                recipe = alike(pattern, Needed(first=first_kept), f"{role}{at}")
                self._add(role, f"{role}{at}", None, budget, recipe, _hash(where))

    def _add(self, role: str, name: str, of: str | None, budget: Budget, recipe: Recipe, where: str) -> None:
        """Add a cell, or one for every seed where the recipe draws."""
        several = [(None, recipe)] if role.endswith("oracle") else self._drawn(recipe)
        self._done.entries += [_Entry(role, name, of, budget, seed, drawn, where) for seed, drawn in several]

    def _drawn(self, recipe: Recipe) -> list[tuple[int | None, Recipe]]:
        """Return a recipe, or one for every seed where it draws."""
        if not draws(recipe):
            return [(None, recipe)]
        return [(seed, reseeded(recipe, seed)) for seed in self._study.seeds]

    def _fits(self, role: str, of: str | None, budget: Budget, recipe: Recipe) -> bool:
        """Return whether a control can run on the model, and note why not."""
        for finding in review(recipe, self._opened.adapter):
            if finding.level == "error":
                self._skip(role, of, budget, str(finding))
                return False
        return True

    def _skip(self, role: str, of: str | None, budget: Budget, reason: str) -> None:
        self._done.skipped.append(Skipped(self._opened.model.name, role, of, str(budget), reason))


def _at(budget: Budget) -> Recipe:
    return Recipe.of(Needed(), budget.keeps[0])


def _label(pattern: Recipe) -> str:
    """Say where a control cuts, unless that is where controls usually do."""
    sites = " + ".join(at for at, _ in pattern.ranges())
    said = [] if sites == "decoder.0" else [f"at {sites}"]
    said += [f"per {stage.per}" for stage in pattern.stages[:1] if stage.per != "image"]
    said += [f"newlines {stage.newlines}" for stage in pattern.stages[:1] if stage.newlines != "judge"]
    said += [] if pattern.positions == "original" else [pattern.positions]
    return "".join(f" {one}" for one in said)


def _task(study: Study, number: int, registry: Registry) -> _Task:
    """Make a task, once its samples can be read."""
    asked = study.tasks[number]
    place = study.place("tasks", number)
    try:
        task = asked.task(registry)
        samples = task.samples()
        card = task.card()
    except TokensieveError as error:
        raise type(error)(f"{error}{place}") from None
    if not samples:
        raise StudyError(f"the task '{asked.name}' has no samples{place}")
    if len({sample.id for sample in samples}) < len(samples):
        raise StudyError(f"the task '{asked.name}' has two samples of one id{place}")
    some = len(chosen(samples, study.limit))
    return _Task(asked, task, samples, card | ({"samples": some} if some < len(samples) else {}))


def _job(study: Study, opened: Opened, one: _Task, entry: _Entry) -> Job:
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
        key=_hash(decides, 32),
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
        card_hash=_hash(one.card, 12),
        grid=None,
        versions=made_of,
        shape=entry.shape,
    )
    keep = entry.keep.keeps[0] if entry.role == "downsampled" and entry.keep is not None else None
    return Job(cell, _found(opened.model), one.asked, keep, study.batch, study.limit, study.share, study.plugins)


def _found(model: Model) -> Model:
    """Return a model whose folders are found from any other folder, too."""
    paths = {"path": model.path, "query_encoder": model.query_encoder}
    folders = {key: str(Path(path).resolve()) for key, path in paths.items() if path and Path(path).is_dir()}
    return model.model_copy(update=folders)


def _hash(content: object, digits: int = 16) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
