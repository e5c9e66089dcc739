"""The machine on which something was measured."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """What a time depends on beside the model.

    Attributes:
        device: `cpu`, or the device of torch.
        processor: the name of the CPU.
        cores: how many the process may use.
        threads: how many torch uses.
        accelerator: the name of the GPU; None on a CPU.
        memory: bytes of the GPU's memory, or of the machine's; 0 if not known.
        system: the operating system.
        python: its version.
        torch_version: that of torch, with that of CUDA.
        transformers_version: that of transformers.
    """

    device: str
    processor: str
    cores: int
    threads: int
    accelerator: str | None
    memory: int
    system: str
    python: str
    torch_version: str
    transformers_version: str

    @classmethod
    def of(cls, device: torch.device) -> Machine:
        """Describe this machine, with a device of it."""
        import transformers

        on_gpu = device.type == "cuda"
        affinity = getattr(os, "sched_getaffinity", None)
        return cls(
            str(device),
            _processor(),
            len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
            torch.get_num_threads(),
            torch.cuda.get_device_name(device) if on_gpu else None,
            torch.cuda.get_device_properties(device).total_memory if on_gpu else _meminfo("MemTotal"),
            platform.system(),
            platform.python_version(),
            torch.__version__,
            transformers.__version__,
        )

    def __str__(self) -> str:
        where = self.accelerator or f"{self.processor}, {self.threads} of {self.cores} cores"
        memory = f", {self.memory / 2**30:.0f} GiB" if self.memory else ""
        versions = f"torch {self.torch_version}, transformers {self.transformers_version}, Python {self.python}"
        return f"{where}{memory}; {versions}"


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None if they are not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return (_meminfo("MemAvailable") or None) if device.type == "cpu" else None


def _meminfo(field: str) -> int:
    """Return a number of bytes that Linux tells of its memory; 0 elsewhere."""
    file = Path("/proc/meminfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def _processor() -> str:
    """Return the name of the CPU, or else its kind."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
