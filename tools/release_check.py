"""Build the sdist and the wheel, and use the wheel outside of the checkout: `make release-check`.

The wheel is built from the unpacked sdist, and installed into a new virtual environment in a temporary folder. That
environment finds the dependencies in the one that runs this script, behind its own packages. Nothing is downloaded, and
so nothing here shows that the declared dependencies suffice: CI does, which installs them anew.

An editable install of the checkout lies in the same place as the dependencies. Therefore every process that imports
`tokensieve`, workers included, notes from which file it came, and each must name the wheel's. What was checked is in
dist/ at the end.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PAGE = Path("demo", "report", "index.html")
# Of each there must be some, whatever else the packages hold.
EXPECTED = (
    r"tokensieve/py\.typed",
    r"tokensieve/cli/assets/demo\.yaml",
    r"tokensieve/cli/templates/strategy/recipe\.yaml\.jinja",
    r"tokensieve/study/report/assets/page\.html",
    r"tokensieve_strategies/py\.typed",
    r"tokensieve_strategies/provenance\.yaml",
    r"tokensieve_strategies/recipes/script\.yaml",
    r"tokensieve_adapters/py\.typed",
    r"tokensieve_adapters/geometries/.+\.json",
    r"tokensieve_adapters/checkpoints/.+/model\.safetensors",
)
WITNESS = '''\
"""Note from where each process imports tokensieve."""

import importlib.machinery
import os
import sys


class Witness:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name == "tokensieve" else None
        if spec is not None:
            with open(os.environ["TOKENSIEVE_WITNESS"], "a", encoding="utf-8") as notes:
                notes.write(f"{os.getpid()} {spec.origin}\\n")
        return spec


if "TOKENSIEVE_WITNESS" in os.environ:
    sys.meta_path.insert(0, Witness)
'''
# A worker as a study starts it: of a fork server. `eval` is what can be sent there without a module of ours.
WORKER = """\
import multiprocessing
import tokensieve
if __name__ == "__main__":
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        print(tokensieve.__file__, pool.apply(eval, ("__import__('tokensieve').__file__",)))
"""


# Another recipe of the plugin that is written, installed and used.
RECIPE = """\
name: far-and-wide
stages:
  - {at: decoder.0, select: far_from_mean | gsp, keep: 1/9}
"""


class CheckError(Exception):
    """A release that cannot go out, and why."""


def require(fact: bool, message: str) -> None:
    """Raise CheckError with `message` where `fact` does not hold."""
    if not fact:
        raise CheckError(message)


def command(*arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Return what a command prints.

    Raises:
        CheckError: if it fails, with the end of what it said.
    """
    words = [str(argument) for argument in arguments]
    # The words are this script's own.
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)  # noqa: S603
    said, line = f"{done.stdout}\n{done.stderr}".strip(), " ".join(words)
    require(done.returncode == 0, f"`{line}` ended with {done.returncode}:\n" + "\n".join(said.splitlines()[-15:]))
    return done.stdout


