"""The saved directory: weights, tokenizer, task.json, model card. Never pickle.

It is a plain Hugging Face folder with two more files, so every Hugging Face tool opens it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import ftkit
from ftkit.errors import CheckpointError, SettingError, first_line, quoted
from ftkit.inference.task_file import FORMAT, read_task
from ftkit.model.adapters import load_adapter, merged_weights, save_adapter
from ftkit.model.checkpoint import (
    MINILM,
    label_names,
    open_beneath,
    open_bundled,
    token_limit,
)
from ftkit.model.trust import CODE_SETTINGS, check_folder
from ftkit.model.trust import TASK_FILE as TASK_FILE
from ftkit.model.weights import quiet_transformers
from ftkit.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_bundle(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    limit: int,
    card: str,
    base: str | None = None,
) -> Path:
    """Write a bundle, whole or not at all; an older bundle in that place is replaced.

    `limit` is the longest sequence in tokens that the model saw; `card` is its README.md. LoRA is
    merged into the weights; where `base` is given, the checkpoint that the model's LoRA was
    trained on, the adapter alone is written.

    Raises SettingError where the folder holds something else, and for a `base` without LoRA.
    """
    # A link to a folder stays one.
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or not _may_be_replaced(folder)):
        raise SettingError(
            f'"{folder}" exists and is no ftkit model', remedy="Give a new folder, or empty it."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        part.chmod(0o755)
        if base is None:
            with quiet_transformers():
                # One file: nothing here is too large for it, and everything opens it.
                model.save_pretrained(
                    part, state_dict=merged_weights(model), max_shard_size="1000GB"
                )
        else:
            save_adapter(model, part, MINILM if base == "minilm" else base)
        tokenizer.save_pretrained(part)
        if type(model).__module__.startswith("transformers."):
            _forget_code(part)
        settings = {
            "format": FORMAT,
            "ftkit": ftkit.__version__,
            "task": task.name,
            "limit": limit,
            "options": asdict(task),  # type: ignore[call-overload]
        }
        if base is not None:
            settings["base"] = base
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (part / TASK_FILE).write_text(text + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")
        # safetensors writes for its owner only; a model is to be read by whoever reads the rest.
        for weights in part.glob("*.safetensors"):
            weights.chmod((part / TASK_FILE).stat().st_mode)
        old = part.with_name(f"{part.name}-old")
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if "(os error " in str(error):
            # What writes weights and tokenizer is not Python, and has errors of its own.
            raise OSError(f'"{folder}" cannot be written ({error})') from None
        raise
    return folder


def _forget_code(folder: Path) -> None:
    """Drop what a checkpoint's config said of code of its own, where transformers' was used."""
    for file in (folder / "config.json", folder / "tokenizer_config.json"):
        settings = json.loads(file.read_text(encoding="utf-8"))
        kept = {key: value for key, value in settings.items() if key not in CODE_SETTINGS}
        if kept != settings:
            file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _may_be_replaced(folder: Path) -> bool:
    return (folder / TASK_FILE).exists() or not any(folder.iterdir())


def read_bundle(
    folder: str | Path,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Task, int]:
    """Model, tokenizer, task and token limit of a bundle.

    An adapter is merged into the checkpoint that it was trained on.

    Nothing in the folder is run, and of what it asks for, only what its weights bear out is made.

    Raises CheckpointError where the folder is no bundle, or not a whole one, or holds what ftkit
    does not write, or the checkpoint under an adapter is missing.
    """
    folder = Path(folder)
    task, limit, base = read_task(folder)
    if base is None:
        model, tokenizer = open_bundled(folder, task.head())
    else:
        check_folder(folder, str(folder))
        model, tokenizer = _open_adapted(folder, base, task)
    _check_agreement(folder, task, limit, model, tokenizer)
    return model, tokenizer, task, limit


def _open_adapted(
    folder: Path, base: str, task: Task
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        model, tokenizer, new = open_beneath(base, folder, task.head())
    except CheckpointError as error:
        raise CheckpointError(
            f'"{folder}" holds an adapter of "{base}", which cannot be opened: {error.found}',
            remedy="Put that checkpoint there again, or save the model without adapter=True.",
        ) from None
    return load_adapter(model, folder, new), tokenizer


def _check_agreement(
    folder: Path,
    task: Task,
    limit: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Raises CheckpointError where task.json is not that of the model beside it."""
    labels, known = task.head().labels, label_names(model.config)
    if labels and labels != known:
        raise CheckpointError(
            f'the {TASK_FILE} of "{folder}" has the labels {_shown(labels)}, and its config.json '
            f"{_shown(known)}",
            remedy="Take both files from the model's origin again.",
        )
    most = token_limit(tokenizer, model)
    if limit > most:
        raise CheckpointError(
            f'the {TASK_FILE} of "{folder}" has a limit of {limit:,} tokens, and its model one of '
            f"{most:,}",
            remedy="Take the file from the model's origin again.",
        )


def _shown(labels: Sequence[str]) -> str:
    return first_line(ValueError(quoted([str(label) for label in labels])))
