"""A recipe in words: where it cuts, what it computes from which evidence, what stays, and what that costs."""

from __future__ import annotations

import html
import itertools
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tokensieve.algebra.budget import Keep
from tokensieve.composers.expression import Expression
from tokensieve.cost.geometry import kept_of_groups, layer_costs, pruned_prefill_flops, visual_per_layer
from tokensieve.cost.language_model import prefill_flops
from tokensieve.cost.vision import Stretches, TowerCost, kept_patches_by_block, patches_after_blocks
from tokensieve.errors import BudgetError, RefusedError, brief
from tokensieve.evidence import Evidence
from tokensieve.models.adapter import Adapter
from tokensieve.models.encoder import Encoder
from tokensieve.models.offers import DECODER_EVIDENCE, VISION_EVIDENCE
from tokensieve.models.packed_tower import PackedTower
from tokensieve.plugins.parameters import differences, sentence
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes.meant import GivenRecipe, meant
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import review
from tokensieve.recipes.source import kind_of
from tokensieve.sites import Site
from tokensieve.stage import Stage
from tokensieve.strategy import Strategy

QUESTION = frozenset({Evidence.QUERY, Evidence.TEXT_FEATURES, Evidence.DECODER_TEXT, Evidence.DECODER_TEXT_HEADS})
"""Evidence that changes with the question, whatever the site."""
WIDTH = 100
_INDENT = "  "


@dataclass(frozen=True)
class Section:
    """A part of an explanation.

    Attributes:
        title: what it is about.
        lines: its paragraphs; what a formula consists of is indented below it.
    """

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """What a recipe does, as text. `str()` gives it as plain text of 100 columns.

    Attributes:
        sections: one for the recipe, one for each stage or range of equal stages, and further ones for tokens, cost,
            differences from papers and findings, as far as each is known.
    """

    sections: tuple[Section, ...]

    def __str__(self) -> str:
        return "\n\n".join("\n".join([section.title, *_wrapped(section.lines)]) for section in self.sections)

    def _repr_html_(self) -> str:
        return "".join(
            f"<h4>{html.escape(section.title)}</h4><pre>{html.escape(chr(10).join(_wrapped(section.lines)))}</pre>"
            for section in self.sections
        )


def explain(
    recipe: GivenRecipe,
    model: nn.Module | Adapter | None = None,
    *,
    keep: object = None,
    visual: int | None = None,
    text: int = 64,
    registry: Registry | None = None,
    settings: Sequence[str] = (),
    video: bool = False,
) -> Explanation:
    """Explain a recipe, without running a model.

    Args:
        recipe: in any form that `prune` takes.
        model: the model, or its adapter. Without one, nothing is said of its layers, of costs and of what it cannot do.
        keep: the budget; needed for a formula, and an override otherwise.
        visual: the number of visual tokens of an example picture, from which tokens and FLOPs are counted; by default
            that of every picture, where a model has one.
        text: the number of text tokens of the example prompt.
        registry: where names are looked up.
        settings: changes of a recipe that is given as text, as `Recipe.load` takes them.
        video: whether the example is a video. Where every patch is one token of the prompt, none leaves the encoder of
            videos.

    Raises:
        RecipeError: if the recipe cannot be read; or another `TokensieveError` for its parts.
    """
    registry = registry or default_registry()
    loaded = meant(recipe, keep, registry, settings=settings)
    if model is not None and not isinstance(model, (nn.Module, Adapter)):
        raise RefusedError(f"explain takes a model or its adapter, not {brief(model)}; the command explain takes names")
    adapter = registry.adapter_for(model) if isinstance(model, nn.Module) else model
    if visual is None and adapter is not None and adapter.decoder is not None:
        visual = adapter.decoder.tokens_per_image
    parts = [_head(loaded, adapter)]
    parts += [_stage(loaded, at, stage) for at, stage in loaded.ranges()]
    if adapter is not None and adapter.packed_tower is not None and visual is not None:
        parts += _before_tower(loaded, adapter.packed_tower, visual, video)
    if adapter is not None and adapter.encoder is not None:
        parts += _inside_encoder(loaded, adapter.encoder, visual, video)
    if adapter is not None and adapter.decoder is not None and visual is not None:
        parts += _counted(loaded, adapter, visual, text, video)
    parts += [_differences(loaded, _notes(recipe, registry)), _findings(loaded, adapter)]
    return Explanation(tuple(parts))


