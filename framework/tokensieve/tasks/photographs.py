"""The task `photographs`: `fidelity` on photographs that installed packages bring, each in the public domain or CC0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tokensieve.errors import TaskError
from tokensieve.tasks.fidelity import Agreement
from tokensieve.tasks.files import digest

INSTALL = "pip install 'tokensieve[photographs]'"
"""The command that brings the packages."""


@dataclass(frozen=True)
class Photograph:
    """A photograph in a package.

    Attributes:
        package: the package that is imported; it is not imported here.
        path: the file in the package's folder.
        what: what it shows, and who took it.
        licence: `CC0` or `public domain`.
        source: where package and licence are stated.
        sha256: of the file whose licence that is, in hex digits.
    """

    package: str
    path: str
    what: str
    licence: str
    source: str
    sha256: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return Path(self.path).name

    def file(self) -> Path:
        """Return the installed file.

        Raises:
            TaskError: if the package or the file is missing, or it is not the file whose licence is known.
        """
        spec = find_spec(self.package)
        places = (spec and spec.submodule_search_locations) or ()
        found = next((file for file in (Path(place) / self.path for place in places) if file.is_file()), None)
        if found is None:
            raise TaskError(f"there is no {self.name} of {self.package}, which the task 'photographs' shows: {INSTALL}")
        if _digest(found) != self.sha256:
            raise TaskError(f"{found} is not the picture whose licence is known, so it is not shown: {INSTALL}")
        return found


@lru_cache(maxsize=32)
def _digest(file: Path) -> str:
    """Return the SHA-256 of a file, computed once: every sample asks."""
    return digest(file.read_bytes())


def _of_skimage(name: str, what: str, licence: str, sha256: str, function: str | None = None) -> Photograph:
    """Return a photograph of scikit-image, which states its licence at the function that loads it."""
    source = f"skimage.data.{function or Path(name).stem}"
    return Photograph("skimage", f"data/{name}", what, licence, source, sha256)


PHOTOGRAPHS = (
    _of_skimage(
        "astronaut.png",
        "Eileen Collins, by NASA",
        "public domain",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    _of_skimage(
        "camera.png",
        "a person at a camera, by Lav Varshney",
        "CC0",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    ),
    _of_skimage(
        "chelsea.png",
        "the head of a cat, by Stefan van der Walt",
        "CC0",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    _of_skimage(
        "clock_motion.png",
        "a wall clock, blurred by motion, by Stefan van der Walt",
        "public domain",
        "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955",
        "clock",
    ),
    _of_skimage(
        "coffee.png",
        "a cup of coffee, by Rachel Michetti",
        "CC0",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    Photograph(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "Grace Hopper, by James S. Davis, U.S. Navy",
        "public domain",
        "a work of the U.S. federal government",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
    ),
    _of_skimage(
        "hubble_deep_field.jpg",
        "galaxies of the eXtreme Deep Field, by NASA",
        "public domain",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    ),
    _of_skimage(
        "microaneurysms.png",
        "a detail of a retina in grey; its owner is Andreas Maier",
        "CC0",
        "a1e1be59aa447f8ce082f7fa809997ab369a2b137cb6c4202abc647c7ccf6456",
    ),
    _of_skimage(
        "retina.jpg",
        "a human retina, from the gallery of Mikael Häggström",
        "CC0",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    ),
)
"""What is shown: the photographs in scikit-image and matplotlib that are in the public domain or CC0.

Left out are pictures without a statement (`moon`, `page`, the motorcycles), with "no known copyright restrictions" only
(`coins`, `ihc`), whose place of publication says otherwise (`rocket`), and those that are drawn, textures or measured.
"""


class Photographs(Agreement):
    """How far answers are from those of the unpruned model, on nine photographs of scikit-image and matplotlib.

    `PHOTOGRAPHS` has the source and the licence of each. Nothing is downloaded. Grades and settings are those of
    [`Agreement`][tokensieve.tasks.fidelity.Agreement].
    """

    name = "photographs"

    def names(self) -> tuple[str, ...]:
        """Return the names of the photographs.

        Raises:
            TaskError: if one is not installed, or is another than the one whose licence is known.
        """
        return tuple(one.file().name for one in PHOTOGRAPHS)

    def file(self, name: str) -> Path:
        """Return the file of a photograph."""
        return next(one for one in PHOTOGRAPHS if one.name == name).file()

    def identity(self, names: Sequence[str]) -> str:
        """Return a hash of the photographs' contents."""
        return digest("".join(one.sha256 for one in PHOTOGRAPHS if one.name in names).encode())
