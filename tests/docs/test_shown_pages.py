"""The gallery and the notebooks show what this package does now: by content, not by pixels."""

import importlib.util
import json
import re

import numpy as np
import pytest
from effort import NIGHTLY
from PIL import Image

from .pages import DOCS

GALLERY = DOCS / "assets" / "gallery"
DATA = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(file):
    with Image.open(file) as picture:
        return json.loads(picture.text["kept"])


def test_pictures_of_the_gallery_show_what_is_kept():
    # One of eight by day.
    found = {name: kept for name, kept, _ in script(DOCS / "pictures.py").shown(every=1 if NIGHTLY else 8)}
    assert len(found) > 3
    pictures = {file.stem for file in GALLERY.glob("*.png")}
    assert set(found) <= pictures
    assert not NIGHTLY or set(found) == pictures
    stale = [name for name, kept in found.items() if said(GALLERY / f"{name}.png") != kept]
    assert stale == [], "run python docs/pictures.py"


def test_the_picture_of_the_tasks_is_what_they_draw():
    drawn = np.asarray(script(DOCS / "pictures.py").worlds())
    with Image.open(DOCS / "assets" / "worlds.png") as picture:
        assert np.array_equal(np.asarray(picture), drawn), "run python docs/pictures.py"


def test_the_picture_for_shared_links_is_of_the_gallery():
    assert said(DOCS / "assets" / "social.png") == said(GALLERY / "script.png")
    with Image.open(DOCS / "assets" / "social.png") as picture:
        assert picture.size == (1200, 630)


def displays(notebook):
    """What cells display, as text; of pictures that there is one."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text": output.get("text")})
            yield [(kind, DATA.sub("data", "".join(data[kind])) if kind != "image/png" else "png") for kind in data]


@pytest.mark.parametrize("file", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_displays_what_is_in_its_file(file, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert stored["nbformat"] == 4
    shown = list(displays(script(DOCS / "notebooks" / "run.py").ran(stored)))
    assert shown == list(displays(stored)), "run python docs/notebooks/run.py"
    kinds = {kind for one in shown for kind, _ in one}
    assert {"text/html", "image/png", "text/plain"} <= kinds
    assert any("<image" in text for one in shown for _, text in one)
