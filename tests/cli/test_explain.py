"""`explain`: a recipe in words, and numbers that are those of a run."""

import re

import pytest
import torch
from tests.engine.models import IMAGE, ONE, batch, llava, prompts

import tokensieve as ts
from tokensieve.testing.prompts import Prompts
from tokensieve_adapters.llava import LlavaAdapter
from tokensieve_adapters.llava_next import LlavaNextAdapter
from tokensieve_adapters.timm_vit import TimmVitAdapter

REGISTRY = ts.default_registry()


@pytest.fixture(scope="module")
def model():
    return llava(seed=3)


@pytest.mark.parametrize("name", sorted(REGISTRY.recipes))
def test_every_shipped_recipe_is_explained(name, monkeypatch):
    # A review runs the algebra; that has tests of its own.
    monkeypatch.setattr("tokensieve.cost.explanation.review", lambda recipe, adapter: [])
    said = str(ts.explain(name))
    recipe = ts.Recipe.load(name)
    assert all(line.split(":")[0] in said for line, _ in recipe.ranges())
    for leaf, written in recipe.names().items():
        assert f"{written} is {leaf.name}" in said
        assert f"  {leaf.name}: Paper: " in said or f"  {leaf.name}: " in said.split("what differs from papers")[1]
    assert "not described" not in said
    assert recipe.hash() in said
    assert max(map(len, said.splitlines())) <= 120
    first = REGISTRY.recipe(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split()
    assert " ".join(first[:5]) in said


@pytest.mark.parametrize(
    ("plan", "keeps"),
    [("gsp", {0: 5}), ("norm@1 random@3", {1: 7, 3: 2}), ("fastv@2", {2: 3})],
)
def test_tokens_of_every_layer_are_those_that_a_run_keeps(model, plan, keeps):
    parts = [one.partition("@")[::2] for one in plan.split()]
    stages = "\n".join(
        f"- {{at: decoder.{block or 0}, select: {name}, keep: {keep}}}"
        for (name, block), keep in zip(parts, keeps.values(), strict=True)
    )
    recipe = ts.Recipe.loads(f"stages:\n{stages}\n")
    [row] = prompts(model, ONE)
    with ts.prune(model, recipe) as run, torch.no_grad():
        model(**batch([row]))
    visual = row.words.count(IMAGE)
    left = {int(str(stage.site).split(".")[1]): len(stage.samples[0].kept) for stage in run.latest.stages}
    now, wanted = visual, []
    for layer in range(len(model.model.language_model.layers)):
        now = left.get(layer, now)
        wanted.append(now)
    said = str(ts.explain(recipe, model, visual=visual))
    found = []
    for line in re.findall(r"layers? (\d+)(?: to (\d+))? sees? (\d+) visual tokens", said):
        first, last, seen = int(line[0]), int(line[1] or line[0]), int(line[2])
        assert first == len(found)
        found += [seen] * (last - first + 1)
    assert found == wanted
    assert left == keeps


def test_flops_are_counted_from_the_config():
    """LLaVA-1.5-7B by hand: four projections, a gated MLP, scores and values, in 32 layers."""
    from tokensieve.cost.geometry import Geometry

    adapter = REGISTRY.adapter_for(Geometry.load(REGISTRY.geometry("llava-1_5-7b")).model())
    d, inner = 4096, 11008

    def layers(n, count):
        return count * (2 * n * (4 * d * d + 3 * d * inner) + 4 * n * n * d)

    said = str(ts.explain("fastv", adapter, keep=64, visual=576, text=40))
    pruned, plain = layers(616, 2) + layers(104, 30), layers(616, 32)
    assert f"{pruned / 1e9:,.1f} GFLOPs of {plain / 1e9:,.1f} unpruned, {pruned / plain:.1%}" in " ".join(said.split())
    assert "mean over 32 layers: 96.0 visual tokens" in said
    assert "layers 0 to 1 see what was there before" in said


@pytest.mark.parametrize("formula", ["gsp", "divprune & gsp", "uniform", "random", "cdpp", "trim"])
def test_what_is_said_of_the_question_is_so(model, formula):
    """Where the same tokens are said to stay for every question, they do."""
    said = str(ts.explain(formula, model, keep=4))
    same = "the same for every question" in said
    assert same != ("depends on it" in said)
    assert same == (formula not in ("cdpp", "trim"))
    if same:
        [row] = prompts(model, ONE)
        inputs = batch([row])
        words = inputs["input_ids"].clone()
        words[0, -3:] = (words[0, -3:] + 5) % 40 + 2
        with ts.prune(model, formula, keep=4) as run, torch.no_grad():
            model(**inputs)
            model(**inputs | {"input_ids": words})
        first, second = (one.stages[0].samples[0].kept.tolist() for one in run.prefills)
        assert first == second


def test_deeper_vectors_of_a_causal_model_have_not_seen_a_question_behind_the_picture(model):
    recipe = ts.Recipe.of(ts.Recipe.load("norm").stages[0].select, 4, at="decoder.2")
    assert "only where the picture's vectors have seen it" in " ".join(str(ts.explain(recipe)).split())
    [row] = prompts(model, ONE)
    inputs = batch([row])
    place = max(place for place, word in enumerate(row.words) if word == IMAGE) + 1
    words = inputs["input_ids"].clone()
    words[0, place:] = (words[0, place:] + 5) % 40 + 2
    with ts.prune(model, recipe) as run, torch.no_grad():
        model(**inputs)
        model(**inputs | {"input_ids": words})
    first, second = (one.stages[0].samples[0].kept.tolist() for one in run.prefills)
    assert first == second


def test_what_depends_on_the_picture_is_not_counted(model):
    said = str(ts.explain(ts.Recipe.of(REGISTRY.strategies["norm"](), 4, per="tile"), model, visual=12))
    assert "cannot be counted: 'unnamed' has per: tile at decoder.0" in said
    assert "of each tile" in said


def test_a_strategy_without_a_word_of_its_author(model):
    class Silent(ts.Scorer):
        name = "silent"

        def score(self, tokens):
            return tokens.ids.double()

    said = str(ts.explain(Silent(), keep=3))
    assert "silent is silent: not described by its author" in said
    assert "silent: its author says nothing of it" in said


def test_findings_are_those_of_the_review(model):
    said = str(ts.explain("fastv", model, keep=4))
    assert "review\n  no findings" in said
    shallow = llava(seed=3, layers=2)
    [error] = {
        str(one) for one in ts.review(ts.Recipe.load("fastv"), REGISTRY.adapter_for(shallow)) if one.level == "error"
    }
    assert error in " ".join(str(ts.explain("fastv", shallow)).split())


def tower(model):
    """The blocks of a vision encoder, the MLP of each, and its class tokens, found without the adapter."""
    inside = model if hasattr(model, "blocks") else model.model.vision_tower
    blocks = inside.blocks if hasattr(inside, "blocks") else inside.encoder.layers
    return blocks, [block.mlp for block in blocks], 1


def seen_by(modules, call):
    """How many tokens of a sequence each of the modules gets during a call."""
    seen = [0] * len(modules)
    hooks = [
        module.register_forward_pre_hook(lambda _, args, i=i: seen.__setitem__(i, args[0].shape[1]))
        for i, module in enumerate(modules)
    ]
    call()
    for hook in hooks:
        hook.remove()
    return seen


def said_of_blocks(said):
    """Patches that are left after each block, as an explanation says it."""
    found = []
    for first, last, counts in re.findall(r"blocks? (\d+)(?: to (\d+))? leaves? ([\d, ]+) patches", said):
        numbers = [int(n) for n in counts.split(", ")]
        length = int(last or first) - int(first) + 1
        assert int(first) == len(found)
        assert len(numbers) in (1, length)
        found += numbers if len(numbers) == length else numbers * length
    return found


MERGING = "strategies: {merging: {use: tome, metric: keys}}\nstages:\n"
INSIDE = {
    "llava merge": (LlavaAdapter, "- {at: encoder.0..1, select: merging, r: 3, rest: merge}\n"),
    "llava drop": (LlavaAdapter, "- {at: encoder.1, select: merging, keep: 1/4}\n"),
    "llava both, and deeper": (
        LlavaAdapter,
        "- {at: encoder.0, select: merging, keep: 20}\n- {at: encoder.1, select: merging, r: 4, rest: merge}\n"
        "- {at: decoder.2, select: norm, keep: 1/2}\n",
    ),
    "llava_next": (LlavaNextAdapter, "- {at: encoder.0..1, select: merging, r: 2, rest: merge}\n"),
    "timm": (TimmVitAdapter, "- {at: encoder.0..2, select: merging, r: 4, rest: merge}\n"),
    "timm drop": (TimmVitAdapter, "- {at: encoder.2, select: merging, keep: 5}\n"),
}


@pytest.mark.parametrize("name", INSIDE)
def test_patches_of_every_block_are_those_that_a_run_computes_on(name):
    """What each MLP gets, which comes after every cut of its block, and what follows the encoder gets."""
    adapter, stages = INSIDE[name]
    model = adapter.tiny()
    recipe = ts.Recipe.loads(MERGING + stages)
    blocks, inner, prefix = tower(model)
    kit = None if adapter is TimmVitAdapter else Prompts(model, adapter(model))
    row = None if kit is None else kit.row((3, ("image", 0), 4))
    inputs = {"x": torch.randn(1, 3, 48, 48)} if kit is None else kit.batch([row])

    def call():
        with torch.no_grad():
            model(**inputs)

    with ts.prune(model, recipe) as run:
        found = [n - prefix for n in seen_by(inner, call)]
    whole = seen_by(blocks, call)[0] - prefix
    said = " ".join(str(ts.explain(recipe, model)).split())
    assert said_of_blocks(said) == found
    assert f"an image of {whole} patches, inside the vision encoder" in said
    with ts.prune(model, recipe):
        # Between two blocks, the sequence is as long as it is said to be.
        between = seen_by(blocks, call)[-1] - prefix
    assert ("the sequence gets shorter" in said) == (between < whole)
    assert (f"all {whole} patches are handed on" in said) == (between == whole)
    if kit is None:
        assert f"{found[-1]} patches are returned, and 1 class and register tokens" in said
    else:
        entering, [left] = run.latest.visual[0], run.latest.entering
        assert ("the prompt then loses those that left" in said) == (left < entering)
        assert (f"the language model gets {left}" in said) == (left < entering)
        assert ("as many visual tokens as ever" in said) == (left == entering)
    plain, pruned = run.tower_flops(0)
    assert re.findall(r"blocks: [\d.,]+ GFLOPs of [\d.,]+ unpruned, ([\d.]+%)", said) == [f"{pruned / plain:.1%}"]


def test_what_is_said_of_an_encoder_whose_images_have_any_size_and_of_videos(cli):
    import timm

    recipe = ts.Recipe.loads(MERGING + "- {at: encoder.1, select: merging, r: 4, rest: merge}\n")
    anysize = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=2, dynamic_img_size=True).eval()
    assert "depends on the size of the image" in str(ts.explain(recipe, anysize))
    result = cli("explain", "tome-encoder", "--model", "video-llava-7b")
    assert result.exit_code == 0, result.output
    assert "a video goes through another one, which no patch leaves" in result.stdout
    assert "layers 0 to 31 see 2,056 visual tokens" in result.stdout
    auto = ts.Recipe.loads("stages: [{at: encoder.1, select: prumerge, keep: auto}]")
    said = str(ts.explain(auto, LlavaAdapter.tiny()))
    assert said.count("cannot be counted: keep: auto is a set's own size") == 2


def test_the_command(cli):
    result = cli("explain", "gsp & qcsp", "--keep", "25%", "--model", "llava-1_5-7b")
    assert result.exit_code == 0, result.output
    assert "keeps 1/4 of the tokens" in result.stdout
    assert "layers 0 to 31 see 144 visual tokens" in result.stdout
    # Every picture of the one has as many visual tokens; those of the other have as many as they are large.
    result = cli("explain", "gsp", "--keep", "3", "--model", "world-llava")
    assert (result.exit_code, "a prompt of 144 visual and 64 text tokens" in result.stdout, result.stderr) == (
        0,
        True,
        "",
    )
    result = cli("explain", "gsp", "--keep", "3", "--model", "world-qwen")
    assert (result.exit_code, "say --visual N" in result.stderr) == (0, True)
    assert cli("explain", "gsp", "--model", "lava").exit_code == 1


def test_a_notebook_shows_it_as_text():
    shown = ts.explain(ts.Recipe.load("gsp"))._repr_html_()
    assert "<h4>gsp (" in shown
    assert "&lt;" not in shown.split("<pre>")[1]
