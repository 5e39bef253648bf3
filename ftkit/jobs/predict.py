"""A file of rows -> a file with their answers: what `ftkit predict` does.

    source --pieces--> rows --Predictor.stream--> answers --Format--> FILE.part --> FILE

No more than a piece of rows is held, and a piece is answered by itself: a job that was stopped
and goes on writes the bytes that it would have written. Imports `data`, `inference` and the other
rooms of `jobs`; the command line calls it.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.data.columns import ColumnMap
from ftkit.data.files import find_splits
from ftkit.data.pieces import (
    Piece,
    RowSource,
    find_inputs,
    open_lines,
    open_rows,
    warn_of_blanks,
)
from ftkit.errors import DataError, FtkitWarning, SettingError, quoted
from ftkit.inference import Predictor, load_model
from ftkit.jobs.formats import ERROR, PREDICTION, Columns, Format, JsonLines
from ftkit.jobs.output import Direct, Output, PartFile, digest
from ftkit.jobs.progress import Progress
from ftkit.task import Prediction, Task
from ftkit.tasks import with_options

if TYPE_CHECKING:
    # It imports torch, and an exported model answers without.
    from ftkit.model.device import Precision

STANDARD_INPUT = "-"
# Batches that are sorted by length, answered and written together; fewer where each takes long.
_BATCHES, _BATCHES_GENERATED = 32, 8


@dataclass(frozen=True)
class PredictJob:
    """What a job is made of: the options of `ftkit predict`."""

    model: str
    input: str
    """A file, another source of `load_data`, or "-" for lines of standard input."""
    output: str | None = None
    """FILE.jsonl or FILE.parquet; None is lines on standard output."""
    columns: ColumnMap | None = None
    top_k: int | None = None
    batch_size: int = 32
    """Windows; rows are read, answered and written 32 batches at once, of generated texts 8."""
    precision: Precision = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task for this job: those in `task.settings`."""
    strict: bool = False
    """Whether the first row without an answer ends the job."""
    resume: bool = False
    """Whether to go on with a job that was stopped, if there is one."""

    @property
    def answering(self) -> dict[str, Any]:
        """The settings of a call of the predictor."""
        return {"top_k": self.top_k, "batch_size": self.batch_size, **self.options}

    def pieces_of(self, source: RowSource, task: Task) -> Iterator[Piece]:
        """The rows that are read, answered and written together."""
        batches = _BATCHES_GENERATED if task.generates else _BATCHES
        return source.pieces(batches * self.batch_size)


@dataclass(frozen=True)
class Done:
    """What became of a job."""

    rows: int
    failed: int
    """Rows without an answer."""
    seconds: float
    """What reading, answering and writing took, since it went on."""
    rows_a_second: float


def predict(job: PredictJob) -> Done:
    """Answer the rows of a source, in their order, and write them with their answers.

    A row that cannot be read has no answer: a warning says why, 20 times at most, and so does
    its column "prediction_error". Rows are on the disk piece by piece; FILE takes its name when
    it is whole.

    Raises DataError for a source that cannot be read and, where `strict`, for the first row that
    cannot, or in the end where no row could; SettingError for options that cannot work and for a
    part that is not this job's; OSError where nothing can be written. After any of these, what
    was written stays, and `resume` goes on with it.
    """
    part = _check_output(job)
    model = load_model(job.model, precision=job.precision)
    source = _open(job, model)
    if source.blank:
        warn_of_blanks(source.blank)
    found = find_texts(job, source, model.task)
    _check_options(model.task, job.options)
    # Counts that cannot work are met here, before anything is written.
    (example,) = model.predict([model.task.example], **job.answering)
    is_parquet = part is not None and part.output.suffix == ".parquet"
    form: Format = Columns.of(source, type(example)) if is_parquet else JsonLines()
    sink: Output = part or Direct(job.output)
    start = time.monotonic()
    with ExitStack() as stack:
        stack.callback(sink.close)
        path = Path(source.name)
        stamp = _stamp(path)
        if part is not None:
            part.open(describe(job, digest(path) if stamp else None))
            stack.push(lambda kind, *_: _say_where(part) if kind is not None else None)
        before = sink.rows
        # Lines that somebody reads as they come tell how far it is.
        is_read = job.output is None and sys.stdout.isatty()
        progress = stack.enter_context(Progress(source.total, before, is_quiet=is_read))
        for piece in job.pieces_of(source, model.task):
            if piece.first < before:
                continue
            answers, errors = answer_piece(job, model, piece, source, found)
            progress.report(errors.values(), sink.failed)
            sink.add(form.encode(piece, answers, reasons(errors)), len(piece), len(errors))
            progress.advance(len(piece))
        if _stamp(path) != stamp:
            raise DataError(
                "the file changed while it was read, so that some answers may be of other rows",
                remedy="Remove what was written, and begin anew when nothing writes to it.",
                file=source.name,
            )
        sink.finish(form)
    seconds = time.monotonic() - start
    if sink.failed:
        said = f"{sink.failed:,} of {sink.rows:,} rows could not be read and have no answer"
        if sink.failed == sink.rows:
            raise DataError(said, remedy="See prediction_error.", file=source.name)
        warnings.warn(said, FtkitWarning, stacklevel=2)
    rate = (sink.rows - before) / max(seconds, 1e-9)
    return Done(sink.rows, sink.failed, seconds, rate)


