import json

import pytest
from PIL import Image

from tokensieve import Registry
from tokensieve.plugins import shipped


@pytest.fixture
def folder(tmp_path):
    """Three pictures, of three sizes."""
    for name, size, colour in (("a.png", (8, 6), "red"), ("b.jpg", (40, 20), "blue"), ("in/c.png", (5, 5), "lime")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size, colour).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def write(folder):
    """Write lines, each a mapping or a text, and give the file."""

    def written(*lines, name="asked.jsonl"):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return str(folder / name)

    return written


@pytest.fixture
def registry():
    """The tasks that come with tokensieve, and nothing else."""
    found = Registry()
    found.register(shipped, "tasks")
    return found
