"""What `prune` returns: entered, installed until it is removed, or dropped."""

import asyncio
import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import StoppingCriteria

import tokensieve as ts
from tokensieve.errors import RecipeError, RefusedError, UnknownRecipeError, UnsupportedModelError
from tokensieve.testing.footprint import footprint

from .models import IMAGE, batch, llava, prompts

ROW = [3, IMAGE, 2]
INSIDE = ts.Recipe.loads("stages:\n- {at: decoder.1, select: fastv, keep: 4}\n")


@pytest.fixture(scope="module")
def model():
    return llava(layers=2)


@pytest.fixture(scope="module")
def request_of(model):
    return batch(prompts(model, [ROW]))


def answer(model, request):
    with torch.no_grad():
        return model.generate(**request, max_new_tokens=3, do_sample=False)[0].tolist()


def kept(run):
    return [len(prefill.stages[0].samples[0].kept) for prefill in run.prefills]


def test_installed_prunes_until_it_is_removed(model, request_of):
    before, plain = footprint(model), answer(model, request_of)
    with ts.prune(model, "divprune", keep=2):
        pruned = answer(model, request_of)
    handle = ts.prune(model, "divprune", keep=2).install()
    assert handle.installed
    assert answer(model, request_of) == pruned
    assert kept(handle.run) == [2]
    handle.remove()
    assert not handle.installed
    assert footprint(model) == before
    assert answer(model, request_of) == plain
    # Removing what is removed changes nothing.
    handle.remove()
    assert footprint(model) == before
    assert kept(handle.run) == [2]


def test_it_is_in_force_in_every_thread_and_task_and_removed_from_any(model, request_of):
    before, plain = footprint(model), answer(model, request_of)
    handle = ts.install(model, "divprune", keep=2)
    pruned = answer(model, request_of)
    assert pruned != plain
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: answer(model, request_of), range(6))) == [pruned] * 6

        async def tasks():
            return await asyncio.gather(*(asyncio.to_thread(answer, model, request_of) for _ in range(2)))

        assert asyncio.run(tasks()) == [pruned] * 2
        assert kept(handle.run) == [2] * 9
        pool.submit(handle.remove).result()
        assert list(pool.map(lambda _: answer(model, request_of), range(3))) == [plain] * 3
    assert footprint(model) == before


def test_a_thread_that_entered_its_own_is_under_its_own(model, request_of):
    handle = ts.install(model, "random", keep=5)
    inside, leave = threading.Event(), threading.Event()

    def own():
        with ts.prune(model, "random", keep=3) as run:
            answer(model, request_of)
            inside.set()
            leave.wait(60)
        # Left again: under what is installed.
        answer(model, request_of)
        return kept(run)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(own)
        inside.wait(60)
        answer(model, request_of)
        pool.submit(answer, model, request_of).result(60)
        assert kept(handle.run) == [5, 5]
        leave.set()
        assert one.result(60) == [3]
    assert kept(handle.run) == [5, 5, 5]
    with ts.prune(model, "random", keep=4) as run:
        later = ts.install(model, "random", keep=6)
        answer(model, request_of)
    # The latest of those that are installed, in whatever order they leave.
    answer(model, request_of)
    handle.remove()
    answer(model, request_of)
    later.remove()
    assert (kept(run), kept(later.run), kept(handle.run)) == ([4], [6, 6], [5, 5, 5])


@pytest.mark.parametrize("first", ["enter", "install"])
@pytest.mark.parametrize("second", ["enter", "install"])
def test_a_handle_serves_once(model, request_of, first, second):
    before = footprint(model)
    handle = ts.prune(model, "random", keep=3)

    def use(how):
        return handle.install() if how == "install" else handle.__enter__()

    use(first)
    said = "entered" if first == "enter" else "installed"
    with pytest.raises(RefusedError, match=f"is {said} already; a handle serves once") as refused:
        use(second)
    assert ("for a block, write `with tokensieve.prune" in str(refused.value)) == (first == "install" != second)
    answer(model, request_of)
    handle.remove()
    assert kept(handle.run) == [3]
    with pytest.raises(RefusedError, match=f"was {said} before"):
        use(second)
    assert footprint(model) == before


def test_one_handle_in_two_threads_is_entered_by_one(model):
    handle, barrier = ts.prune(model, "random", keep=3), threading.Barrier(2)

    def enter(_):
        barrier.wait(60)
        try:
            with handle:
                barrier.wait(60)
        except RefusedError:
            barrier.wait(60)
            return "refused"
        return "entered"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(enter, range(2))) == ["entered", "refused"]


def test_removing_ends_a_block_early(model, request_of):
    before, plain = footprint(model), answer(model, request_of)
    handle = ts.prune(model, "divprune", keep=2)
    with handle as run:
        assert run is handle.run
        assert answer(model, request_of) != plain
        handle.remove()
        assert footprint(model) == before
        assert answer(model, request_of) == plain
    assert footprint(model) == before


