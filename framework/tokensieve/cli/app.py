"""The commands and their options.

Nothing here imports a model library: a command imports what it needs when it runs, so that
`--help`, `plugins`, `schema` and `check` answer at once.
"""

from __future__ import annotations

import json
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from tokensieve.algebra.budget import Keep
from tokensieve.cli import console
from tokensieve.errors import BudgetError, RefusedError, TokensieveError, listing
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes.recipe import Recipe

QUESTION = "What is in this picture?"
SAMPLES = 24


class _Commands(TyperGroup):
    """Turns every error into one paragraph and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except TokensieveError as error:
            console.refuse(error, debug, expected=True)
        except typer.Abort:
            raise
        except Exception as error:
            # Errors in the command line itself bring their exit code, as typer.Exit does.
            if hasattr(error, "exit_code"):
                raise
            console.refuse(error, debug, expected=False)
        raise typer.Exit(1)


class Engine(StrEnum):
    """What runs the cells of a study."""

    local = "local"
    ray = "ray"


app = typer.Typer(
    name="tokensieve",
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Drop or merge the visual tokens of multimodal models, and know what it costs in quality.",
    epilog="Exit codes: 0 fine, or notes only; 1 warnings, errors, or a refused recipe, model or file; "
    "2 a wrong command line.",
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a path to YAML.")]
RecipeNames = Annotated[
    list[str], typer.Argument(metavar="RECIPE...", help="Shipped recipes' names, or paths to YAML.")
]
Model = Annotated[
    Path,
    typer.Option("--model", metavar="DIR", help="A checkpoint's folder, or the name of one that is shipped."),
]
MaybeModel = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation
    typer.Option("--model", metavar="DIR", help="A checkpoint's folder, or the name of one that is shipped."),
]
Budget = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation
    typer.Option(
        "--keep", metavar="K", help="Another budget: 64, 1/9, 0.25, 25%, or one for each stage, as in 300,200."
    ),
]
TextTower = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation
    typer.Option(
        "--query-encoder", metavar="DIR", help="The two-tower model of the vision tower's space, to judge relevance."
    ),
]
Settings = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads the annotation
    typer.Option("--set", metavar="PATH=VALUE", help="Change the study, such as keep=64,128 or limit=100."),
]
Device = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation
    typer.Option(
        "--device", metavar="NAME", help="Where the model runs, such as cpu or cuda:0. An accelerator if there is one."
    ),
]


def _version(asked: bool) -> None:
    if asked:
        console.say(metadata.version("tokensieve"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take what holds for every command."""


@app.command()
def plugins() -> None:
    """List plugins, and all that they bring: strategies, recipes, adapters, tasks and so on."""
    from tokensieve.cli.plugins import catalogue

    registry = default_registry()
    for part in catalogue(registry):
        console.show(part)
        console.say()
    broken = [plugin for plugin in registry.plugins if plugin.error]
    for plugin in broken:
        console.say(f"error: the plugin '{plugin.name}' ({plugin.origin}) did not load: {plugin.error}")
    raise typer.Exit(1 if broken else 0)


@app.command()
def adapters() -> None:
    """List model families, and the evidence that strategies get of each."""
    from tokensieve.checkpoints.ready import quiet
    from tokensieve.cli.plugins import families, offered

    registry = default_registry()
    console.show(families(registry))
    with quiet():
        console.show(offered(registry))


@app.command()
def check(recipe: RecipeName, model: MaybeModel = None) -> None:
    """Review a recipe before it runs: its plan, and what is wrong with it."""
    from tokensieve.cli.check import findings, plan, summary
    from tokensieve.recipes.review import review

    registry = default_registry()
    loaded = Recipe.load(recipe, registry)
    adapter = None
    if model is not None:
        from tokensieve.checkpoints.loading import load_adapter

        adapter = load_adapter(_checkpoint(model, registry), registry)
    found = review(loaded, adapter)
    for part in plan(loaded, adapter):
        console.show(part)
    for line in findings(found):
        console.say(line)
    console.say(summary(found))
    raise typer.Exit(1 if any(finding.level != "note" for finding in found) else 0)


