"""Where rows come from: a path, a folder, the hub or memory -> parts, one a split.

A part is an Arrow table that remembers the files its rows came from, so that an error can name the
user's own file and row. Imports `files` and `memory`; `sources` calls it.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
from datasets import (
    Dataset,
    DatasetDict,
    DatasetInfo,
    config,
    load_dataset,
    load_from_disk,
)
from huggingface_hub import HfApi

from ftkit.data import files, memory
from ftkit.data.samples import sample_folder
from ftkit.data.splits import Mask
from ftkit.errors import DataError, FtkitWarning, first_line

Rows: TypeAlias = "pd.DataFrame | Sequence[Mapping[str, Any]] | Dataset"
"""Rows of one split in memory."""

Source: TypeAlias = "str | Path | Rows | DatasetDict | Mapping[str, str | Path | Rows]"
"""Everything that `load_data` takes."""

_SAMPLE = "sample:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# A name that ends like this is a file that is not there, not a hub id.
_FILE_LIKE = re.compile(
    r"\.(parquet|csv|tsv|jsonl?|txt|conll|bio|iob|xlsx?|gz|zip)$", re.IGNORECASE
)
_HUB_SECONDS = 10
_KINDS = (
    "a path, a hub id, sample:NAME, a DataFrame, a list of dicts, a Dataset, a DatasetDict, "
    "or a dict of splits"
)


@dataclass(frozen=True)
class Part:
    """One split."""

    table: pa.Table
    origins: tuple[tuple[str, int], ...] = ()
    """The files that the rows came from, and how many from each; empty for rows in memory."""
    fingerprint: str | None = None
    """Names the content; None lets `datasets` compute it."""
    is_untyped: bool = False
    """Whether the source has no types, as csv: all cells are strings."""


def open_source(source: Source, *, needs_train: bool = True) -> dict[str, Part]:
    """The splits of `source` in the order train, validation, test; a single table is train.

    Raises DataError for what is missing, empty, broken or of an unknown kind.
    """
    parts = _open(source)
    if needs_train and "train" not in parts:
        raise _no_train(list(parts), file=str(source) if isinstance(source, (str, Path)) else None)
    return parts


def _open(source: Source) -> dict[str, Part]:
    if isinstance(source, str) and source.startswith(_SAMPLE):
        source = sample_folder(source.removeprefix(_SAMPLE))
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            return _open_folder(path)
        if path.exists():
            return {"train": _read_files([path])}
        name = str(source)
        if isinstance(source, Path) or _FILE_LIKE.search(name) or not _HUB_ID.fullmatch(name):
            raise files.missing_path(path)
        return _open_mapping(_load_from_hub(name))
    if isinstance(source, Mapping):
        return _open_mapping(source)
    return {"train": _open_rows(source, "train")}


def _open_folder(folder: Path) -> dict[str, Part]:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        try:
            saved = load_from_disk(str(folder))
        except Exception as error:
            raise DataError(
                f"the saved data set cannot be opened ({first_line(error)})",
                remedy="Write it anew with save_to_disk.",
                file=str(folder),
            ) from None
        return _open_mapping(saved if isinstance(saved, DatasetDict) else {"train": saved})
    return {split: _read_files(paths) for split, paths in files.find_splits(folder).items()}


def _open_mapping(source: Mapping[Any, Any]) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    unknown = []
    for name, rows in source.items():
        split = files.split_of(str(name))
        if split is None:
            unknown.append(str(name))
            continue
        if split in parts:
            raise DataError(
                f'two of the keys {", ".join(map(str, source))} are the split "{split}"',
                remedy="Keep one of them.",
            )
        parts[split] = _open_rows(rows, split)
    if not parts:
        raise _no_train(list(map(str, source)))
    if unknown:
        warnings.warn(
            f"left out: {', '.join(unknown)}, which is no train, validation or test split",
            FtkitWarning,
            stacklevel=4,
        )
    return {split: parts[split] for split in files.SPLITS if split in parts}


def _open_rows(rows: Any, split: str) -> Part:
    if isinstance(rows, (str, Path)):
        rows = [rows]
    if isinstance(rows, Dataset):
        table = memory.normalise(memory.table_from_dataset(rows), split=split)
        return Part(table, fingerprint=rows._fingerprint)
    if isinstance(rows, pd.DataFrame):
        return Part(memory.normalise(memory.table_from_frame(rows, split=split), split=split))
    if not isinstance(rows, (list, tuple)):
        raise DataError(
            f"data of type {type(rows).__name__} cannot be read",
            remedy=f"Give {_KINDS}.",
            split=split,
        )
    if rows and all(isinstance(row, (str, Path)) for row in rows):
        return _read_files([Path(row).expanduser() for row in rows])
    return Part(memory.normalise(memory.table_from_rows(rows, split=split), split=split))


def _read_files(paths: Sequence[Path]) -> Part:
    """One split from its shards."""
    tables = []
    for path in paths:
        if not path.exists():
            raise files.missing_path(path)
        tables.append(memory.normalise(files.read_file(path), file=str(path)))
    return Part(
        _join(tables, paths),
        tuple((str(path), table.num_rows) for path, table in zip(paths, tables, strict=True)),
        digest(*((path.resolve(), path.stat().st_mtime_ns, path.stat().st_size) for path in paths)),
        all(map(files.is_untyped, paths)),
    )


def _join(tables: Sequence[pa.Table], paths: Sequence[Path]) -> pa.Table:
    joined = tables[0]
    for table, path in zip(tables[1:], paths[1:], strict=True):
        try:
            _check_same_names(joined, table)
            joined = pa.concat_tables([joined, table], promote_options="permissive")
        except (pa.ArrowException, ValueError) as error:
            raise DataError(
                f"the columns do not go with those of {paths[0].name} ({first_line(error)})",
                remedy="Give the shards the same columns and types.",
                file=str(path),
            ) from None
    return joined


def _check_same_names(left: pa.Table, right: pa.Table) -> None:
    """Raises ValueError where class numbers of two tables stand for different names."""
    ours, theirs = memory.features_of(left), memory.features_of(right)
    for name in ours.keys() & theirs.keys():
        is_same_type = left.schema.field(name).type == right.schema.field(name).type
        if is_same_type and ours[name] != theirs[name]:
            raise ValueError(f'their column "{name}" numbers its classes in another way')


def _load_from_hub(name: str) -> Mapping[Any, Any]:
    folder = Path(config.HF_DATASETS_CACHE) / name.replace("/", "___")
    try:
        if not folder.exists():
            # Without a network load_dataset tries for half a minute before it says so.
            HfApi().dataset_info(name, timeout=_HUB_SECONDS)
        data = load_dataset(name)
    except Exception as error:
        close = files.missing_path(Path(name)).remedy
        hint = f" {close}" if close.startswith("Did you mean") else ""
        raise DataError(
            f'"{name}" is neither a path here nor a data set that the hub gives '
            f"({first_line(error)})",
            remedy=f"Check the spelling and the network; without one, give a path, or a bundled "
            f"sample such as sample:tickets.{hint}",
        ) from None
    return data if isinstance(data, Mapping) else {"train": data}


def _no_train(names: Sequence[str], file: str | None = None) -> DataError:
    return DataError(
        f"there is no train split among {', '.join(names[:8]) or 'no splits'}",
        remedy="Bring one called train; a table of columns goes in as a DataFrame or Dataset.",
        file=file,
    )


def keep_rows(part: Part, mask: Mask) -> Part:
    """The part's rows where `mask` is True. Filtering chunk by chunk has no 2 GiB limit."""
    return Part(
        part.table.filter(pa.array(mask)),
        fingerprint=part.fingerprint and digest(part.fingerprint, mask.tobytes()),
    )


def to_datasets(parts: Mapping[str, Part]) -> DatasetDict:
    """The parts as Datasets, over the same memory."""
    return DatasetDict(
        {
            split: Dataset(
                part.table,
                info=DatasetInfo(features=memory.features_of(part.table)),
                fingerprint=part.fingerprint,
            )
            for split, part in parts.items()
        }
    )


def digest(*parts: object) -> str:
    """16 hex digits, the same for the same parts on any run."""
    digested = hashlib.sha256()
    for part in parts:
        digested.update(part if isinstance(part, bytes) else str(part).encode())
        digested.update(b"\0")
    return digested.hexdigest()[:16]
