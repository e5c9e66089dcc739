"""Every test of this folder leaves the shared models exactly as they were."""

import pytest

from tokensieve.testing.footprint import footprint

from . import models


@pytest.fixture(autouse=True)
def untouched():
    known = {name: footprint(models.shared(name)) for name in models.used()}
    yield
    for name, before in known.items():
        assert footprint(models.shared(name)) == before, f"the model '{name}' was changed"
