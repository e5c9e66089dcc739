"""`decoder.0`: a pruned prompt computes what the sequence pruned by hand computes."""

import pytest
import torch
import torch.nn.functional as F

import tokensieve as ts
from tokensieve_strategies import Norm

from .models import BOS, CACHE, IMAGE, ONE, RAGGED, SEVERAL, TEXT, batch, generate, patches, prompts, shared
from .reference import Plain, judged, merged, norms

K = 5


def recipe(positions="original", rest="drop", keep=K):
    return ts.Recipe(stages=(ts.Stage(at="decoder.0", select=Norm(), keep=keep, rest=rest),), positions=positions)


def by_hand(model, row, rest="drop", k=K):
    """What stays, and the vectors of what stays where they are folded."""
    kept = judged(model, row, norms, k, patches(model))
    return kept, merged(model, row, kept, patches(model)) if rest == "merge" else None


def lengths(cache):
    return [layer.keys.shape[2] for layer in cache.layers]


@pytest.mark.covering(2)
@pytest.mark.parametrize("variant", ["sdpa", "eager", "mha", "siglip"])
@pytest.mark.parametrize("rest", ["drop", "merge"])
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("layouts", [ONE, SEVERAL, RAGGED], ids=["one", "several", "ragged"])
def test_generation_is_that_of_the_sequence_pruned_by_hand(variant, layouts, positions, rest):
    model = shared(variant)
    rows = prompts(model, layouts)
    with ts.prune(model, recipe(positions, rest)) as run:
        words, logits, out = generate(model, rows)
    for row, new, seen, kept in zip(rows, words, logits, run.kept("decoder.0"), strict=True):
        expected, vectors = by_hand(model, row, rest)
        assert kept.tolist() == sorted(expected)
        assert len(kept) == K * row.images
        right, right_logits = Plain(model, positions).greedy(row, expected, len(new), vectors)
        assert new.tolist() == right
        torch.testing.assert_close(seen, right_logits, atol=1e-4, rtol=1e-4)
    text, visual = run.latest.text, [run.visual_per_layer(i) for i in range(len(rows))]
    held = [max(t + v[layer] for t, v in zip(text, visual, strict=True)) for layer in range(4)]
    # The last word of a generation is never fed.
    assert lengths(out[CACHE]) == [n + words.shape[1] - 1 for n in held]


@pytest.mark.parametrize("positions", ["original", "compact"])
@torch.no_grad()
def test_a_forward_gives_the_logits_of_the_shorter_sequence(positions):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, recipe(positions)):
        logits = model(**batch(rows)).logits
    for row, seen in zip(rows, logits, strict=True):
        right = Plain(model, positions).logits(row, by_hand(model, row)[0])
        torch.testing.assert_close(seen[len(seen) - len(right) :], right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("room", [0, 3])
def test_padding_changes_nothing(room):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, recipe()) as run:
        together = model(**batch(rows, room=room), logits_to_keep=1).logits[:, -1]
        kept = run.kept("decoder.0")
        for row, seen, ids in zip(rows, together, kept, strict=True):
            alone = model(**batch([row]), logits_to_keep=1).logits[0, -1]
            torch.testing.assert_close(seen, alone, atol=1e-4, rtol=1e-4)
            assert torch.equal(ids, run.kept("decoder.0")[0])


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_without_a_cache_the_words_are_the_same(positions):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, recipe(positions)) as run:
        # Fed again, a generated placeholder would be one too many, for the unpruned model too.
        cached, cached_logits, _ = generate(model, rows, suppress_tokens=[IMAGE])
        words, logits, _ = generate(model, rows, suppress_tokens=[IMAGE], use_cache=False)
    assert torch.equal(words, cached)
    torch.testing.assert_close(logits, cached_logits, atol=1e-4, rtol=1e-4)
    assert len(run.prefills) == 2


def labelled(rows, inputs):
    """The prompts as labels, images too, but for padding and the first word, which padding would have to predict."""
    hidden = (inputs["attention_mask"] == 0) | (inputs["input_ids"] == BOS)
    return inputs["input_ids"].masked_fill(hidden, -100)


