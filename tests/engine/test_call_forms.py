"""Keeping everything is the plain model, for every form of call; and what cannot be right is refused."""

import pytest
import torch
from effort import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.testing.prompts import Prompts, randomize_weights
from tokensieve_adapters.qwen2_vl import Qwen2VLAdapter
from tokensieve_strategies import Norm

from .models import CACHE, IMAGE, ONE, batch, llava, patches, prompts, shared

SITES = [(0,), (2,), (0, 2)]
LAYOUTS = {
    "one": [[3, IMAGE, 4]],
    "several": [[1, IMAGE, 2, IMAGE, 3]],
    "ragged": [[3, IMAGE, 4], [5], [IMAGE, 1, IMAGE, 6]],
    "first and last": [[IMAGE, 1], [4, IMAGE, 1]],
}


def everything(*blocks, positions="original"):
    stages = tuple(ts.Stage(at=f"decoder.{b}", select=Norm(), keep="100%") for b in blocks)
    return ts.Recipe(stages=stages, positions=positions)


def four(mask, dtype):
    """The causal mask of a padded batch, `[rows, 1, n, n]`; padding looks at itself."""
    rows, n = mask.shape
    seen = torch.ones(n, n, dtype=torch.bool).tril() & mask.bool()[:, None, None, :] | torch.eye(n, dtype=torch.bool)
    return seen if dtype == torch.bool else torch.zeros(rows, 1, n, n).masked_fill(~seen, torch.finfo(dtype).min)


def positions_of(mask, kind):
    places = torch.arange(mask.shape[1])[None]
    return {
        "none": None,
        "counted": places,
        "later": places + 5,
        "by row": (mask.cumsum(1) - 1).clamp(min=0),
        "stretched": places * 2,
    }[kind]


FORMS = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(sorted(LAYOUTS)),
        "mask": st.sampled_from(["none", "2-D", "bool", "holes", "4-D bool", "4-D float"]),
        "positions": st.sampled_from(["none", "counted", "later", "by row", "stretched"]),
        "use_cache": st.sampled_from([None, True, False]),
        "cache": st.booleans(),
        "words": st.sampled_from(["ids", "embeddings", "both ways of pictures"]),
        "labels": st.sampled_from(["none", "labels", "shifted"]),
        "logits_to_keep": st.sampled_from([0, 1, 5]),
        "tuple": st.booleans(),
        "way": st.sampled_from(["call", "forward", "base"]),
        "training": st.booleans(),
        "blocks": st.sampled_from(SITES),
        "policy": st.sampled_from(["original", "compact"]),
    }
)


def packed(form):
    """Whether the plain model may read samples where positions jump: without a mask and a cache."""
    padded = len(LAYOUTS[form["layout"]]) > 1
    cached = form["cache"] and form["use_cache"] is not False
    return form["mask"] == "none" and not padded and form["positions"] == "stretched" and not cached


def call(model, form):
    """Call a model in a form; give the logits or hidden states, and the loss."""
    inputs = batch(prompts(model, LAYOUTS[form["layout"]]))
    mask, ids = inputs.pop("attention_mask"), inputs["input_ids"]
    given = dict(inputs)
    if form["mask"] == "holes":
        # Words that nobody sees, behind a picture and before one.
        word = (ids != IMAGE) & mask.bool()
        mask[:, 1:-1] &= ~(word[:, 1:-1] & (word.cumsum(1)[:, 1:-1] % 3 == 2))
    whole = bool(mask.all())
    kind = form["mask"] if whole or form["mask"] != "none" else "2-D"
    if kind != "none":
        given["attention_mask"] = {
            "2-D": mask,
            "holes": mask,
            "bool": mask.bool(),
            "4-D bool": four(mask, torch.bool),
            "4-D float": four(mask, torch.float32),
        }[kind]
    positions = positions_of(mask, form["positions"])
    if positions is not None:
        given["position_ids"] = positions
    if form["use_cache"] is not None:
        given["use_cache"] = form["use_cache"]
    if form["cache"] and form["use_cache"] is not False:
        given[CACHE] = DynamicCache(config=model.config.get_text_config())
    if form["words"] == "embeddings":
        given["inputs_embeds"] = model.get_input_embeddings()(given.pop("input_ids"))
    elif form["words"] != "ids":
        given["mm_encoder_outputs"] = {"image": model.get_image_features(given.pop("pixel_values"), return_dict=True)}
    if form["way"] == "base":
        out = model.model(**given, return_dict=not form["tuple"])
        return (out[0] if form["tuple"] else out.last_hidden_state)[mask.bool()], None
    labels = torch.where(mask.bool() & (ids != IMAGE), ids, -100)
    if form["labels"] != "none":
        given["labels"] = labels
    if form["labels"] == "shifted":
        given["shift_labels"] = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    last = 0 if form["labels"] != "none" else form["logits_to_keep"]
    function = model if form["way"] == "call" else model.forward
    out = function(**given, logits_to_keep=last, return_dict=not form["tuple"])
    loss = None if form["labels"] == "none" else (out[0] if form["tuple"] else out.loss)
    logits = out[0 if loss is None else 1] if form["tuple"] else out.logits
    return logits[mask.bool()[:, -logits.shape[1] :]], loss


