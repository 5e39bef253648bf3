"""Where a job writes: a file, bit by bit, that takes its name when it is whole; or a pipe.

FILE.part         what is written so far
FILE.part.json    how much of it counts, and what the job is

A job that was stopped, by Ctrl-C, a kill, a full disk or a power cut, goes on behind the last piece
that counts. Imports `errors` and `locks`; the other rooms of `jobs` call it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from ftkit import __version__
from ftkit.errors import DataError, FtkitWarning, SettingError
from ftkit.jobs.formats import Format
from ftkit.locks import hold

_FORMAT = 1
_LIBRARIES = ("torch", "transformers", "tokenizers")


class Output(Protocol):
    """Where rows and their answers are written to."""

    rows: int
    """Rows written."""
    failed: int
    """Rows among them without an answer."""

    def add(self, data: bytes, rows: int, failed: int) -> None:
        """Write some rows, of which so many have no answer."""
        ...

    def finish(self, form: Format) -> None:
        """All rows are written."""
        ...

    def close(self) -> None:
        """No more rows come, whether all are written or not."""
        ...


class Direct:
    """Standard output, a pipe or a device: rows are gone as they come."""

    def __init__(self, path: str | None) -> None:
        """None is standard output."""
        self.rows = self.failed = 0
        # Unbuffered: what a full disk did not take must not be tried once more at the end.
        self._file = None if path is None else FileIO(path, "w")

    def add(self, data: bytes, rows: int, failed: int) -> None:
        """Write some rows, of which so many have no answer."""
        if self._file is not None:
            _write(self._file, data)
        elif (binary := getattr(sys.stdout, "buffer", None)) is not None:
            # Whatever the terminal's encoding is, as in a file.
            sys.stdout.flush()
            binary.write(data)
            binary.flush()
        else:
            sys.stdout.write(data.decode())
            sys.stdout.flush()
        self.rows += rows
        self.failed += failed

    def finish(self, form: Format) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Close what is not standard output."""
        if self._file is not None:
            self._file.close()


class PartFile:
    """The rows of a job in FILE.part; what `add` has taken is on the disk."""

    def __init__(self, output: Path, *, resume: bool) -> None:
        """Look for what a job that was stopped has left beside `output`.

        Raises SettingError where it left rows and `resume` does not say to go on with them, and
        where another file has that name.
        """
        # A link stays one: what it points to is replaced.
        self.output = Path(os.path.realpath(output))
        self.path = self.output.with_name(f"{self.output.name}.part")
        self._state_path = self.path.with_name(f"{self.path.name}.json")
        self._resume = resume
        self.rows = 0
        self.failed = 0
        """Rows without an answer."""
        self._bytes = 0
        self._file: FileIO | None = None
        self._look()

    def _look(self) -> None:
        """Read what a job that was stopped has left; raises SettingError as it began."""
        self._state = self._read_state()
        if self._state is None and self.path.exists() and self.path.stat().st_size:
            raise SettingError(
                f'"{self.path}" is in the way, and is no part of a job that can go on',
                remedy="Remove it, or give another --output.",
            )
        if self._has_rows and not self._resume:
            assert self._state is not None
            raise SettingError(
                f'"{self.path}" holds {self._state["rows"]:,} rows of a job that was stopped',
                remedy="Go on with it by --resume, or remove that file.",
            )

    @property
    def _has_rows(self) -> bool:
        """Whether there is something to go on with: a job on standard input cannot."""
        if self._state is None or not self.path.exists():
            return False
        return bool(self._state["rows"] and self._state["job"]["input"])

    def open(self, job: Mapping[str, Any]) -> None:
        """Begin, or go on; `job` is all that the answers depend on, as JSON.

        Raises SettingError where the job that was stopped is another one, and where another
        process is at it.
        """
        self._job = json.loads(json.dumps(job))
        file = FileIO(self.path, "a")
        try:
            hold(file.fileno(), self.path)
            # Another job may have come first while the input was read.
            self._look()
            if self._has_rows:
                self._go_on()
            else:
                # Before any row, so that the part is known to be ours.
                self._write_state()
            file.truncate(self._bytes)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _go_on(self) -> None:
        assert self._state is not None
        check_same(self._job, self._state["job"], self.path)
        self.rows, self.failed = self._state["rows"], self._state["failed"]
        self._bytes = self._state["bytes"]
        if self.path.stat().st_size < self._bytes:
            raise DataError(
                "rows that were written are missing",
                remedy=f'Remove "{self._state_path}" and begin anew.',
                file=str(self.path),
            )
        note_versions(self._state["versions"])

    def add(self, data: bytes, rows: int, failed: int) -> None:
        """Write some rows, of which so many have no answer; if that fails none of them count."""
        assert self._file is not None
        _write(self._file, data)
        os.fsync(self._file.fileno())
        before = self.rows, self.failed, self._bytes
        self.rows += rows
        self.failed += failed
        self._bytes += len(data)
        try:
            self._write_state()
        except BaseException:
            self.rows, self.failed, self._bytes = before
            raise

    def finish(self, form: Format) -> None:
        """Give the rows the name that was asked for."""
        assert self._file is not None
        self._file.close()
        form.assemble(self.path, self.output)
        self._state_path.unlink()
        self._file = None

    def close(self) -> None:
        """Leave the rows where they are; nothing stays of a job that has none."""
        if self._file is not None:
            self._file.close()
            if not self.rows:
                self.path.unlink()
                self._state_path.unlink()

    def describe(self) -> str | None:
        """Where the rows of a job are that was stopped, and how to go on; None without rows."""
        if self._file is None or not self.rows:
            return None
        how = ": the same command with --resume goes on" if self._job["input"] else ""
        return f'{self.rows:,} rows are in "{self.path}"{how}'

    def _write_state(self) -> None:
        state = {
            "format": _FORMAT,
            "rows": self.rows,
            "failed": self.failed,
            "bytes": self._bytes,
            "job": self._job,
            "versions": versions(),
        }
        partial = self._state_path.with_name(f"{self._state_path.name}.new")
        try:
            partial.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            partial.replace(self._state_path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _read_state(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text(encoding="utf-8"))
            return state if state["format"] == _FORMAT else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _write(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def digest(path: Path) -> str:
    """A hash of a file, or of all files of a folder with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(each for each in path.rglob("*") if each.is_file())
    named = [f"{each.relative_to(path)} {digest(each)}" for each in files]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def check_same(job: Mapping[str, Any], begun: Mapping[str, Any], place: Path) -> None:
    """Raises SettingError where a job is another one than that which began, and left `place`."""
    for name in sorted(begun.keys() | job.keys()):
        before, now = begun.get(name), job.get(name)
        if before != now:
            # A digest says nothing to a person.
            is_digest = name in ("input", "model")
            found = f"the {name} is another one than" if is_digest else f"{name} is {now}, not"
            was = "" if is_digest else f" {before}, as"
            raise SettingError(
                f'{found}{was} in the job that left "{place}"',
                remedy="Resume with the same, or remove it.",
            )


def note_versions(begun: Mapping[str, str]) -> None:
    """Warn where other versions of the libraries began the job."""
    now = versions()
    moved = [f"{name} was {then}" for name, then in begun.items() if then != now.get(name)]
    if moved:
        warnings.warn(
            f"other versions began this job ({', '.join(moved)}): scores may differ in their "
            "last digits",
            FtkitWarning,
            stacklevel=4,
        )


def versions() -> dict[str, str]:
    """Of what the answers depend on; an exported model needs no torch."""
    found = {"ftkit": __version__}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
