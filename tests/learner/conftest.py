"""Fixtures of the learner's tests: tiny Learners, built on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def make_learner(tiny_data: Any, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., Any]:
    """A function that builds a Learner on tiny_data, or on other data, in float32."""
    from ftkit import classification_learner

    def make(data: Any = None, checkpoint: Path = tiny_checkpoint, **options: Any) -> Any:
        given = {"bs": 8, "precision": "fp32", "path": tmp_path, **options}
        return classification_learner(tiny_data if data is None else data, checkpoint, **given)

    return make


@pytest.fixture(scope="session")
def fitted(tiny_data: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Learner that has learned tiny_data. Do not train it further: the session shares it."""
    from ftkit import classification_learner

    learn = classification_learner(
        tiny_data,
        tiny_checkpoint,
        bs=8,
        precision="fp32",
        path=tmp_path_factory.mktemp("fitted"),
    )
    learn.fit_one_cycle(6, 1e-2)
    return learn


@pytest.fixture(scope="session")
def multi_data(tiny_data: Any) -> Any:
    """Rows of two sentences with the labels of both: 48, 24 and 24."""
    from datasets import Dataset, DatasetDict

    def paired(rows: Any, count: int) -> Dataset:
        pairs = [(rows[i], rows[(3 * i + i // 3) % len(rows)]) for i in range(count)]
        return Dataset.from_list(
            [
                {"text": f"{a['text']} {b['text']}", "label": sorted({a["label"], b["label"]})}
                for a, b in pairs
            ]
        )

    sizes = {"train": 48, "validation": 24, "test": 24}
    return DatasetDict({split: paired(tiny_data[split], n) for split, n in sizes.items()})
