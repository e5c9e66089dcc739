"""What holds for the repository: layers as drawn, pages for contributors, forms, the workflow, the wheel."""

import importlib
import os
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from tools import layers, release_check

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FRAMEWORK = ROOT / "framework" / "tokensieve"
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
LONGEST = 450


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def floor(package):
    """The oldest version of a dependency that pyproject.toml allows."""
    [found] = [one.split(">=")[1] for one in PROJECT["dependencies"] if one.startswith(f"{package}>=")]
    return found


# ---------------------------------------------------------------------------------------------- layers


def test_contributing_draws_the_layers_of_the_contract():
    drawn = re.findall(r"^```mermaid\n.*?^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    assert drawn == [layers.diagram(layers.layers(PYPROJECT))], "paste what `python tools/layers.py` prints"


def test_contributing_says_of_every_layer_what_it_is_for():
    table = CONTRIBUTING.split("| layer | what it is for |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| \S.* \|$", table, re.MULTILINE)
    place = {name: depth for depth, layer in enumerate(reversed(layers.layers(PYPROJECT))) for name in layer}
    assert sorted(rows) == sorted(place)
    assert [place[name] for name in rows] == sorted(place.values()), "the table goes from the bottom up"


def test_every_layer_is_a_module_of_the_framework():
    named = [name for layer in layers.layers(PYPROJECT) for name in layer]
    there = {path.stem for path in FRAMEWORK.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert sorted(named) == sorted(there - {"__init__", "__main__"})


def test_siblings_of_a_layer_are_drawn_side_by_side():
    contract = {"name": layers.CONTRACT, "layers": ["a", "b : c", "d | e"]}
    text = f'[[tool.importlinter.contracts]]\nname = "{contract["name"]}"\nlayers = {contract["layers"]}\n'
    assert layers.layers(text) == [["a"], ["b", "c"], ["d", "e"]]
    assert layers.diagram(layers.layers(text)).splitlines()[2:-1] == ["    a --> b & c", "    b & c --> d & e"]
    with pytest.raises(ValueError, match="2 import-linter contracts"):
        layers.layers(text * 2)


def test_no_module_is_long():
    modules = [path for folder in ("framework", "strategies", "adapters") for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 100
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {str(path.relative_to(ROOT)): n for path, n in sorted(lengths.items()) if n > LONGEST} == {}
    assert f"modules at most {LONGEST} lines" in CONTRIBUTING


# ------------------------------------------------------------------------------ pages for contributors


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_what_a_page_links_to_is_there(page):
    linked = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [target for target in linked if "://" not in target and not (ROOT / target).is_file()] == []


def test_contributing_names_files_that_are_there():
    named = {path for path in re.findall(r"`([\w.]+/[\w./]*)`", CONTRIBUTING) if path.split("/")[0] != "dist"}
    assert len(named) > 20
    # A file that is to be written stands in its folder; `NAME.py` is one of them.
    folders = {path: Path(path).parent if re.search(r"NAME|FAMILY", path) else Path(path) for path in named}
    assert sorted(path for path, place in folders.items() if not (ROOT / place).exists()) == []


def test_contributing_names_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"(?:`|^|\" )make ([a-z-]+)", CONTRIBUTING, re.MULTILINE))
    assert {"quick", "test", "lint", "release-check"} <= named
    assert named <= targets


def test_contributing_names_kits_that_are_there():
    testing = importlib.import_module("tokensieve.testing")
    named = set(re.findall(r"`(\w+Conformance)`", CONTRIBUTING))
    assert named == {f"{what}Conformance" for what in ("Strategy", "Adapter", "Composer", "Task")}
    assert sorted(kit for kit in named if not hasattr(testing, kit)) == []


def test_the_makefile_lists_every_target():
    listed = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert listed == set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == listed
    said = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make (\S+) ", said, re.MULTILINE)) == listed


def test_the_changelog_begins_with_what_is_not_released():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *released = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", one) for one in released]
    assert None not in versions, f"a heading is [X.Y.Z] - YYYY-MM-DD: {released}"
    numbers = [tuple(map(int, version.groups())) for version in versions]
    assert numbers == sorted(numbers, reverse=True)
    # What is released last is what pyproject.toml says, unless nothing is released.
    assert numbers[:1] in ([], [tuple(map(int, PROJECT["version"].split(".")))])
    sections = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_is_of_this_version():
    citation = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["abstract"] == PROJECT["description"]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)


# ---------------------------------------------------------------------------------------------- GitHub


def test_all_yaml_of_github_can_be_read():
    files = [path for path in (ROOT / ".github").rglob("*") if path.suffix in (".yml", ".yaml")]
    assert {"ci.yml", "config.yml", "bug.yml", "method.yml", "family.yml"} <= {path.name for path in files}
    for path in files:
        assert isinstance(read_yaml(path), dict), path


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_github_requires(path):
    form = read_yaml(path)
    assert form["name"]
    assert form["description"]
    ids, labels = [], []
    for element in form["body"]:
        kind, attributes = element["type"], element["attributes"]
        assert set(element) <= {"type", "id", "attributes", "validations"}
        if kind == "markdown":
            assert attributes["value"]
            continue
        ids.append(element["id"])
        labels.append(attributes["label"])
        assert re.fullmatch(r"[A-Za-z0-9_-]+", element["id"])
        if kind == "dropdown":
            assert len(attributes["options"]) == len(set(attributes["options"])) > 0
            # YAML reads a bare `yes` as a truth value, which is no option.
            assert all(isinstance(option, str) for option in attributes["options"])
        elif kind == "checkboxes":
            assert all(isinstance(option["label"], str) for option in attributes["options"])
            assert attributes["options"]
        else:
            assert kind in ("input", "textarea")
    # A form of explanations alone is refused.
    assert ids
    assert len(set(ids)) == len(ids)
    assert len(set(labels)) == len(labels)


