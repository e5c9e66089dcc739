"""Every test of this folder leaves the shared models exactly as they were."""

import pytest

from . import models


@pytest.fixture(autouse=True)
def untouched():
    """The models that a test asked for are looked at after it: a footprint of all would take a tenth of its time."""
    yield
    assert models.changed() == [], "a test changed them"


@pytest.fixture(autouse=True, scope="module")
def all_untouched():
    """So that no model is missed that a test has from elsewhere."""
    yield
    assert models.changed(everywhere=True) == [], "a test of this module changed them"