PLAIN = {
    "layout": "several",
    "mask": "2-D",
    "positions": "none",
    "use_cache": None,
    "cache": False,
    "words": "ids",
    "labels": "none",
    "logits_to_keep": 0,
    "tuple": False,
    "way": "call",
    "training": False,
    "blocks": (0,),
    "policy": "original",
}


# Where a call is refused, pictures that the test encoded for it are left over.
@pytest.mark.filterwarnings("ignore:.* calls encoded pictures")
@settings(max_examples=examples(120), deadline=None)
@given(FORMS)
@example(PLAIN | {"mask": "none", "use_cache": False})
@example(PLAIN | {"mask": "none", "use_cache": False, "positions": "later", "blocks": (2,)})
@example(PLAIN | {"labels": "shifted", "layout": "ragged"})
@example(PLAIN | {"labels": "labels", "layout": "ragged", "mask": "4-D bool"})
@example(PLAIN | {"labels": "labels", "layout": "ragged", "mask": "4-D float", "blocks": (2,)})
@torch.no_grad()
def test_keeping_everything_is_the_plain_model(form):
    model = shared("sdpa")
    model.train(form["training"])
    try:
        right, loss = call(model, form)
        with ts.prune(model, everything(*form["blocks"], positions=form["policy"])) as run:
            if packed(form):
                with pytest.raises(RefusedError, match="packed in one row"):
                    call(model, form)
                return
            found, own = call(model, form)
        assert run.latest.entering == run.latest.visual
    finally:
        model.eval()
    torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    if loss is not None:
        torch.testing.assert_close(own, loss, atol=1e-5, rtol=1e-5)


# Several samples in a row


@pytest.mark.parametrize("blocks", SITES, ids=str)
@torch.no_grad()
def test_samples_packed_in_a_row_are_refused(blocks):
    """Without mask and cache, positions that begin anew begin another sample; a mask of ours would join them."""
    model = shared("sdpa")
    inputs = batch(prompts(model, [[2, IMAGE, 3, IMAGE, 2]]))
    half = 3 + patches(model) + 1
    n = inputs["input_ids"].shape[1]
    places = torch.cat([torch.arange(half), torch.arange(n - half)])[None]
    packed = {"position_ids": places, "use_cache": False} | {k: v for k, v in inputs.items() if k != "attention_mask"}
    # Not for nothing: the plain model separates them.
    separate, joined = model(**packed).logits, model(**packed, attention_mask=inputs["attention_mask"]).logits
    assert (separate - joined).abs().max() > 0.01
    with ts.prune(model, everything(*blocks)) as run:
        with pytest.raises(RefusedError, match=r"packed in one row.*rows of a padded batch.*attention_mask of ones"):
            model(**packed)
        assert not run.prefills
        torch.testing.assert_close(model(**packed, attention_mask=inputs["attention_mask"]).logits, joined)


@pytest.mark.parametrize("blocks", SITES, ids=str)
@pytest.mark.parametrize(
    "names", [("cu_seq_lens_q", "cu_seq_lens_k"), ("max_length_q", "max_length_k"), ("seq_idx",)], ids=str
)
@torch.no_grad()
def test_bounds_of_packed_samples_are_refused(names, blocks):
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    value = 7 if "max" in names[0] else torch.tensor([0, 7, inputs["input_ids"].shape[1]], dtype=torch.int32)
    with ts.prune(model, everything(*blocks)), pytest.raises(RefusedError, match=f"{names[0]}.*packed"):
        model(**inputs, **dict.fromkeys(names, value))


