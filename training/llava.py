"""Stage 2 of `world-llava`: a projector and a Llama over the frozen CLIP tower of stage 1.

python -m training.llava --out runs/llava --clip runs/clip/model --seed 0
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    CLIPModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tokensieve.tasks.world.words import COLORS, KINDS
from training.clip import PATCH, WIDTH, images, read, see
from training.data import TOKENS, scenes
from training.language import Asked, Frame, aligned, begin, encoded, language_options, start_projector, teach
from training.loop import save_half, start
from training.words import BOS, EOS, IDS, IMAGE, PAD, tokenizer

LAYERS = 6
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% for part in message['content'] %} {{ part['text'] }}{% endfor %} </s>"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def build(clip: CLIPModel, look_back: bool) -> LlavaForConditionalGeneration:
    """Return the model with a CLIP's vision tower; with `look_back`, attention has biases (see `language.begin`)."""
    text = LlamaConfig(
        vocab_size=len(IDS),
        hidden_size=WIDTH,
        intermediate_size=352,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        attention_bias=look_back,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        rms_norm_eps=1e-5,
    )
    config = LlavaConfig(
        vision_config=clip.config.vision_config,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    tower = model.model.vision_tower
    getattr(tower, "vision_model", tower).load_state_dict(clip.vision_model.state_dict())
    return model


def frame() -> Frame:
    """Return the prompt: begin token, image, question."""
    return Frame((BOS,), (), torch.arange(1 + TOKENS).unsqueeze(0), 1 + TOKENS)


def save(model: LlavaForConditionalGeneration, arguments: argparse.Namespace, curve: list[dict[str, float]]) -> None:
    """Save the model with its processor; weights are stored in half precision and loaded in float32."""
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, PAD
    folder = arguments.out / "model"
    save_half(model, folder)
    words = tokenizer(end=False, extra_special_tokens={"image_token": "<image>"})
    LlavaProcessor(
        image_processor=images(),
        tokenizer=words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",  # noqa: S106
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    (arguments.out / "curve.json").write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    """Train with the options of the command line, or with given ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    language_options(parser, steps=7000)
    parser.add_argument("--clip", required=True, help="the folder of stage 1's model")
    parser.add_argument(
        "--look-back", action="store_true", help="half of the heads look one and two tokens back at first"
    )
    arguments = parser.parse_args(words)
    start(arguments.seed, arguments.threads)
    held = scenes(arguments.scenes, "validation", arguments.held)
    training = scenes(arguments.scenes, "train", arguments.count)
    clip = CLIPModel.from_pretrained(arguments.clip).eval()

    def look(pictures: Tensor) -> Tensor:
        return see(clip, pictures)[0]

    features = encoded(look, training, arguments.out / "features.pt")
    held_features = encoded(look, held, arguments.out / "held.pt")
    start(arguments.seed, arguments.threads)
    model = build(clip, arguments.look_back)
    # On CPUs, the backward pass of the fused kernel is slower than that of plain matrix products.
    model.set_attn_implementation("eager")
    asked = Asked(model.model.multi_modal_projector, model.model.language_model, frame(), 2)
    some = features[:1000].float()
    with torch.no_grad():
        said = clip.visual_projection(clip.vision_model.post_layernorm(some))
        vectors, target, where = aligned(said, read(clip, [*COLORS, *KINDS]), WIDTH)
    begin(asked.language, vectors, where)
    projector = asked.projector
    chosen = slice(None, None, 7)
    start_projector(projector.linear_1, projector.linear_2, some.flatten(0, 1)[chosen], target.flatten(0, 1)[chosen])
    curve = teach(asked, features, training, held, held_features, arguments)
    save(model, arguments, curve)


if __name__ == "__main__":
    main()
