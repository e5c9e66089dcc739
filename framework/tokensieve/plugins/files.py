"""Plugins that are not installed: a file of Python, or a folder with an `__init__.py`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tokensieve.composers.expression import Composer
from tokensieve.errors import PluginError, listing, text_of
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.hookspecs import hookimpl
from tokensieve.plugins.registry import HOOKS, Registry
from tokensieve.strategy import Strategy
from tokensieve.tasks.base import Task

_ADDED_BY: dict[type, str] = {Strategy: "strategies", Composer: "composers", Adapter: "adapters", Task: "tasks"}


def register_files(files: Iterable[Path], registry: Registry) -> None:
    """Import files with plugins, and register those that are not registered yet.

    Raises:
        PluginError: if a file is not there, cannot be imported, implements no hook, or adds something that is not
            valid.
    """
    for file in files:
        path = plugin_file(file)
        module = _imported(path)
        if not registry.is_registered(module):
            _check_hooks(module, path)
            registry.register(module, module.__name__, str(path))


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Put a folder on `sys.path`, as `python` itself does with the folder of a script."""
    if str(folder) in sys.path:
        yield
        return
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def plugin_file(file: Path) -> Path:
    """Return the absolute path of a plugin's file: that of a folder is its `__init__.py`.

    Raises:
        PluginError: if there is no such file, or it is no Python.
    """
    path = Path(file).expanduser().resolve()
    # Not by methods of the path, which raise where a name is too long.
    path = path / "__init__.py" if os.path.isdir(path) else path
    if not os.path.isfile(path):
        raise PluginError(f"there is no file {path}; a plugin is a file of Python, or a folder with an __init__.py")
    if path.suffix != ".py":
        raise PluginError(f"{path} is no .py file; a plugin is a file of Python, or a folder with an __init__.py")
    return path


def _imported(path: Path) -> ModuleType:
    """Import a file under its name, and return the module."""
    is_package = path.name == "__init__.py"
    name = (path.parent.name if is_package else path.stem).replace(".", "_")
    taken = sys.modules.get(name)
    found = _file_of(name) if taken is None else Path(getattr(taken, "__file__", None) or name).resolve()
    if found is not None and found != path:
        raise PluginError(
            f"{path} has the name of the module '{name}', which Python has already, in {found}; rename the file"
        )
    if taken is not None:
        return taken
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)] if is_package else None
    )
    if spec is None or spec.loader is None:
        raise PluginError(f"Python cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    # Pickles of its classes, and the hash of its code, find it here.
    sys.modules[name] = module
    try:
        with on_path(path.parents[is_package]):
            spec.loader.exec_module(module)
    # A plugin's module can raise anything, and even exit.
    except (Exception, SystemExit, GeneratorExit) as error:
        del sys.modules[name]
        reason = f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")
        raise PluginError(f"the plugin {path} cannot be imported: {reason}") from None
    return module


def _file_of(name: str) -> Path | None:
    """Return the file that Python would import under a name, or none."""
    try:
        found = importlib.util.find_spec(name)
    # Raised for a name that is no module's, such as one with a dot at an end.
    except (ImportError, ValueError):
        return None
    return None if found is None else Path(found.origin or name).resolve()


def _check_hooks(module: ModuleType, path: Path) -> None:
    """Raise if a module implements no hook: whatever it defines, nothing of it would be known.

    Raises:
        PluginError: with the hooks that its classes need.
    """
    if any(hasattr(value, f"{hookimpl.project_name}_impl") for value in vars(module).values()):
        return
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    hooks = {f"register_{kind}" for base, kind in _ADDED_BY.items() for one in own if issubclass(one, base)}
    raise PluginError(
        f"{path} implements no hook, so nothing of it is known; add a function with @hookimpl that adds what it "
        f"defines. Hooks: {listing(hooks or HOOKS)}"
    )
