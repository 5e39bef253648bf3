"""Runs side by side: their settings and scores, and whether the differences are chance.

A run keeps its scores on resamples of the rows, drawn alike in every run (see
`scores.resample`), so two runs that were evaluated on the same rows are compared by the paired
bootstrap (Koehn 2004; Berg-Kirkpatrick et al. 2012) without a model being run again.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ftkit.data.loaders import RowList
from ftkit.errors import DataError, SettingError, quoted
from ftkit.reports.rows import Answers
from ftkit.task import falls, is_ranked

RESAMPLES_FILE = "resamples.safetensors"
_LEVEL = 0.05


def write_resamples(file: Path, answered: Sequence[Answers], data: Mapping[str, Dataset]) -> None:
    """Write what `compare` needs of a run: resampled scores, and which rows they are of."""
    arrays = {
        f"{each.split}/{name}": scores.astype(np.float64)
        for each in answered
        for name, scores in each.evaluation.resampled.items()
    }
    rows = {each.split: fingerprint(each, data[each.split]) for each in answered}
    save_file(arrays, file, metadata={"rows": json.dumps(rows)})


def fingerprint(answers: Answers, rows: Dataset) -> str:
    """A hash of what the task reads of the rows, whatever file they are from."""
    return RowList(rows).fingerprint([column.name for column in answers.task.columns()])


@dataclass(frozen=True)
class Run:
    """What a run directory tells."""

    folder: Path
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    resampled: Mapping[str, np.ndarray]
    """By split and score: "test/accuracy", (resamples,)."""
    rows: Mapping[str, str]
    """A hash of the rows of each split."""


def read_run(folder: str | Path) -> Run:
    """Read a finished run; raises SettingError for a folder that is none."""
    folder = Path(folder)
    try:
        settings = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))["run"]
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with safe_open(folder / RESAMPLES_FILE, framework="numpy") as file:
            rows = json.loads(file.metadata()["rows"])
            resampled = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        for split in rows:
            # A file that was edited or torn may lack them.
            _ = int(metrics["rows"][split]), dict(metrics[split])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SettingError(
            f'"{folder}" cannot be read as a finished run ({error})',
            remedy="Give the --output of an ftkit train that ended.",
        ) from None
    return Run(folder, settings, metrics, resampled, rows)


@dataclass(frozen=True)
class Difference:
    """How a score of a run differs from that of the first."""

    run: str
    score: str
    value: float
    difference: float | None
    """Of this run less the first; None for the first itself."""
    interval: tuple[float, float] | None
    """95 %, by the paired bootstrap."""
    p: float | None
    """Two-sided: how often chance alone makes a difference as large."""

    @property
    def verdict(self) -> str:
        """What the difference says, in a word."""
        if self.difference is None or self.interval is None:
            return ""
        low, high = self.interval
        if low <= 0 <= high:
            return "within chance"
        if not is_ranked(self.score):
            return "higher" if low > 0 else "lower"
        return "better" if (low > 0) != falls(self.score) else "worse"


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; printed, it is a table."""

    split: str
    rows: int
    settings: Mapping[str, tuple[str, ...]]
    """The settings that differ, with a value a run."""
    differences: tuple[Difference, ...]
    names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return {
            "split": self.split,
            "rows": self.rows,
            "settings": {name: list(values) for name, values in self.settings.items()},
            "scores": [{**vars(each), "verdict": each.verdict} for each in self.differences],
        }

    def __str__(self) -> str:
        """The settings that differ, then every score."""
        width = max(9, *map(len, self.names))
        lines = [f"{self.rows:,} rows of {self.split}; differences from {self.names[0]}"]
        for name, values in self.settings.items():
            pairs = zip(self.names, values, strict=True)
            lines.append(f"  {name}: " + ", ".join(f"{run} {value}" for run, value in pairs))
        lines.append(f"{'run':<{width}}  {'score':<20} {'value':>8}  difference (95 %), p")
        for each in self.differences:
            line = f"{each.run:<{width}}  {each.score:<20} {each.value:8.4f}"
            if each.difference is not None:
                line += f"  {each.difference:+.4f}"
            if each.interval is not None:
                low, high = each.interval
                line += f" ({low:+.4f} to {high:+.4f}), p {each.p:.3f}: {each.verdict}"
            lines.append(line)
        return "\n".join(lines)


def compare(folders: Sequence[str | Path], *, split: str | None = None) -> Comparison:
    """Compare finished runs with the first of them, on its test rows, else validation rows.

    The bootstrap holds the chance of which rows were drawn, not that of a training's seed: run
    several seeds to know that.

    Raises SettingError for fewer than two runs, a folder that is none or a split without scores,
    DataError for runs that were not evaluated on the same rows.
    """
    if len(folders) < 2:
        raise SettingError("one run cannot be compared", remedy="Give two or more run folders.")
    runs = [read_run(folder) for folder in folders]
    names = _names(runs)
    first = runs[0]
    split = split or ("test" if "test" in first.rows else "validation")
    if split not in first.rows:
        raise SettingError(
            f"{names[0]} has no scores of {split}",
            remedy=f"It has them of {quoted(list(first.rows))}.",
        )
    for run, name in zip(runs, names, strict=True):
        if run.rows.get(split) != first.rows[split]:
            raise DataError(
                f"{name} was not evaluated on the rows that {names[0]} was ({split})",
                remedy="Compare runs on the same data, seed and limit, or give another --split.",
            )
    return Comparison(
        split,
        int(first.metrics["rows"][split]),
        _differing([run.settings for run in runs]),
        tuple(
            _difference(run, first, name, score, split)
            for score in first.metrics[split]
            for run, name in zip(runs, names, strict=True)
            if score in run.metrics[split]
        ),
        names,
    )


def _names(runs: Sequence[Run]) -> tuple[str, ...]:
    """The folders' own names, or their whole paths where two are alike."""
    short = [run.folder.resolve().name for run in runs]
    return tuple(short if len(set(short)) == len(short) else [str(run.folder) for run in runs])


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    names = dict.fromkeys(name for each in settings for name in each if name != "output")
    values = {name: tuple(str(each.get(name, "default")) for each in settings) for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def _difference(run: Run, first: Run, name: str, score: str, split: str) -> Difference:
    value = run.metrics[split][score]
    value = float("nan") if value is None else float(value)
    if run is first:
        return Difference(name, score, value, None, None, None)
    base = first.metrics[split][score]
    gap = value - (float("nan") if base is None else float(base))
    key = f"{split}/{score}"
    if key not in run.resampled or key not in first.resampled:
        return Difference(name, score, value, gap, None, None)
    gaps = run.resampled[key] - first.resampled[key]
    gaps = gaps[np.isfinite(gaps)]
    if not len(gaps):
        return Difference(name, score, value, gap, None, None)
    low, high = np.quantile(gaps, [_LEVEL / 2, 1 - _LEVEL / 2]).tolist()
    # The share of resamples on the other side of no difference, both sides; never quite 0.
    tail = min((gaps <= 0).sum(), (gaps >= 0).sum())
    p = min(1.0, 2 * (int(tail) + 1) / (len(gaps) + 1))
    return Difference(name, score, value, gap, (low, high), p)
