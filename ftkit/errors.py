"""What ftkit says when a user's input cannot work: what was found, where, and how to mend it.

Imports nothing; every module may import it. Rows are counted from 1, a header line not counted.
"""

from __future__ import annotations

from collections.abc import Sequence


class FtkitError(Exception):
    """The base of everything that ftkit raises for a user's mistake."""

    def __init__(self, found: str, *, remedy: str) -> None:
        """`found` says what is wrong, without a closing full stop; `remedy` is a sentence.

        Both come out as one line, whatever names and cells of a stranger's file they repeat.
        """
        self.found, self.remedy = printable(found), printable(remedy)
        super().__init__(str(self))

    def __str__(self) -> str:
        # fastai puts its own words into the arguments of what a callback raises.
        return f"{self.found}. {self.remedy}"


class DataError(FtkitError):
    """The rows cannot be used: names the file or split, the row and the column where it can."""

    def __init__(
        self,
        found: str,
        *,
        remedy: str,
        file: str | None = None,
        split: str | None = None,
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        """`row` counts from 1, in `file` where that is given, else in `split`."""
        place = [
            file,
            f'split "{split}"' if split is not None and file is None else None,
            None if row is None else f"row {row}",
            None if column is None else f'column "{column}"',
        ]
        where = ", ".join(part for part in place if part is not None)
        super().__init__(f"{where}: {found}" if where else found, remedy=remedy)
        self.problem = found
        self.file, self.split, self.row, self.column = file, split, row, column

    def located(
        self,
        file: str | None = None,
        row: int | None = None,
        *,
        split: str | None = None,
        column: str | None = None,
    ) -> DataError:
        """The same error with another place, or more of it; what is None stays as it is."""
        return DataError(
            self.problem,
            remedy=self.remedy,
            file=self.file if file is None else file,
            split=self.split if split is None else split,
            row=self.row if row is None else row,
            column=self.column if column is None else column,
        )


class CheckpointError(FtkitError):
    """A checkpoint or bundle cannot be opened, or has no head for the task."""


class SettingError(FtkitError, ValueError):
    """An option has a value that cannot work."""


class TrainingError(FtkitError):
    """A training cannot go on, such as one whose loss is no number any more."""


class FtkitWarning(UserWarning):
    """Something that a user should know and that does not stop the work."""


def check_least(least: int, unit: str = "", **options: float | None) -> None:
    """Raises SettingError for the first option that is below `least`; None is left alone."""
    unit = f" {unit}" if unit else ""
    for name, value in options.items():
        if value is not None and value < least:
            raise SettingError(f"{name} is {value}{unit}", remedy=f"Give {least} or more{unit}.")


def quoted(names: Sequence[str], most: int = 12) -> str:
    """Names in quotes for a message, no more than `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f'"{printable(str(name))}"' for name in names[:most]) + more


def describe_rows(
    split: str, column: str, rows: Sequence[int], total: int, what: str, most: int = 3
) -> str:
    """A warning's sentence on some of a split's rows: how many are `what`, and the first ones."""
    shown = ", ".join(f"{row:,}" for row in rows[:most]) + (", ..." if len(rows) > most else "")
    place = f'split "{split}", column "{column}"'
    return f"{place}: {len(rows):,} of {total:,} {what} (row {shown})"


def unfit_value(
    value: object,
    wanted: str,
    row: int | None,
    column: str,
    remedy: str = "Fill it in, or drop the row.",
) -> DataError:
    """The error for a cell that holds something else than what is wanted there."""
    found = "nothing" if value is None else repr(value)[:60]
    return DataError(
        f"found {found} where {wanted} should be", remedy=remedy, row=row, column=column
    )


def first_line(error: BaseException, most: int = 160) -> str:
    """What another library's error says, as one line for a message; its type if it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = printable(lines[0].rstrip("."))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def printable(text: str) -> str:
    """A line without what would move the cursor: files and rows are a stranger's words."""
    return "".join(each if each.isprintable() else "?" for each in text)
