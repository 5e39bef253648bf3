"""Fixtures of the inference tests: bundles of tiny models, trained on the spot."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def make_bundle(
    tiny_data: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function that trains a Learner a little and saves it; further options are the Learner's."""
    import ftkit

    def make(
        data: Any = None, *, epochs: int = 1, checkpoint: Path = tiny_checkpoint, **options: Any
    ) -> Path:
        folder = tmp_path_factory.mktemp("bundle")
        learn = ftkit.classification_learner(
            tiny_data if data is None else data,
            checkpoint,
            **{"bs": 8, "precision": "fp32", "path": folder, **options},
        )
        learn.fit_one_cycle(epochs, 1e-2)
        return ftkit.save(learn, folder / "model")

    return make


@pytest.fixture(scope="session")
def shared_bundle(make_bundle: Callable[..., Path]) -> Path:
    """A bundle that knows tiny_data. Do not write into it."""
    return make_bundle(epochs=5)


@pytest.fixture
def bundle(shared_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(shared_bundle, tmp_path / "model"))


@pytest.fixture(scope="session")
def model(shared_bundle: Path) -> Any:
    """Its Predictor."""
    import ftkit

    return ftkit.load_model(shared_bundle)
