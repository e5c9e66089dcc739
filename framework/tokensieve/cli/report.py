"""Writing the report of a study, from the command line."""

from __future__ import annotations

from pathlib import Path

from tokensieve.cli import console
from tokensieve.cli.files import folder
from tokensieve.errors import RefusedError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.study.report import Written, write_report
from tokensieve.study.spec.plugins import register_plugins
from tokensieve.study.store import Store


def write(run: str, out: Path | None, samples: int, registry: Registry) -> Written:
    """Write a report.

    Args:
        run: the folder of the study, or an address that fsspec knows.
        out: the report's folder, or none for one inside `run`.
        samples: how many questions the viewer shows.
        registry: where names are looked up; the study's plugins are registered in it.

    Raises:
        StudyError: if there is no study, or nothing is finished.
        RefusedError: if it is not said where the report of a study on another machine goes.
    """
    store = Store(run)
    text = store.study()
    data = yaml_lines.read(text, f"{run}/study.yaml").data
    settings = data if isinstance(data, dict) else {}
    register_plugins([str(name) for name in settings.get("plugins", ())], registry)
    if out is None and "://" in run:
        raise RefusedError(f"{run} is not on this machine; say where the report goes with --out")
    place = Path(run) / "report" if out is None else out
    folder(place)
    title = str(settings.get("name", Path(run).name))
    with console.working("reading the study") as status:
        written = write_report(
            store,
            place,
            registry,
            title=title,
            study=text,
            samples=samples,
            progress=lambda now: status.update(f"{now} ..."),
        )
    for problem in written.problems:
        console.warn(problem)
    return written
