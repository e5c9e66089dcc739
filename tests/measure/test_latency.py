"""What `bench` measures is what it says: prompts, the floor, turns, parts and expectations. No time is asserted."""

import copy
import itertools

import pytest
import torch

import tokensieve as ts
from tokensieve.cost.geometry import Geometry
from tokensieve.engine.cache import cache_name
from tokensieve.errors import RefusedError
from tokensieve.measure import Prompts, count_operators, count_overhead, floor_request, measure_latency
from tokensieve.measure.latency import Bench, runnable
from tokensieve.measure.prompts import InOrder
from tokensieve.measure.shapes import SHARE, difference, fitting, num_bytes, random_model, resized
from tokensieve.measure.timing import decode, watched_vision
from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters.llava import LlavaAdapter
from tokensieve_adapters.qwen2_5_vl import Qwen25VLAdapter

REGISTRY = ts.default_registry()
FAMILIES = (LlavaAdapter, Qwen25VLAdapter)


def made(family=LlavaAdapter):
    model = randomize_weights(family.tiny())
    adapter = family(model)
    return Prompts(adapter, family.random_inputs(model, [[0]]))


def recipe(name, keep=4):
    return ts.Recipe.load(name, REGISTRY).replace(keep=keep)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_has_the_tokens_that_were_asked_for(family):
    prompts = made(family)
    n = prompts.visual
    request = prompts.request(2, 2 * n, 9)
    seen = request["input_ids"] == prompts.modality.placeholder_id
    assert request["input_ids"].shape == (2, 2 * n + 9)
    assert seen.sum(dim=1).tolist() == [2 * n, 2 * n]
    # Words before, between and after the two pictures.
    runs = [[bool(key) for key, _ in itertools.groupby(row.tolist())] for row in seen]
    assert runs == [[False, True, False, True, False]] * 2
    with torch.no_grad():
        logits = prompts.model(**request).logits
    assert logits.shape[:2] == (2, 2 * n + 9)
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(("visual", "text", "said"), [(37, 9, "multiple of 36"), (72, 2, "at least 3 text tokens")])
def test_prompts_that_cannot_be_made_are_refused(visual, text, said):
    with pytest.raises(RefusedError, match=said):
        made().request(1, visual, text)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_floor_is_the_unmodified_model_on_a_prompt_of_k_tokens(family):
    prompts = made(family)
    request = prompts.request(2, 2 * prompts.visual, 9)
    shorter = floor_request(request, prompts.adapter, 3, REGISTRY)
    kept = shorter["input_ids"] == prompts.modality.placeholder_id
    assert kept.sum(dim=1).tolist() == [3, 3]
    assert not {"pixel_values", "use_cache", "logits_to_keep"} & set(shorter)
    assert "forward" not in vars(prompts.model)
    with torch.no_grad():
        alone = prompts.model(**shorter).logits
        with ts.prune(prompts.model, ts.Recipe.of(InOrder(), 3, per="sample")):
            pruned = prompts.model(**request).logits
    assert torch.equal(alone, pruned)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_the_floor_goes_on_at_its_positions(family):
    """Steps after a prefill are those of the whole sequence at once."""
    prompts = made(family)
    shorter = floor_request(prompts.request(1, prompts.visual, 9), prompts.adapter, 3, REGISTRY)
    seen = []
    with torch.no_grad():
        output = prompts.model(**shorter, use_cache=True)
        with prompts.model.register_forward_hook(lambda _, args, answer: seen.append(answer.logits)):
            decode(prompts.model, shorter, output[cache_name(prompts.model)], 2)
        ids, positions = shorter["input_ids"], shorter["position_ids"]
        word = ids[:, :1]
        longer = {
            **shorter,
            "input_ids": torch.cat([ids, word, word], dim=1),
            "position_ids": torch.cat([positions, positions[..., -1:] + 1, positions[..., -1:] + 2], dim=-1),
            "attention_mask": torch.ones(1, ids.shape[1] + 2, dtype=torch.int64),
        }
        for name in ("mm_token_type_ids",):
            if name in longer:
                longer[name] = torch.cat([longer[name], torch.zeros_like(longer[name][:, :2])], dim=1)
        whole = prompts.model(**longer).logits
    torch.testing.assert_close(torch.cat(seen, dim=1), whole[:, -2:])


