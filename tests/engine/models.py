"""Tiny LLaVAs with weights large enough to tell right from wrong, and prompts for them.

Freshly initialised weights are so small that any two tokens look alike: a wrong mask or position would
move logits less than rounding does.
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from transformers import LlavaForConditionalGeneration, SiglipVisionConfig

import tokensieve as ts
from tokensieve.engine.cache import cache_name
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters.llava import LlavaAdapter

IMAGE, PAD, BOS, EOS = 63, 0, 1, 2

CACHE = cache_name(LlavaForConditionalGeneration)


@lru_cache(maxsize=1)
def _config():
    return LlavaAdapter.tiny().config


def llava(*, seed=0, attention="sdpa", kv_heads=2, tower="clip", side=4, layers=4, dtype=torch.float32):
    """A LLaVA of `side` x `side` patches an image, made anew."""
    config = copy.deepcopy(_config())
    config.vision_config.image_size = side * config.vision_config.patch_size
    if tower == "siglip":
        kept = (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "image_size",
            "patch_size",
        )
        config.vision_config = SiglipVisionConfig(**{name: getattr(config.vision_config, name) for name in kept})
        config.vision_feature_select_strategy = "full"
    config.text_config.num_key_value_heads = kv_heads
    config.text_config.num_hidden_layers = layers
    config._attn_implementation = attention
    model = LlavaForConditionalGeneration._from_config(config)
    randomize_weights(model, seed)
    # Nothing but its length shall end a generation.
    model.generation_config.eos_token_id = None
    model.to(dtype).eval()
    # What the library itself leaves in a model: hooks when outputs are first asked for, the size of a static cache.
    prompt = batch(prompts(model, [[2, IMAGE, 1]]))
    with torch.no_grad():
        model(**prompt, output_hidden_states=True, output_attentions=attention == "eager")
        model.generate(**prompt, max_new_tokens=1, cache_implementation="static", disable_compile=True)
    return model


VARIANTS = {
    "sdpa": {},
    "eager": {"attention": "eager"},
    "mha": {"seed": 1, "kv_heads": 4},
    "siglip": {"seed": 2, "tower": "siglip"},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "bfloat16 eager": {"dtype": torch.bfloat16, "attention": "eager"},
}


_made, _footprints, _asked = {}, {}, set()


def shared(name):
    """A variant by name, the same for all tests: they leave it as it was, which conftest.py checks."""
    if name not in _made:
        _made[name] = llava(**VARIANTS[name])
        _footprints[name] = footprint(_made[name])
    _asked.add(name)
    return _made[name]


def changed(everywhere=False):
    """The variants that are not as they were, of those asked for since the last call, or of all made so far."""
    found = []
    for name in _made if everywhere else sorted(_asked):
        before, _footprints[name] = _footprints[name], footprint(_made[name])
        found += [] if _footprints[name] == before else [name]
    _asked.clear()
    return found


@dataclass(frozen=True, eq=False)
class Prompt:
    """One row of a batch.

    Attributes:
        words: token ids with one placeholder a visual token, without padding.
        pixels: `[images, 3, side, side]`.
    """

    words: tuple[int, ...]
    pixels: torch.Tensor

    def plus(self, words):
        return replace(self, words=(*self.words, *words))

    @property
    def images(self):
        return len(self.pixels)


def patches(model):
    """How many visual tokens an image has."""
    vision = model.config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


def prompts(model, layouts, seed=0):
    """One prompt a layout; a layout lists numbers of words, and IMAGE where an image stands."""
    draw = torch.Generator().manual_seed(1000 + seed)
    size = model.config.vision_config.image_size
    made = []
    for layout in layouts:
        words, images = [BOS], 0
        for part in layout:
            if part == IMAGE:
                words += [IMAGE] * patches(model)
                images += 1
            else:
                words += torch.randint(3, 60, (part,), generator=draw).tolist()
        pixels = torch.randn(images, 3, size, size, generator=draw).to(model.dtype)
        made.append(Prompt(tuple(words), pixels))
    return made


# Different lengths of text, numbers of images and places of them. Pruned, the longest row is shorter than the text.
ONE = [[3, IMAGE, 4]]
SEVERAL = [[5, IMAGE, 2, IMAGE, 3]]
TEXT = [[6]]
RAGGED = [[2, IMAGE, 5], [20], [1, IMAGE, IMAGE, 3]]


def batch(rows, side="left", room=0):
    """Pad rows to one length, and as much more as `room` says."""
    width = max(len(row.words) for row in rows) + room
    ids, mask = [], []
    for row in rows:
        fill = width - len(row.words)
        empty, full = [PAD] * fill, list(row.words)
        ids.append(empty + full if side == "left" else full + empty)
        mask.append([0] * fill + [1] * len(full) if side == "left" else [1] * len(full) + [0] * fill)
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    pixels = torch.cat([row.pixels for row in rows])
    return inputs | ({"pixel_values": pixels} if len(pixels) else {})


def generate(model, rows, steps=5, **settings):
    """Generate, and give the new tokens `[rows, steps]` and their logits `[rows, steps, words]`."""
    inputs = batch(rows)
    settings = {"do_sample": False} | settings
    out = model.generate(**inputs, max_new_tokens=steps, output_logits=True, return_dict_in_generate=True, **settings)
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, dim=1), out


def checkpointing(model, settings=None):
    """Turn gradient checkpointing on, by the name that this transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(settings)


def shipped():
    """Names of the shipped recipes that cut in the language model alone."""
    registry = ts.default_registry()
    loaded = {name: ts.Recipe.load(name, registry) for name in sorted(registry.recipes)}
    return [name for name, recipe in loaded.items() if all(stage.at.part == "decoder" for stage in recipe.stages)]


def fitted(name):
    """A shipped recipe with its sites in a model of four layers: decoder.0 stays, the others are one layer apart."""
    recipe = ts.Recipe.load(name)
    deep = [stage.at.block > 0 for stage in recipe.stages]
    stages = tuple(
        stage.model_copy(update={"at": ts.Site("decoder", sum(deep[: i + 1]))}) for i, stage in enumerate(recipe.stages)
    )
    return recipe.replace(stages=stages, budgets=recipe.budgets)
