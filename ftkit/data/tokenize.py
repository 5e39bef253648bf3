"""Tokenise a split once, in bulk, and keep it in a cache. `loaders.py` imports it. No fastai."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import ftkit
from ftkit.errors import FtkitWarning
from ftkit.features import (
    Features,
    from_arrays,
    named_labels,
    slice_arrays,
    stack_arrays,
    without_zero_types,
)
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
        try:
            _write(_tokenize_slices(rows, task, tokenizer, limit), file)
            arrays = _read(file)
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"tokenised rows stay in memory: {file.parent} cannot be written ({error})",
                FtkitWarning,
                stacklevel=2,
            )
    if arrays is None:
        arrays = stack_arrays(list(_tokenize_slices(rows, task, tokenizer, limit)))
    return from_arrays(arrays)


def _tokenize_slices(
    rows: datasets.Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, limit: int
) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(rows), _SLICE):
        part = named_labels(rows[start : start + _SLICE], rows.features)
        yield slice_arrays(task.prepare(part, tokenizer, limit))


def _cache_file(
    rows: datasets.Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, limit: int
) -> Path:
    """A name made from all that the arrays depend on: the rows, the task, the tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    tables = rows.with_format("arrow")
    schema = tables[:0].schema.remove_metadata()
    with pa.ipc.new_stream(pa.PythonFile(_HashSink(digest), "w"), schema) as stream:
        # Piece by piece: rows that were drawn are copied when they are read.
        for part in tables.iter(_SLICE):
            stream.write_table(part.replace_schema_metadata(None).combine_chunks())
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
    """The arrays of a file of the cache, mapped; None where there is none, or not a whole one."""
    try:
        return {name: tensor.numpy() for name, tensor in load_file(file).items()}
    except (FileNotFoundError, NotADirectoryError, SafetensorError):
        return None


def _write(slices: Iterator[Mapping[str, np.ndarray]], file: Path) -> None:
    """Write whole or not at all: to a file beside it, then renamed.

    However many slices there are, one of them is held at a time: until all have come, and with
    them the sizes that the file begins with, they are in files without a name.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    try:
        with ExitStack() as stack:
            arrays: dict[str, _SpilledArray] = {}
            for part in slices:
                for key, array in part.items():
                    if key not in arrays:
                        spilled = stack.enter_context(tempfile.TemporaryFile(dir=file.parent))
                        arrays[key] = _SpilledArray(spilled, array)
                    arrays[key].append(array)
            mapped = without_zero_types({key: array.map() for key, array in arrays.items()})
            save_file({key: torch.from_numpy(array) for key, array in mapped.items()}, name)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class _SpilledArray:
    """An array that grows at its end, in a file."""

    def __init__(self, file: IO[bytes], like: np.ndarray) -> None:
        self.file, self.dtype, self.row = file, like.dtype, like.shape[1:]
        self.length = 0

    def append(self, part: np.ndarray) -> None:
        self.file.write(part.astype(self.dtype, order="C", casting="safe", copy=False).data)
        self.length += len(part)

    def map(self) -> np.ndarray:
        shape = (self.length, *self.row)
        if 0 in shape:
            return np.empty(shape, self.dtype)  # nothing cannot be mapped
        return np.memmap(self.file, self.dtype, "r+", shape=shape)