def test_variants_are_measured_by_turns_after_the_warm_up():
    prompts, said = made(), []
    bench = Bench(prompts, [recipe("uniform"), recipe("norm")], tokens=1, repeats=3, warmup=1)
    rows = bench.measure(1, prompts.visual, 9, said.append)
    names = ["unpruned", "uniform", "norm", "floor"]
    turns = [said[at : at + 4] for at in range(0, len(said), 4)]
    # Four turns, each beginning with another variant, and one for the memory.
    assert turns == [names[at:] + names[:at] for at in (0, 1, 2, 3)] + [names]
    assert len(said) <= bench.calls
    assert [row.name for row in rows] == names
    assert {row.first.count for row in rows} == {3}


def test_rows_say_what_was_kept_counted_and_taken():
    prompts = made()
    n = prompts.visual
    deep = ts.Recipe.loads("name: deep\nstages: [{at: decoder.2, select: norm, keep: 4}]", REGISTRY)
    found = measure_latency(prompts, [recipe("uniform"), deep], batches=(2,), text=(9,), tokens=3, repeats=1, warmup=0)
    plain, uniform, inside, floor = found.rows
    assert [row.kept for row in found.rows] == [n, 4, 4, 4]
    assert [row.role for row in found.rows] == ["unpruned", "recipe", "recipe", "floor"]
    for row in found.rows:
        assert row.first.median == pytest.approx(row.vision.median + row.selection.median + row.prefill.median)
        answer = row.first.median + 2 * row.step.median
        assert row.throughput.median == pytest.approx(1000 * 2 * 3 / answer)
        assert row.peak_bytes > 0
        after = row.first.median - row.vision.median
        assert row.of_unpruned.median == pytest.approx(after / (plain.first.median - plain.vision.median))
    assert plain.of_floor is None
    assert floor.vision.median == pytest.approx(plain.vision.median)
    assert (floor.selection.median, plain.selection.median) == (0, 0)
    assert uniform.selection.median > 0
    # Counted by hand: linear maps once a token, attention n x n.
    model = prompts.model
    d, width, layers = 48, 48, len(prompts.decoder.layers)
    linear = d * 48 + 2 * d * 24 + 48 * d + 3 * d * 96
    one = {length: 2 * length * linear + 4 * length * length * width for length in (n + 9, 4 + 9)}
    assert model.config.text_config.hidden_size == d
    for row, short in ((uniform, layers), (inside, layers - 2)):
        part = (short * one[4 + 9] + (layers - short) * one[n + 9]) / (layers * one[n + 9])
        assert row.expected == pytest.approx(plain.vision.median + part * plain.prefill.median)


def test_what_cannot_run_is_said_and_the_rest_is_left():
    prompts, said = made(), {}
    prompts.model.config.text_config._attn_implementation = "flex_attention"
    uniform, deep = recipe("uniform"), recipe("fastv")
    assert runnable([uniform, deep], prompts.adapter, said, " (flex)") == [uniform]
    assert "its attention implementation is flex_attention" in said["fastv (flex)"]
    assert measure_latency(made(), [recipe("fastv")], tokens=1, repeats=1, warmup=0).refused == {}


def test_the_model_is_as_it_was():
    prompts = made()
    before = {name: set(vars(module)) for name, module in prompts.model.named_modules()}
    measure_latency(prompts, [recipe("uniform")], tokens=2, repeats=1, warmup=0)
    assert {name: set(vars(module)) for name, module in prompts.model.named_modules()} == before


def test_encoding_is_timed_where_it_happens():
    prompts = made()
    request = prompts.request(1, prompts.visual, 9)
    with torch.no_grad(), watched_vision(prompts.decoder) as vision:
        prompts.model(**request)
        with ts.prune(prompts.model, recipe("uniform")):
            prompts.model(**request)
        assert len(vision.spans) == 2
        vision.clear()
        prompts.model(**floor_request(request, prompts.adapter, 3, REGISTRY))
        # That of making the shorter request alone.
        assert len(vision.spans) == 1