def test_removing_what_was_never_used_does_nothing(model, request_of):
    handle = ts.prune(model, "divprune", keep=2)
    handle.remove()
    with handle as run:
        answer(model, request_of)
    assert kept(run) == [2]


def test_a_call_in_progress_is_refused_when_it_goes_on_without_its_prune(model, request_of):
    handle = ts.install(model, "divprune", keep=2)
    begun, removed = threading.Event(), threading.Event()

    class Waits(StoppingCriteria):
        def __call__(self, *_, **__):
            begun.set()
            removed.wait(60)
            return torch.tensor([False])

    def ask():
        with torch.no_grad():
            return model.generate(**request_of, max_new_tokens=3, do_sample=False, stopping_criteria=[Waits()])

    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(ask)
        begun.wait(60)
        handle.remove()
        removed.set()
        with pytest.raises(RefusedError, match="this cache holds a pruned prompt"):
            said.result(60)


def test_dropped_unused_it_says_so_at_the_line_that_made_it(model):
    said = r"prune\('random'\) was neither entered nor installed.*tokensieve\.install"
    with pytest.warns(RuntimeWarning, match=said) as warned:
        ts.prune(model, "random", keep=3)
    assert [one.filename for one in warned] == [__file__]


def test_used_or_refused_it_is_silent(model):
    handle = ts.install(model, "random", keep=3)
    handle.remove()
    with ts.prune(model, "random", keep=3):
        pass

    @ts.prune(model, "random", keep=3)
    def never_called():
        """Do nothing."""

    with pytest.raises(UnknownRecipeError):
        ts.prune(model, "randm")
    del handle, never_called
    # Warnings are errors in these tests, here too.
    gc.collect()


def test_mistakes_are_said_at_the_call(model):
    with pytest.raises(UnsupportedModelError, match="is no model"):
        ts.prune(None, "random")
    with pytest.raises(RecipeError, match="is no recipe"):
        ts.prune(model, 3)
    with pytest.raises(RefusedError, match=r"decoder\.7: llava has no such site"):
        ts.prune(model, ts.Recipe.of(ts.default_registry().strategy("norm")(), 3, at="decoder.7"))
    with pytest.raises(RefusedError, match="query= needs processor="):
        ts.prune(model, "random", query=["what"])


def test_a_model_that_changed_since_the_call_is_refused_where_it_is_entered(model):
    handles = [ts.prune(model, INSIDE) for _ in range(2)]
    layer = model.model.language_model.layers[0]
    layer.gradient_checkpointing = True
    before = footprint(model)
    try:
        with pytest.raises(RefusedError, match="gradient checkpointing"), handles[0]:
            pytest.fail("it was let in")
        with pytest.raises(RefusedError, match="gradient checkpointing"):
            handles[1].install()
        assert footprint(model) == before
    finally:
        del layer.gradient_checkpointing


def test_a_decorated_function_is_pruned_in_every_call(model, request_of):
    plain = answer(model, request_of)

    @ts.prune(model, "divprune", keep=2)
    def ask(depth=0):
        return ask(depth - 1) if depth else answer(model, request_of)

    pruned = ask()
    assert pruned != plain
    assert ask(2) == pruned
    assert answer(model, request_of) == plain


def test_a_formula_as_text(model, request_of):
    with ts.prune(model, "norm - gsp", keep=3) as run:
        answer(model, request_of)
    assert run.recipe.name == "norm - gsp"
    assert kept(run) == [3]
    with pytest.raises(RecipeError, match="needs a budget"):
        ts.prune(model, "norm - gsp")


def test_sharing_and_installing(model, request_of):
    with ts.share_vision(model):
        with pytest.raises(RefusedError, match="would outlast this share_vision"):
            ts.install(model, "random", keep=3)
        made = ts.prune(model, "random", keep=3)
    # The cache is that of the place where it is entered.
    with ts.share_vision(model) as cache, made:
        answer(model, request_of)
        answer(model, request_of)
        assert cache.hits == 1


def test_a_model_that_is_dropped_while_it_is_pruned_is_freed():
    model = llava(layers=2, seed=5)
    ts.install(model, INSIDE)
    answer(model, batch(prompts(model, [ROW])))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_what_it_says_of_itself(model):
    handle = ts.prune(model, "random", keep=3)
    assert repr(handle) == "<PruneHandle of 'random', not in force: enter it by `with`, or call install()>"
    handle.install()
    assert repr(handle) == "<PruneHandle of 'random', installed>"
    handle.remove()
    assert repr(handle) == "<PruneHandle of 'random', over>"


@torch.no_grad()
def test_a_stack_of_contexts_enters_and_leaves(model, request_of):
    inputs = request_of
    before = footprint(model)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(ts.prune(model, "norm", keep=3))
        model(**inputs)
        assert len(run.kept("decoder.0")[0]) == 3
    assert footprint(model) == before


@torch.no_grad()
def test_a_stack_of_contexts_leaves_on_an_error(model):
    before = footprint(model)

    def fail():
        with contextlib.ExitStack() as stack:
            stack.enter_context(ts.prune(model, "norm", keep=3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert footprint(model) == before
