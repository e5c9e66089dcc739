"""Putting hooks and attributes into a model, and removing them exactly.

Several installations may be in one model at once, those of threads that prune it side by side among them, and they
leave in any order. So nothing here restores what it found: a hook is found again by itself, and an attribute is
wrapped once, by a `Dispatcher` that calls the wrappers which are in force for the caller.

What is installed acts for one module instance. Copies of a model have nothing of it, and neither has what is pickled.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from tokensieve.errors import RefusedError

Gate = Callable[[], bool]
"""Whether something installed is in force for the caller."""

lock = threading.RLock()
"""Held while anything is put into a model or taken out."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_BESIDE = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
"""What torch notes of a hook beside it."""
_COPYING = ("__deepcopy__", "__reduce_ex__", "_replicate_for_data_parallel")


def always() -> bool:
    """Return true: in force for every caller."""
    return True


def untraced(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a hook out of the graphs of torch.compile: selecting reads values and the clock."""
    dynamo = sys.modules.get("torch._dynamo")
    # Where nothing was compiled yet, loading the compiler would cost more than it saves.
    return hook if dynamo is None else dynamo.disable(hook)


class Hook:
    """A forward hook that acts for one module, while it is in force."""

    def __init__(self, module: nn.Module, gate: Gate, function: Callable[..., Any]) -> None:
        self._module = weakref.ref(module)
        self._gate = gate
        self._function = function

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        """Call the function, or return none, which changes nothing."""
        if module is not self._module() or not self._gate():
            return None
        return self._function(module, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        """Return itself: on another module it does nothing."""
        return self


class Dispatcher:
    """An instance attribute that calls the method it stands for, inside the wrappers that are in force.

    Attributes:
        real: the method, as it was before anything was installed.
        before: the instance attribute that was there before, if there was one.
        wrappers: what wraps it, the innermost first: its gate and a function that takes the method first.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        own = vars(module)
        self._module = weakref.ref(module)
        self._name = name
        self.real: Callable[..., Any] = getattr(module, name)
        self.before: tuple[Any, ...] = (own[name],) if name in own else ()
        self.wrappers: list[tuple[Gate, Callable[..., Any]]] = []
        # The library reads signatures.
        functools.update_wrapper(self, self.real)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method inside the wrappers that are in force."""
        call = self.real
        for gate, wrapper in list(self.wrappers):
            if gate():
                call = functools.update_wrapper(functools.partial(wrapper, call), self.real)
        return call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the method of the module's copy."""
        module = self._module()
        new = memo.get(id(module))
        if self.before:
            return copy.deepcopy(self.before[0], memo)
        return types.MethodType(getattr(type(new), self._name), new) if new is not None else self

    def restore(self) -> None:
        """Make the attribute what it was, also where a library has put it aside under another name."""
        module = self._module()
        own = {} if module is None else vars(module)
        for name in [name for name, value in list(own.items()) if value is self]:
            if name == self._name and not self.before:
                own.pop(name, None)
            else:
                own[name] = self.before[0] if self.before else self.real


class Turn:
    """A thread's turn with a lock, as a context.

    An interrupt may fall between the last line that needs the lock and its release, which would keep every other thread
    waiting. So the context is entered twice, `with turn, turn:`, and what leaves it last gives everything back.

    Args:
        lock: the lock.
        end: called before the lock is given back, maybe twice.
    """

    def __init__(self, lock: threading.RLock, end: Callable[[], object] = always) -> None:
        self._lock = lock
        self._end = end

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back as often as this thread has it, if it has it at all."""
        self._end()
        with contextlib.suppress(RuntimeError):
            while True:
                self._lock.release()


class Installation:
    """The hooks and attributes that one `prune` or `share_vision` put into a model.

    Args:
        gate: whether they are in force for the caller.
    """

    def __init__(self, gate: Gate = always) -> None:
        self.gate = gate
        self._undo: list[Callable[[], object]] = []

    def pre_hook(self, module: nn.Module, function: Callable[..., Any], *, trace: bool = True, **options: Any) -> None:
        """Register a forward pre-hook; `trace=False` keeps it out of compiled graphs."""
        self._hook(module, module.register_forward_pre_hook, function, trace, options)

    def post_hook(self, module: nn.Module, function: Callable[..., Any], *, trace: bool = True, **options: Any) -> None:
        """Register a forward hook; `trace=False` keeps it out of compiled graphs."""
        self._hook(module, module.register_forward_hook, function, trace, options)

    def _hook(
        self,
        module: nn.Module,
        register: Callable[..., object],
        function: Callable[..., Any],
        trace: bool,
        options: dict[str, Any],
    ) -> None:
        hook: Callable[..., Any] = Hook(module, self.gate, function)
        hook = hook if trace else untraced(hook)
        make_copies_plain(module, self)
        # Remembered before it is there: an interrupt may fall between the two.
        self.later(functools.partial(_remove_hooks, module, lambda one: one is hook))
        _installed.add(hook)
        register(hook, **options)

    def wrap(self, module: nn.Module, name: str, wrapper: Callable[..., Any]) -> None:
        """Wrap a method of this one instance.

        Args:
            module: the instance.
            name: of the method.
            wrapper: is called with the method, or what wraps it inside of this, and then the caller's arguments.
        """
        entry = self.gate, wrapper
        make_copies_plain(module, self)
        with lock:
            own = vars(module)
            dispatcher = own.get(name)
            if not isinstance(dispatcher, Dispatcher):
                dispatcher = Dispatcher(module, name)
            self.later(functools.partial(_unwrap, dispatcher, entry))
            dispatcher.wrappers.append(entry)
            own[name] = dispatcher

    def later(self, undo: Callable[[], object]) -> None:
        """Call `undo` at removal; it may be called twice."""
        self._undo.append(undo)

    def close(self) -> None:
        """Remove everything; see `remove`."""
        self.remove()

    def remove(self) -> None:
        """Undo everything in reverse order; what raises does not keep the rest from being undone.

        Raises:
            BaseException: the first error of all, once everything is undone.
        """
        errors: list[BaseException] = []
        while self._undo:
            try:
                with lock:
                    self._undo[-1]()
                self._undo.pop()
            except Exception as error:
                errors.append(error)
                self._undo.pop()
            # An interrupt: undone once more, which changes nothing where it was done.
            except BaseException as error:
                errors.append(error)
        Turn(lock).close()
        if errors:
            raise errors[0]


_installed: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def _remove_hooks(module: nn.Module, wanted: Callable[[Any], bool]) -> None:
    own = vars(module)
    for hooks in (own.get(name, {}) for name in _HOOKS):
        for key in [key for key, hook in list(hooks.items()) if wanted(hook)]:
            # The hook itself last: by it the rest is found again after an interrupt.
            for name in _BESIDE:
                own.get(name, {}).pop(key, None)
            hooks.pop(key, None)


def _unwrap(dispatcher: Dispatcher, entry: tuple[Gate, Callable[..., Any]]) -> None:
    dispatcher.wrappers = [one for one in dispatcher.wrappers if one is not entry]
    if not dispatcher.wrappers:
        dispatcher.restore()


def make_copies_plain(module: nn.Module, installation: Installation) -> None:
    """Let deep copies of a module, and what is pickled of it, have nothing of what is installed in it.

    Replicas for several devices are refused: they would run the original's weights, or unpruned.
    """
    with lock:
        if any(one() is installation for one in _copying.get(module, ())):
            return
    installation.later(functools.partial(_forget_copying, module, installation))
    own, reference = vars(module), weakref.ref(module)
    with lock:
        _copying.setdefault(module, []).append(weakref.ref(installation))
        own["__deepcopy__"] = functools.partial(_copied_plain, reference)
        own["__reduce_ex__"] = functools.partial(_reduced_plain, reference)
        own["_replicate_for_data_parallel"] = functools.partial(_refuse_replica, type(module).__name__)


# Weak in both: what is to be undone holds the module, which is to be freed when it is dropped.
_copying: weakref.WeakKeyDictionary[nn.Module, list[weakref.ref[Installation]]] = weakref.WeakKeyDictionary()


def _forget_copying(module: nn.Module, installation: Installation) -> None:
    users = _copying.get(module, [])
    users[:] = [one for one in users if one() is not installation]
    if not users:
        for name in _COPYING:
            vars(module).pop(name, None)


def _refuse_replica(name: str) -> Any:
    raise RefusedError(
        f"{name} is being pruned, and a replica of it on another device, as DataParallel makes, would not be; "
        "prune and call it on one device, or give every device a process and a model of its own"
    )


def _copied_plain(reference: weakref.ref[nn.Module], memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy of a model without anything that was installed in it."""
    model = reference()
    if model is None:
        raise ReferenceError("the model is gone")
    own = vars(model)
    with lock:
        hidden = {name: own.pop(name) for name in _COPYING if name in own}
        try:
            new: nn.Module = copy.deepcopy(model, memo)
        finally:
            own.update(hidden)
    for before, after in zip(model.modules(), new.modules(), strict=True):
        _remove_hooks(after, _installed.__contains__)
        for name in _wrapped(before):
            vars(after).pop(name, None)
    return new


def _reduced_plain(reference: weakref.ref[nn.Module], protocol: Any) -> Any:
    """Return what pickling a model without anything installed in it gives, or copying it without its weights."""
    model = reference()
    tensors = () if model is None else (*model.parameters(), *model.buffers())
    return _copied_plain(reference, {id(tensor): tensor for tensor in tensors}).__reduce_ex__(protocol)


def _wrapped(module: nn.Module) -> Iterator[str]:
    """Return the names of a module's methods that had no attribute of the instance before they were wrapped."""
    for name, value in list(vars(module).items()):
        if isinstance(value, Dispatcher) and not value.before:
            yield name