def test_results_are_plain_data():
    prompts = made()
    found = measure_latency(prompts, [recipe("uniform")], tokens=1, repeats=1, warmup=0).to_dict()
    assert found["format"] == "tokensieve.latency/1"
    assert found["machine"]["torch_version"] == torch.__version__
    assert {"processor", "threads", "accelerator", "transformers_version"} <= set(found["machine"])
    assert found["rows"][1]["setting"] == {
        "batch": 1,
        "visual": prompts.visual,
        "text": 64,
        "dtype": "float32",
        "attention": "sdpa",
    }
    assert [one["recipe"] for one in found["break_even"]] == ["uniform"]


# ------------------------------------------------------------------------------------ operators and bytes


def test_new_bytes_are_those_of_tensors_that_were_made():
    x = torch.ones(4, 8)
    with count_operators() as counts:
        y = x @ x.mT
        y.add_(1)
        y.view(-1)
        x.split(2)
        torch.empty(3, dtype=torch.int64)
        x.sort(dim=1)
    assert counts.bytes_allocated == 4 * 4 * 4 + 3 * 8 + (4 * 8 * 4 + 4 * 8 * 8)


def test_what_pruning_adds_is_a_difference_of_counts():
    prompts = made()
    request = prompts.request(1, prompts.visual, 9)
    plain = count_overhead(prompts.model, request, None)
    with torch.no_grad(), count_operators() as counts:
        prompts.model(**request, use_cache=True, logits_to_keep=1)
    assert (plain.prefill.operators, plain.prefill.by_name) == (counts.operators, counts.by_name)
    assert plain.prefill.bytes_allocated == counts.bytes_allocated > 0
    whole = count_overhead(prompts.model, request, recipe("uniform"))
    prefill, step = whole.over(plain)
    assert prefill.operators == whole.prefill.operators - counts.operators
    assert sum(prefill.waits.values()) == prefill.synchronisations
    assert step.synchronisations == 0


# ------------------------------------------------------------------------------------------------ shapes


def every_night(but):
    """All geometries, of which one is tried in every run."""
    names = sorted(REGISTRY.geometries)
    return [pytest.param(name, marks=() if name == but else pytest.mark.nightly) for name in names]


@pytest.mark.parametrize("name", every_night(but="qwen2_5-vl-7b"))
def test_a_geometry_is_made_as_large_as_fits(name):
    wanted = Geometry.load(REGISTRY.geometry(name))
    before = copy.deepcopy(wanted.config)
    whole = num_bytes(wanted, torch.float32)
    assert fitting(wanted, torch.float32, None) is wanted
    assert fitting(wanted, torch.float32, int(whole / SHARE) + 1) is wanted
    free = whole // 2
    less = fitting(wanted, torch.float32, free, least=4)
    assert 4 <= less.config["text_config"]["num_hidden_layers"] < before["text_config"]["num_hidden_layers"]
    assert 0.4 * free < num_bytes(less, torch.float32) <= SHARE * free
    assert "layers of" in difference(wanted, less)
    assert wanted.config == before


def test_what_does_not_fit_at_all_is_refused():
    with pytest.raises(RefusedError, match="does not fit into the free memory"):
        fitting(Geometry.load(REGISTRY.geometry("llava-1_5-7b")), torch.float32, 1000)


@pytest.mark.parametrize("name", every_night(but="llava-1_5-7b"))
def test_every_geometry_can_be_measured(name):
    wanted = Geometry.load(REGISTRY.geometry(name))
    small = resized(wanted, 4, 16)
    model = random_model(small, torch.float32, torch.device("cpu"), "sdpa")
    prompts = Prompts(REGISTRY.adapter_for(model), small.inputs())
    found = measure_latency(prompts, [recipe("uniform", 64)], tokens=2, repeats=1, warmup=0)
    assert [row.kept for row in found.rows] == [prompts.visual, 64, 64]
    assert "language model 4 layers of" in difference(wanted, small)
