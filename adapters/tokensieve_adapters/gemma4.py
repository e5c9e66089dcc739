"""Gemma 4: one pooled grid for each image, of the image's own shape; every layer adds per-layer token embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.layouts import raster
from tokensieve_adapters import _tiny


class Gemma4Decoder(Decoder):
    """A token is the mean of a square of patches. Positions of patches come with the pixels."""

    projector_name = "embed_vision"

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each image or video, from the positions of its patches."""
        places = request.get(f"{modality}_position_ids")
        if places is None:
            raise RefusedError(
                f"where each token of an encoded {modality} is depends on {modality}_position_ids; pass it"
            )
        # Positions are (column, row). Padding has -1, so it never is the maximum.
        columns, rows = (places.amax(dim=1) + 1).div(self._side, rounding_mode="floor").unbind(dim=-1)
        counts = [1] * len(rows) if modality == "image" else torch.as_tensor(request["num_frames_per_video"]).tolist()
        firsts = [sum(counts[:number]) for number in range(len(counts))]
        return [
            raster(int(rows[first]), int(columns[first]), frames=count)
            for first, count in zip(firsts, counts, strict=True)
        ]

    @property
    def _side(self) -> int:
        return int(self.config.vision_config.pooling_kernel_size)


class Gemma4Adapter(Adapter):
    """Gemma4ForConditionalGeneration."""

    name = "gemma4"
    model_types = ("gemma4",)
    decoder_type = Gemma4Decoder
    text_between_frames = True

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model whose last layers share keys; windows are longer than prompts, heads wider in full layers."""
        from transformers import Gemma4Config, Gemma4ForConditionalGeneration

        kinds = ["sliding_attention", "full_attention"] * 2
        own = {
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": _tiny.VOCABULARY_SIZE,
            "num_kv_shared_layers": 2,
        }
        text = _tiny.text(head_dim=12, global_head_dim=24, sliding_window=24, layer_types=kinds, **own)
        tower = _tiny.vision(num_key_value_heads=4, head_dim=8, pooling_kernel_size=2, position_embedding_size=32)
        config = Gemma4Config(
            vision_config={name: value for name, value in tower.items() if name != "image_size"},
            text_config=text | {"use_bidirectional_attention": "vision"},
            image_token_id=_tiny.IMAGE,
            video_token_id=_tiny.VIDEO,
            audio_token_id=61,
            tie_word_embeddings=False,
        )
        model: nn.Module = Gemma4ForConditionalGeneration(config).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images of several shapes, or videos of two frames, as padded rows of patches."""
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        shapes, most = [(6, 4), (6, 8), (8, 6)], 48
        frames = 1 if modality == "image" else 2
        seeds = [seed for row in rows for seed in row]
        pixels = torch.zeros(len(seeds) * frames, most, 3 * vision.patch_size**2)
        places = torch.full((len(seeds) * frames, most, 2), -1)
        for number, seed in enumerate(seed for seed in seeds for _ in range(frames)):
            height, width = shapes[seed % len(shapes)]
            draw = torch.Generator().manual_seed(seed * frames + number % frames)
            pixels[number, : height * width] = torch.rand(height * width, pixels.shape[-1], generator=draw)
            places[number, : height * width] = raster(height, width)[:, [3, 2]]
        if not seeds:
            return {}
        if modality == "image":
            return {"pixel_values": pixels, "image_position_ids": places}
        return {
            "pixel_values_videos": pixels,
            "video_position_ids": places,
            "num_frames_per_video": torch.full((len(seeds),), frames),
        }

    @classmethod
    def aligned_inputs(cls, model: nn.Module, ids: Tensor, num_generated: int = 0) -> dict[str, Tensor]:
        """Return `mm_token_type_ids`: 0 for text, 1 for images, 2 for videos."""
        return {"mm_token_type_ids": (ids == _tiny.IMAGE).int() + 2 * (ids == _tiny.VIDEO).int()}
