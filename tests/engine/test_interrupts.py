"""An interrupt at any line of what puts hooks in and takes them out leaves the model as it was."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from effort import NIGHTLY

import tokensieve as ts
from tokensieve.engine import installation
from tokensieve.testing.footprint import footprint

from .models import ONE, batch, llava, prompts

# An interrupt in the first line of entering: it was not entered.
pytestmark = pytest.mark.filterwarnings("ignore:.*was neither entered nor installed:RuntimeWarning")

ENGINE = str(Path(installation.__file__).parent)
RECIPES = {
    "entrance": ts.Recipe.loads("stages:\n- {at: decoder.0, select: divprune, keep: 4}\n"),
    "layers": ts.Recipe.loads("stages:\n- {at: decoder.1, select: fastv, keep: 4}\n"),
    "tower": ts.Recipe.loads("stages:\n- {at: encoder.0, select: tome, keep: 9, rest: merge}\n"),
}


@pytest.fixture(scope="module")
def model():
    return llava(layers=2)


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that the engine runs, and counts lines."""

    def __init__(self, number, files=None):
        self.number, self.lines, self.where, self.files = number, 0, None, files

    def __enter__(self):
        sys.settrace(self.called)
        return self

    def __exit__(self, *error):
        sys.settrace(None)

    def called(self, frame, event, argument):
        file = Path(frame.f_code.co_filename)
        inside = str(file).startswith(ENGINE) and (self.files is None or file.name in self.files)
        return self.line if inside else None

    def line(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self.number:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self.line


def work(model, recipe, request):
    with ts.prune(model, recipe), torch.no_grad():
        model(**request)


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_interrupt_anywhere_leaves_the_model_as_it_was(model, recipe):
    request = batch(prompts(model, ONE))
    work(model, RECIPES[recipe], request)
    before, registry = footprint(model), ts.default_registry()
    pruned = ts.prune(model, RECIPES[recipe], registry=registry)
    with Interrupt(0) as every, pruned, torch.no_grad():
        model(**request)
    assert every.lines > 100
    step = max(1, every.lines // (300 if NIGHTLY else 40))
    for number in range(1, every.lines + 1, step):
        interrupt, pruned = Interrupt(number), ts.prune(model, RECIPES[recipe], registry=registry)
        with pytest.raises(KeyboardInterrupt), interrupt, pruned, torch.no_grad():
            model(**request)
        assert footprint(model) == before, f"changed by an interrupt at {interrupt.where}"
        assert free(), f"the lock is held after an interrupt at {interrupt.where}"


def test_an_interrupt_where_one_is_installed_or_removed_leaves_the_model_as_it_was(model):
    recipe, registry, files = RECIPES["entrance"], ts.default_registry(), ("handle.py", "sessions.py")
    before, pruned = footprint(model), ts.prune(model, recipe, registry=registry)
    with Interrupt(0, files) as installing:
        pruned.install()
    with Interrupt(0, files) as removing:
        pruned.remove()
    for number in range(1, installing.lines + 1):
        pruned = ts.prune(model, recipe, registry=registry)
        with pytest.raises(KeyboardInterrupt), Interrupt(number, files):
            pruned.install()
        assert footprint(model) == before
    for number in range(1, removing.lines + 1):
        pruned = ts.install(model, recipe, registry=registry)
        with pytest.raises(KeyboardInterrupt), Interrupt(number, files):
            pruned.remove()
        pruned.remove()
        assert footprint(model) == before
    assert free()


def test_an_interrupt_where_a_handle_is_used_keeps_no_other_thread_waiting(model):
    """At every line of what notes that it is used, before anything is there that would be taken out."""

    class Using(Interrupt):
        def called(self, frame, event, argument):
            return super().called(frame, event, argument) if frame.f_code.co_name == "_use" else None

    registry = ts.default_registry()

    def handle():
        return ts.prune(model, RECIPES["entrance"], registry=registry)

    for use in (lambda one: one.__enter__(), lambda one: one.install()):
        with Using(0) as every:
            use(used := handle())
        used.remove() if used.installed else used.__exit__(None, None, None)
        assert every.lines > 2
        for number in range(1, every.lines + 1):
            interrupt = Using(number)
            with pytest.raises(KeyboardInterrupt), interrupt:
                use(handle())
            assert free(), f"the lock is held after an interrupt at {interrupt.where}"


def test_an_interrupt_where_attention_is_tapped_leaves_no_tap(model):
    """At every line of what registers the tap and of what takes it out, which the test above only samples."""

    class Tapping(Interrupt):
        def called(self, frame, event, argument):
            names = ("install", "connect", "disconnect", "__init__", "_take_out", "_unregister", "_tapped_config")
            inside = Path(frame.f_code.co_filename).name == "attention_tap.py" and frame.f_code.co_name in names
            return super().called(frame, event, argument) if inside else None

    before, registry = footprint(model), ts.default_registry()

    def enter():
        with ts.prune(model, RECIPES["layers"], registry=registry):
            pass

    with Tapping(0) as every:
        enter()
    assert every.lines > 20
    for number in range(1, every.lines + 1):
        interrupt = Tapping(number)
        with pytest.raises(KeyboardInterrupt), interrupt:
            enter()
        assert footprint(model) == before, f"changed by an interrupt at {interrupt.where}"
        assert free()


def free(lock=installation.lock):
    """Whether another thread could take a lock, such as the one for putting something into a model."""

    def take():
        taken = lock.acquire(timeout=5)
        if taken:
            lock.release()
        return taken

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take).result()


def test_an_interrupt_where_a_lock_is_given_back_keeps_no_thread_waiting(model):
    """Every line of what puts things in and takes them out, in which the lock is held; a part of them every day."""
    recipe, registry = RECIPES["entrance"], ts.default_registry()
    files = ("sessions.py", "installation.py")
    pruned = ts.prune(model, recipe, registry=registry)
    with Interrupt(0, files) as every, pruned:
        pass
    for number in range(1, every.lines + 1, 1 if NIGHTLY else 7):
        interrupt, pruned = Interrupt(number, files), ts.prune(model, recipe, registry=registry)
        with pytest.raises(KeyboardInterrupt), interrupt, pruned:
            pass
        assert free(), f"the lock is held after an interrupt at {interrupt.where}"


def test_an_interrupt_while_a_picture_is_encoded_keeps_no_thread_waiting(model):
    """At every line that takes a lock, holds it or gives it back; and the next call is answered by the cache, too."""
    request = batch(prompts(model, ONE))

    class InTurn(Interrupt):
        def called(self, frame, event, argument):
            names = ("_encode", "_encode_alone", "_encoded", "__enter__", "__exit__", "close")
            return super().called(frame, event, argument) if frame.f_code.co_name in names else None

    with ts.share_vision(model) as cache, torch.no_grad():
        model.get_image_features(request["pixel_values"])
        with InTurn(0) as every:
            model.get_image_features(request["pixel_values"])
        assert cache.hits == 1
        assert every.lines > 20
        for number in range(1, every.lines + 1):
            interrupt = InTurn(number)
            with pytest.raises(KeyboardInterrupt), interrupt:
                model.get_image_features(request["pixel_values"])
            assert free(cache._mutex), f"the lock is held after an interrupt at {interrupt.where}"
            before = cache.hits
            model.get_image_features(request["pixel_values"])
            assert cache.hits == before + 1, f"the cache is not asked after an interrupt at {interrupt.where}"


def test_what_raises_while_it_is_undone_does_not_keep_the_rest(model):
    done = []

    def fail():
        raise ValueError("no")

    one = installation.Installation()
    one.later(lambda: done.append("first"))
    one.later(fail)
    one.later(lambda: done.append("last"))
    with pytest.raises(ValueError, match="no"):
        one.remove()
    assert done == ["last", "first"]
    one.remove()
    assert done == ["last", "first"]


def test_threads_after_interrupts_are_not_kept_waiting(model):
    before = footprint(model)
    threads = [
        threading.Thread(
            target=lambda n=number: work(model, RECIPES["layers"], batch(prompts(model, ONE, n))), daemon=True
        )
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert footprint(model) == before