@torch.no_grad()
def test_packed_samples_of_a_family_with_axes_of_positions():
    model = randomize_weights(Qwen2VLAdapter.tiny()).eval()
    made = Prompts(model, Qwen2VLAdapter(model))
    inputs = made.batch([made.row([2, ("image", 1), 2, ("image", 2), 4], 0)])
    mask = inputs.pop("attention_mask")
    n = mask.shape[1]
    own = model.model.get_rope_index(
        inputs["input_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=mask,
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )[0]
    text = torch.cat([torch.arange(n - 9), torch.arange(9)])[None, None]
    with ts.prune(model, everything(0)):
        right = model(**inputs, attention_mask=mask).logits
        # Axes of pictures alone repeat and jump, and pack nothing.
        torch.testing.assert_close(model(**inputs, position_ids=own).logits, right, atol=1e-4, rtol=1e-4)
        with pytest.raises(RefusedError, match="packed in one row"):
            model(**inputs, position_ids=torch.cat([text, own]), use_cache=False)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("blocks", SITES, ids=str)
@torch.no_grad()
def test_a_mask_of_the_callers_own_is_kept(blocks, dtype):
    """One that lets the places of a picture see each other, and hides a word from all others."""
    model = shared("sdpa")
    inputs = batch(prompts(model, [[3, IMAGE, 4]]))
    seen = four(inputs["attention_mask"], torch.bool)
    picture = (inputs["input_ids"] == IMAGE)[:, None, None, :]
    seen = seen | picture & picture.mT
    seen[..., 3:, 2] = False
    mask = seen if dtype == torch.bool else torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(dtype).min)
    inputs["attention_mask"] = mask
    with ts.prune(model, everything(*blocks)):
        found = model(**inputs).logits
    torch.testing.assert_close(found, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    if blocks == (0,):
        # Pruned, it is that of the places that stay.
        with ts.prune(model, Norm(), keep=5) as run:
            found = model(**inputs).logits
        kept = set(run.kept("decoder.0")[0].tolist())
        places, turn = [], 0
        for place, token in enumerate(inputs["input_ids"][0].tolist()):
            if token != IMAGE or turn in kept:
                places.append(place)
            turn += token == IMAGE
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        features = model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output[0]
        embeds[0, inputs["input_ids"][0] == IMAGE] = features
        right = model(
            inputs_embeds=embeds[:, places],
            attention_mask=mask[:, :, places][..., places],
            position_ids=torch.tensor([places]),
        ).logits
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("blocks", SITES, ids=str)
@torch.no_grad()
def test_masks_of_steps_on_a_pruned_cache(blocks):
    """One that says of the prompt what the prompt's mask said is the plain model's; others are refused."""
    model = shared("sdpa")
    inputs = batch(prompts(model, [[3, IMAGE, 4], [1, IMAGE, 2]]))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    n = ids.shape[1]

    def step(words, **given):
        cache = model(**inputs | {"input_ids": ids[:, :-2], "attention_mask": mask[:, :-2]}, use_cache=True)[CACHE]
        return model(input_ids=words, **{CACHE: cache}, **given).logits

    hole, cut = mask.clone(), mask.clone()
    hole[:, n - 3], cut[:, -2] = 0, 0
    right, behind = step(ids[:, -2:], attention_mask=mask), step(ids[:, -2:], attention_mask=cut)[:, -1]
    with ts.prune(model, everything(*blocks)):
        torch.testing.assert_close(step(ids[:, -2:], attention_mask=mask), right, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(step(ids[:, -2:], attention_mask=cut)[:, -1], behind, atol=1e-4, rtol=1e-4)
        with pytest.raises(RefusedError, match="hides other places of the prompt"):
            step(ids[:, -2:], attention_mask=hole)
        for other in (mask[:, -2:], mask[:, :-1], four(mask, torch.bool)[:, :, -2:]):
            with pytest.raises(RefusedError, match=rf"pass a mask \[rows, {n}\], of the prompt's {n - 2} places"):
                step(ids[:, -2:], attention_mask=other)
        cache = model(**inputs, use_cache=True)[CACHE]
        longer = torch.cat([ids, ids[:, -2:]], dim=1)
        with pytest.raises(RefusedError, match="hides other places of the prompt"):
            model.generate(
                longer, attention_mask=torch.cat([hole, mask[:, -2:]], dim=1), **{CACHE: cache}, max_new_tokens=2
            )
    with ts.prune(model, everything(*blocks)), pytest.raises(RefusedError, match="pass one as long"):
        model(**inputs | {"attention_mask": mask[:, 1:]})


# Arguments that nobody knows


@pytest.mark.parametrize("blocks", SITES, ids=str)
@pytest.mark.parametrize("extra", [0, -1, 1])
@pytest.mark.parametrize("shape", [("n",), (1, "n"), (3, 1, "n"), (1, "n", 8), (1, 1, "n", "n")], ids=str)
@torch.no_grad()
def test_an_unknown_value_per_place_is_refused(shape, extra, blocks):
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    n = inputs["input_ids"].shape[1] + extra
    value = torch.zeros([n if size == "n" else size for size in shape])
    with ts.prune(model, everything(*blocks)) as run:
        with pytest.raises(RefusedError, match=r"weights_of_tokens .* a value for each of the 24 places.*leave it out"):
            model(**inputs, weights_of_tokens=value)
        assert not run.prefills


@pytest.mark.parametrize(
    "wrap",
    [
        lambda values: values.tolist(),
        lambda values: [values.tolist()],
        lambda values: values.numpy(),
        lambda values: {"inner": values},
        lambda values: (values[None], 3),
    ],
    ids=["list", "list of rows", "numpy", "in a dict", "in a tuple"],
)
@torch.no_grad()
def test_unknown_values_per_place_are_refused_whatever_holds_them(wrap):
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    values = torch.zeros(inputs["input_ids"].shape[1])
    with ts.prune(model, everything(0)), pytest.raises(RefusedError, match="a value for each of the 24 places"):
        model(**inputs, weights_of_tokens=wrap(values))


@torch.no_grad()
def test_what_is_no_value_per_place_goes_through():
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    with ts.prune(model, everything(0)):
        half = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(100)).loss
        whole = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(50)).loss
        model(
            **inputs, weights_of_samples=torch.ones(1), temperature=torch.tensor(1.0), names=["a", "b"], rates={"a": 1}
        )
    torch.testing.assert_close(half * 2, whole)


