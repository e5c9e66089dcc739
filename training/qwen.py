"""Both stages of `world-qwen`: a Qwen2-VL, whose tower has rotary positions and merges cells two by two.

    python -m training.qwen --out runs/qwen --seed 0

It is built differently from `world-llava` on purpose: four patches make a visual token, no class token, no learned
positions, three-axis positions in the language model, biases in attention, and no text tower: relevance to the
question is judged by the model's own word embeddings.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from tokensieve.tasks.world.scenes import SIDE
from tokensieve.tasks.world.words import COLORS, KINDS, PLACES
from training.clip import Heads
from training.data import COLUMNS, MEAN, ROWS, STD, TOKENS, Scenes, scenes
from training.language import Asked, Frame, begin, encoded, language_options, start_projector, teach
from training.loop import Training, batch, matrices, save_half, start
from training.words import BOS, EOS, IDS, IMAGE_PAD, PAD, VIDEO_PAD, VISION_END, VISION_START, tokenizer

WIDTH, HEADS, LAYERS = 128, 4, 6
CELL, CELL_HEADS, CELL_LAYERS = 64, 4, 4
MERGE = 2
PATCH = SIDE // (ROWS * MERGE)
SECTIONS = (4, 6, 6)
CELL_THETA = 100.0
OFFSETS = [
    [(-1, 0), (1, 0), (0, -1), (0, 1)],
    [(-1, -1), (-1, 1), (1, -1), (1, 1)],
    [(-2, 0), (2, 0), (0, -2), (0, 2)],
    [(-3, 0), (3, 0), (0, -3), (0, 3)],
]
"""By block and head, the neighbour that attention is initialised to."""
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% for part in message['content'] %} {{ part['text'] }}{% endfor %} </s>"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def build() -> Qwen2VLForConditionalGeneration:
    """Return the model; the attention of its tower is initialised to neighbours, like a convolution."""
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(IDS),
            "hidden_size": WIDTH,
            "intermediate_size": 352,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(SECTIONS)},
            "tie_word_embeddings": True,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
        vision_config={
            "depth": CELL_LAYERS,
            "embed_dim": CELL,
            "hidden_size": WIDTH,
            "num_heads": CELL_HEADS,
            "mlp_ratio": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "rope_parameters": {"rope_type": "axial", "rope_theta": CELL_THETA},
        },
        image_token_id=IMAGE_PAD,
        video_token_id=VIDEO_PAD,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config)
    per_head = CELL // CELL_HEADS
    rates = CELL_THETA ** (-torch.arange(per_head // 4) / (per_head // 4))
    with torch.no_grad():
        nn.init.normal_(model.model.visual.patch_embed.proj.weight, std=(6 * PATCH * PATCH) ** -0.5)
        for block, offsets in zip(model.model.visual.blocks, OFFSETS, strict=True):
            query, key, value = block.attn.qkv.weight.split(CELL)
            nn.init.normal_(query, std=0.02)
            nn.init.normal_(key, std=0.02)
            nn.init.normal_(value, std=CELL**-0.5)
            block.attn.qkv.bias.zero_()
            for head, (rows, columns) in enumerate(offsets):
                angle = torch.cat([rates * rows, rates * columns])
                first = head * per_head
                block.attn.qkv.bias[first : first + per_head] = 4 * torch.cat([angle.cos(), angle.sin()])
                block.attn.qkv.bias[CELL + first : CELL + first + per_head // 2] = 4
            nn.init.normal_(block.attn.proj.weight, std=0.7 * CELL**-0.5)
            nn.init.normal_(block.mlp.fc1.weight, std=CELL**-0.5)
            nn.init.normal_(block.mlp.fc2.weight, std=0.6 * (4 * CELL) ** -0.5)
        merger = model.model.visual.merger.mlp
        nn.init.normal_(merger[0].weight, std=(4 * CELL) ** -0.5)
        nn.init.normal_(merger[2].weight, std=(4 * CELL) ** -0.5)
    return model


def patches(images: Tensor) -> Tensor:
    """Return normalised images `[n, 3, SIDE, SIDE]` as flattened patches `[n * patches, 6 * PATCH * PATCH]`."""
    n = len(images)
    frames = images.unsqueeze(1).expand(-1, 2, -1, -1, -1)
    split = frames.reshape(n, 2, 3, ROWS, MERGE, PATCH, COLUMNS, MERGE, PATCH)
    return split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(n * TOKENS * MERGE * MERGE, -1)


def look(model: Qwen2VLForConditionalGeneration, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the merger's input `[n, TOKENS, 4 * CELL]`, and the visual tokens `[n, TOKENS, WIDTH]`."""
    grid = torch.tensor([[1, ROWS * MERGE, COLUMNS * MERGE]]).expand(len(images), -1)
    visual = model.model.visual
    seen = visual(patches(images), grid_thw=grid)
    read = visual.merger.ln_q(seen.last_hidden_state).reshape(len(images), TOKENS, -1)
    return read, seen.pooler_output.reshape(len(images), TOKENS, -1)


