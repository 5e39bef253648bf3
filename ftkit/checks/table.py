"""A check as a table: plain text for a terminal, HTML for a notebook.

Imports `errors` and `html`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ftkit.errors import printable
from ftkit.html import table

_WIDTH = 100
_BARS = " ▁▂▃▄▅▆▇█"
_NAMED = 5
_HEAD = ("split", "rows", "left out", "median", "p95", "longest", "cut", "lengths", "languages")


def as_text(check: Mapping[str, Any]) -> str:
    """The splits, the findings with their rows, the estimate and how it was looked."""
    name = check["checkpoint"]
    lines = [f"{check['task']}{f' with {name}' if name else ''}: {_summary(check)}", ""]
    rows = [_split_cells(split) for split in check["splits"]]
    if rows:
        lines += [*_aligned([_HEAD, *rows]), ""]
    for split in check["splits"]:
        if split["labels"]:
            lines += _wrapped(f"{split['name']}: {_labels(split['labels'])}", "  ")
    if any(split["labels"] for split in check["splits"]):
        lines.append("")
    for finding in check["findings"]:
        lines += _wrapped(f"{finding['level']:<8} {_said(finding)}. {finding['remedy']}", " " * 9)
        lines += [f"{'':9}{printable(_place(each))}" for each in finding["examples"]]
    if check["findings"]:
        lines.append("")
    if check["estimate"]:
        lines += _wrapped(_estimate(check["estimate"]), "  ")
    for note in check["notes"]:
        lines += _wrapped(note, "  ")
    return "\n".join(lines).rstrip()


def as_html(check: Mapping[str, Any]) -> str:
    """The same in short: the splits and the findings."""
    rows = [dict(zip(_HEAD, _split_cells(split), strict=True)) for split in check["splits"]]
    found = "".join(
        f"<li><b>{escape(finding['level'])}</b> {escape(_said(finding))}. "
        f"{escape(finding['remedy'])}"
        + "".join(f"<br><code>{escape(_place(each))}</code>" for each in finding["examples"])
        + "</li>"
        for finding in check["findings"]
    )
    return (
        f"<p>{escape(check['task'])}: {escape(_summary(check))}</p>"
        f"{table(rows, _WIDTH)}<ul>{found}</ul>"
    )


def compact(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a finding, for the log of a run."""
    lines = []
    for finding in findings:
        rows = ", ".join(f"{each['split']} row {each['row']:,}" for each in finding["examples"])
        where = f" ({rows})" if rows else ""
        lines.append(f"data check, {finding['level']}: {_said(finding)}{where}")
    return lines


def _summary(check: Mapping[str, Any]) -> str:
    counts = check["found"]
    told = [f"{n} {level}{'s' * (n != 1)}" for level, n in counts.items() if n]
    return ", ".join(told) or "nothing found"


def _said(finding: Mapping[str, Any]) -> str:
    place = [finding["split"] or "", f'"{finding["column"]}"' if finding["column"] else ""]
    where = ", ".join(part for part in place if part)
    return f"{where}: {finding['message']}" if where else str(finding["message"])


def _place(example: Mapping[str, Any]) -> str:
    return f"{example['split']} row {example['row']:,}: {example['text']}".rstrip(": ")


def _split_cells(split: Mapping[str, Any]) -> tuple[str, ...]:
    lengths, languages = split["lengths"], split["languages"]
    looked = max(1, sum(languages.values()))
    mix = ", ".join(f"{n} {count / looked:.0%}" for n, count in list(languages.items())[:3])
    known = (split["name"], f"{split['rows']:,}", f"{split['unreadable']:,}")
    if lengths is None:
        return (*known, "", "", "", "", "", mix)
    cut = "" if lengths["cut_rows"] is None else f"{lengths['cut_rows']:,}"
    highest = max(lengths["counts"], default=0)
    bars = "".join(
        _BARS[0 if not count else 1 + (len(_BARS) - 2) * count // max(1, highest)]
        for count in lengths["counts"]
    )
    return (
        *known,
        f"{lengths['median']:,.0f} {lengths['unit']}",
        f"{lengths['p95']:,.0f}",
        f"{lengths['max']:,}",
        cut,
        bars.rstrip(),
        mix,
    )


def _labels(labels: Mapping[str, int]) -> str:
    total = max(1, sum(labels.values()))
    shown = [f"{name} {count:,} ({count / total:.1%})" for name, count in labels.items()]
    if len(shown) <= 2 * _NAMED:
        return ", ".join(shown)
    return f"{', '.join(shown[:_NAMED])}, ... {', '.join(shown[-2:])} ({len(shown):,} in all)"


def _estimate(estimate: Mapping[str, Any]) -> str:
    told = (
        f"an epoch: {estimate['steps']:,} steps of {estimate['batch_size']} rows, "
        f"{estimate['tokens']:,} tokens"
    )
    if estimate["parameters"]:
        told += (
            f"; {estimate['parameters'] / 1e6:,.1f} million parameters, "
            f"{estimate['state_bytes'] / 2**20:,.0f} MiB for them in training (fp32, AdamW), and "
            "what a batch holds on top"
        )
    if estimate["seconds"] is not None:
        told += f"; about {_duration(estimate['seconds'])} on this machine's {estimate['device']}"
    return f"{told}. {estimate['note']}".strip()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    is_text = [name in ("split", "lengths", "languages") for name in rows[0]]
    return [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_text, strict=True)
        ).rstrip()
        for row in rows
    ]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(printable(text), _WIDTH, subsequent_indent=indent)
