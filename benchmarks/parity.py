"""What the authors' own function keeps, beside what we keep: `python -m benchmarks.parity METHOD CHECKOUT ...`.

No code of an original is here, and nothing is downloaded. A checkout is a folder that its user has; of the file in it
that `ORIGINALS` names, the one function is taken and called with stand-ins for the model around it. So nothing of the
checkout is imported, and no weights are needed. Without a checkout the methods are listed, and none is run.
"""

from __future__ import annotations

import ast
import math
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tokensieve as ts
from tokensieve_strategies import CDPP, CLS, QCSP, HiPrune, MMTok, SparseVLM, SparseVLMv2, VisionZip, VisPruner
from tokensieve_strategies._maths.raters import raters
from tokensieve_strategies._provenance import provenance

SIDE, WIDTH, HEADS, WORDS, BEFORE = 24, 256, 16, 12, 35
"""Patches a side, features, heads, text tokens behind the picture, and tokens before it, as in LLaVA-1.5."""
N = SIDE * SIDE
KINDS, SEEDS = ("random", "duplicated", "clustered"), 19
"""One kind after the other, so many inputs; each at three budgets makes 57."""


@dataclass(frozen=True)
class Case:
    """One input: what a strategy sees, and what the original's model would hand to the function.

    Attributes:
        tokens: one group of 576 tokens with all evidence.
        layers: by vision layer from 0, attention `[1, heads, 1 + n, 1 + n]` with a class token.
        attention: of the language model `[1, heads, m, m]`, with m = 35 + n + 12.
        bias: `[m, m]`, the scores that rotary positions alone give.
    """

    tokens: ts.Tokens
    layers: Mapping[int, Tensor]
    attention: Tensor
    bias: Tensor

    @property
    def text(self) -> Tensor:
        """The text's embedding `[1, e]` in the space of the patches."""
        return self.tokens.query.text[0]

    @property
    def raters(self) -> tuple[None, Tensor]:
        """The numbers of the text tokens that rate, as `torch.where` gives them: the batch's are not used."""
        words = self.tokens.decoder_text
        return None, raters(words, self.tokens.valid, words.mask)[0].nonzero().flatten()


