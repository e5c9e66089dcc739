"""A cache of encoded images: an image that was encoded once is not encoded again.

Many recipes are tried on the same pictures, and many questions are asked about each. Inside `share_vision` the calls by
which a model, or a `prune` of it, encodes pictures are answered from memory: what the projector gave, and what
strategies read off the tower.

What is shared is one picture: its pixels and what is said of them, whatever else is in the batch. So the tower runs on
what is new in a batch alone, once where several rows show the same picture. Numbers are those of the call in which a
picture was first encoded: equal to the bit where the same pictures were encoded together, and within rounding where
they were not, as without sharing.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.engine.encoded_images import (
    NEUTRAL_ARGUMENTS,
    PLAIN,
    TOWER_OUTPUTS,
    EncodeCall,
    EncodedImage,
    NotSeparableError,
    OutputFormat,
    TowerObserver,
    WeightsSnapshot,
    arguments_by_name,
    image_digest,
    join_images,
    split_by_image,
    without_none,
)
from tokensieve.engine.installation import Gate, Installation, Turn, make_copies_plain
from tokensieve.engine.sessions import PerThread, is_pruned
from tokensieve.errors import RefusedError
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.text_tower import TextTower
from tokensieve.plugins.registry import Registry, default_registry

MEMORY = 2 * 2**30
"""Bytes of encoded pictures that are held, where nothing else is said."""

TEXTS = 65_536
"""The most questions whose vectors are held."""


class VisionCache:
    """The encoded images that a `share_vision` holds, and how often they were used.

    Attributes:
        memory: how many bytes may be held; what was not asked for the longest leaves first.
        held: how many are.
        hits: pictures, in batches, that needed no encoding.
        misses: pictures that were encoded.
        evicted: pictures that left for want of memory.
        forgotten: how often everything was forgotten because weights or the config had changed.
        bypassed: by reason, calls that were passed on as they were: nothing was looked up or remembered.
    """

    _encoding = PerThread(lambda: False)

    def __init__(self, decoder: Decoder, memory: int) -> None:
        self.memory = memory
        self.held = self.hits = self.misses = self.evicted = self.forgotten = 0
        self.bypassed: Counter[str] = Counter()
        self._decoder = decoder
        self._known: OrderedDict[Hashable, EncodedImage] = OrderedDict()
        self._shapes: dict[str, OutputFormat] = {}
        self._snapshot = WeightsSnapshot(())
        self._texts: dict[str, Tensor] = {}
        self._partner: tuple[TextTower | None, WeightsSnapshot] = None, WeightsSnapshot(())
        self._mutex = threading.RLock()
        self._turn = Turn(self._mutex, self._encoded)
        self._observers: list[tuple[Gate, TowerObserver | None, str | None]] = []
        self._odd: dict[str, str] = {}

    def __len__(self) -> int:
        """The number of images that are held."""
        return len(self._known)

    def __repr__(self) -> str:
        return (
            f"VisionCache({len(self)} pictures, {self.held / 2**20:.1f} MiB, {self.hits} hits, {self.misses} misses, "
            f"{sum(self.bypassed.values())} calls bypassed)"
        )

    def forget(self) -> None:
        """Forget all images; counts stay."""
        self._known.clear()
        self._texts.clear()
        self.held = 0

    def text(self, partner: TextTower, question: str) -> Tensor:
        """Return a question in a partner's space, `[windows, e]`; embedded once."""
        known, weighed = self._partner
        if known != partner or not weighed.matches(partner.weights):
            self._texts.clear()
            self._partner = partner, WeightsSnapshot(partner.weights)
        if question not in self._texts:
            if len(self._texts) >= TEXTS:
                self._texts.clear()
            self._texts[question] = partner.text(question)
        return self._texts[question]

    def install(self, installation: Installation) -> None:
        """Put overrides of the encoder methods into the model."""
        base = self._decoder.base_model
        for modality in self._decoder.modalities:
            name = f"get_{modality.name}_features"
            if hasattr(base, name):
                installation.wrap(base, name, partial(self._encode, modality))
        installation.later(self.forget)

    def watched(self, observer: TowerObserver | None, obstacle: str | None, installation: Installation) -> None:
        """Set the observer of the tower while an installation is in force, and why images cannot be shared then."""
        entry = installation.gate, observer, obstacle
        installation.later(lambda: self._observers.remove(entry) if entry in self._observers else None)
        self._observers.append(entry)

    @property
    def _in_force(self) -> tuple[TowerObserver | None, str | None]:
        """The observer of the tower for this caller, and why images cannot be shared."""
        found = ((observer, obstacle) for gate, observer, obstacle in reversed(self._observers) if gate())
        return next(found, (None, None))

    def _encode(self, modality: Modality, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._encoding:
            # A family may encode videos as pictures.
            return real(*args, **kwargs)
        signature = inspect.signature(real)
        given, weights = arguments_by_name(signature, args, kwargs), self._weights()
        reason = self._reason_to_bypass(modality, given, weights)
        call = self._call(modality, signature, given) if reason is None else None
        if call is None:
            self.bypassed[reason or f"the {modality.name}s of a call cannot be told apart"] += 1
            return real(*args, **kwargs)
        # One thread at a time: what one encodes is there for the next.
        with self._turn, self._turn:
            self._forget_changed(weights)
            return self._encode_alone(call, partial(real, **given), partial(real, *args, **kwargs))

    def _encode_alone(self, call: EncodeCall, real: Callable[..., Any], plain: Callable[[], Any]) -> Any:
        """Answer a call while no other thread does; `plain` is the call as it came."""
        self._encoding = True
        try:
            return self._answer(call, real)
        except NotSeparableError as error:
            self._odd[call.modality.name] = str(error)
            self.bypassed[str(error)] += 1
            return plain()

    def _encoded(self) -> None:
        """Note that this thread encodes no more."""
        self._encoding = False

    def _reason_to_bypass(self, modality: Modality, given: Mapping[str, Any], weights: Sequence[Tensor]) -> str | None:
        """Return why a call must go through unchanged, or none."""
        _, obstacle = self._in_force
        if obstacle is not None:
            return obstacle
        if modality.name in self._odd:
            return self._odd[modality.name]
        if torch.compiler.is_compiling():
            return "the call is being compiled"
        if self._decoder.base_model.training:
            return "the model is in training mode"
        tensors = (*weights, *(value for value in given.values() if isinstance(value, Tensor)))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return "gradients are recorded; call the model under torch.no_grad()"
        if any(weight.is_inference() for weight in weights):
            return "the model was made under torch.inference_mode(), which hides whether weights change"
        said = {"return_dict": getattr(self._decoder.config, "return_dict", True)} | without_none(given)
        if not said["return_dict"] or any(said.get(f"output_{what}") for what in ("hidden_states", "attentions")):
            return "more was asked of the encoder than features"
        return None

    def _call(self, modality: Modality, signature: inspect.Signature, given: Mapping[str, Any]) -> EncodeCall | None:
        """Separate a call by image; none where that cannot be done."""
        pictures = self._decoder.split_inputs(modality, given)
        if not pictures:
            return None
        config = self._decoder.config
        said = {
            name: value
            for name, value in without_none(given).items()
            if name not in pictures[0] and name not in NEUTRAL_ARGUMENTS
        }
        # What is no tensor, nor plain, nor also in the config might be a list with something for each picture.
        odd = [name for name, value in said.items() if not isinstance(value, PLAIN) and not hasattr(config, name)]
        if odd or any(isinstance(value, Tensor) for value in said.values()):
            return None
        for name in signature.parameters:
            default = getattr(config, name, None)
            if default is not None:
                said.setdefault(name, default)
        device = pictures[0][modality.pixel_argument].device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        settings = modality.name, repr(sorted(said.items())), cast
        return EncodeCall(modality, pictures, [(settings, image_digest(picture)) for picture in pictures])

    def _answer(self, call: EncodeCall, real: Callable[..., Any]) -> Any:
        """Return the output for all images of a call, of which only new ones are encoded."""
        name, (observer, _) = call.modality.name, self._in_force
        kinds = frozenset() if observer is None else observer.kinds
        known = {key: self._known[key] for key in call.keys if key in self._known}
        new = {
            key: picture
            for key, picture in zip(call.keys, call.pictures, strict=True)
            if key not in known or not kinds <= known[key].evidence.keys()
        }
        if new:
            pictures = list(new.values())
            alike = len(pictures) == len(call.pictures)
            output = real() if alike else real(**self._decoder.collate_inputs(call.modality, pictures))
            evidence = {} if observer is None else observer.take(name)
            nothing: dict[str, Tensor | None] = dict.fromkeys(kinds)
            for key, image in zip(new, self._separate(call.modality, pictures, output, evidence), strict=True):
                # What is known of a picture already stays as it is.
                known[key] = known.get(key, image).with_evidence(nothing | image.evidence)
        self.misses += len(new)
        self.hits += len(call.keys) - len(new)
        self._remember(known)
        images = [known[key] for key in call.keys]
        if observer is not None:
            observer.put(name, join_images(images, kinds))
        return self._shapes[name].of(images)

    def _separate(
        self, modality: Modality, pictures: Sequence[Mapping[str, Tensor]], output: Any, evidence: Mapping[str, Tensor]
    ) -> list[EncodedImage]:
        """Separate by image an encoder's output and the evidence collected."""
        more = [name for name, value in output.items() if value is not None and name not in TOWER_OUTPUTS]
        if more:
            raise NotSeparableError(f"what encoding gives beside features cannot be shared: {', '.join(more)}")
        pooled, layers = output.pooler_output, output.get("deepstack_features") or []
        if any(isinstance(layer, Tensor) or len(layer) != len(pictures) for layer in layers):
            raise NotSeparableError("layers that the tower adds to the language model cannot be told apart by picture")
        if len(pooled) % len(pictures):
            raise NotSeparableError(f"what encoding gives cannot be told apart by {modality.name}")
        self._shapes[modality.name] = OutputFormat(type(output), type(pooled))
        step = len(pooled) // len(pictures)
        patches = {kind: split_by_image(values, pictures, modality) for kind, values in evidence.items()}
        return [
            EncodedImage(
                [item.detach().clone() for item in pooled[number * step : (number + 1) * step]],
                [[layer[number].detach().clone()] for layer in layers],
                {kind: values[number].clone() for kind, values in patches.items()},
            )
            for number in range(len(pictures))
        ]

    def _remember(self, used: Mapping[Hashable, EncodedImage]) -> None:
        """Put images at the front of the cache, and evict the least recently used beyond the memory."""
        for key, image in used.items():
            before = self._known.pop(key, None)
            self.held += image.size - (before.size if before is not None else 0)
            self._known[key] = image
        while self.held > self.memory:
            _, image = self._known.popitem(last=False)
            self.held -= image.size
            self.evicted += 1

    def _weights(self) -> list[Tensor]:
        """Return everything that features are computed with: all of the model but its language model."""
        base, language = self._decoder.base_model, self._decoder.language_model
        parts = [child for child in base.children() if child is not language]
        own = [*base.parameters(recurse=False), *base.buffers(recurse=False)]
        return own + [one for part in parts for one in (*part.parameters(), *part.buffers())]

    def _forget_changed(self, weights: Sequence[Tensor]) -> None:
        """Forget everything if weights or the config are not what they were."""
        config = self._decoder.config
        plain = [
            (name, value)
            for one in (config, getattr(config, "vision_config", None))
            for name, value in (vars(one).items() if one is not None else ())
            if isinstance(value, (*PLAIN, list, tuple))
        ]
        settings = repr(plain)
        if self._snapshot.matches(weights, settings):
            return
        if self._known:
            self.forget()
            self.forgotten += 1
        self._snapshot = WeightsSnapshot(weights, settings)


_caches: weakref.WeakKeyDictionary[nn.Module, VisionCache] = weakref.WeakKeyDictionary()


def vision_cache_of(model: nn.Module) -> VisionCache | None:
    """Return the vision cache of the `share_vision` around, or none."""
    return _caches.get(model)


@contextmanager
def share_vision(model: Any, *, memory: int = MEMORY, registry: Registry | None = None) -> Iterator[VisionCache]:
    """Encode every picture once, inside a `with` block around many calls of a model and many prunes of it.

    ```python
    with ts.share_vision(model) as vision_cache:
        for recipe in recipes:
            with ts.prune(model, recipe):
                model.generate(**inputs)
    print(vision_cache.hits, vision_cache.misses)
    ```

    Answers are what they are without it, but for rounding where other pictures share the batch. What the tower's own
    layers gave (`last_hidden_state`, hidden states, attentions) is not in what `get_image_features` returns.

    Calls that cannot be shared go through unchanged, and `VisionCache.bypassed` counts them by reason: under
    autograd, in training mode, while a recipe has stages inside the vision tower, and in families whose encoders return
    what cannot be separated by picture. Everything is forgotten when the tower's weights or the config change. Hooks
    of the caller's on the tower see only the pictures that are encoded. Threads encode one after the other.

    Args:
        model: a model that an adapter is registered for, with a language model; or what holds one, as for `prune`.
        memory: how many bytes of encoded pictures may be held, on the device where they were encoded.
        registry: where the adapter is looked up; everything installed by default.

    Yields:
        What is remembered, and counts; empty after the block, but for the counts.

    Raises:
        RefusedError: if the model has no language model, is being pruned, or is shared already.
    """
    if memory < 0:
        raise RefusedError(f"memory={memory} is no number of bytes; give 0 or more")
    adapter = (registry or default_registry()).adapter_for(model)
    model, decoder = adapter.model, adapter.decoder
    if decoder is None:
        raise RefusedError(
            f"{type(model).__name__} has no language model, so nothing is computed twice that could be shared"
        )
    if is_pruned(model):
        raise RefusedError("sharing goes around prune, not into it: enter sharing first")
    if model in _caches:
        raise RefusedError("this model is inside a sharing already; use the outer one")
    vision_cache, installation = VisionCache(decoder, memory), Installation()
    # Left twice: an interrupt may fall into the first time.
    with closing(installation), closing(installation):
        installation.later(lambda: _caches.pop(model, None))
        make_copies_plain(model, installation)
        vision_cache.install(installation)
        _caches[model] = vision_cache
        yield vision_cache
