"""Every test of this folder leaves the shared models exactly as they were."""

import pytest

from . import models
from .footprint import footprint


@pytest.fixture(autouse=True)
def untouched():
    known = {name: footprint(models.shared(name)) for name in models.used()}
    yield
    for name, before in known.items():
        assert footprint(models.shared(name)) == before, f"the model '{name}' was changed"
