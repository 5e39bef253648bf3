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


@pytest.fixture
def look_within() -> Any:
    """A callback that asks for a validation, and for predictions, after each epoch of a fit."""
    from fastai.callback.core import Callback

    class LookWithin(Callback):
        order = 80

        def after_epoch(self) -> None:
            if not self.learn.lock.locked():  # a validation has this event too
                self.learn.validate()
                self.learn.get_preds()

    return LookWithin()


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


def _rows_of(task: str, row: dict[str, str]) -> dict[str, Any]:
    """A row of tiny_data as one of another task, whose answer is the text's first word."""
    text, first = row["text"], row["text"].split()[0]
    return {
        "classification": row,
        "ner": {
            "text": text,
            "entities": [{"start": 0, "end": len(first), "label": row["label"]}],
        },
        "qa": {
            "question": "what is first?",
            "context": text,
            "answers": {"text": [first], "answer_start": [0]},
        },
        "summarization": {"text": text, "summary": first},
        "translation": {"source": text, "target": first},
        "language_modeling": {"text": text},
    }[task]


@pytest.fixture(scope="session")
def task_data(tiny_data: Any) -> Callable[[str], Any]:
    """A function that gives 16 training and 16 validation rows for a task, made of tiny_data."""
    from datasets import Dataset, DatasetDict

    def make(task: str) -> Any:
        return DatasetDict(
            {
                split: Dataset.from_list([_rows_of(task, row) for row in tiny_data[split].take(16)])
                for split in ("train", "validation")
            }
        )

    return make