class Merger(nn.Module):
    """The layers of the merger after its norm, as a projector."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, read: Tensor) -> Tensor:
        """Return the visual tokens."""
        return self.mlp(read)


def frame() -> Frame:
    """Return the prompt: begin token, vision-start token, image, vision-end token, question."""
    row, column = (torch.arange(TOKENS) // COLUMNS, torch.arange(TOKENS) % COLUMNS)
    visual = torch.stack([torch.zeros_like(row), row, column]) + 2
    after = 2 + max(ROWS, COLUMNS)
    positions = torch.cat([torch.arange(2).expand(3, 2), visual, torch.full((3, 1), after)], dim=1)
    return Frame((BOS, VISION_START), (VISION_END,), positions, after + 1)


def tower(
    model: Qwen2VLForConditionalGeneration, training: Scenes, held: Scenes, arguments: argparse.Namespace
) -> None:
    """Train the tower to classify the object that covers each cell."""
    heads, visual = Heads(WIDTH), model.model.visual
    loop = Training(
        arguments.out / "tower",
        {"visual": visual, "heads": heads},
        matrices(visual.blocks),
        arguments.tower_steps,
        arguments.seed,
        every=arguments.every,
        decay=0.05,
    )

    def loss(step: int) -> Tensor:
        which = batch(arguments.seed, step, arguments.tower_batch, len(training))
        colors, kinds = training.labels(which)
        chosen = (colors < len(COLORS)) | (torch.rand(colors.shape) < 0.15)
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            cells = look(model, training.images(which))[1]
        return heads.loss(cells.float(), colors, kinds, training.centers(which), chosen)

    loop.run(loss, lambda: judge(model, heads, held))


@torch.no_grad()
def judge(model: Qwen2VLForConditionalGeneration, heads: Heads, held: Scenes) -> dict[str, float]:
    """Return how often a linear probe of a token gives the colour and the kind of the object that covers it."""
    counts: dict[str, list[float]] = {}
    for first in range(0, len(held), 128):
        which = np.arange(first, min(first + 128, len(held)))
        colors, kinds = held.labels(which)
        color, kind, center = heads(look(model, held.images(which))[1])
        things, middle = colors < len(COLORS), held.centers(which) > 0
        for name, right in {
            "color": (color.argmax(-1) == colors)[things],
            "kind": (kind.argmax(-1) == kinds)[things],
            "ground": (color.argmax(-1) == colors)[~things],
            "center": (center > 0)[middle],
        }.items():
            counts.setdefault(name, []).append(right.float().mean().item())
    return {name: float(np.mean(values)) for name, values in counts.items()}


def save(
    model: Qwen2VLForConditionalGeneration,
    arguments: argparse.Namespace,
    curve: list[dict[str, float]],
    made: Qwen2VLProcessor,
) -> None:
    """Save the model with its processor; weights are stored in half precision and loaded in float32."""
    folder = arguments.out / "model"
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, PAD
    save_half(model, folder)
    made.save_pretrained(folder)
    (arguments.out / "curve.json").write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")


def processor(ids: Mapping[str, int] = IDS, template: str = TEMPLATE) -> Qwen2VLProcessor:
    """Return the processor; images and frames keep their size, up to that of the world's images.

    Args:
        ids: of all words and special tokens.
        template: the chat template.
    """
    settings = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "size": {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": SIDE * SIDE},
    }
    marks = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    words = tokenizer(end=False, ids=ids, extra_special_tokens=marks)
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=template,
    )


def main(words: Sequence[str] | None = None) -> None:
    """Train with the options of the command line, or with given ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    language_options(parser, steps=4000)
    parser.add_argument("--tower-steps", type=int, default=1500)
    parser.add_argument("--tower-batch", type=int, default=12, help="pictures")
    arguments = parser.parse_args(words)
    start(arguments.seed, arguments.threads)
    held = scenes(arguments.scenes, "validation", arguments.held)
    training = scenes(arguments.scenes, "train", arguments.count)
    model = build()
    # On CPUs, the backward pass of the fused kernel is slower than that of plain matrix products.
    model.set_attn_implementation("eager")
    tower(model, training, held, arguments)
    visual = model.model.visual.requires_grad_(False)

    def see(pictures: Tensor) -> Tensor:
        return look(model, pictures)[0]

    features = encoded(see, training, arguments.out / "features.pt")
    held_features = encoded(see, held, arguments.out / "held.pt")
    start(arguments.seed, arguments.threads)
    visual.merger.mlp.requires_grad_(True)
    language = model.model.language_model
    asked = Asked(Merger(visual.merger.mlp), language, frame(), 3)
    vectors = torch.linalg.qr(torch.randn(WIDTH, len(COLORS) + len(KINDS))).Q.T
    begin(language, vectors, torch.randn(len(PLACES), WIDTH))
    colors, kinds = training.labels(np.arange(min(1000, len(training))))
    # The background has no word; a cell of an object has those of its colour and its kind.
    table = torch.cat([vectors, torch.zeros(1, WIDTH)])
    nothing = len(vectors)
    said = table[torch.where(colors < len(COLORS), colors, nothing)]
    said = said + table[torch.where(kinds < len(KINDS), kinds + len(COLORS), nothing)]
    fit = start_projector(
        visual.merger.mlp[0],
        visual.merger.mlp[2],
        features[:1000].float().flatten(0, 1)[::3],
        said.flatten(0, 1)[::3],
    )
    if not math.isfinite(fit):
        raise SystemExit("the tower's features are not finite; train it again with a smaller rate")
    curve = teach(asked, features, training, held, held_features, arguments)
    save(model, arguments, curve, processor())


if __name__ == "__main__":
    main()