class Release:
    """One check, in a temporary folder.

    Attributes:
        work: the temporary folder.
        project: the table `project` of pyproject.toml.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        self.project = self.tables["project"]
        self.stem = f"{self.project['name']}-{self.project['version']}"
        self.sdist = work / "built" / f"{self.stem}.tar.gz"
        self.wheel = work / "built" / f"{self.stem}-py3-none-any.whl"
        self.empty = work / "empty"
        self.empty.mkdir()
        self.notes = work / "imports.txt"
        self.bin = work / "env" / "bin"
        self.site = Path(sysconfig.get_path("purelib", "venv", {"base": str(work / "env")}))
        unwanted = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
        self.env = {name: value for name, value in os.environ.items() if name not in unwanted} | {
            "COLUMNS": "200",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONNOUSERSITE": "1",
            "TOKENSIEVE_WITNESS": str(self.notes),
        }

    def build_sdist(self) -> str:
        """Build the sdist of the checkout."""
        command(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", self.sdist.parent, cwd=ROOT)
        require(self.sdist.is_file(), f"hatchling built no {self.sdist.name}")
        return f"{self.sdist.stat().st_size / 1e6:.1f} MB"

    def build_wheel(self) -> str:
        """Build the wheel of the unpacked sdist, as whoever installs from it does."""
        with tarfile.open(self.sdist) as archive:
            archive.extractall(self.work / "unpacked", filter="data")
        source = self.work / "unpacked" / self.stem
        command(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", self.wheel.parent, cwd=source)
        require(self.wheel.is_file(), f"hatchling built no {self.wheel.name}")
        return f"{self.wheel.stat().st_size / 1e6:.1f} MB"

    def check_metadata(self) -> str:
        """Compare the wheel's metadata with pyproject.toml."""
        with zipfile.ZipFile(self.wheel) as archive:
            found = metadata.PathDistribution(zipfile.Path(archive, f"{self.stem}.dist-info/"))
            said, entries = found.metadata, {(one.group, one.name): one.value for one in found.entry_points}
        for key, name in (
            ("Name", "name"),
            ("Version", "version"),
            ("Summary", "description"),
            ("Requires-Python", "requires-python"),
            ("License-Expression", "license"),
        ):
            require(said[key] == self.project[name], f"{key} is {said[key]!r}, not {self.project[name]!r}")
        require(sorted(said.get_all("Classifier", [])) == sorted(self.project["classifiers"]), "classifiers differ")
        required = {re.sub(r"\s", "", one) for one in said.get_all("Requires-Dist", []) if "extra ==" not in one}
        require(required == set(self.project["dependencies"]), f"dependencies differ: {sorted(required)}")
        extras = set(said.get_all("Provides-Extra", []))
        require(extras == set(self.project["optional-dependencies"]), f"extras differ: {sorted(extras)}")
        require(said["Description-Content-Type"] == "text/markdown", "the description is not Markdown")
        require(str(said.get_payload()).startswith("# tokensieve"), "the description is not README.md")
        expected = {("console_scripts", name): value for name, value in self.project["scripts"].items()}
        expected |= {
            (group, name): value
            for group, named in self.project["entry-points"].items()
            for name, value in named.items()
        }
        require(entries == expected, f"entry points differ: {entries}")
        return f"{self.stem}, {len(required)} dependencies, {len(entries)} entry points"

    def check_files(self) -> str:
        """Compare the wheel's files with the packages in the checkout: all of them, and nothing else."""
        target = self.tables["tool"]["hatch"]["build"]["targets"]["wheel"]
        packages = [ROOT / package for package in target["packages"]]
        expected = {
            path.relative_to(package.parent).as_posix()
            for package in packages
            for path in package.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        } | set(target["force-include"].values())
        with zipfile.ZipFile(self.wheel) as archive:
            names = set(archive.namelist())
        about = {name for name in names if name.startswith(f"{self.stem}.dist-info/")}
        require(f"{self.stem}.dist-info/licenses/LICENSE" in about, "the licence is not in the wheel")
        held = names - about
        require(held >= expected, f"not in the wheel: {sorted(expected - held)}")
        require(held <= expected, f"in the wheel, but not in the packages: {sorted(held - expected)}")
        for pattern in EXPECTED:
            require(any(re.fullmatch(pattern, name) for name in held), f"nothing in the wheel is {pattern}")
        return f"{len(held)} files, {sum(not name.endswith('.py') for name in held)} of them data"

    def install(self) -> str:
        """Install the wheel into a new environment, and let that find the dependencies behind its own packages."""
        venv.create(self.work / "env", symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "--disable-pip-version-check"]
        command(*pip, "install", "--quiet", "--no-deps", "--no-index", self.wheel, cwd=self.empty)
        behind = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
        (self.site / "release_witness.py").write_text(WITNESS, encoding="utf-8")
        # A folder that is named here is searched, but its own .pth files, such as the editable install's, are not read.
        lines = [*behind, "import release_witness"]
        (self.site / "dependencies.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(self.site)

    def witnesses(self) -> int:
        """Return how many processes imported tokensieve since the last call; all of them from the wheel.

        Raises:
            CheckError: if one took it from elsewhere, or none was seen.
        """
        lines = self.notes.read_text(encoding="utf-8").splitlines() if self.notes.is_file() else []
        self.notes.unlink(missing_ok=True)
        origins = {line.split(" ", 1)[1] for line in lines}
        wheel = str(self.site / "tokensieve" / "__init__.py")
        require(origins == {wheel}, f"tokensieve was imported from {sorted(origins)}, not from {wheel}")
        return len({line.split(" ", 1)[0] for line in lines})

    def check_import(self) -> str:
        """See where a process and its worker import tokensieve from."""
        script = self.work / "worker.py"
        script.write_text(WORKER, encoding="utf-8")
        # Isolated, so that the script's folder is not on the path.
        said = command(self.bin / "python", "-I", script, cwd=self.empty, env=self.env).split()
        wheel = str(self.site / "tokensieve" / "__init__.py")
        require(said == [wheel] * 2, f"tokensieve.__file__, here and in a worker, is {said}, not {wheel}")
        self.witnesses()
        return f"tokensieve.__file__ is {wheel}, in a worker too"

    def tokensieve(self, *arguments: str) -> str:
        """Return what the wheel's command prints in an empty folder."""
        return command(self.bin / "tokensieve", *arguments, cwd=self.empty, env=self.env)

    def check_plugins(self) -> str:
        """List the plugins: each of the wheel's entry points is there, once, at the wheel's version."""
        said = self.tokensieve("plugins")
        origin = f"tokensieve {self.project['version']}"
        for name in self.project["entry-points"]["tokensieve"]:
            rows = re.findall(rf"^\W*{name}\W+{re.escape(origin)}\b", said, re.MULTILINE)
            require(len(rows) == 1, f"the plugin '{name}' of {origin} is listed {len(rows)} times")
        self.witnesses()
        return f"{len(self.project['entry-points']['tokensieve'])} plugins"

    def check_recipe(self) -> str:
        """Check a shipped recipe."""
        said = self.tokensieve("check", "script")
        self.witnesses()
        return said.strip().splitlines()[-1]

    def check_demo(self) -> str:
        """Run the small demo, and see that its page is there and its workers were the wheel's."""
        said = self.tokensieve("demo", "--quick")
        require(f"page     {PAGE}" in said, f"the demo did not name its page {PAGE}")
        page = (self.empty / PAGE).read_text(encoding="utf-8")
        require("<h1>demo</h1>" in page, f"{PAGE} is not the demo's report")
        seen = self.witnesses()
        # The command and the server that its workers are forked from.
        require(seen > 1, "the demo had no workers of its own")
        return f"{PAGE}, {len(page) / 1e6:.1f} MB; {seen} processes imported tokensieve, from the wheel"

    def check_new(self) -> str:
        """Write a plugin, give it a second recipe, install its wheel beside ours, and use and test what that brings."""
        self.tokensieve("new", "strategy", "far_from_mean")
        plugin = self.empty / "far-from-mean"
        (plugin / "far_from_mean" / "recipes" / "far-and-wide.yaml").write_text(RECIPE, encoding="utf-8")
        built = self.work / "plugin"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        command(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", built, plugin, cwd=self.empty)
        [wheel] = built.glob("*.whl")
        # Its source goes, so that all that is used is its wheel's; tests are in no wheel, so these stay.
        tests = shutil.move(plugin / "tests", self.work / "tests")
        shutil.rmtree(plugin)
        into = [*pip, "--python", self.bin / "python", "install", "-q", "--no-deps", "--no-index"]
        command(*into, wheel, cwd=self.empty)
        require("far-from-mean 0.1.0" in self.tokensieve("plugins"), "the plugin is not listed")
        for name in ("far_from_mean", "far-and-wide"):
            card = self.tokensieve("plugins", name)
            require("from far_from_mean (far-from-mean 0.1.0)" in card, f"`plugins {name}` says:\n{card}")
            checked = self.tokensieve("check", name).strip().splitlines()[-1]
        tried = command(self.bin / "python", "-m", "pytest", "-q", tests, cwd=self.empty, env=self.env).splitlines()[-1]
        self.witnesses()
        return f"its recipes: {checked}; its tests: {tried}"

    def keep(self) -> str:
        """Put what was checked into dist/."""
        DIST.mkdir(exist_ok=True)
        for built in (self.sdist, self.wheel):
            shutil.copy(built, DIST)
        return f"dist/{self.sdist.name}, dist/{self.wheel.name}"

    def steps(self) -> tuple[tuple[str, Callable[[], str]], ...]:
        """Return the steps by name, in their order."""
        return (
            ("build the sdist", self.build_sdist),
            ("build the wheel of it", self.build_wheel),
            ("metadata", self.check_metadata),
            ("files", self.check_files),
            ("install outside", self.install),
            ("import", self.check_import),
            ("tokensieve plugins", self.check_plugins),
            ("tokensieve check script", self.check_recipe),
            ("tokensieve demo --quick", self.check_demo),
            ("tokensieve new strategy", self.check_new),
            ("keep", self.keep),
        )


def main() -> int:
    """Run every step, and print a line for each; return 1 at the first that fails."""
    with tempfile.TemporaryDirectory(prefix="tokensieve-release-") as folder:
        # Where the temporary folder is a link, processes name the place that it leads to.
        for name, step in Release(Path(folder).resolve()).steps():
            start = time.perf_counter()
            try:
                result = step()
            except CheckError as error:
                sys.stdout.write(f"FAILED  {name}: {error}\n")
                return 1
            sys.stdout.write(f"{time.perf_counter() - start:6.1f} s  {name:<24} {result}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
