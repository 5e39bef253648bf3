"""Fixtures of the tests of jobs: bundles of tiny random models, and commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_BERT = {
    "classification": "ForSequenceClassification",
    "ner": "ForTokenClassification",
    "qa": "ForQuestionAnswering",
    "language_modeling": "ForMaskedLM",
}


@pytest.fixture(scope="session")
def task_bundle(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function that saves an untrained model of a task, and gives the same folder when asked
    again.
    """
    from ftkit.inference.bundle import save_bundle
    from ftkit.model.checkpoint import open_bundled

    made: dict[str, Path] = {}

    def make(task: Any) -> Path:
        if repr(task) not in made:
            if task.name in _BERT:
                checkpoint = make_checkpoint("bert", _BERT[task.name], **task.head().config)
            else:
                checkpoint = make_checkpoint("t5", "ForConditionalGeneration")
            model, tokenizer = open_bundled(checkpoint, task.head())
            folder = tmp_path_factory.mktemp(task.name) / "model"
            made[repr(task)] = save_bundle(folder, model, tokenizer, task, limit=64, card="")
        return made[repr(task)]

    return make


@pytest.fixture(scope="session")
def bundle(task_bundle: Callable[..., Path]) -> str:
    """A bundle of a classifier of three labels. Do not write into it."""
    from ftkit.tasks import Classification

    labels = ("billing", "delivery", "technical")
    return str(task_bundle(Classification(kind="single", labels=labels)))
