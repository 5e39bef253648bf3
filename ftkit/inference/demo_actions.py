"""What the buttons of the page of `demo` do: answer a row or a file, explain, fill in an example.

Whatever goes wrong is said in one line of the page. Imports `pictures`; `demo` builds the page
around it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ftkit.errors import DataError, FtkitError, first_line, quoted
from ftkit.inference.explain import EXPLAINED
from ftkit.inference.explanation import Method
from ftkit.inference.pictures import flat, picture, table, write_csv
from ftkit.inference.predictor import Predictor
from ftkit.task import Task

Read = Callable[[Path, Task], list[dict[str, Any]]]
"""Rows of a data file, under the task's names of the columns."""

_MOST_CHARACTERS = 50_000  # of a text
_MOST_ROWS = 2_000  # of a file
_MOST_SHOWN = 50  # of them in the table
MOST_MEGABYTES = 20  # of a file


def label_of(name: str) -> str:
    """What the page calls a text of a row."""
    return "Second text" if name == "text_pair" else name.capitalize()


def paragraph(text: str) -> str:
    """A text as HTML."""
    return f"<p>{escape(text)}</p>"


def _error(text: str) -> str:
    return f'<p class="ftkit-error" role="alert">{escape(text)}</p>'


class Actions:
    """What the page's buttons do: each method gives values of components of gradio."""

    def __init__(self, model: Predictor, read: Read, files: Path) -> None:
        self._model, self._read, self._files = model, read, files
        texts = [column for column in model.task.columns() if column.kind == "text"]
        self.fields = tuple((each.name, each is texts[0] or each.is_required) for each in texts)
        """The texts of a row, and whether it needs them."""

    def wanted(self) -> str:
        """What a file must have."""
        columns = quoted([name for name, is_needed in self.fields if is_needed])
        return (
            f"A csv, tsv, jsonl or parquet file with {'columns' if ',' in columns else 'a column'} "
            f"{columns}, of at most {_MOST_ROWS:,} rows and {MOST_MEGABYTES} MB."
        )

    def example(self, row: Any) -> Any:
        """The texts of a row, one for each field."""
        values = row if isinstance(row, dict) else {self.fields[0][0]: row}
        texts = [values.get(name, "") for name, _ in self.fields]
        return texts if len(texts) > 1 else texts[0]

    def answer(self, *texts: str | None) -> tuple[str, Any, str]:
        """The answer to a row as a picture; whether it can be explained; no explanation yet."""
        import gradio as gr

        try:
            row = self._row(texts)
            prediction = self._model.predict([row])[0]
            found = flat(prediction)
            # Where there is no entity or no answer, there is nothing to explain.
            is_empty = "" in (found.get("entities"), found.get("answer"))
            has_why = self._model.task.name in EXPLAINED and not is_empty
            return picture(prediction, row), gr.update(visible=has_why), ""
        except Exception as error:
            return _error(_line(error)), gr.update(visible=False), ""

    def explain(self, *texts: str | None) -> str:
        """The words that speak for the answer, in colours."""
        try:
            has_captum = importlib.util.find_spec("captum") is not None
            method: Method | None = None if has_captum else "occlusion"
            found = self._model.explain(self._row(texts), method=method)
            told = f"Blue words speak for “{found.label}”, orange ones against it."
            return paragraph(told) + found.to_html()
        except Exception as error:
            return _error(_line(error))

    def answer_file(self, path: str) -> tuple[str, Any]:
        """The answers to a file's rows as a table, and as a file."""
        import gradio as gr

        try:
            rows = self._rows(Path(path))
            texts = [{name: row[name] for name, _ in self.fields if name in row} for row in rows]
            answers = self._model.predict(texts, progress=False)
            answered = _beside(rows, [flat(each) for each in answers])
            file = self._files / f"answers-{os.urandom(8).hex()}.csv"
            write_csv(answered, file)
            more = f", the first {_MOST_SHOWN} of them here" if len(rows) > _MOST_SHOWN else ""
            told = paragraph(f"{len(rows):,} rows answered{more}.")
            return told + table(answered[:_MOST_SHOWN]), gr.update(value=file, visible=True)
        except Exception as error:
            return _error(_line(error)), gr.update(visible=False)

    def _row(self, texts: Sequence[str | None]) -> dict[str, str]:
        """The row of what was typed, None in a field that was never seen.

        Raises DataError where a text is missing or too long.
        """
        row = {}
        for (name, is_needed), text in zip(self.fields, texts, strict=True):
            if text and text.strip():
                row[name] = text
            elif is_needed:
                raise DataError(f"{label_of(name)} is empty", remedy="Type something into it.")
        self._check_lengths([row])
        return row

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        """The rows of an uploaded file, which is deleted."""
        try:
            rows = self._read(path, self._model.task)
        except DataError as error:
            # Where the file stands here, and options of the command line, are nothing to a reader.
            is_unknown = "--columns" in error.remedy
            raise DataError(
                error.problem,
                remedy="Rename the column in the file." if is_unknown else error.remedy,
                file=path.name,
                row=error.row,
                column=error.column,
            ) from None
        finally:
            path.unlink(missing_ok=True)
        if len(rows) > _MOST_ROWS:
            raise DataError(
                f"the file has {len(rows):,} rows, and {_MOST_ROWS:,} at most are answered here",
                remedy="Use `ftkit predict` for it.",
            )
        self._check_lengths(rows)
        return rows

    def _check_lengths(self, rows: Sequence[dict[str, Any]]) -> None:
        for number, row in enumerate(rows, start=1):
            for name, _ in self.fields:
                if len(row.get(name) or "") > _MOST_CHARACTERS:
                    raise DataError(
                        f"the text has {len(row[name]):,} characters, and {_MOST_CHARACTERS:,} at "
                        "most are read here",
                        remedy="Shorten it, or use `ftkit predict`.",
                        row=number if len(rows) > 1 else None,
                        column=name if len(self.fields) > 1 else None,
                    )


def _beside(
    rows: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows with their answers, under names that the rows do not have."""
    names = {}
    for name in answers[0]:
        names[name] = name
        while names[name] in rows[0]:
            names[name] = f"predicted_{names[name]}"
    return [
        row | {names[name]: value for name, value in answer.items()}
        for row, answer in zip(rows, answers, strict=True)
    ]


def _line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, FtkitError):
        return str(error)
    return f"The model failed ({type(error).__name__}: {first_line(error)})."
