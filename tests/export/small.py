"""A LLaVA of one layer, its inputs, and what `prune` does with them."""

import copy

import torch
from tests.engine.models import IMAGE
from transformers import LlavaForConditionalGeneration

import tokensieve as ts
from tokensieve.testing.prompts import randomize_weights
from tokensieve_adapters.llava import LlavaAdapter

KEEP = 4
PROMPT = [1, 5, *[IMAGE] * 16, 7, 8, 9]


def small():
    """The fewest layers, because graphs are traced, converted and compiled operator by operator."""
    config = copy.deepcopy(LlavaAdapter.tiny().config)
    config.vision_config.image_size = 4 * config.vision_config.patch_size
    config.vision_config.num_hidden_layers, config.vision_feature_layer = 1, -1
    config.text_config.num_hidden_layers = 1
    config._attn_implementation = "sdpa"
    model = LlavaForConditionalGeneration._from_config(config)
    randomize_weights(model, 0)
    return model.eval()


def inputs(model, seed=0, prompt=PROMPT):
    """A picture of noise, and a prompt."""
    side = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": torch.tensor([prompt]), "pixel_values": pixels}


@torch.no_grad()
def pruned(model, given, recipe, logits_to_keep=1, **options):
    """The logits and the kept ids of `prune`."""
    with ts.prune(model, recipe, **options) as run:
        output = model(**given, logits_to_keep=logits_to_keep)
    return output.logits, run.kept("decoder.0")[0].tolist()
