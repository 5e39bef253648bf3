"""Rows as a table, for a notebook or a terminal.

Imports `html`, `marks`, pandas and, in a notebook, IPython.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

import pandas as pd

from ftkit.html import table
from ftkit.marks import cut

_MOST_CELL = 320  # characters of a cell that a notebook shows


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Show rows as an HTML table in a notebook, as text that fits the window elsewhere."""
    printed = _as_text(rows)
    if not is_notebook():
        print(printed)
        return
    from IPython.display import display

    shown = {"text/html": table(rows, _MOST_CELL), "text/plain": printed}
    display(shown, raw=True)  # type: ignore[no-untyped-call]


def _as_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows in columns, those of texts as wide as the window allows."""
    frame = pd.DataFrame(rows)
    width = shutil.get_terminal_size((120, 40)).columns
    others = sum(
        min(40, max([len(str(value)) for value in frame[name]] + [len(name)])) + 2
        for name in frame.columns
        if not name.startswith("text")
    )
    texts = max(1, sum(name.startswith("text") for name in frame.columns))
    room = max(30, (width - others) // texts - 2)
    for name in frame.columns:
        most = room if name.startswith("text") else 40
        frame[name] = [_shortened(str(value), most) for value in frame[name]]
    return frame.to_string(index=False)


def _shortened(text: str, most: int) -> str:
    return cut(" ".join(text.split()), most)


def is_notebook() -> bool:
    """Whether what is displayed goes to a notebook, or to another client of a kernel."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")
