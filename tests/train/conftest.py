"""The small data set that tests of the trainer share."""

from pathlib import Path

import pytest
from training import build_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_data(tmp_path_factory.mktemp("data"))
