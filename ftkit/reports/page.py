"""The page itself: sections, tables and figures as one HTML document that needs nothing else.

Every text of the user's is escaped here. Imports `marks`, and reads the style beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

from ftkit.marks import cut

MOST_CELL = 300
"""Characters that a cell of a table shows."""


@dataclass
class Section:
    """A part of the page under one heading."""

    title: str
    parts: list[str] = field(default_factory=list)

    def add(self, *parts: str) -> None:
        """Append pieces of HTML; empty ones are left out."""
        self.parts += [part for part in parts if part]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return "".join(each if each.isalnum() else "-" for each in self.title.lower())

    def html(self) -> str:
        """The section."""
        body = "".join(self.parts)
        return f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>{body}</section>'


def text(content: str, kind: str = "") -> str:
    """A paragraph."""
    of = f' class="{kind}"' if kind else ""
    return f"<p{of}>{escape(content)}</p>"


def figure(svg: str, caption: str) -> str:
    """A figure and what to see in it."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def grid(*figures: str) -> str:
    """Figures side by side where there is room."""
    found = [each for each in figures if each]
    return f'<div class="grid">{"".join(found)}</div>' if found else ""


def details(summary: str, body: str) -> str:
    """Something to open."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def table(rows: Sequence[Mapping[str, object]], caption: str = "") -> str:
    """Rows under the names that any of them has; numbers stand to the right, long cells are cut."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        f"<tr>{''.join(_cell(row.get(name, '')) for name in names)}</tr>" for row in rows
    )
    named = escape(caption or "Table")
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{named}">'
        f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{escape(cut(str(value), MOST_CELL))}</td>"
    shown = f"{value:,}" if isinstance(value, int) else number(value)
    return f'<td class="number">{shown}</td>'


def number(value: float) -> str:
    """A score; a mean of nothing, which is none, as a dash."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def facts(pairs: Mapping[str, object]) -> str:
    """Names and values."""
    each = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in pairs.items()
    )
    return f'<dl class="facts">{each}</dl>'


def cards(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers: name, value, and a line beneath."""
    each = "".join(
        f'<div class="card"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="below">{escape(below)}</div></div>'
        for name, value, below in pairs
    )
    return f'<div class="cards">{each}</div>'


def style() -> str:
    """The style sheet, everything in it under the class "ftkit-report"."""
    return files("ftkit.reports").joinpath("report.css").read_text(encoding="utf-8")


def fragment(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The report for a notebook: a part of a page, with its own style."""
    links = "".join(f'<a href="#{each.anchor}">{escape(each.title)}</a>' for each in sections)
    body = "".join(each.html() for each in sections)
    return (
        f"<style>{style()}</style>"
        f'<div class="ftkit-report"><header><h1>{escape(title)}</h1>{lead}'
        f'<nav aria-label="Sections">{links}</nav></header><main>{body}</main></div>'
    )


def document(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The report as a page of its own."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing on the page may load or run anything, whatever the texts hold.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title></head>"
        f"<body>{fragment(title, lead, sections)}</body></html>"
    )
