"""Hooks of mkdocs: files of the repository, the gallery of recipes and notebooks, as parts of pages.

A page asks for one by a comment such as `<!-- file: CHANGELOG.md -->`. It is read when the site is built, so nothing is
copied.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import tokensieve as ts

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<to>(?!https?:|#)[^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments of a page that ask for files, notebooks and the gallery."""
    markdown = re.sub(r"<!-- file: ([\w./-]+) -->", lambda mark: repository_file(mark[1]), markdown)
    markdown = re.sub(r"<!-- notebook: ([\w-]+) -->", lambda mark: notebook(mark[1]), markdown)
    return markdown.replace("<!-- gallery -->", gallery()) if "<!-- gallery -->" in markdown else markdown


def repository_file(name: str) -> str:
    """Return a file of the repository for a page one folder deep: without its heading, if it is Markdown."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if not name.endswith(".md"):
        return f"```yaml\n{text.rstrip()}\n```"
    return LINK.sub(_link, text.split("\n", 1)[1].strip())


def _link(found: re.Match[str]) -> str:
    """Return a link of the repository as one of the site; of files that are not on the site, the name alone."""
    if found["to"].startswith("docs/"):
        return f"[{found['text']}](../{found['to'].removeprefix('docs/')})"
    return f"{found['text']} (`{found['to']}`)"


def gallery() -> str:
    """Return every shipped recipe that has a picture, with its YAML and the picture."""
    parts = []
    for name, file in sorted(ts.default_registry().recipes.items()):
        picture = DOCS / "assets" / "gallery" / f"{name}.png"
        if picture.is_file():
            head, body = _split(file.read_text(encoding="utf-8"))
            image = f"![What {name} keeps of a drawn scene](assets/gallery/{picture.name}){{ loading=lazy }}"
            parts.append(f"## {name}\n\n{head}\n\n{image}\n\n```yaml\n{body}\n```")
    return "\n\n".join(parts)


def _split(text: str) -> tuple[str, str]:
    """Return the first paragraph of a recipe's comments as text, and its YAML without comments at the top."""
    comments = re.match(r"(?:#.*\n|\n)*", text)
    top = comments[0] if comments else ""
    first = re.split(r"\n#?\s*\n", top.strip())[0]
    return " ".join(line.lstrip("# ").strip() for line in first.splitlines()), text[len(top) :].strip()


def notebook(name: str) -> str:
    """Return the cells of a notebook in `docs/notebooks/`, with what they displayed when it was last run."""
    cells = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> list[str]:
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [text]
    parts = [f"```python\n{text}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if output["output_type"] == "stream":
            parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
        elif "text/html" in data:
            parts.append(f'<div class="output">{"".join(data["text/html"])}</div>')
        elif "image/png" in data:
            image = f'<img alt="The drawing" src="data:image/png;base64,{data["image/png"]}">'
            parts.append(f'<div class="output">{image}</div>')
        else:
            parts.append(f"```text\n{''.join(data['text/plain'])}\n```")
    return parts
