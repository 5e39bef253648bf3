"""Rows as a table, for a notebook or a terminal. Imports pandas only."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

import pandas as pd


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Show rows as an HTML table in a notebook, as text that fits the window elsewhere."""
    frame = pd.DataFrame(rows)
    if _is_notebook():
        from IPython.display import HTML, display

        display(HTML(frame.to_html(index=False)))
        return
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
    print(frame.to_string(index=False))


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _is_notebook() -> bool:
    return "ipykernel" in sys.modules