def test_the_chooser_of_forms_has_what_github_requires():
    config = read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml")
    assert isinstance(config["blank_issues_enabled"], bool)
    assert all({"name", "url", "about"} == set(link) for link in config.get("contact_links", ()))


def test_ci_runs_every_python_with_the_oldest_and_the_newest_transformers():
    workflow = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")
    matrix = workflow["jobs"]["check"]["strategy"]["matrix"]
    prefix = "Programming Language :: Python :: 3."
    supported = [one.rsplit(" ", 1)[1] for one in PROJECT["classifiers"] if one.startswith(prefix)]
    assert matrix["python"] == supported
    assert PROJECT["requires-python"] == f">={supported[0]}"
    oldest = floor("transformers")
    assert matrix["transformers"] == [f"=={oldest}.*", f">={oldest}"]
    assert set(re.findall(r"transformers==([\d.]+)\.\*", CONTRIBUTING)) == {oldest}


def test_ci_may_read_and_no_more():
    workflow = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []
    assert ".ci/run" in [step.get("run") for step in steps]
    # What a matrix says goes into a shell by its environment.
    assert not any("${{" in step.get("run", "") for step in steps)


# ---------------------------------------------------------------------------------------- environments


def test_another_constraint_installs_again(tmp_path):
    env = tmp_path / "env"
    (env / "bin").mkdir(parents=True)
    log = tmp_path / "installs"
    python = env / "bin" / "python"
    # Whatever is asked of it is so; what it is to install, it notes.
    python.write_text(f'#!/bin/sh\ncase "$*" in *" install "*) echo "$*" >> "{log}";; esac\n')
    python.chmod(0o755)
    pins = tmp_path / "constraints.txt"
    pins.write_text("transformers==1.*\n")

    def installs(**more):
        """How many installs there were after one more call."""
        known = {name: value for name, value in os.environ.items() if name not in ("PIP_CONSTRAINT", "VIRTUAL_ENV")}
        subprocess.run(
            [ROOT / "tools" / "env.sh", env, "python3"], env={**known, **more}, check=True, capture_output=True
        )
        return len(log.read_text().splitlines())

    assert installs() == 1
    assert installs() == 1
    assert installs(PIP_CONSTRAINT=str(pins)) == 2
    assert installs(PIP_CONSTRAINT=str(pins)) == 2
    pins.write_text("transformers==2.*\n")
    assert installs(PIP_CONSTRAINT=str(pins)) == 3
    assert installs() == 4


# ----------------------------------------------------------------------------------------------- wheel


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The built sdist and wheel; that they work elsewhere is for `make release-check`, which takes minutes."""
    release = release_check.Release(tmp_path_factory.mktemp("release"))
    release.build_sdist()
    release.build_wheel()
    return release


def without(wheel, target, pattern):
    """Write a wheel without the files of a pattern."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            if not re.fullmatch(pattern, name):
                copy.writestr(name, source.read(name))


def test_the_wheel_has_the_metadata_and_the_files(release):
    assert release.check_metadata().startswith(f"tokensieve-{PROJECT['version']}, {len(PROJECT['dependencies'])} ")
    release.check_files()


@pytest.mark.parametrize(
    "pattern", [r".*/py\.typed", r".*/demo\.yaml", r".*/recipes/.*", r".*/errors\.py", r".*/LICENSE"]
)
def test_a_file_that_is_missing_from_the_wheel_is_noticed(release, tmp_path, monkeypatch, pattern):
    short = tmp_path / release.wheel.name
    without(release.wheel, short, pattern)
    monkeypatch.setattr(release, "wheel", short)
    with pytest.raises(release_check.CheckError, match="not in the wheel"):
        release.check_files()


def test_a_file_that_is_no_part_of_a_package_is_noticed(release, tmp_path, monkeypatch):
    more = tmp_path / release.wheel.name
    without(release.wheel, more, "")
    with zipfile.ZipFile(more, "a") as archive:
        archive.writestr("tests/__init__.py", "")
    monkeypatch.setattr(release, "wheel", more)
    with pytest.raises(release_check.CheckError, match="in the wheel, but not in the packages"):
        release.check_files()


def test_other_metadata_is_noticed(release, monkeypatch):
    for key, value in (("requires-python", ">=3.9"), ("dependencies", ["torch"]), ("scripts", {})):
        with monkeypatch.context() as patch:
            patch.setitem(release.project, key, value)
            with pytest.raises(release_check.CheckError):
                release.check_metadata()


def test_an_import_from_elsewhere_is_noticed(release):
    ours = release.site / "tokensieve" / "__init__.py"
    release.notes.write_text(f"1 {ours}\n2 {ours}\n2 {ours}\n", encoding="utf-8")
    assert release.witnesses() == 2
    with pytest.raises(release_check.CheckError, match="imported from"):
        release.witnesses()
    release.notes.write_text(f"1 {ours}\n2 {FRAMEWORK / '__init__.py'}\n", encoding="utf-8")
    with pytest.raises(release_check.CheckError, match="imported from"):
        release.witnesses()
