"""The pages of the documentation, and the blocks on them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# A comment right before a block says how it is checked; readers never see it.
FENCE = re.compile(
    r"(?:^<!-- (?P<said>(?:exit|output|numbers)[^\n]*) -->\n)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    `said` is the comment before it, or nothing: `exit: 1` for a command that ends with this code, and of
    an output `numbers vary`, `output: begins` or `output: ends`.
    """

    language: str
    title: str | None
    said: str | None
    code: str
    line: int


def blocks(page):
    text = page.read_text(encoding="utf-8")
    found = [
        Block(m["language"], m["title"], m["said"], m["code"], text.count("\n", 0, m.start("code")) + 1)
        for m in FENCE.finditer(text)
    ]
    # Whatever looks like a fence is one of these: an indented or misspelt one would not be run.
    assert 2 * len(found) == len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)), f"{page}: a fence is not read"
    return found


def name(page):
    return page.relative_to(ROOT).as_posix()