@app.command()
def cost(
    recipes: RecipeNames,
    geometry: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Option("--geometry", metavar="NAME", help="A released model, such as llava-1_5-7b."),
    ] = None,
    model: MaybeModel = None,
    visual: Annotated[
        Optional[int],  # noqa: UP045 - typer reads the annotation
        typer.Option("--visual", min=1, help="Visual tokens of the picture; needed with --model."),
    ] = None,
    text: Annotated[int, typer.Option("--text", min=0, help="Text tokens of the prompt.")] = 64,
    keep: Budget = None,
) -> None:
    """Count what recipes cost on a model of real size, without its weights."""
    registry = default_registry()
    budgets = _budgets(keep)
    loaded = [Recipe.load(name, registry).replace(keep=budgets) for name in recipes]
    if (geometry is None) == (model is None) or (model is not None and visual is None):
        console.warn("say --geometry NAME, or --model DIR and --visual N; geometries: " + listing(registry.geometries))
        raise typer.Exit(2)
    from tokensieve.cli.cost import costs
    from tokensieve.cost.geometry import Geometry
    from tokensieve.cost.vision import VisionCost

    vision = None
    if model is not None:
        from tokensieve.checkpoints.loading import load_adapter

        adapter, title = load_adapter(_checkpoint(model, registry), registry), str(model)
    else:
        shape = Geometry.load(registry.geometry(str(geometry)))
        with console.working("building the model without its weights, and counting what a picture costs"):
            adapter, title = registry.adapter_for(shape.model()), f"{shape.name}, {shape.of}"
            # Another number of tokens is another picture.
            vision = VisionCost.of(adapter, shape.inputs()) if visual is None else None
        visual = visual or shape.visual
    from tokensieve.recipes.review import review

    for recipe in loaded:
        for finding in review(recipe, adapter):
            if finding.level == "error":
                raise RefusedError(f"recipe '{recipe.name}' cannot run on {type(adapter.model).__name__}: {finding}")
    console.show(costs(title, loaded, adapter, int(visual or 0), text, vision))


@app.command()
def run(
    recipe: RecipeName,
    model: Model,
    image: Annotated[Path, typer.Option("--image", metavar="FILE", help="The picture.")],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="The question about it.")],
    keep: Budget = None,
    json_file: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--json", metavar="FILE", help="Write the ledger and the answer as JSON."),
    ] = None,
    save_kept: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--save-kept", metavar="FILE", help="Write the kept tokens, for replay."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest answer.")] = 64,
    query_encoder: TextTower = None,
    device: Device = None,
) -> None:
    """Answer a question about a picture with fewer visual tokens, and print the ledger."""
    registry = default_registry()
    budgets = _budgets(keep)
    loaded = Recipe.load(recipe, registry).replace(keep=budgets)
    for file in (json_file, save_kept):
        _writable(file)
    from tokensieve.cli.files import photo

    picture = photo(image)
    from tokensieve.checkpoints.asking import answer
    from tokensieve.checkpoints.loading import load

    ready = load(_checkpoint(model, registry), registry, (loaded,), device)
    partner = _partner(model, query_encoder, registry)
    text, ledger = answer(ready, loaded, picture, prompt, max_new_tokens, partner, registry)
    console.say(text)
    console.say()
    console.show(ledger.table())
    if json_file is not None:
        content = {"prompt": prompt, "image": image.name, "answer": text, **ledger.to_dict()}
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        console.warn(f"ledger: {json_file}")
    if save_kept is not None:
        ledger.save(save_kept)
        console.warn(f"kept tokens: {save_kept}")


@app.command()
def show(
    recipes: RecipeNames,
    image: Annotated[
        list[Path], typer.Option("--image", metavar="FILE", help="The picture; give it again for more of them.")
    ],
    model: MaybeModel = None,
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="The question about it.")] = QUESTION,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.")] = Path(),
    keep: Budget = None,
    query_encoder: TextTower = None,
    device: Device = None,
) -> None:
    """Draw what recipes keep of a picture, and which operand chose what.

    Without a model, a small example of real geometry and random weights is made for it.
    """
    registry = default_registry()
    budgets = _budgets(keep)
    loaded = [Recipe.load(name, registry).replace(keep=budgets) for name in recipes]
    from tokensieve.cli.files import folder, photo

    pictures = [(file, photo(file)) for file in image]
    folder(out)
    from tokensieve.checkpoints.loading import example_or, load
    from tokensieve.cli.show import draw, names

    named = None if model is None else _checkpoint(model, registry)
    partner = _partner(model, query_encoder, registry)
    with example_or(named, registry, loaded) as (directory, description):
        ready = load(directory, registry, loaded, device)
    if description is not None:
        console.warn(f"No model was given, so this is the example: {description}.")
    for name, (file, picture) in zip(names(image), pictures, strict=True):
        sheet = draw(ready, loaded, picture, file.name, prompt, partner, registry, description)
        sheet.image.save(out / name)
        console.say(str(out / name))


