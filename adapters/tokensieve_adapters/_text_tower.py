"""Text towers of CLIP and SigLIP, with which query-aware strategies judge tokens in the space of the vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.pretrained import local_checkpoint, model_from_pretrained, tokenizer_from_pretrained

# In these releases, relevant patches are known to be *less* similar to the text than others, measured on the
# penultimate layer through the final projection.
# Sources: the authors' answers in CDPruner's issues 9 and 14 and TRIM's issue 3.
NEGATIVE_SIGN_RELEASES = (
    "openai/clip-vit-large-patch14-336",
    "openai/clip-vit-large-patch14",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-base-patch32",
)
SIGN_FIELD = "tokensieve_relevance_sign"


@dataclass
class ContrastiveTextTower:
    """The text tower of a CLIP or SigLIP model that has the same vision tower as the language model.

    Attributes:
        model: the whole two-tower model.
        tokenizer: of its text tower.
        space: the name of the space in the ledger.
        sign: +1 if a larger similarity means more relevant, else -1.
        warning: a note for the ledger if the sign is a guess.
    """

    model: Any
    tokenizer: Any
    space: str
    sign: int
    warning: str | None

    @property
    def weights(self) -> list[Tensor]:
        """All parameters and buffers of the model, which is small."""
        return [*self.model.parameters(), *self.model.buffers()]

    @torch.no_grad()
    def patches(self, selected: Tensor) -> Tensor:
        """Return patches after the post-norm and, in CLIP, the visual projection of the two-tower model.

        A model that the user passed may be on another device; the result is on the device of the patches.
        """
        tower = self.model.vision_model
        x = tower.post_layernorm(selected.to(self.model.device, self.model.dtype))
        projection = getattr(self.model, "visual_projection", None)
        result: Tensor = x if projection is None else projection(x)
        return result.to(selected.device)

    @torch.no_grad()
    def text(self, question: str) -> Tensor:
        """Return the embeddings of the question, in windows of the tower's length with start and end tokens each."""
        longest = int(self.model.config.text_config.max_position_embeddings)
        ids = self.tokenizer(question, add_special_tokens=False)["input_ids"]
        room = longest - self.tokenizer.num_special_tokens_to_add()
        windows = [ids[start : start + room] for start in range(0, len(ids), room)]
        embedded = []
        for window in windows:
            text = self.tokenizer.decode(window)
            # SigLIP was trained on texts padded to the full length, without a mask; CLIP reads at the end token.
            siglip = self.model.config.model_type.startswith("siglip")
            padding = "max_length" if siglip else False
            inputs = self.tokenizer(text, return_tensors="pt", padding=padding, truncation=True, max_length=longest).to(
                self.model.device
            )
            inputs.pop("token_type_ids", None)
            if siglip:
                inputs.pop("attention_mask", None)
            embedded.append(self.model.get_text_features(**inputs).pooler_output[0])
        if embedded:
            return torch.stack(embedded)
        return torch.zeros(0, self.space_width(), device=self.model.device)

    def space_width(self) -> int:
        """Return the width of the shared space."""
        projection = getattr(self.model, "visual_projection", None)
        width = self.model.config.vision_config.hidden_size if projection is None else projection.out_features
        return int(width)


def load_contrastive_text_tower(query_encoder: object, vision_config: Any, tower: nn.Module) -> ContrastiveTextTower:
    """Load a text tower from a directory, a model, or a model and its tokenizer.

    Args:
        query_encoder: a path, a CLIPModel or SiglipModel (whose tokenizer is loaded from where the model was loaded),
            or a pair (model, tokenizer). A model loaded from a path is put on the vision tower's device; a model that
            was passed stays where it is.
        vision_config: the config of the language model's vision tower, with which that of the two-tower model must
            agree.
        tower: that vision tower, or a part of it.

    Raises:
        RefusedError: if `query_encoder` is none of these, cannot be loaded from local files without running code of
            its own, or has another vision tower.
    """
    from transformers import AutoModel

    tokenizer: Any = None
    model: Any = query_encoder
    if isinstance(query_encoder, tuple) and len(query_encoder) == 2:
        model, tokenizer = query_encoder
    if isinstance(query_encoder, (str, Path)):
        checkpoint = local_checkpoint(query_encoder, "query_encoder")
        model = model_from_pretrained(AutoModel, checkpoint)
        # Releases are recognised by their name, which the folder in the hub's cache does not have.
        model.config._name_or_path = str(query_encoder)
        place = next(tower.parameters()).device
        # The weights of an offloaded tower are on the meta device until it runs.
        if place.type != "meta":
            model.to(place)
        tokenizer = tokenizer_from_pretrained(checkpoint)
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not isinstance(model, nn.Module) or kind not in ("clip", "siglip"):
        raise RefusedError(
            f"query_encoder is {type(query_encoder).__name__} ({kind}); give the path of a CLIP or SigLIP model, "
            "the model, or (model, tokenizer)"
        )
    config: Any = model.config
    source = str(getattr(config, "_name_or_path", "") or "")
    if tokenizer is None:
        if not source:
            raise RefusedError("query_encoder is a model without a path to find its tokenizer; give (model, tokenizer)")
        checkpoint = local_checkpoint(
            source,
            "query_encoder is a model, (model, tokenizer) is needed where its files are gone; the path in its config",
        )
        tokenizer = tokenizer_from_pretrained(checkpoint)
    for field in ("hidden_size", "num_hidden_layers", "image_size", "patch_size"):
        ours, theirs = getattr(vision_config, field, None), getattr(config.vision_config, field, None)
        if ours != theirs:
            raise RefusedError(
                f"query_encoder is not the partner of this vision tower: {field} is {theirs}, the tower's is {ours}"
            )
    sign, warning = _sign(config, source)
    return ContrastiveTextTower(model, tokenizer, f"{kind} text tower", sign, warning)


def _sign(config: Any, source: str) -> tuple[int, str | None]:
    """Return the relevance sign of a release, and a warning if it is a guess."""
    declared = getattr(config, SIGN_FIELD, None)
    if declared in (1, -1):
        return int(declared), None
    if source.rstrip("/") in NEGATIVE_SIGN_RELEASES:
        return -1, None
    return 1, (
        f"the relevance sign of {source or 'this query encoder'} is not known; +1 was taken. "
        f"Set {SIGN_FIELD} to 1 or -1 in its config"
    )
