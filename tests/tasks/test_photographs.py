"""`photographs`: which pictures it shows, whose licences are known, and what it refuses."""

import hashlib
import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
import skimage.data
from PIL import Image

import tokensieve as ts
from tokensieve.errors import TaskError
from tokensieve.study.spec.study import Study
from tokensieve.tasks import photographs
from tokensieve.tasks.photographs import PHOTOGRAPHS, Photographs
from tokensieve.tasks.world import World

ROOT = Path(__file__).parents[2]
OF_SKIMAGE = [one for one in PHOTOGRAPHS if one.package == "skimage"]


def test_every_prompt_is_asked_of_every_photograph():
    task = Photographs(prompts=["What?", "Where?"])
    assert [sample.id for sample in task.samples()] == [
        f"{one.name}#{number}" for one in PHOTOGRAPHS for number in (1, 2)
    ]
    names = [one.name for one in PHOTOGRAPHS]
    assert names == sorted(set(names))
    assert len(Photographs(subset=4).samples()) == 4
    with pytest.raises(TaskError, match="subset is 10, and 'photographs' has 9 pictures"):
        Photographs(subset=10).samples()


@pytest.mark.parametrize("one", PHOTOGRAPHS, ids=lambda one: one.name)
def test_a_photograph_is_the_installed_file_in_rgb(one):
    folder = Path({"skimage": skimage.data.__file__, "matplotlib": matplotlib.__file__}[one.package]).parent
    file = folder / one.path.removeprefix("data/")
    assert one.file() == file
    assert hashlib.sha256(file.read_bytes()).hexdigest() == one.sha256
    [sample] = [sample for sample in Photographs().samples() if sample.image == one.name]
    picture = Photographs().picture(sample)
    with Image.open(file) as opened:
        assert (picture.mode, picture.size) == ("RGB", opened.size)
    assert max(Photographs(longest_side=50).picture(sample).size) == 50
    # A photograph has many greys; what is drawn has few.
    assert sum(count > 0 for count in picture.convert("L").histogram()) >= 50


@pytest.mark.parametrize("one", OF_SKIMAGE, ids=lambda one: one.name)
def test_scikit_image_states_the_licence(one):
    function = getattr(skimage.data, one.source.removeprefix("skimage.data."))
    assert f"data/{one.name}" in function.__code__.co_consts
    said = " ".join(function.__doc__.split())
    assert one.licence in said


def test_a_package_that_is_missing(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(photographs, "find_spec", lambda name: None if name == "skimage" else find_spec(name))
    said = "no astronaut.png of skimage, which the task 'photographs' shows: pip install 'tokensieve[photographs]'"
    for asked in (Photographs().samples, Photographs().card):
        with pytest.raises(TaskError, match=re.escape(said)):
            asked()


def test_a_file_of_another_content(monkeypatch):
    """A picture may be replaced by its package, as `camera` was once, for its licence."""
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", (replace(PHOTOGRAPHS[1], sha256="0" * 64),))
    with pytest.raises(TaskError, match=r"camera\.png is not the picture whose licence is known, so it is not shown"):
        Photographs().samples()


def test_the_card_knows_photographs_by_their_content():
    contents = [one.file().read_bytes() for one in PHOTOGRAPHS]
    together = "".join(hashlib.sha256(content).hexdigest() for content in contents)
    card = Photographs(prompts=["What?", "Where?"]).card()
    assert card["pictures"] == hashlib.sha256(together.encode()).hexdigest()
    assert (card["task"], card["samples"], card["subset_seed"]) == ("photographs", 18, None)
    assert Photographs(subset=3).hash() != Photographs().hash()


def test_the_page_lists_them():
    page = (ROOT / "docs" / "howto" / "tasks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \| (scikit-image|matplotlib) \| (.+) \|$", page, re.MULTILINE)
    package = {"skimage": "scikit-image", "matplotlib": "matplotlib"}
    assert rows == [(one.name, one.what, package[one.package], one.licence) for one in PHOTOGRAPHS]


def test_the_study_asks_what_the_models_were_trained_to_answer():
    study = Study.load(ROOT / "studies" / "photographs.yaml", ts.default_registry())
    [entry] = study.tasks
    task = Photographs(**entry.settings)
    assert entry.use == task.name
    drawn = {sample.question for sample in World(split="train", pictures=200).samples()}
    assert set(task.prompts) <= drawn
    assert len(task.samples()) == 90
