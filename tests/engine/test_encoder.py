"""`encoder.K`: a timm Vision Transformer computes what its blocks compute on the tokens that stay."""

import pytest
import timm
import torch

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters.timm_vit import TimmVitAdapter
from tokensieve_strategies import Norm, Random, Uniform


@pytest.fixture(scope="module")
def vit():
    with torch.random.fork_rng(devices=[]):
        model = TimmVitAdapter.tiny()
    randomize_weights(model, 0)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def at(*stages, select=None):
    return ts.Recipe(
        stages=tuple(
            ts.Stage(at=f"encoder.{b}", select=Norm() if select is None else select, keep=k) for b, k in stages
        )
    )


@torch.no_grad()
def by_hand(vit, image, stages):
    """One image through the blocks, dropping patches of small norm before some of them."""
    x = vit.patch_embed(image[None])
    x = torch.cat([vit.cls_token.expand(1, -1, -1), x], dim=1) + vit.pos_embed
    x = vit.norm_pre(x)
    ids, kept = list(range(x.shape[1] - 1)), {}
    for number, block in enumerate(vit.blocks):
        if number in stages:
            norms = [float(v.double().norm()) for v in x[0, 1:]]
            best = sorted(range(len(ids)), key=lambda i: (-norms[i], ids[i]))[: stages[number]]
            stays = sorted(best)
            ids = [ids[i] for i in stays]
            x = x[:, [0] + [i + 1 for i in stays]]
            kept[number] = ids
        x = block(x)
    return vit.head(vit.fc_norm(vit.norm(x)[:, 0]))[0], kept


@pytest.mark.parametrize("stages", [{0: 9}, {2: 5}, {3: 1}, {1: 20, 3: 7}], ids=str)
@torch.no_grad()
def test_a_forward_is_that_by_hand(vit, images, stages):
    with ts.prune(vit, at(*stages.items())) as run:
        out = vit(images)
    for number, image in enumerate(images):
        right, kept = by_hand(vit, image, stages)
        torch.testing.assert_close(out[number], right, atol=1e-5, rtol=1e-5)
        for block, ids in kept.items():
            assert run.kept(f"encoder.{block}")[number].tolist() == ids


@torch.no_grad()
def test_keeping_all_changes_nothing(vit, images):
    plain = vit(images)
    with ts.prune(vit, at((0, "100%"), (2, 10_000))):
        assert torch.equal(vit(images), plain)


@torch.no_grad()
def test_it_is_as_before(vit, images):
    before, plain = footprint(vit), vit(images)
    with ts.prune(vit, at((1, 5))):
        assert footprint(vit) != before
        assert not torch.equal(vit(images), plain)
    assert footprint(vit) == before
    assert torch.equal(vit(images), plain)


@pytest.mark.parametrize("name", ["forward_intermediates", "get_intermediate_layers"])
def test_full_grids_are_refused(vit, images, name):
    with ts.prune(vit, at((1, 5))), pytest.raises(RefusedError, match=name):
        getattr(vit, name)(images)
    getattr(vit, name)(images)


@torch.no_grad()
def test_an_image_keeps_what_it_keeps_alone(vit, images):
    for select in (Uniform(), Random()):
        with ts.prune(vit, at((1, "1/3"), select=select)) as run:
            vit(images)
            together = run.kept("encoder.1")
            for image, ids in zip(images, together, strict=True):
                vit(image[None])
                assert torch.equal(run.kept("encoder.1")[0], ids)
                assert len(ids) == 12


KINDS = {
    "average": {"global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "distilled": {},
    "oblong": {"img_size": (32, 48)},
    "dynamic": {"dynamic_img_size": True, "img_size": 64},
}


def made(kind):
    name = "deit_tiny_distilled_patch16_224" if kind == "distilled" else "vit_tiny_patch16_224"
    size = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 4, "num_classes": 10}
    model = timm.create_model(name, **size | KINDS[kind])
    randomize_weights(model, 1)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_other_vision_transformers(kind):
    model = made(kind)
    size = (32, 48) if kind == "oblong" else (48, 48)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    prefix = {"average": 1, "registers": 4, "no class token": 0, "distilled": 2}.get(kind, 1)
    plain = model(images)
    with ts.prune(model, at((0, "100%"))):
        assert torch.equal(model(images), plain)
    stages = {0: 15, 2: 6}
    with ts.prune(model, at(*stages.items())) as run:
        out = model(images)
        features = model.forward_features(images)
    assert features.shape[1] == prefix + 6
    for number, image in enumerate(images):
        x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))
        ids = list(range(x.shape[1] - prefix))
        for block, layer in enumerate(model.blocks):
            if block in stages:
                norms = [float(v.double().norm()) for v in x[0, prefix:]]
                stays = sorted(sorted(range(len(ids)), key=lambda i: (-norms[i], ids[i]))[: stages[block]])
                ids = [ids[i] for i in stays]
                assert run.kept(f"encoder.{block}")[number].tolist() == ids
                x = x[:, [*range(prefix), *(prefix + i for i in stays)]]
            x = layer(x)
        torch.testing.assert_close(features[number], model.norm(x)[0], atol=1e-5, rtol=1e-5)
        x = model.norm(x)[0]
        if kind == "distilled":
            right = (model.head(x[0]) + model.head_dist(x[1])) / 2
        else:
            right = model.head(model.fc_norm(x[prefix:].mean(dim=0) if "avg" in KINDS[kind].values() else x[0]))
        torch.testing.assert_close(out[number], right, atol=1e-5, rtol=1e-5)


def test_gradients_flow(vit, images):
    pixels = images.clone().requires_grad_()
    with ts.prune(vit, at((1, 5))):
        (gradient,) = torch.autograd.grad(vit(pixels).sum(), pixels)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@torch.no_grad()
def test_refusals(vit, images):
    with pytest.raises(RefusedError, match=r"encoder\.0 \.\.\. encoder\.3"), ts.prune(vit, at((9, 4))):
        pass
    vit.set_grad_checkpointing(True)
    with pytest.raises(RefusedError, match="runs blocks twice"), ts.prune(vit, at((1, 4))):
        pass
    vit.set_grad_checkpointing(False)
    with ts.prune(vit, at((1, 4)), keys=[1]), pytest.raises(RefusedError, match="batch of 3 images"):
        vit(images)