def reads_question(recipe: Recipe) -> bool:
    """Return whether a recipe judges by the question, or by attention of the text that holds it."""
    asks = QUESTION | (DECODER_EVIDENCE - {Evidence.DECODER_KEYS})
    return any(stage.needs & asks for stage in recipe.stages)


def _question(recipe: Recipe) -> str:
    if reads_question(recipe):
        return "what stays depends on it"
    if any(map(_may_see_question, recipe.stages)):
        return (
            "what stays depends on it only where the picture's vectors have seen it: where it stands before the "
            "picture, or attention is not causal"
        )
    return "what stays is the same for every question"


def _head(recipe: Recipe, adapter: Adapter | None) -> Section:
    lines = [f"paper: {recipe.paper}"] if recipe.paper else []
    kept = "kept tokens keep their position ids"
    lines.append(
        f"positions: {kept if recipe.positions == 'original' else 'kept tokens are numbered anew, without gaps'}"
    )
    lines.append(f"question: {_question(recipe)}")
    if adapter is not None:
        lines.append(f"model: {type(adapter.model).__name__}, adapter {adapter.name}")
    return Section(f"{recipe.name} ({recipe.hash()})", tuple(lines))


def _stage(recipe: Recipe, at: str, stage: Stage) -> Section:
    lines = [*_expression(recipe, stage.select, stage.at, ""), _budget(stage)]
    if stage.by is not None:
        lines += ["ties are broken by", *_expression(recipe, stage.by, stage.at, _INDENT)]
    if stage.demand is not None:
        lines += ["what each needs is said by", *_expression(recipe, stage.demand, stage.at, _INDENT)]
    if stage.newlines != "judge":
        lines.append(f"newline and separator tokens are always {'kept' if stage.newlines == 'keep' else 'dropped'}")
    return Section(f"{at}: {_place(at, stage.at)}", tuple(lines))


def _place(at: str, site: Site) -> str:
    if site.part == "pixel":
        return "before the vision tower, which encodes what is left"
    if site.part == "encoder":
        return (
            "in each of these blocks of the vision encoder"
            if ".." in at
            else f"in block {site.block} of the vision encoder"
        )
    if ".." in at:
        return "in each of these layers of the language model"
    if site.block == 0:
        return "before the language model, whose layers all see what is left"
    before = "layer 0 sees" if site.block == 1 else f"layers 0 to {site.block - 1} see"
    return f"before layer {site.block} of the language model; {before} what was there before"


def _expression(recipe: Recipe, expression: Expression, site: Site, indent: str) -> Iterator[str]:
    """Return a line for an expression, and indented lines for what it is made of."""
    written = recipe.formula(expression)
    said = sentence(type(expression))
    if isinstance(expression, Strategy):
        changed = expression.model_dump(mode="json", exclude_defaults=True)
        settings = ", ".join(f"{name} {value}" for name, value in changed.items())
        yield f"{indent}{written} is {expression.name}{f' with {settings}' if settings else ''}: {said}"
        yield f"{indent}{_INDENT}reads {_evidence(expression, site)}"
    else:
        yield f"{indent}{written}: {said}"
    for part in expression.parts:
        yield from _expression(recipe, part, site, indent + _INDENT)


def _evidence(strategy: Strategy, site: Site) -> str:
    def where(kind: Evidence) -> str:
        if kind is Evidence.FEATURES and site.part == "pixel":
            return "the normalised pixels of a token's patches"
        if kind is Evidence.FEATURES:
            return f"the vectors entering {site}"
        if kind in VISION_EVIDENCE:
            return "of the vision encoder"
        if kind in QUESTION and kind not in DECODER_EVIDENCE:
            return "the question"
        return f"of decoder layer {site.block - 1}" if kind in DECODER_EVIDENCE and site.block else ""

    told = [f"{kind} ({where(kind)})" if where(kind) else str(kind) for kind in sorted(strategy.needs)]
    return ", ".join(told) or "nothing but where tokens are"


def _may_see_question(stage: Stage) -> bool:
    """Return whether a stage judges by vectors of pictures inside the language model."""
    inside = stage.at.part == "decoder" and stage.at.block > 0
    return inside and bool(stage.needs & {Evidence.FEATURES, Evidence.DECODER_KEYS})


