"""The saved directory: weights, tokenizer, task.json, model card. Never pickle.

It is a plain Hugging Face folder with two more files, so every Hugging Face tool opens it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftkit
from ftkit.errors import CheckpointError, SettingError
from ftkit.model.adapters import load_adapter, merged_weights, save_adapter
from ftkit.model.checkpoint import MINILM, open_beneath, open_bundled
from ftkit.model.weights import quiet_transformers
from ftkit.task import Task
from ftkit.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASK_FILE = "task.json"
_FORMAT = 1


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
        settings = {
            "format": _FORMAT,
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


def _may_be_replaced(folder: Path) -> bool:
    return (folder / TASK_FILE).exists() or not any(folder.iterdir())


def read_bundle(
    folder: str | Path,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Task, int]:
    """Model, tokenizer, task and token limit of a bundle.

    An adapter is merged into the checkpoint that it was trained on.

    Raises CheckpointError where the folder is no bundle, or not a whole one, or the checkpoint
    under an adapter is missing.
    """
    folder = Path(folder)
    file = folder / TASK_FILE
    if not file.exists():
        inner = folder / "model"
        hint = f'Did you mean "{inner}"?' if (inner / TASK_FILE).exists() else ""
        raise CheckpointError(
            f'"{folder}" is no ftkit model: it has no {TASK_FILE}',
            remedy=hint or "Give the folder that ftkit.save or `ftkit train` wrote.",
        )
    task, limit, base = _read_task(file)
    if base is None:
        model, tokenizer = open_bundled(folder, task.head())
        return model, tokenizer, task, limit
    try:
        model, tokenizer, new = open_beneath(base, folder, task.head())
    except CheckpointError as error:
        raise CheckpointError(
            f'"{folder}" holds an adapter of "{base}", which cannot be opened: {error.found}',
            remedy="Put that checkpoint there again, or save the model without adapter=True.",
        ) from None
    return load_adapter(model, folder, new), tokenizer, task, limit


def _read_task(file: Path) -> tuple[Task, int, str | None]:
    try:
        settings: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if settings["format"] != _FORMAT:
            raise ValueError(f"format {settings['format']}")
        task = TASKS[settings["task"]](**settings["options"])
        return task, int(settings["limit"]), settings.get("base")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'"{file}" cannot be read ({type(error).__name__}: {error})',
            remedy="Save the model again with this version of ftkit.",
        ) from None
