"""`export`: a prefill with the selection inside, written to a file and compared with `prune` before that."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from tokensieve.checkpoints.loaded_model import quiet
from tokensieve.composers.expression import Expression
from tokensieve.engine import prune
from tokensieve.errors import RefusedError, listing, short_message
from tokensieve.exporting.prefill import Logits, StaticPrefill
from tokensieve.exporting.refusals import exported_decoder, exported_stage
from tokensieve.exporting.targets import INPUTS, OUTPUTS, TARGETS, Run, Target
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes.meant import GivenRecipe, meant
from tokensieve.recipes.recipe import Recipe

TOLERANCE = 1e-4
"""The largest difference of a logit from that of `prune`."""


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported prefill.

    Attributes:
        program: the program of torch.export.
        about: layout, recipe, versions and what was compared, as in the file beside the graph.
        files: what was written; empty if no file was asked for.
    """

    program: ExportedProgram
    about: Mapping[str, Any]
    files: tuple[Path, ...] = ()

    @cached_property
    def module(self) -> torch.nn.Module:
        """The program as a module, which `torch.compile(..., fullgraph=True)` takes, too."""
        return self.program.module()


def export(
    model: Any,
    recipe: GivenRecipe,
    inputs: Mapping[str, Any],
    *,
    to: Literal["torch", "onnx", "openvino"] = "torch",
    out: str | Path | None = None,
    keep: object = None,
    positions: Literal["original", "compact"] | None = None,
    logits: Logits = "last",
    tolerance: float = TOLERANCE,
    registry: Registry | None = None,
) -> Exported:
    """Export the prefill of one prompt with one picture, with the selection inside.

    The graph takes `input_ids` and `pixel_values`, and gives `logits` and `kept`, the ids of the visual tokens that
    stay. It is made for one layout: pictures of the size of the example's, and prompts of its length with the
    placeholders at the same places. It is run on the example and on the example's picture mirrored, and written only
    if it keeps the ids that `prune` keeps and gives its logits.

    Args:
        model: a model that an adapter is registered for, on the CPU, in float32 and in evaluation mode.
        recipe: a recipe, the name of a shipped one, a path to YAML, or a formula, with one stage at `decoder.0`.
        inputs: the model's inputs for the example, as its processor makes them.
        to: the form of the graph.
        out: the file, which ends in `.pt2`, `.onnx` or `.xml`; without one, nothing is written. A JSON file beside it
            says what the graph is.
        keep: the budget; needed for a formula, and an override otherwise.
        positions: whether kept tokens keep their positions; an override of the recipe's.
        logits: at which kept places logits are computed: the `last`, or `all`.
        tolerance: the largest difference of a logit from that of `prune`.
        registry: where names are looked up; everything installed by default.

    Raises:
        RefusedError: if the model, the recipe or the inputs have no exact graph, a package is missing, or the graph
            does not do what `prune` does.
        MissingEvidenceError: if the recipe needs evidence that the graph does not have.
        RecipeError: if the recipe cannot be used; and other kinds of TokensieveError for its parts.
    """
    if to not in TARGETS:
        raise RefusedError(f"there is no form '{to}' of an export; there are {listing(TARGETS)}")
    target, file = TARGETS[to], None if out is None else Path(out)
    target.check(file)
    registry = registry or default_registry()
    wanted = meant(recipe, keep, registry, positions)
    exported_stage(wanted)
    adapter = registry.adapter_for(model)
    decoder = exported_decoder(adapter)
    with torch.no_grad(), quiet():
        prefill = StaticPrefill(decoder, wanted, inputs, logits).eval()
        expected = _Expected(adapter.model, wanted, inputs, logits, registry)
        # Also because what is remembered of layouts must not be made while a graph is traced.
        expected.compare(prefill, "eager torch", tolerance)
        program = _traced(prefill, wanted, expected.examples[0])
        about = _about(target, adapter.name, wanted, prefill, expected)
        if file is not None:
            return Exported(program, about, _written(program, target, file, about, expected, tolerance))
        made = Exported(program, about)
        about["compared"] = expected.compare(made.module, "torch", tolerance)
        return made