def _budget(stage: Stage) -> str:
    group = "all images of a prompt together" if stage.per == "sample" else f"each {stage.per}"
    rest = (
        "the others are dropped"
        if stage.rest == "drop"
        else "each of the others is merged into the most similar kept one"
    )
    if stage.keep.mean:
        together = {"sample": "a prompt", "batch": "a batch", "task": "all samples of a task"}[stage.over]
        return f"keeps {_amount(stage.keep.each)} of {group} in the mean over {together}, by what each needs; {rest}"
    return f"keeps {_amount(stage.keep)} of {group}; {rest}"


def _amount(keep: Keep) -> str:
    if keep.auto:
        return "the set that the method itself chooses"
    if keep.less is not None:
        return f"all but {keep.less} tokens (half of them at least)"
    if keep.count is not None:
        return f"exactly {keep.count} tokens (all, where there are fewer)"
    return f"{keep.fraction} of the tokens (rounded down, at least one)"


def _before_tower(recipe: Recipe, tower: PackedTower, visual: int, video: bool) -> list[Section]:
    """Return how many of an image's tokens are encoded at all, and what that saves in the vision tower."""
    stage = next((stage for stage in recipe.stages if stage.at.part == "pixel"), None)
    if stage is None:
        return []
    title = f"an image of {visual} tokens, before the vision tower"
    if video:
        return [Section(title, ("how many tokens of each frame stay depends on the video",))]
    try:
        (left,) = kept_of_groups(recipe, stage, [visual])
    except RefusedError as error:
        return [Section(title, (f"cannot be counted: {error}",))]
    cost, size = TowerCost.of(tower), tower.patches_per_unit
    lines = [f"{left:,} of {visual:,} tokens are encoded, of {size} patches each; the others leave the prompt unseen"]
    if cost.windowed:
        lines.append("how many FLOPs that saves depends on how many stay of each window")
    else:
        plain, pruned = (cost.packed_flops(Stretches((n * size,))) for n in (visual, left))
        lines.append(f"blocks: {pruned / 1e9:,.1f} GFLOPs of {plain / 1e9:,.1f} unpruned, {pruned / plain:.1%}")
    return [Section(title, tuple(lines))]


def _inside_encoder(recipe: Recipe, encoder: Encoder, visual: int | None, video: bool) -> list[Section]:
    """Return how many patches of an image are left after each block, and what the encoder hands on."""
    rests = {stage.rest for stage in recipe.stages if stage.at.part == "encoder"}
    if not rests:
        return []
    entering = visual if encoder.prunes_prompt and visual is not None else encoder.patches_per_image
    if video and encoder.prunes_prompt:
        return [Section("inside the vision encoder", ("a video goes through another one, which no patch leaves",))]
    if entering is None:
        return [Section("inside the vision encoder", ("how many patches stay depends on the size of the image",))]
    title = f"an image of {entering} patches, inside the vision encoder"
    try:
        left = patches_after_blocks(recipe, entering, len(encoder.blocks))
    except BudgetError as error:
        return [Section(title, (f"cannot be counted: {error}",))]
    lines = [*_series(left)]
    if "merge" in rests:
        lines.append("merged between attention and MLP: the attention of a block sees what the block before left")
    if "drop" in rests:
        lines.append("dropped as they enter a block: its attention and its MLP see what it leaves")
    lines.append(_handed_on(encoder, entering, left[-1], rests))
    if encoder.separates_mlp:
        tower = TowerCost.of(encoder)
        pruned, plain = tower.flops(entering, kept_patches_by_block(recipe, entering)), tower.flops(entering, {})
        lines.append(f"blocks: {pruned / 1e9:,.1f} GFLOPs of {plain / 1e9:,.1f} unpruned, {pruned / plain:.1%}")
    return [Section(title, tuple(lines))]


def _series(left: Sequence[int]) -> Iterator[str]:
    """Return how many patches blocks leave: those that leave equally many together, and those that do not in a row."""
    single: list[tuple[int, int]] = []

    def row() -> Iterator[str]:
        if single:
            counts = ", ".join(f"{n:,}" for _, n in single)
            yield f"{_numbered('block', single[0][0], single[-1][0], 'leave')} {counts} patches"
            single.clear()

    for n, group in itertools.groupby(enumerate(left), lambda pair: pair[1]):
        numbers = [number for number, _ in group]
        if len(numbers) == 1:
            single.append((numbers[0], n))
            continue
        yield from row()
        yield f"{_numbered('block', numbers[0], numbers[-1], 'leave')} {n:,} patches"
    yield from row()


