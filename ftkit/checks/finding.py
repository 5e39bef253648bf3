"""What a check says: findings, with rows to look at, and the splits that they were made in.

Imports `errors`, `features`, `marks` and `task`; the other files of `checks` make findings through
`SplitRows.find`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftkit.errors import DataError
from ftkit.features import named_labels
from ftkit.marks import cut
from ftkit.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

Level: TypeAlias = Literal["error", "warning", "note"]
"""A training would fail or its scores would lie; something to mend; something to know."""

LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_EXAMPLES = 3
_SHOWN = 120  # characters of a text that an example shows
_BREAK = pa.scalar("\n", pa.large_string())


@dataclass(frozen=True)
class Example:
    """A row to look at."""

    split: str
    """The split of the user's data that it stands in."""
    row: int
    """Its number there, from 1."""
    text: str
    """What it says, in one line, cut."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    level: Level
    name: str
    """What was looked for, such as "duplicate_rows": the same in all versions."""
    message: str
    """A sentence without its full stop."""
    remedy: str
    """A sentence."""
    count: int | None = None
    """Rows (or what the message counts) that have it; None where it is not of rows."""
    of: int | None = None
    """Of how many."""
    split: str | None = None
    column: str | None = None
    examples: tuple[Example, ...] = ()
    """The first rows that have it, three at most."""

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return {**asdict(self), "examples": [asdict(each) for each in self.examples]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Finding:
        """The finding that `to_dict` wrote."""
        examples = tuple(Example(**each) for each in content["examples"])
        return cls(**{**content, "examples": examples})


def refused(error: DataError, name: str = "unusable_data") -> Finding:
    """The finding of what `load_data` refuses."""
    rows = () if error.row is None else (Example(error.split or "", error.row, ""),)
    said = error.problem if error.file is None else f"{Path(error.file).name}: {error.problem}"
    return Finding(
        "error", name, said, error.remedy, split=error.split, column=error.column, examples=rows
    )


@dataclass(frozen=True)
class SplitRows:
    """A split as the checks read it, under the task's names of the columns."""

    name: str
    rows: Dataset
    task: Task
    numbers: np.ndarray
    """The number of each row in the user's own data, from 1: (rows,)."""
    origin: str
    """The user's split that the rows come from: train, for a validation split held out of it."""
    unreadable: int = 0
    """Rows that were left out, because no training can read them."""
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What several checks need and one of them made."""

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column; texts of any size stand in one chunk."""
        values = self.rows.select_columns(name).with_format("arrow")[:].column(0)
        if pa.types.is_string(values.type):
            values = values.cast(pa.large_string())
        return pa.chunked_array([values.combine_chunks()])

    def listed(self, *names: str) -> list[tuple[Any, ...]]:
        """The values of some columns, a tuple a row, class numbers as names."""
        chosen = self.rows.select_columns(list(names))
        columns = named_labels(chosen[:], chosen.features)
        return list(zip(*(columns[name] for name in names), strict=True))

    @property
    def inputs(self) -> list[str]:
        """The columns that the model reads."""
        found = [column for column in self.task.columns() if column.is_input]
        return [column.name for column in found if column.name in self.rows.column_names]

    @property
    def texts(self) -> pa.Array:
        """What the model reads of each row: its texts, a line break between them; "" for none."""
        if "texts" not in self.cache:
            self.cache["texts"] = self._join_texts()
        found: pa.Array = self.cache["texts"]
        return found

    def _join_texts(self) -> pa.Array:
        parts = []
        for name in self.inputs:
            values = self.column(name).chunk(0)
            if not pa.types.is_large_string(values.type):
                kind = values.type
                is_words = pa.types.is_list(kind) or pa.types.is_large_list(kind)
                if not is_words or not pa.types.is_string(kind.value_type):
                    continue
                values = pc.binary_join(values, " ").cast(pa.large_string())
            parts.append(pc.fill_null(values, ""))
        if not parts:
            return pa.array([""] * len(self), pa.large_string())
        return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _BREAK)

    def example(self, place: int, text: str | None = None) -> Example:
        """The row at that place, counted from 0."""
        whole = self.texts[place].as_py() if text is None else text
        line = " ".join(whole[: 4 * _SHOWN].split())
        return Example(self.origin, int(self.numbers[place]), cut(line, _SHOWN))

    def find(
        self,
        level: Level,
        name: str,
        where: Any,
        message: str,
        remedy: str,
        *,
        column: str | None = None,
        shown: Mapping[int, str] | None = None,
    ) -> list[Finding]:
        """The finding of the rows for which `where` (rows,) is true; none where there is no such.

        In `message`, {count} and {of} are filled in. `shown` are the examples, by place, and what
        is to be read there; without it the first rows.
        """
        places = np.flatnonzero(np.asarray(where))
        if not len(places):
            return []
        chosen = {int(place): None for place in places[:_EXAMPLES]} if shown is None else shown
        examples = tuple(self.example(*each) for each in list(chosen.items())[:_EXAMPLES])
        filled = message.replace("{count}", f"{len(places):,}").replace("{of}", f"{len(self):,}")
        return [
            Finding(
                level, name, filled, remedy, len(places), len(self), self.name, column, examples
            )
        ]
