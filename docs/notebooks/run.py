"""Runs notebooks and writes what they display into them: `python docs/notebooks/run.py`.

Jupyter is not needed: the code of a notebook runs in one namespace, and the value of a cell's last line is displayed
by its `_repr_html_`, `_repr_png_` or `repr`.
"""

from __future__ import annotations

import ast
import base64
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def displayed(value: Any) -> dict[str, Any]:
    """Return what a notebook displays of a value, by type of content."""
    data: dict[str, Any] = {"text/plain": [repr(value)]}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = [value._repr_html_()]
    if hasattr(value, "_repr_png_"):
        data["image/png"] = base64.b64encode(value._repr_png_()).decode()
    return data


def outputs(code: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run a cell, and return its outputs in the format of notebooks."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    out, value = io.StringIO(), None
    with redirect_stdout(out):
        exec(compile(tree, f"cell {number}", "exec"), namespace)  # noqa: S102 - the project's own notebooks
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)  # noqa: S307
    found: list[dict[str, Any]] = []
    if out.getvalue():
        found.append({"name": "stdout", "output_type": "stream", "text": [out.getvalue()]})
    if value is not None:
        result = {"data": displayed(value), "execution_count": number, "metadata": {}, "output_type": "execute_result"}
        found.append(result)
    return found


def ran(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook with what its cells display now."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells, number = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            shown = outputs("".join(cell["source"]), namespace, number)
            cell = {**cell, "execution_count": number, "outputs": shown}
        cells.append(cell)
    return {**notebook, "cells": cells}


def main() -> None:
    """Run every notebook of this folder, from the folder above `docs`."""
    for file in sorted(HERE.glob("*.ipynb")):
        notebook = ran(json.loads(file.read_text(encoding="utf-8")))
        file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
