"""Recipes on the Hugging Face hub: a repository with the file `recipe.yaml` and a card that shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Self

from tokensieve.composers.expression import Composer, Expression
from tokensieve.errors import RecipeError
from tokensieve.plugins.registry import Registry
from tokensieve.strategy import Strategy

SCHEME = "hub://"
FILE = "recipe.yaml"
"""The file of a repository that holds its recipe."""
BAR = "\\|"
_ADDRESS = re.compile(r"hub://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class HubAddress:
    """Where a recipe is on the hub.

    Attributes:
        repo: the repository, as `owner/name`.
        revision: a branch, a tag or a commit; the main branch if there is none.
    """

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address such as `hub://owner/name` or `hub://owner/name@v1`.

        Raises:
            RecipeError: if it is none.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise RecipeError(
                f"'{text}' is no address on the hub; write hub://owner/name, or hub://owner/name@revision"
            )
        return cls(found["repo"], found["revision"])

    def __str__(self) -> str:
        return SCHEME + self.repo + ("" if self.revision is None else f"@{self.revision}")


def fetch_recipe(address: HubAddress) -> Path:
    """Download the recipe of a repository into the hub's cache, and return the file. Nothing else is downloaded.

    A recipe is data: no code of the repository is downloaded or run.

    Raises:
        RecipeError: if there is no such repository, revision or file, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(address.repo, FILE, revision=address.revision))
    except RevisionNotFoundError:
        raise RecipeError(f"{address}: the repository has no revision '{address.revision}'") from None
    except RepositoryNotFoundError:
        raise RecipeError(
            f"{address}: the hub has no such repository, or it is private; log in with `hf auth login`"
        ) from None
    # It is an error of a missing file, too, so it comes first.
    except LocalEntryNotFoundError:
        raise RecipeError(
            f"{address}: the hub cannot be reached, and the recipe was not downloaded before; without a network, "
            "name the recipe's file"
        ) from None
    except EntryNotFoundError:
        raise RecipeError(f"{address}: the repository has no file {FILE}, so it is no recipe") from None
    # Also errors of its HTTP client, which is another one in every few versions of the hub's library.
    except Exception as error:
        raise RecipeError(f"{address} cannot be read: {_first_line(error)}") from error


def push_files(
    repo: str,
    files: Callable[[HubAddress], Mapping[str, str]],
    *,
    private: bool | None,
    revision: str | None,
    message: str,
    token: str | None,
) -> HubAddress:
    """Write files into a repository of the hub, in one commit. The repository is made if it is not there.

    Args:
        repo: the repository, as `owner/name`.
        files: returns the texts of the files by name, for the repository's address.
        private: whether a new repository is private; what its owner's settings say by default.
        revision: the branch; the main one by default.
        message: the commit message.
        token: an access token; by default, that of `hf auth login`.

    Returns:
        The address with the commit.

    Raises:
        RecipeError: if `repo` is no name of a repository, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    address = HubAddress.parse(repo if repo.startswith(SCHEME) else SCHEME + repo)
    if address.revision is not None:
        raise RecipeError(f"'{repo}' names a revision; write push({address.repo!r}, revision={address.revision!r})")
    operations = [CommitOperationAdd(name, text.encode()) for name, text in files(address).items()]
    api = HfApi(token=token, library_name="tokensieve")
    try:
        api.create_repo(address.repo, private=private, exist_ok=True)
        done = api.create_commit(address.repo, operations, commit_message=message, revision=revision)
    # Also errors of its HTTP client, which is another one in every few versions of the hub's library.
    except Exception as error:
        raise RecipeError(f"nothing is pushed to {address}: {_first_line(error)}") from error
    return HubAddress(address.repo, done.oid)


def card_text(
    address: HubAddress,
    recipe: str,
    plan: Sequence[tuple[str, str, str]],
    *,
    title: str,
    paper: str | None,
    digest: str,
    plugins: Sequence[str],
) -> str:
    """Return the card of a recipe as Markdown: what it does, the recipe itself, and how it is used.

    Args:
        address: where it will be.
        recipe: the recipe as YAML.
        plan: site, formula and budget of every stage as text.
        title: the heading.
        paper: the link to the paper, or none.
        digest: the recipe's hash.
        plugins: where its strategies and composers come from, if not from tokensieve itself.
    """
    rows = [f"| `{at}` | `{formula.replace('|', BAR)}` | {budget} |" for at, formula, budget in plan]
    parts = [
        "---\nlibrary_name: tokensieve\ntags: [tokensieve, visual-token-pruning]\n---",
        f"# {title}\n",
        "A recipe of tokensieve: which visual tokens a multimodal language model keeps, and where.\n",
        "| at | select | budget |\n|---|---|---|",
        *rows,
        "",
        *([f"Paper: {paper}\n"] if paper else []),
        *([f"It needs {', '.join(plugins)}, installed beside tokensieve.\n"] if plugins else []),
        f"```yaml\n{recipe.rstrip()}\n```\n",
        "```python\nimport tokensieve as ts\n",
        f'with ts.prune(model, "{address}") as run:\n    model.generate(**inputs)\n```\n',
        f"Hash of its settings: `{digest}`. Written by tokensieve {metadata.version('tokensieve')}.\n",
    ]
    return "\n".join(parts)


def foreign_origins(expressions: Iterable[Expression], registry: Registry) -> list[str]:
    """Return where the strategies and composers of expressions come from, without those of tokensieve itself."""
    own = f"(tokensieve {metadata.version('tokensieve')})"
    found: dict[str, None] = {}
    for one in (part for expression in expressions for part in expression.walk()):
        origin: str | None
        if isinstance(one, Strategy):
            origin = registry.origin("strategy", one.name)
        else:
            origin = registry.foreign_composer(one.name) if isinstance(one, Composer) else None
        if origin is not None and not origin.endswith(own):
            found[origin.removeprefix("of the plugin ")] = None
    return sorted(found)


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text: those of the hub go on for many."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
