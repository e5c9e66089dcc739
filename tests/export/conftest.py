import pytest
from tests.export.small import small


@pytest.fixture(scope="session")
def model():
    return small()
