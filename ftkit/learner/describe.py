"""What can be said of a Learner in plain data: its settings, versions, and rows that tell most."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ftkit.model.device import precision_name
from ftkit.scores.texts import ROUGE, SummaryMetrics, TranslationMetrics, chrf_score
from ftkit.task import Metrics

_PACKAGES = ("ftkit", "torch", "transformers", "fastai", "datasets", "tokenizers", "numpy")


def describe_learner(learn: Any) -> dict[str, Any]:
    """What a Learner trains, on what and how, and with which versions: plain JSON data."""
    train, valid, task = learn.dls.train, learn.dls.valid, learn.task_scores.task
    parts = {"train": train.dataset, "validation": valid.dataset}
    parameters = list(learn.model.parameters())
    accumulate = getattr(learn, "accumulate", None)
    settings = {
        "checkpoint": learn.checkpoint,
        "task": task.name,
        "task_options": asdict(task),
        "batch_size": train.bs,
        "max_tokens": train.max_tokens,
        "max_length": train.dataset.limit,
        "accumulate": 1 if accumulate is None else accumulate.n_batches,
        "precision": precision_name(learn.model.autocast_dtype),
        "seed": train.seed,
        "rows": {split: len(part) for split, part in parts.items()},
        "data_fingerprint": {split: part.fingerprint for split, part in parts.items()},
        "parameters": sum(parameter.numel() for parameter in parameters),
        "versions": package_versions(),
    }
    if learn.opt is not None:
        settings |= {
            "optimizer": type(getattr(learn.opt, "opt", learn.opt)).__name__,
            "weight_decay": learn.opt.hypers[-1]["wd"],
            "layer_groups": [sum(p.numel() for p in group) for group in learn.opt.param_lists],
        }
    return settings


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a training's result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def choose_rows(losses: np.ndarray, count: int, seed: int) -> list[tuple[int, str]]:
    """Places in `losses` (rows,), and why they were chosen: "worst" with the largest losses, as
    many "best" with the smallest, and as many "random" ones of the others; `count` at most.
    """
    count = min(count, len(losses))
    third = count // 3
    order = np.argsort(losses, kind="stable")
    best, others = order[:third], order[third:]
    split = len(others) - (count - 2 * third)
    worst, others = others[split:][::-1], others[:split]
    drawn = np.random.default_rng(seed).permutation(others)[:third]
    named = {"worst": worst, "random": drawn, "best": best}
    return [(int(place), why) for why, places in named.items() for place in places]


def show_rows(learn: Any, numbers: Sequence[int]) -> list[dict[str, str]]:
    """Validation rows with these numbers as texts: what was read, wanted and predicted."""
    loader, model, task = learn.dls.valid.new(), learn.model, learn.task_scores.trained_task
    device = next(model.parameters()).device
    model.eval()
    shown: list[dict[str, str]] = []
    for batch, _ in loader.create_batches(numbers):
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.inference_mode():
            decided = task.decide(task.scores(model.answer(inputs)))
        table = task.show(loader.rows_of(inputs), loader.dataset.tokenizer, decided)
        # Services know a cell's type by its class: plain strings for those with marks too.
        shown += [{name: str(cell) for name, cell in row.items()} for row in table]
    return shown


def scores_of_texts(metrics: Metrics) -> tuple[str, list[float]] | None:
    """A score of each text that was generated, and its name; None where there are none."""
    if isinstance(metrics, SummaryMetrics) and metrics.rouge:
        place = ROUGE.index("rougeL")
        return "valid/rougeL_of_rows", [row[place] for row in metrics.rouge]
    if isinstance(metrics, TranslationMetrics) and metrics.texts:
        pairs = zip(metrics.texts, metrics.references, strict=True)
        return "valid/chrf_of_rows", [chrf_score(text, wanted) for text, wanted in pairs]
    return None
