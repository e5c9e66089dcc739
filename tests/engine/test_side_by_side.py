"""Threads and tasks that prune one model at once, and copies of a model that is being pruned."""

import asyncio
import copy
import functools
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from effort import NIGHTLY

import tokensieve as ts
from tokensieve.engine import sessions
from tokensieve.engine.installation import _COPYING
from tokensieve.errors import RefusedError
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters.llava import LlavaAdapter

from .models import CACHE, IMAGE, batch, llava, prompts

THREADS, REQUESTS = 4, 64 if NIGHTLY else 24
RECIPES = {
    "divprune at decoder.0": ("divprune", 3),
    "fastv at decoder.2": ("fastv", 3),
    "in the tower": (
        ts.Recipe.loads(
            "stages:\n- {at: encoder.0, select: tome, keep: 9, rest: merge}\n- {at: decoder.1, select: norm, keep: 4}\n"
        ),
        None,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return llava()


@pytest.fixture(scope="module")
def requests(model):
    """Prompts of different lengths and pictures."""
    rows = [[3 + number % 5, IMAGE, 2 + number % 3] for number in range(REQUESTS)]
    return [batch([row]) for row in prompts(model, rows)]


def answer(model, request):
    with torch.no_grad():
        return model.generate(**request, max_new_tokens=4, do_sample=False)[0].tolist()


def at_once(work, items):
    """Do the work on all items in four threads that begin together."""
    barrier = threading.Barrier(THREADS)

    def first(item):
        barrier.wait()
        return work(item)

    with ThreadPoolExecutor(THREADS) as pool:
        begun = list(pool.map(first, items[:THREADS]))
        return begun + list(pool.map(work, items[THREADS:]))


@pytest.mark.parametrize("recipe", RECIPES)
def test_under_one_with_every_answer_is_its_own(model, requests, recipe):
    select, keep = RECIPES[recipe]
    before = footprint(model)
    with ts.prune(model, select, keep=keep):
        alone = [answer(model, request) for request in requests]
    with ts.prune(model, select, keep=keep) as run:

        def ask(request):
            words = answer(model, request)
            return words, run.latest.text

        together = at_once(ask, requests)
    assert [words for words, _ in together] == alone
    # The ledger of the latest prefill is the caller's own.
    assert [text for _, text in together] == [[request["input_ids"].shape[1] - 16] for request in requests]
    assert len(run.prefills) == REQUESTS
    assert footprint(model) == before


def test_with_one_each_every_answer_is_that_of_its_own_recipe(model, requests):
    recipes = [("divprune", 3), ("fastv", 5), ("random", 8), RECIPES["in the tower"]]
    jobs = [(request, *recipes[number % len(recipes)]) for number, request in enumerate(requests)]
    before = footprint(model)

    def ask(job):
        request, select, keep = job
        with ts.prune(model, select, keep=keep) as run:
            words = answer(model, request)
            return words, [len(sample.kept) for stage in run.latest.stages for sample in stage.samples]

    alone = [ask(job) for job in jobs]
    assert at_once(ask, jobs) == alone
    assert footprint(model) == before


def test_entering_and_leaving_leaves_the_model_as_it_was(model, requests):
    before, plain = footprint(model), answer(model, requests[0])

    def enter(number):
        for _ in range(25):
            with ts.prune(model, "fastv", keep=3 + number):
                pass

    at_once(enter, list(range(THREADS)))
    assert footprint(model) == before
    assert answer(model, requests[0]) == plain


def test_a_thread_that_streams_is_pruned_and_one_that_left_is_not(model, requests):
    plain = answer(model, requests[0])
    with ts.prune(model, "divprune", keep=2) as run:
        pruned = answer(model, requests[0])
        streamed = []
        thread = threading.Thread(target=lambda: streamed.append(answer(model, requests[0])))
        thread.start()
        thread.join()
        assert streamed == [pruned]
        assert len(run.prefills) == 2
    assert answer(model, requests[0]) == plain
    inside, leave = threading.Event(), threading.Event()

    def other():
        with ts.prune(model, "divprune", keep=2):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with ts.prune(model, "divprune", keep=3):
        thread.start()
        inside.wait(60)
    # This context left its own while another was there, which is none of its business.
    assert answer(model, requests[0]) == plain
    leave.set()
    thread.join()


def test_a_pools_thread_that_pruned_before_is_refused_under_a_prune_of_the_caller(model, requests):
    def own(request):
        with ts.prune(model, "divprune", keep=2):
            return answer(model, request)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(own, requests[0]).result(60)
        with ts.prune(model, "divprune", keep=3) as run:
            right = answer(model, requests[1])
            with pytest.raises(RefusedError, match=r"left a prune .* another thread or task has entered one since"):
                pool.submit(answer, model, requests[1]).result(60)
        assert len(run.prefills) == 1
        # Installed, it is for all.
        handle = ts.install(model, "divprune", keep=3)
        try:
            assert pool.submit(answer, model, requests[1]).result(60) == right
        finally:
            handle.remove()


def test_a_thread_that_cannot_know_which_is_refused(model, requests):
    barrier, leave = threading.Barrier(3), threading.Event()

    def prune(keep):
        with ts.prune(model, "random", keep=keep):
            barrier.wait(60)
            leave.wait(60)

    others = [threading.Thread(target=prune, args=(keep,)) for keep in (2, 3)]
    for other in others:
        other.start()
    barrier.wait(60)
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(answer, model, requests[0])
        with pytest.raises(RefusedError, match="enter prune in the thread that calls the model"):
            said.result(60)
    leave.set()
    for other in others:
        other.join()


def test_tasks_of_one_loop(model, requests):
    async def ask(number):
        with ts.prune(model, "random", keep=2 + number) as run:
            await asyncio.sleep(0)
            await asyncio.to_thread(answer, model, requests[number])
            await asyncio.sleep(0)
            return [len(sample.kept) for sample in run.prefills[-1].stages[0].samples]

    async def every():
        return await asyncio.gather(*(ask(number) for number in range(5)))

    before = footprint(model)
    assert asyncio.run(every()) == [[2], [3], [4], [5], [6]]
    assert footprint(model) == before


# Copies


def hooks(model):
    """How many hooks there are at every module: the library has some of its own."""
    return [
        (name, len(module._forward_pre_hooks), len(module._forward_hooks)) for name, module in model.named_modules()
    ]


def fresh():
    """A model that was never called: the library's hooks, which record hidden states then, cannot be pickled."""
    twin = LlavaAdapter.tiny()
    twin.generation_config.eos_token_id = None
    randomize_weights(twin, 3)
    return twin.eval()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_deep_copy_is_a_plain_model_of_its_own(recipe):
    model = fresh()
    requests = [batch([row]) for row in prompts(model, [[3, IMAGE, 2]] * 4)]
    select, keep = RECIPES[recipe]
    plain = answer(model, requests[1])
    with ts.prune(model, select, keep=keep) as run:
        twin = copy.deepcopy(model)
        part = copy.deepcopy(model.model)
        assert answer(twin, requests[1]) == plain
        assert not run.prefills
        pruned = answer(model, requests[1])
    assert footprint(twin)["modules"].keys() == footprint(model)["modules"].keys()
    assert not {"generate", "__deepcopy__", "__reduce_ex__"} & vars(twin).keys()
    assert hooks(twin) == hooks(copy.deepcopy(model))
    with torch.no_grad():
        # The copy has weights of its own.
        twin.get_output_embeddings().weight.zero_()
        assert answer(twin, requests[1]) != plain
        assert torch.isfinite(part(**requests[1]).last_hidden_state).all()
    assert answer(model, requests[1]) == plain
    assert recipe == "in the tower" or pruned is not None


def test_a_copy_of_a_timm_model_made_under_merging():
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=3, img_size=64, num_classes=7).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = vit(image)
        with ts.prune(vit, ts.Recipe.loads("stages:\n- {at: encoder.0..2, select: tome, r: 2, rest: merge}\n")):
            twin = copy.deepcopy(vit)
            assert not torch.equal(vit(image), plain)
            assert torch.equal(twin(image), plain)
    with torch.no_grad():
        assert torch.equal(twin(image), plain)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_pickled_inside_is_plain(recipe):
    model = fresh()
    request = batch(prompts(model, [[3, IMAGE, 2]]))
    select, keep = RECIPES[recipe]
    with ts.prune(model, select, keep=keep):
        stored = io.BytesIO()
        torch.save(model, stored)
    stored.seek(0)
    twin = torch.load(stored, weights_only=False)
    assert answer(twin, request) == answer(model, request)
    assert not {"generate", "__deepcopy__", "__reduce_ex__"} & vars(twin).keys()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_part_that_is_copied_or_pickled_inside_is_plain(recipe):
    """A part holds hooks of its own, and is not copied through the model."""
    model = fresh()
    select, keep = RECIPES[recipe]
    parts = ["model", "model.language_model", "model.language_model.layers", "model.vision_tower"]
    before = [hooks(model.get_submodule(name)) for name in parts]
    with ts.prune(model, select, keep=keep):
        copies = [copy.deepcopy(model.get_submodule(name)) for name in parts]
        for name in parts:
            stored = io.BytesIO()
            torch.save(model.get_submodule(name), stored)
            stored.seek(0)
            copies.append(torch.load(stored, weights_only=False))
        # A shallow copy has the weights of the original.
        assert copy.copy(model).lm_head.weight is model.lm_head.weight
    assert [hooks(one) for one in copies] == before * 2
    assert not any({"forward", *_COPYING} & vars(part).keys() for one in copies for part in one.modules())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_replica_for_another_device_is_refused(recipe):
    """It would run the original's weights on the original's device, or unpruned."""
    model = fresh()
    select, keep = RECIPES[recipe]
    with ts.prune(model, select, keep=keep):
        for part in (model, model.model):
            with pytest.raises(RefusedError, match="DataParallel"):
                part._replicate_for_data_parallel()
    assert model._replicate_for_data_parallel().training == model.training


def test_a_method_that_a_library_put_aside_inside_is_the_models_own_afterwards():
    """As hooks of accelerate do, which are taken out later than the prune."""
    model = fresh()
    request = batch(prompts(model, [[3, IMAGE, 2]]))
    plain = answer(model, request)
    with ts.prune(model, "divprune", keep=3) as run:
        pruned = answer(model, request)
        model._old_forward = model.forward
        # The library reads the signature.
        model.forward = functools.update_wrapper(
            lambda *args, **kwargs: model._old_forward(*args, **kwargs), model._old_forward
        )
        assert answer(model, request) == pruned
        assert len(run.prefills) == 2
    assert answer(model, request) == plain
    assert model._old_forward == type(model).forward.__get__(model)


def test_a_pruned_cache_can_be_stored_and_is_still_minded(model, requests):
    with ts.prune(model, "fastv", keep=3):
        with torch.no_grad():
            cache = model(**requests[3], use_cache=True)[CACHE]
        twin, copied = pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)  # noqa: S301 - made here
        step = {"input_ids": torch.tensor([[7]])}
        with torch.no_grad():
            expected = model(**step, **{CACHE: cache}).logits
            for other in (twin, copied):
                assert torch.equal(model(**step, **{CACHE: other}).logits, expected)
    with pytest.raises(RefusedError, match="this cache holds a pruned prompt"), torch.no_grad():
        model(**step, **{CACHE: twin})


def test_a_context_remembers_no_more_than_it_is_in(model):
    """A server's thread prunes for days; every hook of every layer looks at what its context entered."""
    for _ in range(20):
        with ts.prune(model, "random", keep=3), ts.prune(model, "random", keep=2):
            assert len([one for one in sessions._entered.get() if one.model() is model]) <= 3
