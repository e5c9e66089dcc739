"""Print the layers of the framework as a mermaid diagram: `python tools/layers.py`.

They are those of the contract "The folders of the framework are its layers" in pyproject.toml. CONTRIBUTING.md holds
what is printed, and tests/test_project.py compares the two.
"""

import itertools
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = "The folders of the framework are its layers"


def layers(pyproject: str) -> list[list[str]]:
    """Return the names of the modules of each layer, the outermost layer first.

    Args:
        pyproject: the text of pyproject.toml.

    Raises:
        ValueError: if there is no contract of that name, or more than one.
    """
    contracts = tomllib.loads(pyproject)["tool"]["importlinter"]["contracts"]
    named = [contract for contract in contracts if contract["name"] == CONTRACT]
    if len(named) != 1:
        raise ValueError(f"pyproject.toml has {len(named)} import-linter contracts named {CONTRACT!r}; it needs one")
    # Modules of one layer stand on one line, with `:` between those that may import each other and `|` otherwise.
    return [re.split(r"\s*[:|]\s*", layer) for layer in named[0]["layers"]]


def diagram(found: list[list[str]]) -> str:
    """Return the mermaid block. An arrow leads from a layer to the next one below it."""
    rows = [" & ".join(layer) for layer in found]
    arrows = [f"    {above} --> {below}" for above, below in itertools.pairwise(rows)]
    return "\n".join(["```mermaid", "flowchart TB", *arrows, "```"])


if __name__ == "__main__":
    sys.stdout.write(diagram(layers((ROOT / "pyproject.toml").read_text(encoding="utf-8"))) + "\n")
