"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public data sets: FTKIT_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("FTKIT_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no public data sets in {folder}; set FTKIT_DATA")
    return folder
