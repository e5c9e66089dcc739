"""Merging inside a timm Vision Transformer is the paper's, from raw weights and by loops."""

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import randomize_weights
from tokensieve_strategies import Norm, ToMe

from .merging import Walk, attention, linear, mean_heads, norm

SIZE = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 4, "num_classes": 10}
KINDS = {
    "plain": {},
    "average": {"global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "layer scale and key norm": {"init_values": 0.5, "qk_norm": True},
}


def made(kind="plain", seed=0):
    model = timm.create_model("vit_tiny_patch16_224", **SIZE | KINDS[kind])
    randomize_weights(model, seed)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def paper(r, blocks="encoder.0..3"):
    return ts.Recipe.of(ToMe(metric="keys"), at=blocks, r=r, rest="merge")


@torch.no_grad()
def by_hand(vit, image, plan):
    """Logits of one image, and what stays after each block; `plan` says what happens in a block."""
    x = vit._pos_embed(vit.patch_embed(image[None]))[0]
    walk = Walk(x, vit.num_prefix_tokens)
    kept = {}
    for number, block in enumerate(vit.blocks):
        act, amount = plan.get(number, (None, 0))
        if act == "drop":
            walk.drop(amount)
        heads = block.attn.num_heads
        q, k, v = linear(norm(walk.x, block.norm1), block.attn.qkv).chunk(3, dim=-1)
        if not isinstance(block.attn.q_norm, torch.nn.Identity):
            q, k = (
                torch.cat([norm(part, layer) for part in y.chunk(heads, dim=-1)], dim=-1)
                for y, layer in ((q, block.attn.q_norm), (k, block.attn.k_norm))
            )
        added = linear(attention(q, k, v, walk.sizes, heads), block.attn.proj)
        scale = getattr(block.ls1, "gamma", torch.ones(1)).double()
        walk.x = walk.x + scale * added
        if act == "merge":
            walk.merge(mean_heads(k, heads), amount)
        inner = torch.nn.functional.gelu(linear(norm(walk.x, block.norm2), block.mlp.fc1))
        scale = getattr(block.ls2, "gamma", torch.ones(1)).double()
        walk.x = walk.x + scale * linear(inner, block.mlp.fc2)
        kept[number] = list(walk.ids)
    x = walk.x if isinstance(vit.norm, torch.nn.Identity) else norm(walk.x, vit.norm)
    pooled = x[walk.prefix :].mean(dim=0) if vit.global_pool == "avg" else x[0]
    pooled = pooled if isinstance(vit.fc_norm, torch.nn.Identity) else norm(pooled, vit.fc_norm)
    return linear(pooled, vit.head), kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("r", [1, 5, 8, 50])
def test_merging_in_every_block_is_the_papers(kind, r, images):
    vit = made(kind)
    with ts.prune(vit, paper(r)) as run, torch.no_grad():
        out = vit(images)
    for number, image in enumerate(images):
        right, kept = by_hand(vit, image, dict.fromkeys(range(4), ("merge", r)))
        torch.testing.assert_close(out[number].double(), right, atol=1e-4, rtol=1e-4)
        n = 36
        for block, ids in kept.items():
            n -= min(r, n // 2)
            assert len(ids) == n
            assert run.kept(f"encoder.{block}")[number].tolist() == ids


@pytest.mark.parametrize(
    "plan",
    [{1: ("merge", 7), 2: ("drop", 12)}, {0: ("drop", 20), 3: ("merge", 9)}, {0: ("merge", 18), 2: ("merge", 9)}],
    ids=str,
)
def test_merging_and_dropping_in_one_run(plan, images):
    vit = made()
    stages = tuple(
        ts.Stage(at=f"encoder.{block}", select=ToMe(metric="keys"), r=amount, rest="merge")
        if act == "merge"
        else ts.Stage(at=f"encoder.{block}", select=Norm(), keep=amount)
        for block, (act, amount) in plan.items()
    )
    with ts.prune(vit, ts.Recipe(stages=stages)) as run, torch.no_grad():
        out = vit(images)
    for number, image in enumerate(images):
        right, kept = by_hand(vit, image, plan)
        torch.testing.assert_close(out[number].double(), right, atol=1e-4, rtol=1e-4)
        for block in plan:
            assert run.kept(f"encoder.{block}")[number].tolist() == kept[block]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_nothing_merged_changes_nothing(kind, images):
    vit = made(kind)
    plain, before = vit(images), footprint(vit)
    for recipe in (paper(0), ts.Recipe.of(ToMe(), "100%", at="encoder.1..2", rest="merge")):
        with ts.prune(vit, recipe):
            assert torch.equal(vit(images), plain)
    assert footprint(vit) == before


def nearest(one, patches, among):
    return max(among, key=lambda s: (round(float(torch.cosine_similarity(one, patches[s], dim=0)), 9), -s))


@torch.no_grad()
def test_an_order_that_is_no_merger_folds_into_the_nearest_that_stays(images):
    """`rest: merge` with any selection: every token joins the kept one most similar to it, by its vector."""
    vit = made()
    with ts.prune(vit, ts.Recipe.of(Norm(), 6, at="encoder.2", rest="merge")) as run:
        out = vit.forward_features(images)
    for number, image in enumerate(images):
        walk = Walk(vit._pos_embed(vit.patch_embed(image[None]))[0], 1)
        for block in (0, 1, 2):
            layer = vit.blocks[block]
            q, k, v = linear(norm(walk.x, layer.norm1), layer.attn.qkv).chunk(3, dim=-1)
            walk.x = walk.x + linear(attention(q, k, v, walk.sizes, 4), layer.attn.proj)
            if block == 2:
                patches = walk.x[1:]
                norms = patches.norm(dim=-1)
                stays = sorted(norms.argsort(descending=True, stable=True)[:6].tolist())
                assert run.kept("encoder.2")[number].tolist() == stays
                near = [
                    max(stays, key=lambda s, p=p: (round(float(torch.cosine_similarity(p, patches[s], dim=0)), 9), -s))
                    for p in patches
                ]
                near = [i if i in stays else s for i, s in enumerate(near)]
                groups = [[j for j in range(36) if near[j] == s] for s in stays]
                walk.x = torch.stack([walk.x[0], *(patches[group].mean(dim=0) for group in groups)])
                walk.sizes = [1.0, *(float(len(group)) for group in groups)]
            inner = torch.nn.functional.gelu(linear(norm(walk.x, layer.norm2), layer.mlp.fc1))
            walk.x = walk.x + linear(inner, layer.mlp.fc2)
        layer = vit.blocks[3]
        q, k, v = linear(norm(walk.x, layer.norm1), layer.attn.qkv).chunk(3, dim=-1)
        walk.x = walk.x + linear(attention(q, k, v, walk.sizes, 4), layer.attn.proj)
        inner = torch.nn.functional.gelu(linear(norm(walk.x, layer.norm2), layer.mlp.fc1))
        walk.x = norm(walk.x + linear(inner, layer.mlp.fc2), vit.norm)
        torch.testing.assert_close(out[number].double(), walk.x, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_unfused_attention_and_half_precision(images, monkeypatch):
    """The bias of merged tokens reaches attention that is written out, too."""
    vit = made()
    with ts.prune(vit, paper(8)):
        fused = vit(images)
    for block in vit.blocks:
        monkeypatch.setattr(block.attn, "fused_attn", False)
    with ts.prune(vit, paper(8)):
        torch.testing.assert_close(vit(images), fused, atol=1e-4, rtol=1e-4)
    half = made().bfloat16()
    with ts.prune(half, paper(8)) as run:
        assert half(images.bfloat16()).isfinite().all()
    assert [len(ids) for ids in run.kept("encoder.3")] == [6, 6, 6]


def test_gradients_flow_through_what_is_merged(images):
    vit, pixels = made(), images.clone().requires_grad_()
    with ts.prune(vit, paper(6)):
        (gradient,) = torch.autograd.grad(vit(pixels).sum(), pixels)
    assert gradient.isfinite().all()
    assert (gradient.abs().amax(dim=1) > 0).float().mean() > 0.9


def test_blocks_without_two_parts_are_refused(images):
    vit = timm.create_model("vit_tiny_patch16_224", block_fn=ParallelScalingBlock, **SIZE)
    with pytest.raises(RefusedError, match="ParallelScalingBlock"), ts.prune(vit, paper(4)):
        pytest.fail("it was let in")
    with (
        pytest.raises(RefusedError, match="ParallelScalingBlock"),
        ts.prune(vit, ts.Recipe.of(ToMe(metric="keys"), 9, at="encoder.2")),
    ):
        pytest.fail("it was let in")
    with ts.prune(vit.eval(), ts.Recipe.of(ToMe(), 9, at="encoder.2")) as run, torch.no_grad():
        vit(images)
    assert [len(ids) for ids in run.kept("encoder.2")] == [9, 9, 9]


@pytest.mark.parametrize("stage", [{"keep": "auto"}, {"keep": 4, "per": "tile"}], ids=str)
def test_budgets_that_differ_between_images_are_refused(stage):
    class Some(ts.Chooser):
        name = "some"

        def choose(self, tokens):
            return ts.Chain.from_set(tokens.universe, tokens.valid & (tokens.features[..., 0] > 0), self)

    with (
        pytest.raises(RefusedError, match="inside a vision encoder"),
        ts.prune(made(), ts.Recipe.of(Some(), at="encoder.1", **stage)),
    ):
        pytest.fail("it was let in")