def _handed_on(encoder: Encoder, entering: int, left: int, rests: Collection[str]) -> str:
    """Return how long the encoder's output is, and what the language model gets."""
    if encoder.shortens_sequence:
        others = encoder.num_prefix_tokens
        return f"the sequence gets shorter: {left:,} patches are returned" + (
            f", and {others} class and register tokens" if others else ""
        )
    stands = "each with the vector of the token that stands for it" if "merge" in rests else ""
    own = "a dropped one with that with which it left" if "drop" in rests else ""
    said = f"all {entering:,} patches are handed on, {', '.join(filter(None, (stands, own)))}: "
    if encoder.prunes_prompt:
        return f"{said}the prompt then loses those that left, and the language model gets {left:,}"
    return f"{said}the language model gets as many visual tokens as ever, and the encoder alone saves work"


def _counted(recipe: Recipe, adapter: Adapter, visual: int, text: int, video: bool) -> list[Section]:
    """Return how many visual tokens each layer sees, and the counted FLOPs."""
    layers = layer_costs(adapter)
    prunes = adapter.encoder is not None and adapter.encoder.prunes_prompt and not video
    title = f"a prompt of {visual} visual and {text} text tokens"
    try:
        counts = visual_per_layer(recipe, [visual], len(layers), prunes)
        pruned = pruned_prefill_flops(recipe, layers, [visual], text, prunes)
    except (BudgetError, RefusedError) as error:
        return [Section(title, (f"cannot be counted: {error}",))]
    lines = [f"{name} {seen:,} visual tokens" for name, seen in _runs(counts)]
    plain = prefill_flops(layers, [text + visual] * len(layers))
    lines.append(f"mean over {len(counts)} layers: {sum(counts) / len(counts):,.1f} visual tokens")
    lines.append(
        f"prefill of the language model: {pruned / 1e9:,.1f} GFLOPs of {plain / 1e9:,.1f} unpruned, "
        f"{pruned / plain:.1%} (counted, without the vision encoder, the head and the selection; FLOPs are no times, "
        "which `tokensieve bench` measures)"
    )
    return [Section(title, tuple(lines))]


def _runs(counts: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Return the layers that see the same number of tokens, as text, with that number."""
    for seen, group in itertools.groupby(enumerate(counts), lambda pair: pair[1]):
        numbers = [number for number, _ in group]
        yield _numbered("layer", numbers[0], numbers[-1], "see"), seen


def _numbered(what: str, first: int, last: int, does: str) -> str:
    return f"{what} {first} {does}s" if first == last else f"{what}s {first} to {last} {does}"


def _differences(recipe: Recipe, notes: Sequence[str]) -> Section:
    """Return what differs from papers: as the head of the recipe's file says, then as each strategy says of itself."""
    lines = list(notes)
    for kind in dict.fromkeys(type(leaf) for leaf in recipe.names() if isinstance(leaf, Strategy)):
        link = f" {kind.paper}" if kind.paper else ""
        lines.append(f"{kind.name}: {differences(kind) or 'its author says nothing of it'}{link}")
    return Section("what differs from papers", tuple(lines))


def _notes(recipe: GivenRecipe, registry: Registry) -> list[str]:
    """Return the paragraphs and items of the comment at the head of a recipe's file."""
    if not isinstance(recipe, (str, Path)):
        return []
    kind = kind_of(recipe, registry) if isinstance(recipe, str) else "path"
    if kind == "formula":
        return []
    file = registry.recipe(str(recipe)) if kind == "name" else Path(recipe)
    lines = file.read_text(encoding="utf-8").splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    paragraphs: list[str] = []
    fresh = True
    for line in (line.removeprefix("#").strip() for line in head):
        if fresh or line.startswith("- "):
            paragraphs.append(line)
        else:
            paragraphs[-1] += f" {line}"
        fresh = not line
    return [paragraph.strip() for paragraph in paragraphs if paragraph.strip()]


def _findings(recipe: Recipe, adapter: Adapter | None) -> Section:
    found = tuple(map(str, review(recipe, adapter)))
    return Section("review", found or ("no findings",))


def _wrapped(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        yield from textwrap.wrap(
            line,
            WIDTH,
            initial_indent=_INDENT,
            subsequent_indent=f"{_INDENT}{indent}{_INDENT}",
            break_long_words=False,
            break_on_hyphens=False,
        )
