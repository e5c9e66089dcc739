"""Plugins that a study names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokensieve.errors import (
    PluginError,
    text_of,
)
from tokensieve.plugins.registry import Registry


def register_plugins(names: Iterable[str], registry: Registry) -> None:
    """Import modules with plugins, and register those that are not registered yet.

    Raises:
        PluginError: if a module cannot be imported, or adds something that is not valid.
    """
    known = {plugin.name for plugin in registry.plugins}
    for name in names:
        if name in known:
            continue
        try:
            with _working_folder_on_path():
                module = importlib.import_module(name)
        # A plugin's module can raise anything, and even exit.
        except (Exception, SystemExit, GeneratorExit) as error:
            reason = f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")
            raise PluginError(f"the plugin '{name}' cannot be imported: {reason}") from None
        registry.register(module, name, f"module {name}")


@contextmanager
def _working_folder_on_path() -> Iterator[None]:
    """Put the working folder on `sys.path`, as `python` itself does."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
