"""The forms in which a graph is written, and how each is run: torch.export, ONNX and OpenVINO.

Their packages are imported when a form is asked for.
"""

from __future__ import annotations

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from tokensieve.errors import RefusedError, listing

INPUTS = ("input_ids", "pixel_values")
"""The names of the graph's inputs."""
OUTPUTS = ("logits", "kept")
"""The names of its outputs."""
Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Runs a graph: maps `input_ids` and `pixel_values` to `logits` and `kept`."""


class Target(ABC):
    """A form of a graph."""

    name: ClassVar[str]
    """What `--to` calls it."""
    suffix: ClassVar[str]
    """The end of its file's name."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The packages that write and run it, beside torch."""

    @abstractmethod
    def write(self, program: ExportedProgram, file: Path) -> None:
        """Write the graph to a file; some forms put weights into another file beside it."""

    @abstractmethod
    def load(self, file: Path) -> Run:
        """Return what runs the graph in a file, on the CPU and in float32."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that write and run it."""
        return {package: metadata.version(package) for package in ("torch", "transformers", *self.packages)}

    def check(self, file: Path | None) -> None:
        """Raise if it cannot be written to a file of that name.

        Raises:
            RefusedError: if a package is missing, the file's name has another end, or it cannot be written there.
        """
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise RefusedError(
                f"an export to {self.name} needs {listing(self.packages)}, and {listing(missing)} is not installed: "
                "pip install 'tokensieve[export]'"
            )
        if file is None:
            return
        if file.suffix != self.suffix:
            raise RefusedError(f"a file of {self.name} ends in {self.suffix}, and {file.name} does not")
        if os.path.isdir(file) or not os.path.isdir(file.parent):
            raise RefusedError(f"{file} is a folder, or in a folder that there is not; name a file in a folder")


class TorchTarget(Target):
    """A program of torch.export, which torch.compile and AOTInductor take, too."""

    name = "torch"
    suffix = ".pt2"

    def write(self, program: ExportedProgram, file: Path) -> None:
        """Write the program."""
        torch.export.save(program, file)

    def load(self, file: Path) -> Run:
        """Return the program's module."""
        run: Run = torch.export.load(file).module()
        return run


class OnnxTarget(Target):
    """ONNX, checked with ONNX Runtime."""

    name = "onnx"
    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, program: ExportedProgram, file: Path) -> None:
        """Write the model; weights above 2 GB go to a file beside it."""
        made: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        )
        made.save(file)

    def load(self, file: Path) -> Run:
        """Return a session of ONNX Runtime."""
        runtime: Any = import_module("onnxruntime")
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])

        def run(input_ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
            given = dict(zip(INPUTS, (input_ids.numpy(), pixels.numpy()), strict=True))
            logits, kept = session.run(list(OUTPUTS), given)
            return torch.from_numpy(logits), torch.from_numpy(kept)

        return run


class OpenVinoTarget(Target):
    """OpenVINO's own form, in float32, made of the program: its TopK of an ONNX file has no rule for ties."""

    name = "openvino"
    suffix = ".xml"
    packages = ("openvino",)

    def write(self, program: ExportedProgram, file: Path) -> None:
        """Write the graph, and its weights to a `.bin` beside it."""
        openvino = import_openvino()
        # What `openvino.convert_model` calls, without what a graph of fixed shape does not need.
        decoders: Any = import_module("openvino.frontend.pytorch.fx_decoder")
        frontend = import_module("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
        with _no_logs():
            # Held until all is written: the converted graph calls it, and has its weights.
            decoder = decoders.TorchFXPythonDecoder.from_exported_program(program, dynamic_shapes=False)
        converted = frontend.convert(frontend.load(decoder))
        for ports, names in ((converted.inputs, INPUTS), (converted.outputs, OUTPUTS)):
            for port, name in zip(ports, names, strict=True):
                port.get_tensor().set_names({name})
        openvino.save_model(converted, file, compress_to_fp16=False)

    def load(self, file: Path) -> Run:
        """Return the compiled graph."""
        openvino = import_openvino()
        compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(input_ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
            found = compiled([input_ids.numpy(), pixels.numpy()])
            return torch.from_numpy(found[0].copy()), torch.from_numpy(found[1].copy())

        return run


TARGETS: dict[str, Target] = {target.name: target for target in (TorchTarget(), OnnxTarget(), OpenVinoTarget())}
"""All forms, by name."""


def import_openvino() -> Any:
    """Return OpenVINO, imported without its telemetry.

    When it is imported, it would write a number of the user to the home folder, and send statistics to a server.
    """
    telemetry = "openvino_telemetry"
    if "openvino" in sys.modules or telemetry in sys.modules:
        return import_module("openvino")
    modules: dict[str, Any] = sys.modules
    # What is None there cannot be imported; OpenVINO has a stand-in for that case.
    modules[telemetry] = None
    try:
        return import_module("openvino")
    finally:
        del modules[telemetry]


@contextmanager
def _no_logs() -> Iterator[None]:
    """Silence the logs of a converter, which tells its users what it tries."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _stable_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Return ONNX values and places of a stable sort, which torch's own exporter does not know.

    ONNX says that TopK takes the lower place first on ties. Not all runtimes follow it, and masks are all ties: so
    small whole numbers are made different by their places.
    """
    op: Any = import_module("onnxscript").opset18
    types: Any = import_module("onnxscript").ir.DataType
    number = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    last = dim in (-1, len(self.shape) - 1)
    if not last or self.dtype not in (types.BOOL, types.UINT8, types.INT32):
        return op.TopK(self, number, axis=dim, largest=int(descending), sorted=1)
    whole = op.Cast(self, to=int(types.INT64))
    turn = op.Range(op.Constant(value_int=0), op.Squeeze(number), op.Constant(value_int=1))
    later = op.Sub(number, turn) if descending else turn
    keys = op.Add(op.Mul(whole, number), later)
    _, places = op.TopK(keys, number, axis=dim, largest=int(descending), sorted=1)
    return op.GatherElements(self, places, axis=dim), places
