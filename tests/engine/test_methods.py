"""Shipped recipes on a LLaVA of 24 x 24 patches, and what their methods keep of it by another route."""

from functools import lru_cache

import numpy as np
import pytest
import torch

import tokensieve as ts
from tokensieve.algebra.budget import count

from .models import IMAGE, RAGGED, batch, fitted, generate, llava, patches, prompts, shared, shipped
from .reference import Cut, Written, attended, features
from .test_vision import own

REGISTRY = ts.default_registry()
PATCHES = 576


@lru_cache(maxsize=1)
def model():
    return llava(seed=4, side=24)


@lru_cache(maxsize=1)
def rows():
    # Two images and a short text, one image and a long one.
    return tuple(prompts(model(), [[3, IMAGE, 4, IMAGE, 2], [1, IMAGE, 9]]))


@torch.no_grad()
def kept(recipe, **given):
    """By stage, the ids that each image keeps, numbered within the image."""
    with ts.prune(model(), recipe, **given) as run:
        model()(**batch(rows()))
    found = []
    for stage in recipe.stages:
        ids = run.kept(stage.at)
        images = [(own, image) for own, row in zip(ids, rows(), strict=True) for image in range(row.images)]
        found.append([own[own // PATCHES == image] % PATCHES for own, image in images])
    return found, run


def pictures():
    """Float64 features `[576, d]` of every image, and the embeddings of its prompt's text."""
    table = model().get_input_embeddings().weight
    found = []
    with torch.no_grad():
        for row in rows():
            words = table[[word for word in row.words if word != IMAGE]].double().numpy()
            found += [(x.double().numpy(), words) for x in features(model(), row.pixels).split(PATCHES)]
    return found


def directions(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def similar(x, words):
    return (directions(x) @ directions(words).T).mean(axis=1)


def best(scores, k):
    return sorted(np.argsort(-np.asarray(scores), kind="stable")[:k].tolist())


def same(found, wanted):
    assert [one.tolist() for one in found] == [sorted(int(i) for i in one) for one in wanted]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_meets_its_budget_in_every_image(name):
    """Sorted, no id twice, never one that is gone: a published port hands the layers their tokens by rank."""
    recipe = fitted(name)
    found, run = kept(recipe)
    assert run.recipe == recipe
    entered = [torch.arange(PATCHES)] * 3
    for stage, ids in zip(recipe.stages, found, strict=True):
        for before, after in zip(entered, ids, strict=True):
            # A mean that pictures of a sample share is plain where there is one.
            assert len(after) == count(stage.keep.each, len(before))
            assert after.tolist() == sorted(set(after.tolist()) & set(before.tolist()))
        entered = ids


def test_divprune():
    wanted = []
    for x, _ in pictures():
        apart = 1 - directions(x) @ directions(x).T
        np.fill_diagonal(apart, np.inf)
        picks = [int(apart.min(axis=1).argmax())]
        while len(picks) < 64:
            reach = apart[:, picks].min(axis=1)
            reach[picks] = -np.inf
            picks.append(int(reach.argmax()))
        wanted.append(picks)
    (found,), _ = kept(fitted("divprune"))
    same(found, wanted)


def test_trim_by_the_models_own_text():
    (found,), _ = kept(fitted("trim"))
    same(found, [best(similar(x, words), 64) for x, words in pictures()])


def test_cdpruner_by_the_models_own_text():
    """Every pick grows the determinant most."""
    wanted = []
    for x, words in pictures():
        s = similar(x, words)
        r = np.float32((s - s.min() + 1e-6) / (s.max() - s.min() + 1e-6)).astype(float)
        kernel = directions(x) @ directions(x).T * np.outer(r, r)
        picks = []
        # The features have 32 columns, so that is all the rank there is.
        while len(picks) < 20:
            gain = kernel.diagonal().copy()
            if picks:
                gain -= (kernel[:, picks] * np.linalg.solve(kernel[np.ix_(picks, picks)], kernel[picks]).T).sum(axis=1)
            gain[picks] = -np.inf
            picks.append(int(gain.argmax()))
        wanted.append(picks)
    (found,), _ = kept(fitted("cdpruner"), keep=20)
    same(found, wanted)


def test_fastervlm():
    seen = [picture[ts.Evidence.VISION_ATTENTION] for row in rows() for picture in own(model(), row.pixels)]
    wanted = [best(attention.mean(dim=1), 64) for attention in seen]
    (found,), _ = kept(fitted("fastervlm"))
    same(found, wanted)


def test_pyramiddrop_keeps_half_of_half_of_half():
    found, run = kept(fitted("pyramiddrop"))
    assert [[len(ids) for ids in stage] for stage in found] == [[288] * 3, [144] * 3, [72] * 3]
    assert run.visual_per_layer(1) == [576, 288, 144, 72]


def released(x, words):
    """What the released code of Script keeps: raw products, and no pick made orthogonal to the ones before."""
    s = (x @ words.T).mean(axis=1)
    r = np.float32((s - s.min() + 1e-6) / (s.max() - s.min() + 1e-6)).astype(float)
    kernel = directions(x) @ directions(x).T * np.outer(r, r)
    gain, picks = kernel.diagonal().copy(), []
    while len(picks) < 64:
        left = [i for i in range(len(x)) if i not in picks]
        j = max(left, key=lambda i: gain[i])
        if gain[j] > 1e-12:
            gain = gain - kernel[j] ** 2 / gain[j]
        picks.append(j)
    return picks


def test_the_released_script_is_its_query_module_alone():
    """Filled from one module's own choice, what both chose is that choice: the other has no effect."""
    (head,), run = kept(fitted("script-head"))
    same(head, [released(x, words) for x, words in pictures()])
    assert any("all gains are negative after" in note for stage in run.latest.stages for note in stage.notes)
    for name in ("script", "qcsp"):
        (found,), _ = kept(fitted(name))
        assert all(ours.tolist() != theirs.tolist() for ours, theirs in zip(found, head, strict=True))


def test_script_by_its_figure_joins_what_either_lists_first():
    """Of 4 and 4 tokens of which one is in both lists, 7: every token of one list comes before all deeper ones."""
    (found,), _ = kept(fitted("script-union"))
    for graph, query, union in zip(
        *(kept(fitted(name), keep=32)[0][0] for name in ("gsp", "qcsp")), found, strict=True
    ):
        assert set(graph.tolist()) | set(query.tolist()) <= set(union.tolist())


def test_script_filled_by_relevance_is_mostly_relevance():
    (graph,), _ = kept(fitted("gsp"))
    (query,), _ = kept(fitted("qcsp"))
    (found,), _ = kept(fitted("script-fill"))
    wanted = []
    for (x, words), a, b in zip(pictures(), graph, query, strict=True):
        both = sorted(set(a.tolist()) & set(b.tolist()))
        rest = [i for i in np.argsort(-similar(x, words), kind="stable").tolist() if i not in both]
        wanted.append(both + rest[: 64 - len(both)])
    same(found, wanted)


def by_image(judge):
    """Scores by id, each image's tokens judged among themselves by `judge` of their ids and the evidence."""

    def all_images(evidence):
        size, ids = patches(shared("sdpa")), sorted(evidence["features"])
        images = {i // size for i in ids}
        return {i: s for image in images for i, s in judge([i for i in ids if i // size == image], evidence).items()}

    return all_images


def by_content(ids, evidence):
    """FEATHER: each head's attention without positions, shared among the image's tokens."""
    heads = torch.stack([evidence["content"][i] for i in ids])
    return dict(zip(ids, (heads / heads.sum(dim=0)).mean(dim=1).tolist(), strict=True))


def raters_of(ids, words):
    """SparseVLM's raters: the words after the image that match it more than the mean of these words does."""
    after = [t for t in range(len(words["keys"])) if any(words["attention"][i][t] > 0 for i in ids)]
    match = torch.zeros(len(after), dtype=torch.float64)
    for i in ids:
        match += (words["embeddings"][after] @ words["patch"][i]).softmax(dim=0) / len(ids)
    return [t for t, m in zip(after, match, strict=True) if m > match.mean()]


def by_raters(ids, evidence):
    """SparseVLM: the mean over its raters."""
    words, raters = evidence["words"], raters_of(ids, evidence["words"])
    return {i: float(words["attention"][i][raters].mean()) for i in ids}


def by_raters_without_positions(ids, evidence):
    """SparseVLM 2.0: attention over what positions make of it, in heads with most of it: here in all four."""
    words, raters = evidence["words"], raters_of(ids, evidence["words"])
    return {i: float((words["heads"][i][raters] / words["bias"][i][raters].unsqueeze(1)).mean()) for i in ids}


def by_pivots(ids, evidence):
    """DART: pivots with the largest keys, also of text behind the last picture; in turns what is least like each."""
    words = evidence["words"]

    def largest(keys):
        return sorted(keys, key=lambda i: -float(keys[i].abs().sum()))[:4]

    picks = largest({i: evidence["keys"][i] for i in ids})
    texts = largest({t: key for t, (key, after) in enumerate(zip(words["keys"], words["after"], strict=True)) if after})
    pivots = [evidence["features"][i] for i in picks] + [words["features"][t] for t in texts]
    turn = 0
    while len(picks) < len(ids):
        similar = {
            i: float(torch.cosine_similarity(pivots[turn % len(pivots)], evidence["features"][i], dim=0))
            for i in ids
            if i not in picks
        }
        picks.append(min(similar, key=similar.get))
        turn += 1
    return {i: -float(picks.index(i)) for i in ids}


@pytest.mark.parametrize("sites", [(2,), (1, 3)], ids=["once", "twice"])
@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("fastv", attended),
        ("feather", by_image(by_content)),
        ("sparsevlm", by_image(by_raters)),
        ("sparsevlm_v2", by_image(by_raters_without_positions)),
        ("dart", by_image(by_pivots)),
    ],
    ids=["fastv", "feather", "sparsevlm", "sparsevlm_v2", "dart"],
)
def test_inside_the_language_model_it_is_the_formula_on_a_written_decoder(name, judge, sites):
    small = shared("sdpa")
    row_of = prompts(small, RAGGED)
    keeps = dict(zip(sites, (10, 5), strict=False))
    strategy = REGISTRY.strategy(name)()
    stages = tuple(ts.Stage(at=f"decoder.{at}", select=strategy, keep=keep) for at, keep in keeps.items())
    with torch.no_grad(), ts.prune(small, ts.Recipe(stages=stages)) as run:
        generate(small, row_of, 2)
    for number, row in enumerate(row_of):
        trace = Written(small).forward(row, {at: Cut(keep, judge) for at, keep in keeps.items()})
        for at in keeps:
            assert run.kept(f"decoder.{at}")[number].tolist() == trace.kept[at]


def test_sparsevlm_goes_by_the_names_of_its_tables():
    recipe = fitted("sparsevlm")
    for name, budgets in {192: [300, 200, 110], 128: [303, 110, 36], 96: [238, 48, 26], 64: [66, 30, 17]}.items():
        assert [stage.keep.count for stage in recipe.replace(keep=name).stages] == budgets
    found, _ = kept(recipe, keep=64)
    assert [[len(ids) for ids in stage] for stage in found] == [[66] * 3, [30] * 3, [17] * 3]
