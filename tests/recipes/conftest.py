"""The recipe that a test file is for, and an empty folder to run it in."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """`recipes/NAME.py` as a module, for `test_NAME.py`; the test runs in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    name = request.path.stem.removeprefix("test_")
    spec = importlib.util.spec_from_file_location(name, _RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
