"""`--model tokensieve_wrap,base=NAME`: a class of lmms-eval itself, pruned, with the prompts of published numbers."""

# lmms-eval has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models import get_model
from lmms_eval.utils import simple_parse_args_string
from torch import nn

from tokensieve.errors import PluginError, RefusedError, short_message
from tokensieve.lmms.arguments import WrapArguments, content_of
from tokensieve.lmms.harness import Attached, attach
from tokensieve.lmms.ledger import Ledger
from tokensieve.lmms.manifests import MODEL, WRAP
from tokensieve.lmms.pruning import Pruning, require_harness
from tokensieve.lmms.watching import Seen, WatchedTasks
from tokensieve.plugins.registry import default_registry

PROCESSORS = ("processor", "_processor", "_image_processor", "image_processor")
"""Where classes of lmms-eval have their processor."""


class ChatWrap(lmms):
    """Makes a pruned model of a class of lmms-eval; it is none itself."""

    is_simple = False

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """Return an instance of the class that `base` names, pruned.

        Raises:
            PluginError: if lmms-eval is of another version, or cannot import the class.
            RefusedError: if there is no such class, or it cannot be pruned.
            SettingError: if arguments are wrong.
        """
        require_harness()
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        arguments, others = WrapArguments.split({**given, **simple_parse_args_string(arg_string)})
        registry = default_registry()
        recipe = arguments.load_recipe(registry)
        base = _base(arguments.base, cls.is_simple)
        shipped = registry.checkpoints.get(str(others.get("pretrained")))
        query_encoder = arguments.find_query_encoder(None if shipped is None else shipped.query_encoder)
        if shipped is not None:
            others["pretrained"] = str(shipped.folder)
        made = _pruned(base)(**{**_mended(base, others.get("device")), **others})
        model, ledger = made.model, Ledger()
        if not isinstance(model, nn.Module):
            raise RefusedError(f"base={arguments.base} has no model of PyTorch, but a {type(model).__name__}")
        attach(Attached(content_of(recipe, registry), ledger))
        if recipe is not None:
            made._pruning = Pruning(recipe, registry, query_encoder, next(model.parameters()).device, ledger)
            made._pruning.check(model, _processor(made))
        return made

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not called: what `create_from_arg_string` returns is of another class."""
        raise NotImplementedError

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Not called: what `create_from_arg_string` returns is of another class."""
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        """Not called: what `create_from_arg_string` returns is of another class."""
        raise NotImplementedError


class SimpleWrap(ChatWrap):
    """The same for `--force_simple`, which takes the class that has the prompts of older numbers."""

    is_simple = True


def _base(name: str, simple: bool) -> Any:
    if name in (MODEL, WRAP):
        raise RefusedError(f"base={name} is this bridge itself; base is the name of a model of lmms-eval")
    try:
        return get_model(name, simple)
    except ValueError as error:
        raise RefusedError(f"base={name}: {short_message(error)}") from None
    # A class imports what its model needs, and lmms-eval does not declare all of it.
    except ImportError as error:
        raise PluginError(f"base={name} cannot be imported: {short_message(error)}; install what is missing") from None


def _mended(base: Any, device: Any) -> dict[str, Any]:
    """Return arguments without which a class cannot load its model: transformers 5 takes no empty `device_map`."""
    parameter = inspect.signature(base.__init__).parameters.get("device_map")
    return {"device_map": device} if parameter is not None and parameter.default == "" and device else {}


def _processor(model: Any) -> Any:
    found = (getattr(model, name, None) for name in PROCESSORS)
    return next((one for one in found if getattr(one, "tokenizer", None) is not None), None)


def _pruned(base: Any) -> Any:
    """Return a class that answers as `base` does, with the model pruned."""

    class Pruned(base):
        """A class of lmms-eval whose model is pruned in every call of `generate`."""

        task_dict: Any
        _pruning: Pruning | None = None

        def generate_until(self, requests: list[Any]) -> list[Any]:
            if self._pruning is None:
                return list(super().generate_until(requests))
            seen = Seen()
            tasks = self.task_dict
            self.task_dict = WatchedTasks(tasks, seen)
            try:
                with _pruned_calls(self.model, _processor(self), self._pruning, seen, requests):
                    return list(super().generate_until(requests))
            finally:
                self.task_dict = tasks

        def loglikelihood(self, requests: list[Any]) -> Any:
            if self._pruning is None:
                return super().loglikelihood(requests)
            raise RefusedError("a task that scores given answers would select tokens by a prompt that holds the answer")

        def generate_until_multi_round(self, requests: list[Any]) -> Any:
            if self._pruning is None:
                return super().generate_until_multi_round(requests)
            raise RefusedError("a pruned class answers in one round, and this task has several")

    Pruned.__name__ = f"Pruned{base.__name__}"
    return Pruned


@contextmanager
def _pruned_calls(model: Any, processor: Any, pruning: Pruning, seen: Seen, requests: list[Any]) -> Iterator[None]:
    """Prune every call of a model's `generate`.

    Classes of lmms-eval go on after an error in `generate`, with an empty answer. So an error is kept, raised by every
    later call, and raised once more when the class is done.
    """
    own, calls = vars(model), 0
    failed: list[Exception] = []
    before = {"generate": own["generate"]} if "generate" in own else {}

    def generate(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if failed:
            raise failed[0]
        documents = seen.take()
        ids = kwargs.get("input_ids", args[0] if args else None)
        rows = len(documents) if ids is None else len(ids)
        # Inside, `generate` is the model's own, which `prune` wraps.
        _restore(own, before)
        try:
            with pruning.of(model, processor, documents, rows, requests[0].task_name):
                done = model.generate(*args, **kwargs)
            calls += 1
            return done
        except Exception as error:
            failed.append(error)
            raise
        finally:
            own["generate"] = generate

    own["generate"] = generate
    try:
        yield
    finally:
        _restore(own, before)
    if failed:
        raise failed[0]
    if requests and not calls:
        raise RefusedError(f"the class did not call {type(model).__name__}.generate, so nothing was pruned")


def _restore(own: dict[str, Any], before: dict[str, Any]) -> None:
    own.pop("generate", None)
    own.update(before)
