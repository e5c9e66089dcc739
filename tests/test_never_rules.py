"""The never rules that import-linter cannot state: names, calls, and what an import does when it runs.

The rules about which module may import which are contracts in pyproject.toml (`make lint`).
"""

import ast
import functools
import io
import re
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORK = ROOT / "framework" / "tokensieve"
STRATEGIES = ROOT / "strategies" / "tokensieve_strategies"
ADAPTERS = ROOT / "adapters" / "tokensieve_adapters"
ENGINE = FRAMEWORK / "engine"

FAMILIES = [
    "blip",
    "chameleon",
    "clip",
    "cogvlm",
    "deepseek",
    "deit",
    "dinov",
    "florence",
    "gemma",
    "idefics",
    "instructblip",
    "internvl",
    "janus",
    "kosmos",
    "llama",
    "llava",
    "minicpm",
    "mistral",
    "mllama",
    "molmo",
    "ovis",
    "paligemma",
    "pixtral",
    "qwen",
    "siglip",
    "smolvlm",
    "timm",
    "vicuna",
    "vit",
]
# Strategies named by a word of everyday code (a layer norm, a random seed, the class itself): finding one says nothing.
ORDINARY_WORDS = {"cls", "norm", "pool", "random", "temporal", "uniform"}
# Where sorting is not the choice of tokens, which is `Chain.cut`'s alone. A folder stands for its files.
SORTS_SOMETHING_ELSE = {
    "strategies/tokensieve_strategies/_maths/": "edges between tokens, and the orders that strategies give",
    "framework/tokensieve/engine/batches.py": "the turn at which tokens of several modalities stand in a prompt",
    "framework/tokensieve/engine/shortening.py": "places that stay, in the order of the sequence",
    "framework/tokensieve/engine/token_layout.py": "tokens by the group that they are in",
}


def modules(*folders: Path) -> list[Path]:
    found = sorted(path for folder in folders for path in folder.rglob("*.py"))
    assert found, f"no module under {', '.join(str(folder) for folder in folders)}"
    return found


def strategy_names() -> list[str]:
    files = {path.stem for path in STRATEGIES.glob("*.py") if not path.stem.startswith("_")}
    return sorted((files - ORDINARY_WORDS) | {"gsp", "qcsp", "fastv", "tome"})


def names_in(text: str, names: list[str]) -> Iterator[tuple[int, str]]:
    """Lines that hold one of the names as a word or as a part of a camelCase or snake_case word."""
    for match in re.finditer("|".join(sorted(names, key=len, reverse=True)), text, re.IGNORECASE):
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 2]
        starts = not before.isalpha() or (before.islower() and match.group()[0].isupper())
        # After a name in capitals, a capital begins a word if a small letter follows: CLIPModel, not CLIPPED.
        capital = after[:1].isupper() and (match.group()[-1].islower() or after[1:].islower())
        if starts and (not after[:1].isalpha() or capital):
            yield text.count("\n", 0, match.start()) + 1, match.group()


def code_words(text: str) -> Iterator[tuple[int, str]]:
    """The names that code uses, without comments and strings."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LlavaModel", ["Llava"]),
        ("LLaVAConfig", ["LLaVA"]),
        ("llava_next", ["llava"]),
        ("model.is_qwen2", ["qwen"]),
        ("CLIPModel", ["CLIP"]),
        ("is_CLIP", ["CLIP"]),
        ("anyLlava", ["Llava"]),
        ("clip-vit", ["clip", "vit"]),
        ("eclipse clipped CLIPPED vital invite", []),
        ("customer", []),
        ("as ToMe does", ["ToMe"]),
    ],
)
def test_the_search_for_names_finds_words_and_not_syllables(text: str, found: list[str]) -> None:
    assert [name for _, name in names_in(text, [*FAMILIES, "tome"])] == found


@pytest.mark.parametrize("path", modules(ENGINE), ids=lambda path: str(path.relative_to(FRAMEWORK)))
def test_the_engine_names_no_family_and_no_method(path: Path) -> None:
    named = [
        f"{place(path, line)} names {name!r}"
        for line, name in names_in(path.read_text(encoding="utf-8"), FAMILIES + strategy_names())
    ]
    assert named == []


@pytest.mark.parametrize("path", modules(ENGINE), ids=lambda path: str(path.relative_to(FRAMEWORK)))
def test_the_engine_imports_no_modelling_file(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [
        (node.lineno, name)
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [node.value]
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            else []
        )
    ]
    assert [place(path, line) for line, name in imported if name.startswith("transformers.models")] == []


@pytest.mark.parametrize("path", modules(ADAPTERS), ids=lambda path: path.stem)
def test_an_adapter_names_no_method(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = [
        f"{place(path, line)} names {name!r}"
        for line, word in code_words(text)
        for _, name in names_in(word, strategy_names())
    ]
    assert named == []


@functools.cache
def sorts() -> dict[str, list[int]]:
    """Per file, relative to the root, the lines on which code says `topk` or `argsort`."""
    found: dict[str, list[int]] = {}
    for path in modules(FRAMEWORK, STRATEGIES, ADAPTERS):
        for line, word in code_words(path.read_text(encoding="utf-8")):
            if word in {"topk", "argsort"}:
                found.setdefault(path.relative_to(ROOT).as_posix(), []).append(line)
    return found


def covers(known: str, path: str) -> bool:
    return path.startswith(known) if known.endswith("/") else path == known


def test_only_a_chain_chooses_tokens() -> None:
    elsewhere = {
        path: lines for path, lines in sorts().items() if not any(covers(known, path) for known in SORTS_SOMETHING_ELSE)
    }
    assert elsewhere == {}


@pytest.mark.parametrize("known", SORTS_SOMETHING_ELSE)
def test_the_list_of_other_sorts_is_no_longer_than_it_need_be(known: str) -> None:
    assert any(covers(known, path) for path in sorts())


def test_importing_and_building_the_registry_loads_no_model_library_and_says_nothing() -> None:
    result = run_python(
        """
        import logging, sys

        heavy = {"transformers", "timm", "torchvision"}
        import tokensieve
        assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))
        assert not {"tokensieve_strategies", "tokensieve_adapters"} & set(sys.modules)

        tokensieve.default_registry()
        assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))
        # The registry was not empty-handed: both plugin packages were loaded on the way.
        assert {"tokensieve_strategies", "tokensieve_adapters"} <= set(sys.modules)
        # It would import triton.
        assert "tokensieve_strategies._maths.kernels" not in sys.modules
        assert logging.getLogger().handlers == []
        """
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_importing_and_building_the_registry_patches_nothing() -> None:
    result = run_python(
        """
        import torch, transformers
        from transformers import GenerationMixin, PreTrainedModel
        from transformers.models.llama import modeling_llama

        watched = [
            torch.Tensor, torch.nn.Module, torch.nn.functional,
            PreTrainedModel, GenerationMixin, modeling_llama,
            *(value for value in vars(modeling_llama).values() if isinstance(value, type)),
        ]
        before = [dict(vars(thing)) for thing in watched]
        hooks = dict(torch.nn.modules.module._global_forward_hooks)

        import tokensieve
        tokensieve.default_registry()

        for thing, known in zip(watched, before, strict=True):
            now = vars(thing)
            changed = [name for name, value in known.items() if now.get(name) is not value]
            assert changed == [], (thing, changed)
        assert dict(torch.nn.modules.module._global_forward_hooks) == hooks
        """
    )
    assert (result.returncode, result.stderr) == (0, "")
