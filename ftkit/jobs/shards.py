"""Parquet files -> shards, answered one by one: in any order, on any machine, each once.

    FILE.parquet --plan_shards--> Shard --answer_shard--> OUTPUT/FILE-00000.parquet
    OUTPUT/_job.json  what the job is, so that no other one goes on with it

A shard takes its name when it is whole: a job that was stopped goes on with those that lack. Rows
are answered as by `jobs.predict`; no more than a piece of them and a row group of answers is held.
Imports `data` and the other rooms of `jobs`; the recipe `predict_many.py` calls it.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.data.files import missing_path
from ftkit.data.pieces import open_parquet
from ftkit.errors import DataError, SettingError, check_least
from ftkit.inference import Predictor, load_model
from ftkit.jobs.formats import Columns, write_groups
from ftkit.jobs.output import check_same, note_versions, versions
from ftkit.jobs.predict import PredictJob, answer_piece, describe, find_texts, reasons

_JOB = "_job.json"  # what reads a folder of Parquet files passes over names that begin so


@dataclass(frozen=True)
class Shard:
    """Consecutive row groups of a file."""

    file: str
    first: int
    """Number of the first row group, from 0."""
    end: int
    """Number of the row group behind the last."""
    rows: int
    output: str
    """The file of its answers."""

    @property
    def is_done(self) -> bool:
        """Whether its answers are there."""
        return Path(self.output).exists()


def plan_shards(job: PredictJob, output: Path, rows: int) -> list[Shard]:
    """The shards of `job.input`: a folder of .parquet files, one file, or a pattern of such files,
    as "rows/**/*.parquet". A shard is as many row groups as hold `rows` rows; they stay whole.

    Begins the job in the folder `output`, or goes on with it where `job.resume` says so. Files keep
    their folders there. All files are looked at first, by their ends alone.

    Raises DataError for a file that is no Parquet or lacks a column, and where no row is found;
    SettingError for options that cannot work, and where `output` is not this job's.
    """
    check_least(1, rows=rows)
    output = output.expanduser().absolute()
    files = _find_files(job.input, output)
    model = load_model(job.model, precision=job.precision)
    model.predict([model.task.example], **job.answering)
    shards = []
    for name, file in files.items():
        source = open_parquet(file)
        if not source.total:
            continue
        find_texts(job, source, model.task)
        for number, (first, end) in enumerate(_together(source.groups, rows)):
            answers = output / f"{name.removesuffix('.parquet')}-{number:05d}.parquet"
            size = sum(source.groups[first:end])
            shards.append(Shard(str(file), first, end, size, str(answers)))
    if not shards:
        raise DataError("the files have no rows", remedy="Write rows to them.", file=job.input)
    # Reading a billion rows for their digest takes long: as rsync, trust in sizes and times.
    stats = {name: file.stat() for name, file in files.items()}
    listed = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]
    seen = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    _begin({**describe(job, seen), "shard_rows": rows}, output, resume=job.resume)
    return shards


def answer_shard(job: PredictJob, model: Predictor, shard: Shard) -> int:
    """Write the answers to a shard's rows; returns how many rows have none.

    Where two do so at the same time, one of them wins, and nothing is mixed.

    Raises DataError for a file that is damaged or has changed, OSError where it cannot be written.
    """
    source = open_parquet(Path(shard.file), range(shard.first, shard.end))
    if source.total != shard.rows:
        raise DataError(
            "the file has changed since the job began",
            remedy="Begin anew, with another output.",
            file=shard.file,
        )
    found = find_texts(job, source, model.task)
    (example,) = model.predict([model.task.example], **job.answering)
    form = Columns.of(source, type(example))
    output, failed = Path(shard.output), 0
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        with write_groups(partial, form.schema) as add:
            for piece in job.pieces_of(source, model.task):
                answers, errors = answer_piece(job, model, piece, source, found)
                add(form.table(piece, answers, reasons(errors)))
                failed += len(errors)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return failed


def remove_partial(shards: Sequence[Shard]) -> None:
    """Remove what killed workers left, once all shards are done."""
    for folder in {Path(shard.output).parent for shard in shards}:
        for partial in folder.glob(".*.parquet.*"):
            partial.unlink(missing_ok=True)


def _find_files(source: str, output: Path) -> dict[str, Path]:
    """The .parquet files of a folder or a pattern, by their names below it, without what is in
    `output`, and what is hidden.
    """
    path = Path(source).expanduser().absolute()
    if path.is_dir():
        root, pattern = path, "**/*.parquet"
    elif path.is_file():
        root, pattern = path.parent, glob.escape(path.name)
    else:
        plain = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
        root = Path(*plain)
        pattern = str(path.relative_to(root))
        if pattern == ".":
            raise missing_path(path)
    files = {
        str(file.relative_to(root)): file
        for file in sorted(root.glob(pattern))
        if file.suffix == ".parquet" and file.is_file()
    }
    read = {
        name: file
        for name, file in files.items()
        if not any(part.startswith((".", "_")) for part in Path(name).parts)
        and output.resolve() not in file.resolve().parents
    }
    if not read:
        found = "all of them are in the output's folder" if files else "no .parquet file is there"
        raise DataError(
            found, remedy="Give a folder of them, or a pattern such as rows/*.parquet.", file=source
        )
    return read


def _together(sizes: Sequence[int], rows: int) -> Iterator[tuple[int, int]]:
    """Consecutive row groups that have so many rows together, the last ones of a file fewer."""
    first = held = 0
    for end, size in enumerate(sizes, start=1):
        held += size
        if held >= rows or (held and end == len(sizes)):
            yield first, end
            first, held = end, 0


def _begin(job: dict[str, Any], output: Path, *, resume: bool) -> None:
    """Write down what the job is, or check that it is the one that began."""
    path = output / _JOB
    if next(output.rglob("*.parquet"), None) is None:
        output.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        partial.write_text(json.dumps({"job": job, "versions": versions()}, indent=2) + "\n")
        partial.replace(path)
        return
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        raise SettingError(
            f'"{output}" has files, and none that says of which job they are',
            remedy="Give another folder.",
        ) from None
    if not resume:
        raise SettingError(
            f'"{output}" has answers already', remedy="Go on by --resume, or give another folder."
        )
    check_same(json.loads(json.dumps(job)), state["job"], output)
    note_versions(state["versions"])