def vectors(kind: str, n: int, width: int, g: torch.Generator) -> Tensor:
    """Return features `[n, width]`: random ones, every one six times, or of twelve clusters."""
    if kind == "random":
        return torch.randn(n, width, generator=g)
    if kind == "duplicated":
        return torch.randn(n // 6, width, generator=g)[torch.randint(0, n // 6, (n,), generator=g)]
    centres = torch.randn(12, width, generator=g)
    return centres[torch.randint(0, 12, (n,), generator=g)] + 0.1 * torch.randn(n, width, generator=g)


@cache
def position_scores(length: int) -> Tensor:
    """Return the scores `[length, length]` that LLaVA-1.5's rotary positions alone give."""
    apart = torch.arange(length).unsqueeze(1) - torch.arange(length)
    angles = apart.unsqueeze(2) * 10_000 ** (-torch.arange(64) / 64)
    scores: Tensor = 2 * angles.cos().sum(dim=2) / math.sqrt(128)
    return scores


def case(number: int) -> Case:
    """Return an input; the same one for the same number."""
    kind, g = KINDS[number % len(KINDS)], torch.Generator().manual_seed(number)
    features, vision, patches = (vectors(kind, N, WIDTH, g).unsqueeze(0) for _ in range(3))
    layers = {layer: torch.randn(1, 2, 1 + N, 1 + N, generator=g).mul(2).softmax(dim=-1) for layer in (8, 22)}
    length, seen = BEFORE + N + WORDS, slice(BEFORE, BEFORE + N)
    attention = torch.randn(1, HEADS, length, length, generator=g).softmax(dim=-1)
    bias = position_scores(length)
    embeddings = torch.randn(1, WORDS, WIDTH, generator=g) / 4
    mask = torch.ones(1, WORDS, dtype=torch.bool)
    behind = attention[0, :, BEFORE + N :, seen]
    place = torch.arange(N)
    grid = torch.stack([*[torch.zeros_like(place)] * 3, place // SIDE, place % SIDE], dim=1)
    heads = ts.PromptHeads(behind.permute(2, 1, 0).unsqueeze(0), bias[BEFORE + N :, seen].T.unsqueeze(0), mask)
    words = ts.PromptText(
        heads.attention.mean(dim=3), embeddings, embeddings, embeddings, features / 4, mask, mask.clone()
    )
    evidence = {
        "vision_features": vision,
        "vision_keys": vision,
        "vision_attention": layers[22][:, :, 0, 1:].transpose(1, 2),
        "vision_received": layers[22].mean(dim=2)[:, :, 1:].transpose(1, 2),
        "vision_middle": layers[8].mean(dim=2)[:, :, 1:].transpose(1, 2),
        "grid": grid.unsqueeze(0),
        "query": ts.Query(patches, torch.randn(1, 1, WIDTH, generator=g), mask[:, :1], "clip", -1),
        "text_features": ts.Text(embeddings, mask),
        "decoder_text": words,
        "decoder_text_heads": heads,
    }
    return Case(ts.Tokens.of(features, **evidence), layers, attention, bias)


# How a function is called. What it takes was read in the code of the commit that provenance.yaml names; all of it has a
# licence that permits that.


class _Here(Tensor):
    """A tensor that stays where it is when it is asked to go to the first CUDA device."""

    def cuda(self, *args: object, **kwargs: object) -> _Here:
        return self


def _llava(tower: Callable[..., object], **own: object) -> Any:
    """Return what stands for a LLaVA: its vision tower, a projector that changes nothing, and attributes."""
    model = SimpleNamespace(get_vision_tower=lambda: tower, mm_projector=lambda x: x)
    return SimpleNamespace(get_model=lambda: model, **own)


def by_query(encode_images: Any, one: Case, keep: int) -> Tensor:
    """Call `encode_images(self, images, texts)` of Script or CDPruner."""
    seen = one.tokens.features, one.tokens.query.patch, one.text
    _, mask = encode_images(_llava(lambda images, texts: seen, visual_token_num=keep), None, "")
    return mask[0]


def by_attention(important: float) -> Callable[[Any, Case, int], Tensor]:
    """Return how to call `encode_images(self, images)` of VisPruner with a part of important tokens."""

    def call(encode_images: Any, one: Case, keep: int) -> Tensor:
        # In float64: rounds of matching turn a difference in the last bit into other tokens.
        seen = one.tokens.vision_features.double(), one.layers[22][:, :, 0, 1:]
        settings = {"get_visual_token_num": lambda: keep, "get_important_ratio": lambda: important}
        _, mask = encode_images(_llava(lambda images, output_attentions: seen, **settings), None)
        return mask[0]

    return call


def by_layers(encode_images: Any, one: Case, keep: int) -> Tensor:
    """Call `encode_images(self, images)` of HiPrune, whose object layer counts from 1."""
    layers = [one.layers[layer].as_subclass(_Here) if layer in one.layers else None for layer in range(24)]
    config = SimpleNamespace(mm_vision_select_layer=-2)
    with _environment(HIPRUNE_RETENTION=keep, HIPRUNE_ALPHA=0.1, HIPRUNE_OBJECT_LAYER=9):
        _, mask = encode_images(_llava(lambda images: (one.tokens.vision_features, layers), config=config), None)
    return mask[0]


class _ZipTower:
    """What stands for VisionZip's CLIP: the outputs that it reads, and its numbers of tokens."""

    def __init__(self, one: Case, dominant: int) -> None:
        hidden = torch.cat([one.tokens.vision_features[:, :1], one.tokens.vision_features], dim=1)
        self._outputs = SimpleNamespace(attentions=[one.layers[22], None], hidden_states=[hidden, None])
        layers = [SimpleNamespace(metric=hidden), None]
        self.vision_model = SimpleNamespace(encoder=SimpleNamespace(layers=layers))
        self._info = {"dominant": dominant, "contextual": 10}

    def __call__(self, images: Tensor, **kwargs: object) -> SimpleNamespace:
        return self._outputs


def by_class_token(forward: Any, one: Case, keep: int) -> Tensor:
    """Call `CLIPVisionTower_VisionZip.forward(self, images)`, which says which tokens are dominant."""
    tower = SimpleNamespace(vision_tower=_ZipTower(one, keep), device="cpu", dtype=torch.float32)
    _, chosen = forward(tower, torch.zeros(1))
    # The first is the class token.
    return torch.zeros(N, dtype=torch.bool).index_fill(0, chosen[0, 1:] - 1, True)


def by_raters(module: Any, one: Case, named: int) -> Tensor:
    """Call `attn_postprocess_topk` of SparseVLM at its first site, layer 2, with the raters that we find."""
    asked = one.attention, BEFORE, N, BEFORE + N, one.raters, 2
    return module["attn_postprocess_topk"](*asked)[0][0]


def by_raters_without_positions(module: Any, one: Case, named: int) -> Tensor:
    """Likewise of version 2.0, after `select_attn_head_by_sum` of attention over its bias."""
    places = one.raters[1] + BEFORE + N
    freed = module["select_attn_head_by_sum"](one.attention / one.bias, places, BEFORE, BEFORE + N)
    return module["attn_postprocess_topk"](freed, BEFORE, N, BEFORE + N, one.raters, 2)[0][0]


def by_coverage(selector: Any, one: Case, keep: int) -> Tensor:
    """Call `mm_coverage_selection` of MMTok's `SemanticTokenSelector`, without its compiled loop."""
    with _environment(MMTok_JIT_N_THRESHOLD=N + 1, MMTok_JIT_K_MAX_THRESHOLD=N + 1):
        ids, _ = selector(target_vision_tokens=keep, alpha=0.5).mm_coverage_selection(
            one.tokens.text_features.features[0],
            one.tokens.features[0],
            one.tokens.vision_features[0],
            tv_temp=0.02,
            vv_temp=0.2,
        )
    return torch.zeros(N, dtype=torch.bool).index_fill(0, torch.tensor(ids), True)


@dataclass(frozen=True)
class Original:
    """A function of an original, and our strategy for the same.

    Attributes:
        publication: its name in `provenance.yaml`.
        file: where it is in the checkout.
        name: `function`, `Class` or `Class.method`; empty for the whole file, if that imports torch alone.
        call: how it is called: with the function, a case and a budget, it returns bool `[n]`.
        ours: what is compared with it.
        budgets: by what is asked of it, how many tokens that is.
        environment: variables that are set while the file is read.
    """

    publication: str
    file: str
    name: str
    call: Callable[[Any, Case, int], Tensor]
    ours: ts.Strategy
    budgets: Mapping[int, int] = field(default_factory=lambda: {192: 192, 64: 64, 16: 16})
    environment: Mapping[str, object] = field(default_factory=dict)


_LLAVA, _ENCODE = "llava/model/llava_arch.py", "LlavaMetaForCausalLM.encode_images"
_SCORE = "llava/model/language_model/score.py"
ORIGINALS = {
    "script-head": Original("script", f"Script/{_LLAVA}", _ENCODE, by_query, QCSP(cosine=False, orthogonal=False)),
    "cdpruner": Original("cdpruner", _LLAVA, _ENCODE, by_query, CDPP()),
    "fastervlm": Original("vispruner", _LLAVA, _ENCODE, by_attention(1.0), CLS()),
    "vispruner": Original("vispruner", _LLAVA, _ENCODE, by_attention(0.5), VisPruner(order="similarity")),
    "hiprune": Original("hiprune", f"LLaVA/{_LLAVA}", _ENCODE, by_layers, HiPrune()),
    "visionzip": Original(
        "visionzip",
        "visionzip/clip_encoder.py",
        "CLIPVisionTower_VisionZip.forward",
        by_class_token,
        VisionZip(share=1.0),
    ),
    "sparsevlm": Original(
        "sparsevlm", _SCORE, "", by_raters, SparseVLM(), {192: 300, 128: 303, 64: 66}, {"USE_VERSION": "1_0"}
    ),
    "sparsevlm-v2": Original(
        "sparsevlm-v2",
        _SCORE,
        "",
        by_raters_without_positions,
        SparseVLMv2(),
        {192: 300, 128: 238, 64: 66},
        {"USE_VERSION": "2_0"},
    ),
    "mmtok": Original("mmtok", "mmtok/core/semantic_selector.py", "SemanticTokenSelector", by_coverage, MMTok()),
}
"""By the method's name."""
NOT_CALLED = {
    "divprune": "its licence is not for all uses; what its function takes is not known here",
    "tome": "its licence is not for all uses; what its function takes is not known here",
    "fastv": "it has no licence; what its function takes is not known here",
    "dart": "the original could not be had; what its function takes is not known here",
    "feather": "it is in the middle of a language model's forward; there is no function to call",
    "pyramiddrop": "it is in the middle of a language model's forward; there is no function to call",
    "holov": "its function returns vectors, and not which tokens they are",
    "trim": "its function returns vectors, and not which tokens they are",
    "prumerge-plus": "how many tokens its function keeps depends on the data, and it returns vectors",
    "dycoke": "what its function takes is not known here",
    "evs": "its function takes a video, and the inputs here are pictures",
    "vidcom2": "its function takes a video, and the inputs here are pictures",
    "floc": "no code of it is published",
    "otprune": "its file is mixed with lines of another method, whose licence is not for all uses",
    "vscan": "its licence is a text of its own",
    "idpruner": "how important a token is, a trained module says; its code was not read",
    "svdprune": "no code of it was published yet",
    "trimtokenator-lc": "no code of it was seen, and its measure alone is taken",
    "agilepruner": "its measure alone is taken, for another purpose",
    "fastvid": "it is in the middle of a language model's forward; there is no function to call",
    "pixelprune": "it chooses squares of pixels, before there are tokens that could be compared",
    "prunevid": "its licence is not for all uses; its code was not read",
    "visiontrim": "no licence of its code was seen, and it was not read",
    "holitom": "its function takes a video, and adds random numbers to its densities",
}
"""Why there is no call of the other methods."""


@contextmanager
def _environment(**variables: object) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: str(value) for name, value in variables.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def taken(file: Path, name: str) -> Any:
    """Return a function, a class or a method of a file, or for an empty name all of it, without importing the file.

    Raises:
        KeyError: if the file has no such definition.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    known: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "np": np, "math": math, "os": os}
    for part in name.split(".") if name else ():
        # The last part of the name is all of the tree that is left.
        defined = [one for one in tree.body if isinstance(one, (ast.ClassDef, ast.FunctionDef)) and one.name == part]
        if not defined:
            raise KeyError(f"{file} has no {name}")
        whole = part == name.split(".")[-1]
        tree = ast.Module(body=[defined[0]] if whole else defined[0].body, type_ignores=[])
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / file.name
        # Annotations name what is not imported.
        alone.write_text("from __future__ import annotations\n" + ast.unparse(tree), encoding="utf-8")
        found = runpy.run_path(str(alone), known)
    return found[name.split(".")[-1]] if name else found


def compare(original: Original, checkout: Path, inputs: Sequence[int]) -> list[tuple[str, float]]:
    """Return for each input and budget the kind of input, and which part of the tokens both keep.

    Raises:
        FileNotFoundError: if the checkout has no such file.
        KeyError: if the file has no such function.
    """
    functions = {}
    for asked in original.budgets:
        with _environment(RETAIN_TOKN=asked, **original.environment):
            functions[asked] = taken(checkout / original.file, original.name)
    shared = []
    for number in inputs:
        one, kind = case(number), KINDS[number % len(KINDS)]
        for asked, keep in original.budgets.items():
            theirs = original.call(functions[asked], one, asked).bool()
            ours = ts.select(original.ours, one.tokens, ts.Keep.of(keep)).mask[0]
            shared.append((kind, int((ours & theirs).sum()) / max(int(ours.sum()), int(theirs.sum()))))
    return shared


def main(arguments: Sequence[str]) -> int:
    """Print a table of what was compared; return 1 if a checkout lacks the function, and 2 for a wrong command line."""
    console, known = Console(), provenance().publications
    if len(arguments) % 2 or set(arguments[::2]) - set(ORIGINALS):
        console.print(f"say METHOD CHECKOUT, once or more; methods are {', '.join(ORIGINALS)}")
        return 2
    if not arguments:
        table = Table("method", "function", "code", "licence", title="no checkout was given, and nothing was run")
        for method, original in ORIGINALS.items():
            work = known[original.publication]
            table.add_row(method, f"{original.file}: {original.name or 'all'}", work.code, work.licence)
        for method, reason in NOT_CALLED.items():
            table.add_row(method, f"not called: {reason}", known[method].code, known[method].licence)
        console.print(table)
        return 0
    table, wrong = Table("method", *(f"the same, {kind}" for kind in KINDS), "mean part shared", "least"), False
    for method, folder in zip(arguments[::2], arguments[1::2], strict=True):
        try:
            shared = compare(ORIGINALS[method], Path(folder), range(SEEDS))
        except (FileNotFoundError, KeyError) as error:
            console.print(f"{method}: nothing was run: {error}", style="red")
            wrong = True
            continue
        kinds = [[part for one, part in shared if one == kind] for kind in KINDS]
        same = [f"{sum(part == 1 for part in parts)} of {len(parts)}" for parts in kinds]
        parts = [part for _, part in shared]
        table.add_row(method, *same, f"{np.mean(parts):.3f}", f"{min(parts):.3f}")
    console.print(table)
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
