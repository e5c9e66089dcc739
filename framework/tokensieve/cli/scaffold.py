"""The files of a new plugin, made of the templates in `templates/`."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokensieve.errors import RefusedError
from tokensieve.plugins.kinds import by_kind
from tokensieve.plugins.registry import Registry

TEMPLATES = Path(__file__).parent / "templates"

_COMMON = {
    "pyproject.toml": "common/pyproject.toml.jinja",
    "README.md": "common/README.md.jinja",
    ".github/workflows/tests.yml": "common/tests.yml.jinja",
    "{package}/__init__.py": "{kind}/__init__.py.jinja",
    "tests/test_{package}.py": "{kind}/test.py.jinja",
}
_RECIPE = {"{package}/recipes/{name}.yaml": "{kind}/recipe.yaml.jinja"}
_MORE: Mapping[str, Mapping[str, str]] = {
    "strategy": _RECIPE,
    "composer": _RECIPE,
    "recipe": _RECIPE,
    "adapter": {},
    "task": {"study.yaml": "task/study.yaml.jinja"},
}
"""By kind, what there is beside the common files."""

_SHOWN = """\
See what it keeps of a picture (`world-llava` is a small model that comes with tokensieve):

```bash
tokensieve show {name} --model world-llava --image PICTURE.png
```"""
_USE = {
    "strategy": _SHOWN,
    "composer": _SHOWN,
    "recipe": _SHOWN,
    "adapter": "`tokensieve.prune` then takes models of the family: see the page *Write an adapter* of tokensieve.",
    "task": "Compare methods on it:\n\n```bash\ntokensieve compare study.yaml --out runs/{name}\n"
    "tokensieve report runs/{name}\n```",
}
_INSIDE = {
    "strategy": "the strategy `{name}`, and the hooks that add it and its recipes",
    "composer": "the composer `{name}`, and the hooks that add it and its recipes",
    "recipe": "the hook that adds every recipe in `recipes/`",
    "adapter": "the adapter `{name}`: it begins as one for ViP-LLaVA, whose names are to be replaced by your family's",
    "task": "the task `{name}`, and the hook that adds it",
}
_TESTED = {
    **dict.fromkeys(_USE, "the laws that every {kind} must keep; run `pytest` whenever you change something"),
    "recipe": "a test that the recipe is found, and that nothing is wrong with it",
}
_CONTENT = {
    "recipe.yaml.jinja": "the recipe `{name}`; every other `.yaml` file beside it is a recipe, too",
    "study.yaml.jinja": "a study that asks its questions",
}
_RIVALS = {
    "strategy": ("strategy", "composer", "recipe"),
    "composer": ("composer", "strategy", "recipe"),
    "recipe": ("recipe",),
    "adapter": ("adapter",),
    "task": ("task",),
}
"""By kind, the kinds of which none may have its name."""

_LONGEST = 64
"""How many letters a name has at most; names of files have a limit, too."""
_RESERVED = ("build", "conftest", "dist", "tests")
"""Names of packages that tools give another meaning; the tests of a plugin are in the folder `tests`."""


@dataclass(frozen=True)
class Plan:
    """A plugin that can be written.

    Attributes:
        kind: `strategy`, `composer`, `adapter`, `task` or `recipe`.
        name: what it is registered as.
        folder: where it goes.
    """

    kind: str
    name: str
    folder: Path

    @classmethod
    def of(cls, kind: str, name: str, into: Path, registry: Registry) -> Self:
        """Return the plan of a plugin.

        Raises:
            RefusedError: if the name is none or is taken, or its folder exists.
        """
        plan = cls(kind, name, into / name.replace("_", "-"))
        for problem in (*_name_problems(kind, name), *_taken(plan, registry)):
            raise RefusedError(problem)
        return plan

    @property
    def package(self) -> str:
        """The name of its package."""
        return self.name.replace("-", "_")

    def write(self) -> list[Path]:
        """Write the files, and return their paths."""
        self.folder.mkdir()
        written = []
        for path, text in self.files().items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            written.append(file)
        return written

    def files(self) -> dict[str, str]:
        """Return the text of every file, by its path in the folder."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        # What is made is Python, YAML and Markdown, not HTML; the name is the only thing from outside, and is checked.
        environment = Environment(  # noqa: S701
            loader=FileSystemLoader(TEMPLATES),
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        named = {"kind": self.kind, "name": self.name, "package": self.package}
        more = {path.format(**named): template for path, template in _MORE[self.kind].items()}
        values = {
            **named,
            "distribution": self.folder.name,
            "cls": "".join(part.capitalize() for part in self.package.split("_")),
            "what": f"The {self.kind} `{self.name}`",
            "use": _USE[self.kind].format(**named),
            "inside": _INSIDE[self.kind].format(**named),
            "tested": _TESTED[self.kind].format(**named),
            "more": {path: _CONTENT[template.partition("/")[2]].format(**named) for path, template in more.items()},
        }
        return {
            path.format(**named): environment.get_template(template.format(**named)).render(values)
            for path, template in (_COMMON | more).items()
        }


def _name_problems(kind: str, name: str) -> Iterator[str]:
    """Say why something cannot have a name, and which one it could have."""
    signs = "small letters, digits and _" + (" or -" if kind == "recipe" else "")
    allowed = r"[a-z][a-z0-9]*([_-][a-z0-9]+)*" if kind == "recipe" else r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
    if not re.fullmatch(allowed, name):
        near = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
        near = re.sub(r"[^a-z0-9]+", "_", near.lower()).strip("_")
        hint = f"; take {near}" if re.fullmatch(allowed, near) and not keyword.iskeyword(near) else ""
        yield f"{_a(kind)} cannot be named '{name}': a name is made of {signs}, and begins with a letter{hint}"
        return
    package = name.replace("-", "_")
    if len(name) > _LONGEST:
        yield f"a name has at most {_LONGEST} letters, '{name[:20]}...' has {len(name)}; take a shorter one"
    elif package in _RESERVED:
        other = f"{name}_{kind}"
        yield f"a package cannot be named '{package}', which pytest or a build takes; take another, such as {other}"
    elif keyword.iskeyword(package):
        yield f"{_a(kind)} cannot be named '{name}', which is a word of Python; take another, such as {name}_{kind}"
    elif importlib.util.find_spec(package) is not None:
        yield (
            f"a package cannot be named '{package}': Python has a module of that name, which one of them would hide; "
            f"take another, such as {name}_{kind}"
        )


def _taken(plan: Plan, registry: Registry) -> Iterator[str]:
    """Say who has a name, or that the folder exists."""
    tables = by_kind(registry)
    for kind in _RIVALS[plan.kind]:
        if plan.name in tables[kind]:
            yield (
                f"there is {_a(kind)} named '{plan.name}' already, of {registry.origin(kind, plan.name)}; "
                "choose another name"
            )
    if os.path.exists(plan.folder):
        yield f"there is a folder {plan.folder} already; choose another name, or another place with --into"


def _a(kind: str) -> str:
    return f"an {kind}" if kind.startswith("a") else f"a {kind}"
