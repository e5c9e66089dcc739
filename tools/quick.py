"""What a contributor runs before every commit, in under a minute: `make quick`.

Style, types and layers of everything, the tests that say most in little time, and the tests beside what changed. It
ends at the first step that fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


CORE = (
    "tests/algebra/test_golden.py",
    "tests/algebra/test_formula.py",
    "tests/algebra/test_budget.py",
    "tests/algebra/test_composer_settings.py",
    "tests/plugins/test_registry.py",
    "tests/plugins/test_class_attributes.py",
    "tests/recipes/test_reading.py",
    "tests/strategies/test_golden_vectors.py",
    "tests/engine/test_identity.py",
    "tests/test_house.py",
    "tests/test_project.py",
)
"""Golden vectors, laws of small cases, what is refused, and pruning of one model by every recipe."""
SMALL = ("tests/algebra", "tests/recipes", "tests/strategies", "tests/plugins", "tests/tasks", "tests/engine")
"""Folders whose changed test files are run."""


def changed() -> list[str]:
    """Return the files that differ from the last commit, new ones included."""
    found: list[str] = []
    for command in (["git", "diff", "--name-only", "HEAD"], ["git", "ls-files", "--others", "--exclude-standard"]):
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        found += listed.stdout.split()
    return found


def tests_of(files: list[str]) -> list[str]:
    """Return the tests of strategies that changed, and test files that changed."""
    found = set()
    for file in map(Path, files):
        beside = Path("tests/strategies") / f"test_{file.stem}.py"
        if file.parts[0] == "strategies" and (ROOT / beside).is_file():
            found.add(str(beside))
        if file.name.startswith("test_") and str(file.parent) in SMALL and (ROOT / file).is_file():
            found.add(str(file))
    return sorted(found - set(CORE))


def shown_on_pages() -> list[str]:
    """Return the files whose code pages show, as `make lint` lists them."""
    command = ["git", "ls-files", "*.md", "*.ipynb", "examples/greys/greys/__init__.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def main() -> int:
    """Run the steps, and return the first exit code that is not 0."""
    # One thread for each worker: models are tiny, and threads would wait for each other.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    pytest = [str(BIN / "python"), "-m", "pytest", "-q", "-n", "2", "--dist", "loadscope", "--no-header"]
    steps = [
        (
            "style",
            [
                [str(BIN / "ruff"), "check", "-q", "."],
                [str(BIN / "ruff"), "format", "-q", "--check", "."],
                [str(BIN / "ruff"), "format", "-q", "--check", "--line-length", "100", *shown_on_pages()],
            ],
        ),
        ("layers", [[str(BIN / "lint-imports"), "--no-logo"]]),
        ("types", [[str(BIN / "mypy"), "--no-error-summary"]]),
        ("tests", [[*pytest, *CORE, *tests_of(changed())]]),
    ]
    started = time.monotonic()
    for name, commands in steps:
        begun = time.monotonic()
        for command in commands:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=name == "layers", text=True, check=False
            )
            if done.returncode:
                sys.stderr.write((done.stdout or "") + (done.stderr or ""))
                sys.stderr.write(f"{name}: failed after {time.monotonic() - begun:.0f} s\n")
                return done.returncode
        sys.stdout.write(f"{name}: fine, {time.monotonic() - begun:.0f} s\n")
        sys.stdout.flush()
    sys.stdout.write(f"all: {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
