"""The language model that `make real` makes, loaded once; its tests are skipped where it has not been made."""

import pytest

from flows.real import FOLDER
from pipeline import load_model


@pytest.fixture(scope="session")
def real_folder():
    if not FOLDER.is_dir():
        pytest.skip("the language model is not there: make test-real fetches it")
    return FOLDER


@pytest.fixture(scope="session")
def real_model(real_folder):
    return load_model(str(real_folder))
