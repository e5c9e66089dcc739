"""Plugins that a study names."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from tokensieve.errors import PluginError, text_of
from tokensieve.plugins.files import on_path, plugin_file, register_files
from tokensieve.plugins.registry import Registry


def register_plugins(names: Iterable[str], registry: Registry) -> None:
    """Import plugins, and register those that are not registered yet.

    Args:
        names: modules, or paths of files that end in `.py`.
        registry: where they are registered.

    Raises:
        PluginError: if one of them cannot be imported, or adds something that is not valid.
    """
    known = {plugin.name for plugin in registry.plugins}
    for name in names:
        if name in known:
            continue
        if _is_file(name):
            register_files([Path(name)], registry)
            continue
        try:
            with on_path(Path.cwd()):
                module = importlib.import_module(name)
        # A plugin's module can raise anything, and even exit.
        except (Exception, SystemExit, GeneratorExit) as error:
            reason = f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")
            raise PluginError(f"the plugin '{name}' cannot be imported: {reason}") from None
        registry.register(module, name, f"module {name}")


def with_absolute_paths(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of plugins with absolute paths of files: cells may run in another folder."""
    return tuple(str(plugin_file(Path(name))) if _is_file(name) else name for name in names)


def _is_file(name: str) -> bool:
    return name.endswith(".py")