@torch.no_grad()
def test_attention_to_both_sides():
    """It is what it is at the top, and refused between layers, where masks are made anew."""
    model = llava()
    inputs = batch(prompts(model, ONE))
    right = model(**inputs, is_causal=False).logits
    with ts.prune(model, everything(0)):
        torch.testing.assert_close(model(**inputs, is_causal=False).logits, right)
    with ts.prune(model, everything(2)), pytest.raises(RefusedError, match="is_causal=False"):
        model(**inputs, is_causal=False)


# Labels under a cut


@torch.no_grad()
def test_shifted_labels_stay_before_their_tokens():
    """The loss of labels that the caller shifted is that of the labels, also where what stood between them left."""
    model = shared("sdpa")
    inputs = batch(prompts(model, LAYOUTS["ragged"]))
    labels = torch.where(inputs["attention_mask"].bool() & (inputs["input_ids"] != IMAGE), inputs["input_ids"], -100)
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    recipe = ts.Recipe(stages=(ts.Stage(at="decoder.0", select=Norm(), keep=3),))
    with ts.prune(model, recipe):
        right = model(**inputs, labels=labels).loss
        out = model(**inputs, labels=labels, shift_labels=shifted)
    torch.testing.assert_close(out.loss, right)
    # By hand, from the logits.
    with ts.prune(model, recipe) as run:
        logits = model(**inputs).logits
    total, count = 0.0, 0
    for row, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
        kept = set(run.kept("decoder.0")[row].tolist())
        words, turn = [], 0
        for token in ids[mask.bool()].tolist():
            if token == IMAGE:
                turn += 1
                if turn - 1 not in kept:
                    continue
            words.append(token)
        own = logits[row].log_softmax(-1)
        # From the place before the first word, too, which is padding where there is any: so the library counts.
        first = logits.shape[1] - len(words)
        for place, token in enumerate(words, first):
            if token != IMAGE and place:
                total, count = total - float(own[place - 1, token]), count + 1
    assert float(out.loss) == pytest.approx(total / count, rel=1e-5)
