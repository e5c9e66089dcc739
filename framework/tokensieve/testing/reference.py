"""References for a pruned prompt, which share no code with the engine.

Both take one prompt without padding, have no cache, and compute everything anew for every new token. `MaskedReference`
runs the whole prompt, and hides from every layer the tokens that were pruned before it. `ShortenedReference` runs a
prompt without the pruned tokens; sliding windows then count the tokens that are left.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.testing.prompts import Prompts, Row


class _Reference:
    def __init__(self, prompts: Prompts, row: Row, kept: Mapping[int, Sequence[int]], positions: str) -> None:
        self._prompts = prompts
        self._row = row
        self._kept = dict(kept)
        self._positions = positions
        self._visual = prompts.visual(row)

    def logits(self, new: Sequence[int] = ()) -> Tensor:
        """Return the logits `[vocabulary]` after the prompt and the new tokens that followed it."""
        raise NotImplementedError

    def greedy(self, steps: int) -> tuple[list[int], Tensor]:
        """Return the next tokens by greedy decoding, and the logits `[steps, vocabulary]` of each step."""
        new: list[int] = []
        seen = []
        silent = torch.tensor(self._prompts.reserved_token_ids)
        for _ in range(steps):
            seen.append(self.logits(new))
            # A generated placeholder would be read as a picture: without a cache, nothing tells them apart.
            new.append(int(seen[-1].index_fill(0, silent, -torch.inf).argmax()))
        return new, torch.stack(seen)

    def _stays(self, block: int, length: int) -> list[bool]:
        """Return for every place whether it is still in a layer."""
        stays = [True] * length
        for at, kept in self._kept.items():
            if at <= block:
                for token, place in enumerate(self._visual):
                    stays[place] = stays[place] and token in set(kept)
        return stays

    def _inputs(self, new: Sequence[int]) -> dict[str, Any]:
        ids = torch.tensor([[*self._row.words, *new]])
        along = self._prompts.adapter.aligned_inputs(self._prompts.model, ids, len(new))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **along}


class MaskedReference(_Reference):
    """Runs the whole prompt, and hides pruned tokens from all later layers."""

    @torch.no_grad()
    def logits(self, new: Sequence[int] = ()) -> Tensor:
        """Return the logits `[vocabulary]` after the prompt and the new tokens that followed it."""
        inputs = self._inputs(new) | self._prompts.pictures([self._row])
        length = inputs["input_ids"].shape[1]
        handles = []
        for number, layer in enumerate(self._prompts.decoder.layers):
            handles.append(layer.register_forward_pre_hook(self._hide(number, length), with_kwargs=True))
        try:
            result: Tensor = self._prompts.model(**inputs, use_cache=False).logits[0, -1]
        finally:
            for handle in handles:
                handle.remove()
        return result

    def _hide(self, number: int, length: int) -> Any:
        stays = torch.tensor(self._stays(number, length))

        def hide(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden = args[0] if args else kwargs["hidden_states"]
            mask = kwargs.get("attention_mask")
            least = torch.finfo(hidden.dtype).min
            if mask is None:
                mask = torch.full((length, length), least, dtype=hidden.dtype).triu(1)[None, None]
            elif mask.dtype == torch.bool:
                mask = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill(~mask, least)
            # A pruned place still attends to itself, so that no row of the attention is empty.
            gone = ~stays[None, :] & ~torch.eye(length, dtype=torch.bool)
            changed = kwargs | {"attention_mask": mask.masked_fill(gone, least)}
            if self._positions == "compact" and not bool(stays.all()):
                first = self._prompts.decoder.position_ids(self._inputs([]), torch.ones(1, 1, dtype=torch.bool), 0, 1)
                closed = (stays.long().cumsum(0) - 1).clamp(min=0) + int(first.flatten()[0])
                changed["position_embeddings"] = self._prompts.decoder.rotary_embeddings(hidden, closed.unsqueeze(0))
            return args, changed

        return hide


class ShortenedReference(_Reference):
    """Runs the prompt without the tokens that were pruned before the language model; for stages at `decoder.0` only."""

    @torch.no_grad()
    def logits(self, new: Sequence[int] = ()) -> Tensor:
        """Return the logits `[vocabulary]` after the prompt and the new tokens that followed it."""
        model, decoder = self._prompts.model, self._prompts.decoder
        whole = self._inputs(new)
        length = whole["input_ids"].shape[1]
        stays = torch.tensor(self._stays(0, length))
        inputs = {name: value[:, stays] for name, value in whole.items()}
        pictures = self._prompts.pictures([self._row])
        positions = decoder.position_ids(whole | pictures, torch.ones(1, length, dtype=torch.bool), 0, length)
        inputs["position_ids"] = positions[..., stays]
        if self._positions == "compact" and not bool(stays.all()):
            # Every axis counts from the first place.
            inputs["position_ids"] = positions[..., :1] + torch.arange(int(stays.sum()))
        outputs = {}
        words = torch.tensor(self._row.words)
        for name, output in decoder.encode_visual_inputs(pictures).items():
            [modality] = [one for one in decoder.modalities if one.name == name]
            wanted = stays[: len(words)][words == modality.placeholder_id]
            pooled = output.pooler_output
            flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in pooled])[wanted]
            outputs[name] = copy.copy(output)
            outputs[name].pooler_output = flat[None] if isinstance(pooled, Tensor) else [flat]
        result: Tensor = model(**inputs, mm_encoder_outputs=outputs, use_cache=False).logits[0, -1]
        return result
