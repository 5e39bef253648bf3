"""How far a job is, and which rows had no answer, for a person at a terminal or in a log.

Imports tqdm and `errors`; the jobs call it.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable

from tqdm.auto import tqdm

from ftkit.errors import DataError, FtkitWarning

_MOST_SAID = 20  # rows without an answer that are told one by one
_SECONDS = 10  # between two lines


class Progress:
    """A bar in a terminal; elsewhere a line now and then, and none where the work is short."""

    def __init__(self, total: int | None, done: int, *, is_quiet: bool = False) -> None:
        """`total` rows, if that is known, of which `done` were answered by an earlier run."""
        self._total, self._done, self._begun = total, done, done
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._is_quiet, hides_bar = is_quiet, is_quiet or not is_terminal
        self._bar = tqdm(total=total, initial=done, unit=" rows", disable=hides_bar)
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, rows: int) -> None:
        """So many rows more are written."""
        self._done += rows
        self._bar.update(rows)
        now = time.monotonic()
        if self._bar.disable and not self._is_quiet and now - self._last > _SECONDS:
            self._last = now
            of_all = "" if self._total is None else f" of {self._total:,}"
            rate = (self._done - self._begun) / (now - self._start)
            print(f"{self._done:,}{of_all} rows, {rate:,.0f} rows/s", file=sys.stderr)

    def report(self, errors: Iterable[DataError], before: int) -> None:
        """Say the first errors of a job, of which so many were met before."""
        with tqdm.external_write_mode(file=sys.stderr):
            for number, error in enumerate(errors, start=before + 1):
                if number <= _MOST_SAID:
                    warnings.warn(str(error), FtkitWarning, stacklevel=3)
                elif number == _MOST_SAID + 1:
                    said = "further rows that cannot be read are counted, and not told one by one"
                    warnings.warn(said, FtkitWarning, stacklevel=3)