class _Expected:
    """What `prune` does with the example, and with its picture mirrored.

    Attributes:
        examples: the inputs of the graph.
        logits: for each, `[1, places, vocabulary]`.
        kept: for each, int64 `[kept]`.
    """

    def __init__(
        self, model: Any, recipe: Recipe, inputs: Mapping[str, Any], logits: Logits, registry: Registry
    ) -> None:
        pixel_argument = INPUTS[1]
        pixels: Tensor = inputs[pixel_argument]
        self.examples: list[tuple[Tensor, Tensor]] = []
        self.logits: list[Tensor] = []
        self.kept: list[Tensor] = []
        for picture in (pixels, pixels.flip(-1)):
            given = {**inputs, pixel_argument: picture}
            with prune(model, recipe, registry=registry) as run:
                output = model(**given, use_cache=False, logits_to_keep=int(logits == "last"))
            self.examples.append((given["input_ids"], picture))
            self.logits.append(output.logits)
            self.kept.append(run.kept("decoder.0")[0])

    def compare(self, run: Run, name: str, tolerance: float) -> dict[str, Any]:
        """Return how far a graph is from what `prune` does.

        Raises:
            RefusedError: if it keeps other tokens, or a logit differs by more than `tolerance`.
        """
        largest = 0.0
        for example, logits, kept in zip(self.examples, self.logits, self.kept, strict=True):
            found, ids = run(*example)
            if ids.flatten().tolist() != kept.tolist():
                common = len(set(ids.flatten().tolist()) & set(kept.tolist()))
                raise RefusedError(
                    f"the graph for {name} keeps {common} of the {len(kept)} tokens that prune keeps of the example: "
                    f"{ids.flatten().tolist()}, not {kept.tolist()}. Nothing was written"
                )
            difference = float((found - logits).abs().max())
            # NaN is not small.
            if not difference <= tolerance:
                raise RefusedError(
                    f"the graph for {name} keeps the same tokens, but a logit differs by {difference:.2g} from that of "
                    f"prune, and {tolerance:.2g} is allowed. Nothing was written"
                )
            largest = max(largest, difference)
        return {"examples": len(self.examples), "largest_difference_of_a_logit": largest, "tolerance": tolerance}


def _traced(prefill: StaticPrefill, recipe: Recipe, example: tuple[Tensor, Tensor]) -> ExportedProgram:
    """Return the program of a prefill.

    Raises:
        RefusedError: naming what asks for a value of the picture, which a graph cannot.
    """
    noise = io.StringIO()
    try:
        # torch writes what it had of a graph that fails to stderr.
        with contextlib.redirect_stderr(noise):
            return torch.export.export(prefill, example)
    # What cannot be traced fails in many ways.
    except Exception as error:
        # A number of the picture that is not known while tracing is a SymInt, which is no key of a dictionary.
        asks = isinstance(error, GuardOnDataDependentSymNode) or "SymInt" in str(error)
        why = "it asks the host for a value that only the picture decides" if asks else short_message(error)
        raise RefusedError(f"{_who(error, prefill, recipe)} cannot be part of a graph of fixed shape: {why}") from error


def _who(error: Exception, prefill: StaticPrefill, recipe: Recipe) -> str:
    """Return what raised an error, as a subject: the model, or the innermost strategy or composer of the formula."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if all(frame.f_code is not StaticPrefill.select.__code__ for frame in frames):
        return f"the code of {type(prefill.model).__name__}"
    (stage,) = recipe.stages
    selves = [frame.f_locals.get("self") for frame in frames]
    inside = [one for one in selves if isinstance(one, Expression)]
    formula = recipe.formula(stage.select)
    name = getattr(inside[-1], "name", formula) if inside else formula
    return f"'{formula}'" if name == formula else f"'{name}' in '{formula}'"


def _about(target: Target, family: str, recipe: Recipe, prefill: StaticPrefill, expected: _Expected) -> dict[str, Any]:
    """Return what the file beside a graph says."""
    ids, pixels = expected.examples[0]
    shapes = {name: list(value.shape) for name, value in zip(INPUTS, (ids, pixels), strict=True)}
    shapes |= {OUTPUTS[0]: list(expected.logits[0].shape), OUTPUTS[1]: [1, prefill.kept]}
    return {
        "form": target.name,
        "model": {"class": type(prefill.model).__name__, "family": family},
        "recipe": recipe.to_dict(),
        "recipe_hash": recipe.hash(),
        "inputs": list(INPUTS),
        "outputs": list(OUTPUTS),
        "shapes": shapes,
        "layout": {
            "input_ids": ids[0].tolist(),
            "placeholders": prefill.layout.places.array[0].tolist(),
            "visual_tokens": prefill.layout.most,
            "kept": prefill.kept,
            "selection_depends_on_the_picture": prefill.looks,
            "constants": {name: value.tolist() for name, value in prefill.constants.items()},
        },
        "kept_of_the_example": expected.kept[0].tolist(),
        "versions": {"tokensieve": metadata.version("tokensieve"), **target.versions()},
    }


def _written(
    program: ExportedProgram,
    target: Target,
    file: Path,
    about: dict[str, Any],
    expected: _Expected,
    tolerance: float,
) -> tuple[Path, ...]:
    """Write a graph and what it is, after running the very file; and return all files.

    Raises:
        RefusedError: if its packages cannot write it, or it does not do what `prune` does.
    """
    with tempfile.TemporaryDirectory(prefix=".tokensieve-", dir=file.parent) as made:
        written = Path(made) / file.name
        try:
            target.write(program, written)
            run = target.load(written)
        # Converters fail in many ways.
        except Exception as error:
            raise RefusedError(f"{target.name} does not take this graph: {short_message(error)}") from error
        about["compared"] = expected.compare(run, target.name, tolerance)
        written.with_suffix(".json").write_text(_as_text(about), encoding="utf-8")
        names = sorted(one.name for one in Path(made).iterdir())
        for name in names:
            os.replace(Path(made) / name, file.parent / name)
    return tuple(file.parent / name for name in names)


def _as_text(about: Mapping[str, Any]) -> str:
    """Return what a graph is as JSON, with lists of numbers on one line."""
    text = json.dumps(about, indent=2)
    return re.sub(r"\[\s+([-\d,\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"
