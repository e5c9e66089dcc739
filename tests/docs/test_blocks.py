"""Every block of the documentation is run: code, recipes, commands, and what they are said to print.

The blocks of a page share one namespace and one folder, which looks like a checkout.
"""

import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from effort import NIGHTLY
from typer.testing import CliRunner

import tokensieve as ts
from tokensieve.cli import app
from tokensieve.study.report.figures import draw
from tokensieve.study.spec.study import Study

from .pages import PAGES, ROOT, blocks, name

# They run where lmms-eval is, by `make bridges`.
BRIDGES = {"docs/howto/lmms-eval.md"}
RUN = [
    pytest.param(page, id=name(page), marks=[pytest.mark.bridge] if name(page) in BRIDGES else [])
    for page in PAGES
    if blocks(page)
]
# Compiling takes ten seconds. Both are tried on what is in this package every day; `make nightly` runs the kits whole.
FEWER_LAWS = "not test_compiled_decoding and not (test_law and not exact_count and not padding_free and not card)"
PIP = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]


class Reader:
    """Does what a page says, block by block."""

    def __init__(self, page, installed, monkeypatch):
        self._page = page
        # Where a reader's plugins would be installed.
        self._installed = installed
        self._monkeypatch = monkeypatch
        self._namespace = {"__name__": "page"}
        self._printed = None

    def read(self, block):
        getattr(self, f"_{block.language}")(block)

    def _python(self, block):
        self._write(block)
        out = io.StringIO()
        # Lines of a traceback are then those of the page.
        code = compile("\n" * (block.line - 1) + block.code, name(self._page), "exec")
        with redirect_stdout(out):
            exec(code, self._namespace)
        self._printed = out.getvalue()

    def _yaml(self, block):
        self._write(block)
        if re.search(r"^models:", block.code, re.MULTILINE):
            study = Study.loads(block.code, source=name(self._page))
            assert Study.loads(study.dump()) == study
            return
        if block.title == "published.yaml":
            # It is read by the command below it.
            return
        # What is wrong with it, if it is there to show that, is shown by the blocks after it.
        recipe = ts.Recipe.loads(block.code, source=name(self._page))
        assert ts.Recipe.loads(recipe.dump()) == recipe
        if block.title is None:
            assert [finding for finding in ts.review(recipe) if finding.level != "note"] == []

    def _json(self, block):
        self._write(block)
        for line in block.code.splitlines():
            assert json.loads(line), f"line {block.line}: {line}"

    def _toml(self, block):
        self._write(block)
        assert tomllib.loads(block.code)["project"]["entry-points"]["tokensieve"]

    def _text(self, block):
        assert self._printed is not None, f"line {block.line}: nothing before it prints this"
        shown, printed = squeezed(block.code), squeezed(self._printed)
        if block.said == "numbers vary":
            shown, printed = masked(shown), masked(printed)
        if block.said == "output: begins":
            printed = printed[: len(shown)]
        if block.said == "output: ends":
            printed = printed[-len(shown) :]
        assert agree(shown, printed), f"line {block.line} shows\n{block.code}\nnot\n" + "\n".join(printed)

    def _bash(self, block):
        expected = int(block.said.removeprefix("exit: ")) if block.said else 0
        lines = [shlex.split(line, comments=True) for line in block.code.replace("\\\n", " ").splitlines()]
        self._printed = "".join(self._command(words, expected) for words in lines if words)

    def _command(self, words, expected):
        match words:
            case ["make", target]:
                # CI runs it, or the tests of the command line; here it must be there.
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            case ["pip", "install", "-e", "." | ".[dev]" as what]:
                project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
                assert what == "." or what[2:-1] in project["optional-dependencies"]
            case ["pytest"]:
                assert (ROOT / "tests").is_dir()
            case ["pip", "install", "-e", folder]:
                # For real, but not into this environment, which has what tests need.
                folder = folder.removesuffix("[test]")
                self._ran([*PIP, "--target", str(self._installed), folder])
                for package in self._installed.iterdir():
                    if (Path(folder) / package.name / "__init__.py").is_file():
                        # Editable: what a page changes afterwards counts.
                        shutil.rmtree(package)
                        package.symlink_to((Path(folder) / package.name).resolve())
                self._monkeypatch.syspath_prepend(self._installed)
                importlib.invalidate_caches()
            case ["pip", "install", what] if extra := re.fullmatch(r"tokensieve\[(\w+)\]", what):
                project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
                assert extra[1] in project["optional-dependencies"]
            case ["lmms-eval", *arguments]:
                # As its command does where an error ends it.
                code = "from lmms_eval.cli.dispatch import main; main()"
                return self._ran([sys.executable, "-c", code, *arguments, "--verbosity", "DEBUG"], expected)
            case ["pip", "wheel", "--no-deps", folder]:
                self._ran([*PIP[:3], "wheel", *PIP[4:], folder])
            case ["mkdir", folder]:
                Path(folder).mkdir()
            case ["pytest", folder, *chosen]:
                return self._tested([folder, *(chosen or ([] if NIGHTLY else ["-k", FEWER_LAWS]))], expected)
            case ["tokensieve", *arguments]:
                return self._told(arguments, expected)
            case _:
                pytest.fail(f"{shlex.join(words)}: say in this test how this command is checked")
        return ""

    def _told(self, arguments, expected):
        # In this process, which has the model libraries loaded: a page has many commands. So has the worker of a study,
        # which tests of studies start.
        if arguments[0] in ("compare", "search") and "--dry-run" not in arguments and not NIGHTLY:
            arguments = [*arguments, "--in-process"]
        result = CliRunner().invoke(app, arguments)
        said = f"tokensieve {shlex.join(arguments)} ended with {result.exit_code}:\n{result.output}"
        assert result.exit_code == expected, said
        return result.stdout

    def _tested(self, arguments, expected):
        arguments = ["-q", "-p", "no:cacheprovider", *arguments]
        if NIGHTLY:
            return self._ran([sys.executable, "-m", "pytest", *arguments], expected)
        # In this process, which spares importing torch.
        out, path = io.StringIO(), list(sys.path)
        try:
            with redirect_stdout(out):
                code = pytest.main([*arguments, "--capture=sys", "-p", "no:xdist", "-p", "no:faulthandler"])
        finally:
            sys.path[:] = path
        assert code == expected, f"pytest {shlex.join(arguments)} ended with {code}:\n{out.getvalue()}"
        self.forget()
        return out.getvalue()

    def _ran(self, command, expected=0):
        # Before what the reader's own environment has there.
        path = os.pathsep.join(filter(None, [str(self._installed), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        # What a reader's plugin covers of this package is covered by its own tests, in half the time.
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        said = f"{shlex.join(command)} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
        assert result.returncode == expected, said
        return result.stdout

    def _write(self, block):
        if block.said == "output: the file":
            text = Path(block.title).read_text(encoding="utf-8")
            assert text == block.code, f"line {block.line}: {block.title} is\n{text}"
        elif block.title is not None:
            Path(block.title).write_text(block.code, encoding="utf-8")
            self.forget()

    def forget(self):
        """A plugin of this page is imported anew after a change, and is no module of the next page."""
        homes = (str(self._installed), str(Path.cwd()))
        for key, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(homes):
                del sys.modules[key]


def squeezed(text):
    """Lines without what does not show: runs of spaces, spaces at the end, empty lines around."""
    return [re.sub(r"\s+", " ", line).rstrip() for line in text.strip().splitlines()]


def masked(lines):
    """Lines without hashes, numbers, spaces and the lengths of rules."""
    without = (re.sub(r"\b[0-9a-f]{16}\b|[\d.]+", "0", re.sub(r"─+", "─", line)) for line in lines)
    return [line.replace(" ", "") for line in without]


def agree(shown, printed):
    """Whether lines are those printed, where `...` on a line of its own stands for any lines."""
    pattern = "".join(r"(?:.*\n)*" if line == "..." else re.escape(line) + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


# peft asks transformers by the older name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_as_it_is_written(page, tmp_path, tmp_path_factory, monkeypatch):
    for folder in ("docs", "studies"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    if not NIGHTLY:
        # Reports of one figure: all are drawn by the tests of reports.
        monkeypatch.setattr(draw, "MAKERS", draw.MAKERS[:1])
    installed = tmp_path_factory.mktemp("installed")
    reader = Reader(page, installed, monkeypatch)
    try:
        for block in blocks(page):
            reader.read(block)
    finally:
        reader.forget()


def test_lines_of_code_fit_into_the_column():
    """A hundred signs at 1280 pixels. What commands print wraps there, a line of JSON is one line by its format."""
    for page in PAGES:
        for block in blocks(page):
            long = [line for line in block.code.splitlines() if len(line) > 100]
            assert block.language in ("text", "json") or page == ROOT / "README.md" or not long, f"{page}: {long}"


def test_the_plugin_is_under_25_lines():
    howto = ROOT / "docs" / "howto"
    for page, file in (
        (ROOT / "README.md", "feature_norm.py"),
        (howto / "strategy.md", "far-from-mean/far_from_mean/__init__.py"),
    ):
        plugin = next(block for block in blocks(page) if block.title == file)
        assert len([line for line in plugin.code.splitlines() if line.strip()]) < 25
