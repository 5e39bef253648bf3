"""The section on the data, from what the check of the rows found; see `DataCheck.to_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ftkit.reports import figures
from ftkit.reports.page import Section, details, figure, grid, table, text

_MOST_BARS = 30


def data_section(check: Mapping[str, Any]) -> Section:
    """Findings with rows to look at, the splits, the balance of labels and the lengths."""
    section = Section("The data")
    findings = check["findings"]
    if not findings:
        section.add(text("The check of the rows found nothing to mend."))
    section.add(*(_finding(each) for each in findings), table([_split(s) for s in check["splits"]]))
    train = check["splits"][0] if check["splits"] else {}
    section.add(grid(_labels(train), _lengths(train)))
    if check.get("notes"):
        section.add(details("How it was checked", "".join(text(each) for each in check["notes"])))
    return section


def _finding(found: Mapping[str, Any]) -> str:
    where = f"{found['split']}: " if found["split"] else ""
    examples = "".join(
        f"<li>{escape(each['split'])}, row {each['row']:,}: {escape(each['text'])}</li>"
        for each in found["examples"]
    )
    listed = f"<ul>{examples}</ul>" if examples else ""
    return (
        f'<div class="finding {found["level"]}"><span class="level">{found["level"]}</span> '
        f"{escape(where + found['message'])}. {escape(found['remedy'])}{listed}</div>"
    )


def _split(split: Mapping[str, Any]) -> dict[str, object]:
    row: dict[str, object] = {"split": split["name"], "rows": split["rows"]}
    if lengths := split["lengths"]:
        unit = lengths["unit"]
        row |= {
            f"median {unit}": round(lengths["median"]),
            "95 % have at most": round(lengths["p95"]),
            "longest": lengths["max"],
        }
        if lengths["limit"] is not None:
            row["longer than the model"] = lengths["cut_rows"]
    if languages := split["languages"]:
        total = sum(languages.values())
        most = sorted(languages.items(), key=lambda each: -each[1])[:3]
        row["languages"] = ", ".join(f"{name} {count / total:.0%}" for name, count in most)
    return row


def _labels(split: Mapping[str, Any]) -> str:
    counts: Mapping[str, int] = split.get("labels") or {}
    if not counts:
        return ""
    ranked = sorted(counts, key=lambda name: -counts[name])
    shown = ranked[:_MOST_BARS]
    most = max(counts.values())
    alt = f"Labels in {split['name']}: " + ", ".join(f"{n} {counts[n]:,}" for n in shown[:8])
    drawn = figures.bars(
        {name: counts[name] for name in shown},
        alt + ".",
        x="number",
        notes=[f"{counts[name]:,}" for name in shown],
        most=max(most, 1),
    )
    more = f"; {len(ranked) - len(shown):,} rarer ones are left out" if len(ranked) > 30 else ""
    return figure(drawn, f"How often {split['name']} has each label{more}.")


def _lengths(split: Mapping[str, Any]) -> str:
    lengths = split.get("lengths")
    if not lengths or not lengths["counts"]:
        return ""
    unit, limit = lengths["unit"], lengths["limit"]
    is_near = limit is not None and limit <= 1.5 * lengths["max"]
    alt = (
        f"Lengths of {split['name']} in {unit}: median {lengths['median']:.0f}, "
        f"longest {lengths['max']:,}."
    )
    drawn = figures.columns(
        lengths["edges"],
        lengths["counts"],
        alt,
        x=unit,
        y="rows",
        marks={"the model's length": limit} if is_near else None,
    )
    said = "" if limit is None else f" The model sees {limit:,} at once."
    return figure(drawn, f"Lengths of the rows of {split['name']}.{said}")
