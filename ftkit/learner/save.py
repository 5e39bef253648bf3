"""A Learner -> a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftkit.inference.bundle import save_bundle
from ftkit.inference.engine import TorchEngine
from ftkit.inference.predictor import Predictor
from ftkit.learner.card import CardFacts, write_card
from ftkit.learner.distributed import is_first, wait
from ftkit.learner.learner import TextLearner
from ftkit.learner.sharding import check_whole
from ftkit.model.adapters import describe_lora
from ftkit.model.device import autocast_dtype, precision_name
from ftkit.task import Task


def save(
    learn: TextLearner,
    folder: str | Path,
    *,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    per_label: Mapping[str, Mapping[str, float]] | None = None,
    settings: Mapping[str, object] | None = None,
    adapter: bool = False,
) -> Path:
    """Write the Learner's model as a bundle that `ftkit.load_model` and transformers open.

    LoRA is merged into the weights. `adapter` writes LoRA and the head alone, a small folder that
    `ftkit.load_model` and peft open where they find the checkpoint that it was trained on.

    `scores` by split, `per_label` of the last of these splits and `settings` go into its card;
    without scores the card has those of the last epoch's validation. Where several processes
    train, the first writes and the others wait for it.

    Raises SettingError where the folder holds something that is no ftkit model, and for
    `adapter` where the Learner has no LoRA.
    """
    check_whole(learn)
    data = learn.dls.train.dataset
    task = trained_task(learn)
    if not is_first():
        wait()
        return Path(folder)
    card = write_card(
        CardFacts(
            checkpoint=learn.checkpoint,
            task=task.name,
            labels=task.head().labels,
            rows={split: len(part) for split, part in _parts(learn).items()},
            truncated=count_truncated(learn),
            limit=data.limit,
            limits=task.limits(data.limit),
            pipeline=task.pipeline,
            example=task.example,
            answers_rows=not task.packs,
            is_adapter=adapter,
            settings={**describe_settings(learn), **(settings or {})},
            scores=scores if scores is not None else _last_scores(learn),
            per_label=per_label or {},
        )
    )
    found = Path(learn.checkpoint).expanduser()
    base = str(found.resolve()) if found.is_dir() else learn.checkpoint
    saved = save_bundle(
        folder,
        learn.model.hf_model,
        data.tokenizer,
        task,
        limit=data.limit,
        card=card,
        base=base if adapter else None,
    )
    wait()
    return saved


def predictor(learn: TextLearner) -> Predictor:
    """The Learner's model as it would answer once saved: in float32, on the same device."""
    check_whole(learn)
    learn.model.eval()
    learn.model.autocast_dtype = None
    data = learn.dls.train.dataset
    device = next(learn.model.parameters()).device
    engine = TorchEngine(learn.model, device)
    return Predictor(engine, data.tokenizer, trained_task(learn), data.limit)


def trained_task(learn: TextLearner) -> Task:
    """The Learner's task with the options that the last validation chose."""
    return learn.task_scores.trained_task


def count_truncated(learn: TextLearner) -> dict[str, int]:
    """Rows of each split of which the model saw a part only."""
    return {split: part.features.count_cut() for split, part in _parts(learn).items()}


def describe_settings(learn: TextLearner) -> dict[str, object]:
    """What the Learner was trained with."""
    train, device = learn.dls.train, next(learn.model.parameters()).device
    size = f"{train.max_tokens} tokens" if train.max_tokens else f"{train.bs} rows"
    rates = sorted({row["lr"] for row in learn.history.rows})
    return {
        "epochs": len(learn.history.rows),
        "highest learning rate": f"{rates[-1]:.2g}" if rates else "none",
        "batch": size,
        "weight decay": learn.wd,
        "precision": precision_name(autocast_dtype(learn.mixed_precision.precision, device)),
        "seed": train.seed,
        **describe_lora(learn.model.hf_model),
    }


def _parts(learn: TextLearner) -> dict[str, Any]:
    return {"train": learn.dls.train.dataset, "validation": learn.dls.valid.dataset}


def _last_scores(learn: TextLearner) -> dict[str, dict[str, float]]:
    scores, names = learn.history.scores, learn.task_scores.task.metric_names
    if not scores:
        return {}
    return {"validation": {name: scores[name] for name in names if name in scores}}
