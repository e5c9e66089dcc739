"""The images of samples: their grids, and the tokens that answers need."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from PIL import Image

from tokensieve.checkpoints.loaded_model import LoadedModel, quiet
from tokensieve.errors import TaskError, TokensieveError
from tokensieve.evidence import NEWLINE
from tokensieve.models.picture_files import picture_note
from tokensieve.models.pictures import VisualInput, images_of
from tokensieve.study.running.session import Grid, ModelSession
from tokensieve.tasks.base import Sample, Task

FIRST_PAGE_NOTE = "of animations and of files of several pages, the first was read"


def picture_notes(pictures: Iterable[VisualInput]) -> list[str]:
    """Return what a cell says about how its pictures were read."""
    frames = (frame for one in pictures for frame in images_of(one))
    return [FIRST_PAGE_NOTE] if any(picture_note(frame) is not None for frame in frames) else []


def load_picture(task: Task, sample: Sample) -> VisualInput:
    """Return what is shown with a sample.

    Raises:
        TaskError: if it cannot be read.
    """
    try:
        return task.shown(sample)
    except TokensieveError:
        raise
    # Image decoders raise undocumented errors for broken files.
    except Exception as error:
        raise TaskError(f"the picture of '{sample.id}' cannot be read: {type(error).__name__}: {error}") from error


def needed_tokens(session: ModelSession, task: Task, sample: Sample, picture: VisualInput) -> frozenset[int] | None:
    """Return the ids of the visual tokens that the answer needs; none if they are not known."""
    grid = grid_of(session, picture)
    if grid is None:
        return None
    if (sample.id, grid) not in session.needed:
        found = task.needed(sample, *grid)
        session.needed[sample.id, grid] = None if found is None else frozenset(int(one) for one in found)
    return session.needed[sample.id, grid]


def grid_of(session: ModelSession, picture: VisualInput) -> Grid | None:
    """Return rows and columns of the visual tokens of an image; none if they are not one grid, as of several images."""
    if not isinstance(picture, Image.Image):
        return None
    if picture.size not in session.grids:
        session.grids[picture.size] = _find_grid(session.ready, picture)
    return session.grids[picture.size]


def _find_grid(ready: LoadedModel, picture: Image.Image) -> Grid | None:
    decoder = ready.adapter.decoder
    if decoder is None:
        return None
    # The layout depends only on the size. A blank image is used, because shared images are encoded in their batches.
    inputs = ready.batch_inputs([Image.new("RGB", picture.size)], ["?"])
    with torch.no_grad(), quiet():
        outputs = decoder.encode_visual_inputs(inputs)
        layouts = [one for name, output in outputs.items() for one in decoder.layout(name, output, inputs)]
    if len(layouts) != 1 or bool((layouts[0][:, 3] == NEWLINE).any()) or bool((layouts[0][:, :2] != 0).any()):
        return None
    rows, columns = (int(n) + 1 for n in layouts[0][:, 2:].amax(dim=0))
    place = layouts[0][:, 2] * columns + layouts[0][:, 3]
    whole = torch.equal(place, torch.arange(rows * columns, device=place.device))
    return (rows, columns) if whole else None