@app.command()
def compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's YAML.")],
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Where results go: a folder, or an address such as s3://b/x.")
    ],
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and list cells and costs.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="With --dry-run: time a batch of every model.")] = False,
    engine: Annotated[Engine, typer.Option("--engine", help="This machine, or a Ray cluster.")] = Engine.local,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the local engine.")] = 1,
    gpus: Annotated[
        float, typer.Option("--gpus", min=0, help="With --engine ray: what a cell takes of the GPUs, such as 0.25.")
    ] = 0.0,
) -> None:
    """Run a study: models x recipes x budgets x tasks x seeds, with controls; it goes on where it stopped."""
    from tokensieve.cli import compare as comparing
    from tokensieve.study.planning.plan import plan_study
    from tokensieve.study.spec.study import Study
    from tokensieve.study.store import Store

    registry = default_registry()
    loaded = Study.load(study, registry, settings or [])
    store = Store(out)
    if dry_run:
        with console.working("checking the study"):
            planned = plan_study(loaded, registry)
        comparing.show_plan(planned, store, registry, probe)
        raise typer.Exit(0)
    complete = comparing.run(loaded, store, registry, engine.value, workers, gpus)
    raise typer.Exit(0 if complete else 1)


@app.command()
def report(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a study, as compare --out wrote it.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--out", metavar="DIR", help="Where the report goes; RUN/report if not given."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Questions that the page's viewer shows.")] = SAMPLES,
) -> None:
    """Write a study's report: one page that works offline, with tables and figures as files."""
    from tokensieve.cli.report import write

    console.say(str(write(run_folder, out, samples, default_registry()).page))


@app.command()
def schema(
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--out", metavar="FILE", help="Write it to a file."),
    ] = None,
) -> None:
    """Print the JSON Schema of recipe files, for editors."""
    from tokensieve.recipes.schema import schema as recipe_schema

    _writable(out)
    text = json.dumps(recipe_schema(), indent=2)
    if out is None:
        console.say(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        console.say(str(out))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer models, budgets and questions.")] = False,
    settings: Settings = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share the work.")] = 2,
) -> None:
    """Compare methods on the models that are shipped, and write the report; it goes on where it stopped."""
    from tokensieve.cli import compare as comparing
    from tokensieve.cli.demo import QUICK, shipped_study, tell
    from tokensieve.cli.files import folder
    from tokensieve.cli.report import write
    from tokensieve.study.spec.study import Study
    from tokensieve.study.store import Store

    registry = default_registry()
    loaded = Study.load(shipped_study(), registry, [*(QUICK if quick else ()), *(settings or [])])
    folder(out)
    complete = comparing.run(loaded, Store(str(out)), registry, "local", workers, gpus=0.0)
    tell(write(str(out), None, SAMPLES, registry))
    raise typer.Exit(0 if complete else 1)


def _checkpoint(model: Path, registry: Registry) -> Path:
    """Return the folder of a model that a command line names: that of a shipped checkpoint, or the one it says."""
    shipped = registry.checkpoints.get(str(model))
    return model if shipped is None else shipped.folder


def _partner(model: Path | None, named: Path | None, registry: Registry) -> Path | None:
    """Return the query encoder that a command line names, or that of the shipped checkpoint it names."""
    shipped = registry.checkpoints.get(str(model))
    return shipped.query_encoder if named is None and shipped is not None else named


def _budgets(text: str | None) -> list[Keep] | None:
    """Read `--keep`; what cannot be read is a wrong command line."""
    if text is None:
        return None
    try:
        return [Keep.of(part) for part in text.split(",")]
    except BudgetError as error:
        console.warn(console.paragraph(error))
        raise typer.Exit(2) from None


def _writable(file: Path | None) -> None:
    """Refuse a file that cannot be written, before any work.

    Raises:
        RefusedError: if it is a folder, or its folder is not there.
    """
    if file is not None and file.is_dir():
        raise RefusedError(f"{file} is a folder; name a file")
    if file is not None and not file.parent.is_dir():
        raise RefusedError(f"there is no folder {file.parent} to write {file.name} into; make it first")


def main() -> None:
    """Run the command line, and exit with its code."""
    app(prog_name="tokensieve")