def loss_by_hand(model, rows, positions="original"):
    """Mean over all words that follow another place of the pruned sequence."""
    plain, losses = Plain(model, positions), []
    for row in rows:
        kept, _ = by_hand(model, row)
        x, places, _ = plain.sequence(row, kept)
        logits = model.lm_head(plain.hidden(x, places))
        seen, words = 0, []
        for word in row.words:
            if word == IMAGE:
                words += [IMAGE] if seen in kept else []
                seen += 1
            else:
                words.append(word)
        losses.append(F.cross_entropy(logits[:-1], torch.tensor(words[1:]), reduction="none"))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_loss_and_gradients_are_those_by_hand(side, positions):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    inputs = batch(rows, side)
    parts = {
        name: weight
        for name, weight in model.named_parameters()
        if any(part in name for part in ("projector", "lm_head", "layers.0.mlp", "layers.3.self_attn", "embed_tokens"))
        and "vision_tower" not in name
    }
    with ts.prune(model, recipe(positions)):
        loss = model(**inputs, labels=labelled(rows, inputs)).loss
        gradients = torch.autograd.grad(loss, parts.values())
    right = loss_by_hand(model, rows, positions)
    torch.testing.assert_close(loss, right, atol=1e-5, rtol=1e-5)
    for name, ours, theirs in zip(parts, gradients, torch.autograd.grad(right, parts.values()), strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("positions", ["original", "compact"])
@torch.no_grad()
def test_a_loop_that_passes_no_positions(positions):
    model = shared("sdpa")
    rows = prompts(model, ONE)
    kept, _ = by_hand(model, rows[0])
    right, right_logits = Plain(model, positions).greedy(rows[0], kept, 4)
    with ts.prune(model, recipe(positions)):
        out = model(**batch(rows), use_cache=True)
        for word, logits in zip(right, right_logits, strict=True):
            assert int(out.logits[0, -1].argmax()) == word
            torch.testing.assert_close(out.logits[0, -1], logits, atol=1e-4, rtol=1e-4)
            out = model(input_ids=torch.tensor([[word]]), **{CACHE: out[CACHE]}, use_cache=True)


@torch.no_grad()
def test_a_loop_with_padding_and_the_mask_of_the_whole_prompt():
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    inputs = batch(rows)
    mask = inputs["attention_mask"]
    with ts.prune(model, recipe()):
        words, _, _ = generate(model, rows)
        out = model(**inputs | {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}, use_cache=True)
        positions = mask.sum(dim=1, keepdim=True)
        for step in range(words.shape[1]):
            new = out.logits[:, -1].argmax(dim=-1, keepdim=True)
            assert torch.equal(new[:, 0], words[:, step])
            mask = torch.cat([mask, torch.ones_like(new)], dim=1)
            out = model(
                input_ids=new,
                attention_mask=mask,
                position_ids=positions + step,
                **{CACHE: out[CACHE]},
                use_cache=True,
            )


@torch.no_grad()
def test_a_tuple_instead_of_a_dict():
    model = shared("sdpa")
    rows = prompts(model, ONE)
    follow = torch.tensor([[7]])
    with ts.prune(model, recipe()):
        named = model(**batch(rows), use_cache=True)
        after = model(input_ids=follow, **{CACHE: named[CACHE]}).logits
        plain = model(**batch(rows), use_cache=True, return_dict=False)
        assert isinstance(plain, tuple)
        assert torch.equal(plain[0], named.logits)
        assert torch.equal(model(input_ids=follow, **{CACHE: plain[1]}, return_dict=False)[0], after)


def test_text_alone_is_left_alone():
    model = shared("sdpa")
    rows = prompts(model, [*TEXT, [3]])
    words, logits, _ = generate(model, rows)
    with ts.prune(model, recipe()) as run:
        pruned, pruned_logits, _ = generate(model, rows)
    assert torch.equal(words, pruned)
    assert torch.equal(logits, pruned_logits)
    assert [ids.tolist() for ids in run.kept("decoder.0")] == [[], []]
    assert run.latest.visual == [0, 0]


@torch.no_grad()
def test_a_row_gets_what_it_gets_alone():
    model = shared("sdpa")
    rows = prompts(model, [[2, IMAGE, 5], [1, IMAGE, IMAGE, 3], [IMAGE, 4], [8]])
    with ts.prune(model, recipe(keep="2/5")) as run:
        model(**batch(rows))
        together = run.kept("decoder.0")
        for row, ids in zip(rows, together, strict=True):
            model(**batch([row]))
            assert torch.equal(run.kept("decoder.0")[0], ids)
            assert len(ids) == 6 * row.images  # 2/5 of 16, rounded down.


@torch.no_grad()
def test_both_attentions_keep_the_same():
    kept = []
    for variant in ("sdpa", "eager"):
        model = shared(variant)
        with ts.prune(model, recipe()) as run:
            model(**batch(prompts(model, RAGGED)))
        kept.append([ids.tolist() for ids in run.kept("decoder.0")])
    assert kept[0] == kept[1]


@torch.no_grad()
def test_embeddings_instead_of_words():
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    inputs = batch(rows)
    with ts.prune(model, recipe()):
        words = model(**inputs).logits
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(model(**inputs, inputs_embeds=embeds).logits, words)


@torch.no_grad()
def test_images_that_are_encoded_already():
    model = shared("sdpa")
    rows = prompts(model, SEVERAL)
    inputs = batch(rows)
    with ts.prune(model, recipe()):
        right = model(**inputs).logits
        encoded = {"image": model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)}
        before = [image.clone() for image in encoded["image"].pooler_output]
        assert torch.equal(model(**inputs, mm_encoder_outputs=encoded).logits, right)
    assert all(torch.equal(a, b) for a, b in zip(before, encoded["image"].pooler_output, strict=True))
