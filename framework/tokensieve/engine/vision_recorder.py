"""Evidence from the vision tower about a prompt's images.

Towers run when pictures are encoded, which `generate` does before the model's forward. What their
layers saw is kept, modality by modality, until tokens are judged by it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.engine import attention_tap as taps
from tokensieve.engine.batches import interleaved
from tokensieve.engine.encoder_pruner import EncoderPruner
from tokensieve.engine.installation import Installation
from tokensieve.engine.pixel_pruner import KeptUnits
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.sessions import PerThread
from tokensieve.errors import RefusedError, listing
from tokensieve.evidence import Evidence, Value
from tokensieve.models.decoder import Decoder

SELECTED = "selected"
"""What is kept beside evidence: the layer that the projector takes, for a text tower that shares its space."""
_ATTENTION = frozenset({Evidence.VISION_ATTENTION, Evidence.VISION_RECEIVED, Evidence.VISION_KEYS})


class VisionRecorder:
    """Records the evidence that strategies need while the vision tower runs.

    Args:
        decoder: whose tower it is.
        wanted: the evidence to collect, and perhaps SELECTED; nothing else is computed.
        tower: what lets tokens leave inside the tower, if anything does: attention then sees fewer.
    """

    _encoding: PerThread[str | None] = PerThread(lambda: None)
    _recorded: PerThread[dict[str, dict[str, list[Tensor]]]] = PerThread(dict)

    def __init__(self, decoder: Decoder, wanted: frozenset[str], tower: EncoderPruner | None = None) -> None:
        self._decoder = decoder
        self._tower = tower
        self.kinds = wanted
        self._wanted = frozenset(Evidence(kind) for kind in wanted - {SELECTED})

    def install(self, installation: Installation) -> None:
        """Put taps and hooks into the tower."""
        decoder = self._decoder
        if SELECTED in self.kinds:
            installation.pre_hook(decoder.projector, self._select)
        if self._wanted:
            self._tap(installation)
        for modality in decoder.modalities:
            name = f"get_{modality.name}_features"
            if hasattr(decoder.base_model, name):
                installation.wrap(decoder.base_model, name, functools.partial(self._encode, modality.name))
        installation.later(self.forget)

    def _tap(self, installation: Installation) -> None:
        decoder = self._decoder
        layers, attention = decoder.vision_layers, decoder.vision_attention_name
        chosen = layers[decoder.selected_vision_layer]
        for layer, kinds in (
            (chosen, self._wanted & _ATTENTION),
            (layers[decoder.middle_vision_layer], self._wanted & {Evidence.VISION_MIDDLE}),
        ):
            if kinds:
                taps.install(installation, layer.get_submodule(attention), _LayerTap(self, kinds))
        if Evidence.VISION_FEATURES in self._wanted:
            installation.post_hook(chosen, self._left, prepend=True)

    def forget(self) -> None:
        """Forget what was recorded."""
        self._recorded.clear()

    @property
    def watching(self) -> bool:
        """Whether the tower is encoding a prompt's pictures."""
        return self._encoding is not None

    @property
    def prefix(self) -> int:
        """How many class tokens stand before the patches."""
        return self._decoder.num_vision_prefix_tokens

    def keep(self, kind: Evidence, values: Tensor) -> None:
        """Record values `[images, prefix + tokens, c]` or `[patches, c]`, of patches alone."""
        if self._encoding is not None:
            values = values if self._tower is None else self._tower.whole(values)
            patches = values[..., self.prefix :, :].flatten(0, -2)
            self._recorded[self._encoding].setdefault(kind, []).append(patches)

    def take(self, modality: str) -> dict[str, Tensor]:
        """Return the evidence recorded since encoding began, `[patches, c]` by kind, and forget it."""
        recorded = self._recorded.get(modality, {})
        self._recorded[modality] = {}
        return {kind: torch.cat(values) for kind, values in recorded.items()}

    def put(self, modality: str, evidence: Mapping[str, Tensor]) -> None:
        """Set the recorded evidence."""
        self._recorded[modality] = {kind: [values] for kind, values in evidence.items()}

    @property
    def selected(self) -> Tensor | None:
        """The layer `[patches, c]` that the projector last took."""
        found = [recorded[SELECTED] for recorded in self._recorded.values() if SELECTED in recorded]
        return torch.cat(found[-1]) if found else None

    def read(
        self,
        request: Mapping[str, Any],
        names: Sequence[str],
        layout: PromptLayout,
        device: torch.device,
        units: Mapping[str, KeptUnits],
    ) -> dict[Evidence, Callable[[], Value]]:
        """Return the recorded evidence by token, and forget it.

        Args:
            request: the caller's arguments.
            names: the modalities that the prompts have.
            layout: of the prompts; kinds are numbers of the modalities.
            device: where it is read.
            units: by modality, which tokens the tower encoded, where a stage before it left some out.
        """
        recorded = dict(self._recorded)
        self.forget()
        if not self._wanted:
            return {}
        if not set(names) <= self._decoder.vision_modalities:
            able = listing(f"{name}s" for name in sorted(self._decoder.vision_modalities))
            raise RefusedError(
                f"strategies that read the vision tower's attention take prompts of {able} alone in this family"
            )
        if not all(self._wanted <= recorded.get(name, {}).keys() for name in names):
            raise RefusedError(
                "a strategy reads the vision tower's attention, but the images came already encoded; pass pixel_values"
            )

        def dealt(kind: Evidence) -> Value:
            found = []
            for number, name in enumerate(names):
                seen = recorded[name][kind]
                patches = seen[0] if len(seen) == 1 else torch.cat(seen)
                if name in units:
                    found.append(units[name].tokens(patches, request))
                else:
                    found.append(self._decoder.patches_to_tokens(patches, request, name))
                wanted = layout.count(number)
                if len(found[-1]) != wanted:
                    raise RefusedError(
                        f"the vision tower saw {len(patches)} patches, which make {len(found[-1])} tokens, but the "
                        f"prompts have {wanted}; {kind} cannot be dealt to them"
                    )
            return layout.by_id(interleaved(found, layout.order).to(device))

        return {kind: functools.partial(dealt, kind) for kind in self._wanted}

    def _encode(self, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._encoding is not None:
            # A family may encode videos as pictures.
            return real(*args, **kwargs)
        self._encoding, self._recorded[name] = name, {}
        try:
            return real(*args, **kwargs)
        finally:
            self._encoding = None

    def _select(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._encoding is not None:
            patches = args[0].detach().flatten(0, -2)
            self._recorded[self._encoding].setdefault(SELECTED, []).append(patches)

    def _left(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.keep(Evidence.VISION_FEATURES, (output[0] if isinstance(output, tuple) else output).detach())


class _LayerTap(taps.AttentionTap):
    """Records attention and keys of a layer of the tower, image by image."""

    def __init__(self, vision: VisionRecorder, kinds: frozenset[Evidence]) -> None:
        self._vision = vision
        self._kinds = kinds

    def look(self, call: taps.AttentionCall, bounds: Tensor | None) -> None:
        """Recompute softmaxed attention, and record what was asked for."""
        vision = self._vision
        if not vision.watching:
            return
        for piece in call.pieces(bounds):
            received = [kind for kind in self._kinds if kind is not Evidence.VISION_KEYS]
            if vision.prefix and Evidence.VISION_ATTENTION in self._kinds:
                received.remove(Evidence.VISION_ATTENTION)
                first = torch.zeros(len(piece.query), 1, dtype=torch.int64, device=piece.query.device)
                vision.keep(Evidence.VISION_ATTENTION, piece.rows(first)[:, :, 0].transpose(1, 2))
            if received:
                mean = piece.received().transpose(1, 2)
                for kind in received:
                    vision.keep(kind, mean)
            if Evidence.VISION_KEYS in self._kinds:
                vision.keep(Evidence.VISION_KEYS, piece.key.detach().mean(dim=1))
