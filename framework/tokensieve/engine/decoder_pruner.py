"""Pruning the prompt of a language model.

Before it (`decoder.0`) the request itself is rewritten at the top of the model: its images are
encoded, tokens are selected, and the unmodified forward runs on a shorter, self-consistent
request. What `PixelPruner` left out before the vision tower (`pixel.0`) leaves with them. Inside it
(`decoder.K`) `LayerPruner` gathers hidden states. What a prompt leaves behind is kept on its cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokensieve.engine import cache as caches
from tokensieve.engine.batches import interleaved
from tokensieve.engine.encoded_images import arguments_by_name
from tokensieve.engine.encoder_outcome import encoder_outcome
from tokensieve.engine.encoder_pruner import EncoderPruner
from tokensieve.engine.generate_call import GenerateCall
from tokensieve.engine.installation import Installation
from tokensieve.engine.labels import check_labels
from tokensieve.engine.layer_pruner import LayerPruner
from tokensieve.engine.pixel_pruner import KeptUnits, PixelPruner
from tokensieve.engine.prefill_state import DecodeStep, PrefillState
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.prompt_selector import PromptOptions, PromptSelection, PromptSelector
from tokensieve.engine.refusals import (
    PAD_LEFT,
    refuse_batch,
    refuse_generation,
    refuse_inputs,
    refuse_merged,
    refuse_request,
    refuse_unknown_places,
)
from tokensieve.engine.request import (
    continue_request,
    has_images,
    image_arguments,
    placeholder_places,
    prompt_mask,
    shorten_request,
    text_axis,
)
from tokensieve.engine.sessions import PerThread
from tokensieve.engine.shortening import shorten
from tokensieve.engine.stage_selection import StageOutcome
from tokensieve.engine.vision_cache import VisionCache
from tokensieve.engine.vision_recorder import SELECTED, VisionRecorder
from tokensieve.errors import RefusedError, listing
from tokensieve.evidence import Evidence, Value
from tokensieve.ledger.places import Places
from tokensieve.ledger.records import StageRecord
from tokensieve.ledger.run import Run
from tokensieve.ledger.seen import Seen
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.offers import VISION_EVIDENCE
from tokensieve.models.packed_tower import PackedTower
from tokensieve.recipes.recipe import Positions, Recipe


class DecoderPruner:
    """Prunes the prompt of a language model: wraps `forward` and `generate` for one `prune`.

    Attributes:
        encoded: how often pictures were encoded in a call of their own.
    """

    _generation: PerThread[GenerateCall | None] = PerThread(lambda: None)
    _inside: PerThread[tuple[inspect.Signature, ...]] = PerThread(tuple)
    _generating = PerThread(lambda: False)

    def __init__(
        self,
        decoder: Decoder,
        recipe: Recipe,
        run: Run,
        options: PromptOptions,
        on_stage: Callable[[StageRecord], None],
        tower: EncoderPruner | None = None,
        vision_cache: VisionCache | None = None,
        packed: PackedTower | None = None,
    ) -> None:
        self._decoder = decoder
        self._tower = tower
        self._vision_cache = vision_cache
        self._policy: Positions = recipe.positions
        self._options = options
        self._model = decoder.model
        # PromptOptions at every step, and read off configs.
        self._modalities = decoder.modalities
        self._images = image_arguments(decoder)
        self.encoded = 0
        self._selector = PromptSelector(decoder, recipe, run, options, on_stage, vision_cache)
        self._pixels = None if packed is None else PixelPruner(packed, decoder, self._selector)
        self._layers = LayerPruner(decoder, self._selector, recipe.positions)
        self._deep = any(block > 0 for block in self._selector.stages)
        needs = frozenset().union(*(self._selector.needs(block) for block in self._selector.stages))
        wanted: frozenset[str] = needs & VISION_EVIDENCE
        if options.text_tower is not None:
            wanted |= {SELECTED}
        self._vision = VisionRecorder(decoder, wanted, tower) if wanted else None

    def install(self, installation: Installation) -> None:
        """Put hooks and overrides into the model."""
        model = self._model
        installation.wrap(model, "generate", self._generate)
        # Every `generate` calls this first, also one that was taken from the model before the block.
        if hasattr(model, "_validate_model_kwargs"):
            installation.wrap(model, "_validate_model_kwargs", self._refuse_bound)
        if hasattr(model, "generate_batch"):
            installation.wrap(model, "generate_batch", refuse_batch)
        # Not by hooks, which see calls of `model(...)` alone: wrappers of models call `model.forward(...)`.
        base, language = self._decoder.base_model, self._decoder.language_model
        for module in dict.fromkeys((model, base)):
            installation.wrap(module, "forward", partial(self._forward, inspect.signature(type(module).forward)))
        if language not in (model, base):
            installation.wrap(language, "forward", self._refuse_merged)
        for modality in self._modalities:
            if hasattr(self._decoder.base_model, f"get_{modality.name}_features"):
                encode = partial(self._encode, modality)
                installation.wrap(self._decoder.base_model, f"get_{modality.name}_features", encode)
        if self._pixels is not None:
            installation.later(self._pixels.forget)
        if self._vision_cache is not None:
            inside = None if self._tower is None else "the recipe has stages in the vision tower"
            before = None if self._pixels is None else "the recipe has a stage before the vision tower"
            self._vision_cache.watched(self._vision, inside or before, installation)
        if self._vision is not None:
            self._vision.install(installation)
        self._layers.install(installation)

    # Generation

    def _generate(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(real).bind_partial(*args, **kwargs).arguments
        given = given | given.get("kwargs", {})
        refuse_generation(given, self._decoder, self._deep)
        before = self._generation, self._generating
        self._forget_pictures()
        self._generating = True
        first = next((given[k] for k in ("inputs", "input_ids", "inputs_embeds") if given.get(k) is not None), None)
        self._generation = GenerateCall(first.shape[0], first.shape[1], given) if isinstance(first, Tensor) else None
        if self._pixels is not None:
            # Encoded before the first forward.
            self._pixels.prompt = given | ({"input_ids": given["inputs"]} if given.get("inputs") is not None else {})
        try:
            return real(*args, **kwargs)
        finally:
            self._generation, self._generating = before
            self._layers.end_call()
            if self._pixels is not None:
                self._pixels.forget()

    def _refuse_bound(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Refuse a `generate` that went past `_generate`: it would select at every step, and count beams as prompts."""
        if not self._generating:
            raise RefusedError(
                "this generate was taken from the model before prune was entered, so it goes past it; call "
                "model.generate inside the block"
            )
        return real(*args, **kwargs)

    # The top of the model

    def _forward(self, signature: inspect.Signature, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Prune a call of the model, or of its base model."""
        outer, generation = self._inside, self._generation
        if any(one is signature for one in outer):
            raise RefusedError(
                f"{type(self._model).__name__} is called inside a call of its own, by a hook perhaps, which prune does "
                "not support; call it before or after"
            )
        self._inside = (*outer, signature)
        try:
            if outer:
                return real(*args, **kwargs)
            args, kwargs = self._before(signature, args, kwargs)
            output = real(*args, **kwargs)
            self._after(output, kwargs.get("logits_to_keep"))
            return output
        finally:
            self._inside = outer
            if not outer:
                self._generation = generation
                self._layers.end_call()

    def _refuse_merged(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Refuse a call of a part on embeddings with pictures in them."""
        if not self._inside:
            refuse_merged(arguments_by_name(inspect.signature(real), args, kwargs), self._decoder)
        return real(*args, **kwargs)

    def _encode(self, modality: Modality, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Encode what is left of a prompt's pictures, and count the calls that encode pictures outside of a prompt."""
        if not self._inside and self._generation is None:
            self.encoded += 1
        elif self._pixels is not None:
            return self._pixels.encode(modality, real, args, kwargs)
        return real(*args, **kwargs)

    def _before(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Rewrite a request before the model sees it."""
        if self._generation is None:
            self._forget_pictures()
        named = signature.bind_partial(None, *args).arguments if args else {}
        request = {name: value for name, value in named.items() if name != "self"} | kwargs
        refuse_inputs(request, self._decoder)
        past = caches.cache_argument(request)
        state = caches.state_of(past)
        if has_images(request, self._modalities):
            length = caches.cached_length(past) if past is not None else 0
            if length:
                raise RefusedError(
                    f"the cache already holds {length} tokens, and this call brings images; prune prompts with "
                    "images from an empty cache (start a new conversation, or pass all of it at once)"
                )
            caches.release(past)
            generation = self._generation
            known = generation is not None and generation.selection is not None
            if generation is not None and known and not generation.repeats(request, self._images):
                # A call of its own, between the steps of `generate`, which gives it back.
                self._generation = None
                self._forget_pictures()
            return (), self._prefill(request)
        refuse_merged(request, self._decoder)
        if state is not None:
            self._layers.refuse_foreign(state)
            given = self._generation is None or self._generation.goes_on_with(request)
            request, length = continue_request(request, self._decoder, past, state, given)
            self._layers.begin_call(DecodeStep(state, past, length, text_axis(request["position_ids"])))
            return (), request
        self._text_only(request, past)
        return args, kwargs

    def _after(self, output: Any, last: Any) -> None:
        """Leave on the cache what decoding needs."""
        call = self._layers.call
        cache = caches.returned_cache(output)
        if isinstance(call, PrefillState):
            call.record_places(last)
            if cache is not None:
                caches.attach(cache, call.state.without(call.drafted))

    def _prefill(self, request: dict[str, Any]) -> dict[str, Any]:
        """Encode images, select at decoder.0, and return the shorter request."""
        shorter = 0 in self._selector.stages or (self._tower is not None and self._tower.prunes_prompt)
        shorter = shorter or self._pixels is not None
        refuse_request(request, self._decoder, shorter, self._deep, self._generation is not None)
        # Only kinds that come with pictures: a text may hold the other's placeholder as a word.
        present = [
            modality
            for modality in self._modalities
            if request.get(modality.pixel_argument) is not None
            or (request.get("mm_encoder_outputs") or {}).get(modality.name)
        ]
        kinds = placeholder_places(request, [modality.placeholder_id for modality in present], self._decoder)
        rows, length = kinds[0].shape
        refuse_unknown_places(request, self._images | self._decoder.passed_inputs, rows, length)
        layout = PromptLayout.read(kinds, prompt_mask(request, rows, length, kinds[0].device))
        self._refuse_layout(layout)
        expand = max(1, rows // self._generation.rows) if self._generation is not None else 1
        self._options.check(rows // expand)
        if self._pixels is not None and (self._generation is None or self._generation.selection is None):
            self._pixels.prompt = request
        outputs = self._decoder.encode_visual_inputs(request)
        unknown = set(outputs) - {modality.name for modality in present}
        if unknown:
            raise RefusedError(f"mm_encoder_outputs has {listing(unknown)}, of which the adapter knows nothing")
        outputs = {modality.name: outputs[modality.name] for modality in present}
        features = layout.by_id(self._flat_features(outputs, present, layout))
        if expand > 1 and not torch.equal(features, features[::expand].repeat_interleave(expand, dim=0)):
            raise RefusedError(
                "transformers gives the several answers to a prompt pictures in another order than the prompt's; "
                "ask for one answer, without beams, or ask about one picture a prompt"
            )
        drafted = self._drafted(length)
        selection = self._selected(request, outputs, features, layout, expand, drafted)
        entering = selection.entering.expanded(expand)
        features = entering.apply(features)
        keep, real = layout.put(entering.keep, layout.text.on(features.device)), layout.real.on(features.device)
        sizes = layout.sizes(entering.counts)
        shortening = shorten(keep, real, layout.left, sizes, layout.lengths)
        new, shift, end = shorten_request(
            request, self._decoder, self._images, shortening, layout, self._policy, self._generation is not None
        )
        check_labels(request, new, selection.record.notes)
        new["mm_encoder_outputs"] = self._shorter_outputs(outputs, features, layout, entering)
        state = caches.CacheState(length, shortening.mask, shortening.padded, shift, end, real)
        still = layout.ids.on(features.device)
        # Where nothing is removed between layers, nobody asks.
        if self._deep:
            still = shortening.filled(shortening.take(still), -1)
        places_of_text = text_axis(new["position_ids"])
        self._layers.begin_call(
            PrefillState(
                selection,
                expand,
                layout,
                still,
                shortening.mask,
                state,
                places_of_text,
                shortening.index,
                new.get("labels"),
                drafted,
            )
        )
        return new

    def _refuse_layout(self, layout: PromptLayout) -> None:
        """Refuse prompts whose padding cannot be right."""
        if layout.hidden:
            raise RefusedError("attention_mask hides image placeholders; give them ones")
        if not layout.left and self._deep:
            raise RefusedError("inside the language model only left padding is supported; pad on the left")
        if not layout.left and self._generation is not None:
            raise RefusedError(PAD_LEFT)

    def _shorter_outputs(
        self, outputs: Mapping[str, Any], features: Tensor, layout: PromptLayout, outcome: StageOutcome
    ) -> dict[str, Any]:
        """Return the encoder outputs with the tokens that stay, whose features are `[rows, tokens, d]` by id."""
        kept, flat = layout.flat(outcome.keep), layout.flat(features)
        if len(outputs) == 1 and outcome.counts is not None:
            # How many stay is known, so the device need not be asked.
            found = kept.to(torch.uint8).sort(descending=True, stable=True).indices[: sum(outcome.counts)]
            ((name, output),) = outputs.items()
            return {name: self._decoder.replace_features(output, flat.index_select(0, found), found)}
        new = {}
        for number, (name, output) in enumerate(outputs.items()):
            own = torch.from_numpy(np.flatnonzero(layout.order == number)).to(kept.device)
            found = torch.nonzero(kept.index_select(0, own)).flatten()
            features = flat.index_select(0, own.index_select(0, found))
            new[name] = self._decoder.replace_features(output, features, found)
        return new

    def _forget_pictures(self) -> None:
        """Forget pictures that were encoded before the call: nobody knows whether they are its own."""
        for watcher in (self._tower, self._vision, self._pixels):
            if watcher is not None:
                watcher.forget()

    def _flat_features(self, outputs: Mapping[str, Any], present: Sequence[Modality], layout: PromptLayout) -> Tensor:
        """Return the features `[tokens, d]` of all visual tokens, in the order of their placeholders."""
        found = [self._decoder.projected_features(outputs[modality.name]) for modality in present]
        for number, (modality, features) in enumerate(zip(present, found, strict=True)):
            wanted = layout.count(number)
            if wanted != len(features):
                raise RefusedError(
                    f"the prompts have {wanted} {modality.name} placeholders, the {modality.name}s {len(features)} "
                    "visual tokens; build prompts with the model's own processor"
                )
        return interleaved(found, layout.order)

    def _drafted(self, length: int) -> int:
        """Return the number of tokens at the end of a call that are no prompt, such as candidates of an assistant."""
        return max(0, length - self._generation.length) if self._generation is not None else 0

    def _selected(
        self,
        request: Mapping[str, Any],
        outputs: Mapping[str, Any],
        features: Tensor,
        layout: PromptLayout,
        expand: int,
        drafted: int,
    ) -> PromptSelection:
        """Return the selection of a prompt batch, made once per `generate`."""
        generation = self._generation
        if generation is not None and generation.selection is not None:
            return generation.selection
        words, prompt = request.get("input_ids"), layout.shape[1] - drafted
        words = words if isinstance(words, Tensor) else None
        if expand > 1 or drafted:
            words = None if words is None else words[::expand, :prompt]
            layout, features = layout.part(expand, prompt), features[::expand]
        given = {**request, **generation.given} if generation is not None else request
        layouts = [self._decoder.layout(name, output, given) for name, output in outputs.items()]
        tokens, assigned = layout.assign(layouts, self._decoder.joins_adjacent_tiles)
        before, units = (None, {}) if self._pixels is None else self._pixels.outcome(layout.shape[0])
        vision, selected = self._vision_evidence(given, list(outputs), layout, features.device, units)
        inside = encoder_outcome(self._tower, self._decoder, list(outputs), layouts, assigned, given, layout)
        # No family has both.
        tower = inside or before
        selection = self._selector.start(words, tokens, features, layout, vision, selected, tower)
        selection.record.seen = Seen.of(tokens.grid.array, tokens.counts, given)
        if 0 in self._selector.stages:
            self._selector.select(0, selection, {Evidence.FEATURES: lambda: features.detach()})
        if generation is not None:
            generation.selection, generation.selected = selection, request
        return selection

    def _vision_evidence(
        self,
        request: Mapping[str, Any],
        names: Sequence[str],
        layout: PromptLayout,
        device: torch.device,
        units: Mapping[str, KeptUnits],
    ) -> tuple[Mapping[Evidence, Callable[[], Value]], Tensor | None]:
        """Return evidence of the vision tower by token, and its selected layer; then forget both."""
        if self._vision is None:
            return {}, None
        selected = self._vision.selected
        return self._vision.read(request, names, layout, device, units), selected

    def _text_only(self, request: Mapping[str, Any], past: Any) -> None:
        """Write prompts without any image into the ledger."""
        ids, generation = request.get("input_ids"), self._generation
        known = generation is not None and generation.selection is not None
        if known or not isinstance(ids, Tensor) or (past is not None and caches.cached_length(past)):
            return
        expand = max(1, len(ids) // generation.rows) if generation is not None else 1
        rows, length = ids.shape
        mask = prompt_mask(request, rows, length, ids.device)[::expand]
        self._options.check(len(mask))
        mask = mask[:, : length - self._drafted(length)]
        selection = self._selector.start_empty(mask)
        every = torch.arange(mask.shape[1], device=mask.device)
        selection.record.places = Places(
            mask.shape[1], lambda: torch.where(mask, every, -1), request.get("logits_to_keep")
        )
        if generation is not None:
            generation.selection = selection
