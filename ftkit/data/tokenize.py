"""Tokenise a split once, in bulk, and keep it in a cache. `loaders.py` imports it. No fastai."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import ftkit
from ftkit.errors import FtkitWarning
from ftkit.features import Features, from_arrays, named_labels, slice_arrays, stack_arrays
from ftkit.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLICE = 1000  # rows handed to the tokenizer at once
_FORMAT = 4  # goes up with every change of what a task's `prepare` gives


def task_limit(task: Task, limit: int) -> int:
    """Longest sequence in tokens: the model's, or less where the task says so."""
    return min(limit, getattr(task, "max_length", None) or limit)


def tokenize(
    rows: datasets.Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, limit: int
) -> Features:
    """Tokenise rows for a task, in bulk; `limit` is the model's length in tokens.

    The result is kept in the cache of `datasets`, under a name made from the rows, the
    tokenizer and the task; where that cannot be written it is kept in memory, with a warning.
    """
    columns = [column.name for column in task.columns() if column.name in rows.column_names]
    rows = rows.select_columns(columns)
    file = _cache_file(rows, task, tokenizer, limit)
    arrays = _read(file)
    if arrays is None:
        arrays = _tokenize_slices(rows, task, tokenizer, limit)
        try:
            _write(arrays, file)
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"tokenised rows stay in memory: {file.parent} cannot be written ({error})",
                FtkitWarning,
                stacklevel=2,
            )
    return from_arrays(arrays)


def _tokenize_slices(
    rows: datasets.Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, limit: int
) -> dict[str, np.ndarray]:
    def slices() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(rows), _SLICE):
            part = named_labels(rows[start : start + _SLICE], rows.features)
            yield slice_arrays(task.prepare(part, tokenizer, limit))

    return stack_arrays(list(slices()))


def _cache_file(
    rows: datasets.Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, limit: int
) -> Path:
    """A name made from all that the arrays depend on: the rows, the task, the tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    table = rows.with_format("arrow")[:].replace_schema_metadata(None)
    with pa.ipc.new_stream(pa.PythonFile(_HashSink(digest), "w"), table.schema) as stream:
        stream.write_table(table)
    settings = (
        _FORMAT,
        ftkit.__version__,
        task.name,
        asdict(task),  # type: ignore[call-overload]
        str(rows.features),
        tokenizer.backend_tokenizer.to_str(),
        limit,
        len(rows),
    )
    digest.update(repr(settings).encode())
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "ftkit"
    return cache / f"{digest.hexdigest()}.safetensors"


class _HashSink(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, digest: Any) -> None:
        self.digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)


def _read(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays in a file of the cache; None where there is none, or not a whole one."""
    try:
        return {name: tensor.numpy() for name, tensor in load_file(file).items()}
    except (FileNotFoundError, NotADirectoryError, SafetensorError):
        return None


def _write(arrays: Mapping[str, np.ndarray], file: Path) -> None:
    """Write whole or not at all: to a file beside it, then renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    try:
        save_file({key: torch.from_numpy(array) for key, array in arrays.items()}, name)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
