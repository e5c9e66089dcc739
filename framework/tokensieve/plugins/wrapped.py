"""Finding the model inside what it is wrapped in: a pipeline, PEFT, data parallelism, a training framework."""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path

from torch import nn

from tokensieve.errors import RefusedError, UnsupportedModelError, brief, listing
from tokensieve.models.adapter import Adapter

Matching = Callable[[nn.Module], list[type[Adapter]]]
"""Returns the adapters that match a module."""

_COMPILED = "_orig_mod"


def unwrap(model: object, matching: Matching, shipped: Container[str] = ()) -> nn.Module:
    """Return the model inside a wrapper, or the model itself.

    Wrappers may forward attributes of the model, so that an adapter matches them as well. Whatever a wrapper calls, it
    is the model inside that is pruned.

    Args:
        model: a model, a wrapper of one, or an object with one as its `model`, such as a pipeline.
        matching: the adapters that match a module.
        shipped: the names of shipped checkpoints, which are no models but can be loaded.

    Raises:
        UnsupportedModelError: if there is no model, or several are inside.
        RefusedError: if the model is compiled as a whole.
    """
    if not isinstance(model, nn.Module):
        inside = getattr(model, "model", None)
        if not isinstance(inside, nn.Module):
            raise UnsupportedModelError(
                f"{brief(model)} is no model, and has none as its attribute 'model'; {_cure(model, shipped)}"
            )
        model = inside
    path: list[str] = []
    while found := _inside(model, matching):
        if len(found) > 1:
            raise UnsupportedModelError(
                f"this {type(model).__name__} holds {len(found)} models: "
                f"{listing(f'{name!r} ({type(one).__name__})' for name, one in found.items())}; pass one of them"
            )
        ((name, model),) = found.items()
        path += name.split(".")
    if _COMPILED in path:
        raise RefusedError("this model is compiled as a whole; prune the original model and compile its parts")
    return model


def _inside(model: nn.Module, matching: Matching) -> dict[str, nn.Module]:
    """Return the outermost models inside a module for which it may be a wrapper."""
    own = matching(model)
    found: dict[str, nn.Module] = {}
    waiting = [(name, child) for name, child in model.named_children()]
    while waiting:
        name, module = waiting.pop(0)
        kinds = matching(module)
        if any(kind in own if own else _is_wrapped(model, module, kind) for kind in kinds):
            found[name] = module
        else:
            waiting += [(f"{name}.{child}", inner) for child, inner in module.named_children()]
    return found


def _is_wrapped(outer: nn.Module, inner: nn.Module, kind: type[Adapter]) -> bool:
    """Return whether a module wraps another: a vision encoder may also be a part of something larger."""
    if kind.decoder_type is not None:
        return True
    return {id(one) for one in outer.parameters()} <= {id(one) for one in inner.parameters()}


def _cure(thing: object, shipped: Container[str]) -> str:
    if isinstance(thing, (str, Path)):
        name = repr(str(thing))
        folder = f"default_registry().checkpoint({name}).folder" if str(thing) in shipped else name
        return f"load it first: AutoModelForImageTextToText.from_pretrained({folder}) of transformers"
    if isinstance(thing, type):
        return f"pass an instance of it, such as {thing.__name__}.from_pretrained(folder)"
    return "pass a model of transformers or timm, or a pipeline"
