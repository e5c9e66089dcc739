"""Adapters that take the same models, none of which can be pruned then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tokensieve.models.adapter import Adapter

Origin = Callable[[str, str], str]
"""Gives the plugin that brings something of a kind and a name."""


def rivals(adapters: Sequence[type[Adapter]], origin: Origin, do: str) -> str:
    """Say that several adapters do the same, and what can be done."""
    named = " and ".join(f"'{cls.name}' ({origin('adapter', cls.name)})" for cls in adapters)
    return (
        f"the adapters {named} {'both' if len(adapters) == 2 else 'all'} {do}, so no such model can be pruned: "
        "uninstall one of the plugins, or let its `model_types` or `matches` take other models"
    )


def rivals_by_type(adapters: Iterable[type[Adapter]], origin: Origin) -> Iterator[str]:
    """Yield a sentence for every model type that several adapters take whole.

    Adapters with a `matches` of their own may share a type: Pixtral's is LLaVA's, too.
    """
    takers: dict[str, list[type[Adapter]]] = {}
    for cls in adapters:
        if cls.matches.__func__ is Adapter.matches.__func__:  # type: ignore[attr-defined]
            for kind in cls.model_types:
                takers.setdefault(kind, []).append(cls)
    for kind, own in takers.items():
        if len(own) > 1:
            yield rivals(own, origin, f"take models of type '{kind}'")