def _check_options(task: Task, options: Mapping[str, Any]) -> None:
    if unknown := [name for name in options if name not in task.settings]:
        raise SettingError(
            f"a model for {task.name} has no setting {quoted(unknown)}",
            remedy=f"It has {quoted(task.settings)}." if task.settings else "It has none.",
        )
    with_options(task, options)


def find_texts(job: PredictJob, source: RowSource, task: Task) -> dict[str, str]:
    """The user's column for each that the task's model reads.

    Raises DataError for one that is missing, and for one that has the name of the answers.
    """
    for name in (PREDICTION, ERROR):
        if source.schema is not None and name in source.schema.names:
            raise _taken(source, name)
    return find_inputs(source, task, job.columns)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells that a file was written to: its size and time; None of what is no file."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def answer_piece(
    job: PredictJob, model: Predictor, piece: Piece, source: RowSource, found: Mapping[str, str]
) -> tuple[list[Prediction | None], dict[int, DataError]]:
    """Answers of a piece, in its order, and by place why there are none; `found` is what
    `find_texts` gave.

    Raises DataError for the first row without an answer, where the job is strict.
    """
    errors: dict[int, DataError] = {}

    def note(place: int, error: DataError) -> None:
        column = found.get(error.column or "", error.column)
        errors[place] = error.located(source.name, piece.first + place + 1, column=column)
        if job.strict:
            raise errors[place]

    for place, error in piece.errors.items():
        note(place, error)
    rows = piece.rows(found.values())
    if source.schema is None:
        for name in (PREDICTION, ERROR):
            if any(name in row for row in rows):
                raise _taken(source, name)
    places = [place for place in range(len(piece)) if place not in errors]
    inputs = [
        {name: row[theirs] for name, theirs in found.items() if theirs in row}
        for row in (rows[place] for place in places)
    ]
    answers: list[Prediction | None] = [None] * len(piece)
    stream = model.stream(
        inputs,
        on_error=lambda error: note(places[(error.row or 1) - 1], error),
        progress=False,
        **job.answering,
    )
    for place, answer in zip(places, stream, strict=True):
        answers[place] = answer
    return answers, dict(sorted(errors.items()))


def reasons(errors: Mapping[int, DataError]) -> dict[int, str]:
    """Why rows have no answer, without their places, which their own places tell."""
    return {
        place: f'column "{error.column}": {error.problem}' if error.column else error.problem
        for place, error in errors.items()
    }


def _taken(source: RowSource, name: str) -> DataError:
    return DataError(
        "the answers are written under this name",
        remedy="Rename the column.",
        file=source.name,
        column=name,
    )


def _open(job: PredictJob, model: Predictor) -> RowSource:
    if job.input != STANDARD_INPUT:
        return open_rows(job.input, model.task)
    lines: Iterable[bytes] = ()
    if sys.stdin is not None:
        own = getattr(sys.stdin, "buffer", None)
        lines = (line.encode() for line in sys.stdin) if own is None else own
    is_awaited = sys.stdin is not None and sys.stdin.isatty()
    return open_lines(lines, model.task, is_awaited=is_awaited)


# Output


def _check_output(job: PredictJob) -> PartFile | None:
    """The part of a file that is asked for; None where rows go to a pipe or a device."""
    source = Path(job.input).expanduser()
    is_path = job.input != STANDARD_INPUT
    is_file, is_folder = is_path and source.is_file(), is_path and source.is_dir()
    if job.resume and (job.output is None or not is_file):
        raise SettingError(
            "--resume goes on with a file of rows and a file of answers",
            remedy="Give a file as INPUT, and --output FILE.",
        )
    if job.output is None:
        if sys.stdout is None:
            raise SettingError("standard output is closed", remedy="Give --output FILE.")
        return None
    output = Path(job.output)
    if output.exists() and not output.is_file() and not output.is_dir():
        return None
    if output.is_dir():
        raise SettingError(f'--output "{output}" is a folder', remedy="Name a file in it.")
    if not output.parent.is_dir():
        raise SettingError(
            f'the folder "{output.parent}" for --output does not exist', remedy="Make it first."
        )
    if output.suffix not in (".jsonl", ".parquet"):
        raise SettingError(
            f'--output ends in "{output.suffix}"', remedy="Give FILE.jsonl or FILE.parquet."
        )
    if is_file and output.exists() and output.samefile(source):
        raise SettingError("--output is the file that is read", remedy="Give another name.")
    splits = find_splits(source) if is_folder and output.exists() else {}
    if any(output.samefile(file) for files in splits.values() for file in files):
        raise SettingError(
            "--output is a file of the folder that is read", remedy="Give another name."
        )
    return PartFile(output, resume=job.resume)


def describe(job: PredictJob, source: str | None) -> dict[str, Any]:
    """All that the answers depend on; `source` is a digest of what is read, None where it cannot
    be read again.
    """
    return {
        "input": source,
        "model": digest(Path(job.model)),
        "columns": job.columns and dict(job.columns),
        "top_k": job.top_k,
        "batch_size": job.batch_size,
        "precision": job.precision,
        "options": dict(job.options),
    }


def _say_where(part: PartFile) -> None:
    if (said := part.describe()) is not None:
        warnings.warn(said, FtkitWarning, stacklevel=4)
