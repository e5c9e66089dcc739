"""The demonstration: a study of the embedded models, and its report."""

from __future__ import annotations

from pathlib import Path

from tokensieve.cli import console
from tokensieve.errors import RefusedError
from tokensieve.study.report import Written

STUDY = "demo.yaml"
QUICK = (
    "models=world-llava",
    *(f"recipes.{name}.models=world-llava" for name in ("tome", "fastv", "gsp-fastv", "gsp at layer 2")),
    "keep=1/3,1/9,1/36",
    "seeds=0",
    "limit=108",
)
"""How the study is made smaller."""


def shipped_study() -> Path:
    """Return the study of the demo: beside this module if installed, in studies/ in a checkout.

    Raises:
        RefusedError: if it is in neither.
    """
    here = Path(__file__).resolve().parent
    for place in (here / "assets" / STUDY, *(above / "studies" / STUDY for above in here.parents[2:3])):
        if place.is_file():
            return place
    raise RefusedError(f"the study {STUDY} is not installed; name one of your own: tokensieve compare STUDY --out DIR")


def tell(written: Written) -> None:
    """Print what the report answers, and where it is."""
    for question in written.answers:
        console.say()
        console.say(question.text)
        for answer in question.answers:
            console.say(f"- {answer.title}: {answer.text}")
            for name, said in answer.points:
                console.say(f"    {name}: {said}")
    console.say()
    figures = [file for file in written.files if file.parent.name == "figures" and file.suffix == ".png"]
    console.say(f"figures  {figures[0].parent}" if figures else "figures  none")
    console.say(f"page     {written.page}")
