"""Figures as SVG that stands in a page: matplotlib draws, and the page gives text its colour.

Lines differ by dash and marker and bars by hatching, so that nothing is said by colour alone; the
colours are those that people see apart whatever their colour vision (Okabe and Ito 2008). Every
figure says in words, for those who do not see it, what it shows. Imports matplotlib, numpy and
`marks`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from itertools import count
from typing import Any

import numpy as np

from ftkit.marks import cut

# Stand for the page's own colours, which it has in light and in dark.
_INK, _GRID = "#010203", "#040506"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_WIDTH = 4.6  # inches: as wide as a phone, so that letters keep their size there
_MOST_LETTERS, _MOST_SAID = 22, 1000
_number = count()


@dataclass(frozen=True)
class Line:
    """A line of a chart: y (points,) over x (points,)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    is_dotted: bool = False
    """Whether the points themselves are drawn."""


def lines(
    series: Sequence[Line],
    alt: str,
    *,
    x: str,
    y: str,
    is_log: bool = False,
    limits: tuple[float, float] | None = None,
) -> str:
    """Lines over one axis, named in a legend where there are several."""
    with _drawing(2.9) as (figure, axes):
        for i, line in enumerate(series):
            axes.plot(
                line.x,
                line.y,
                label=shorten(line.name),
                color=_COLOURS[i % len(_COLOURS)],
                linestyle=_DASHES[i % len(_DASHES)],
                marker=_MARKERS[i % len(_MARKERS)] if line.is_dotted else None,
                markersize=5,
                linewidth=1.6,
            )
        if is_log:
            axes.set_yscale("log")
            _plain_numbers(axes.yaxis)
        if limits:
            axes.set_ylim(*limits)
        axes.set(xlabel=x, ylabel=y)
        # Batches and epochs are counted.
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(series) > 1:
            figure.legend(loc="outside upper left", frameon=False, fontsize=8.5, ncols=2)
        return _svg(figure, alt)


def bars(
    values: Mapping[str, float], alt: str, *, x: str, notes: Sequence[str] = (), most: float = 1.0
) -> str:
    """Horizontal bars, the first on top, each with its number, or its note, behind it."""
    names = list(values)
    found = np.nan_to_num(np.array(list(values.values()), dtype=float))
    with _drawing(max(1.3, 0.75 + 0.26 * len(names))) as (figure, axes):
        places = np.arange(len(names))
        axes.barh(places, found, color=_COLOURS[0], height=0.66)
        texts = notes or [f"{value:.2f}" for value in found]
        for place, value, text in zip(places, found, texts, strict=True):
            written = axes.text(value + most * 0.015, place, text, va="center", fontsize=8.5)
            written.set_in_layout(False)
        axes.set_yticks(places, [shorten(name) for name in names])
        axes.set(xlabel=x, xlim=(0, most * 1.2), ylim=(len(names) - 0.4, -0.6))
        if most == 1:
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.grid(visible=False, axis="y")
        return _svg(figure, alt)


def columns(
    edges: Sequence[float],
    counts: Sequence[float],
    alt: str,
    *,
    x: str,
    y: str,
    marks: Mapping[str, float] | None = None,
) -> str:
    """A histogram from the edges (bins + 1,) of its bins, with named marks on its axis."""
    with _drawing(2.6) as (figure, axes):
        axes.stairs(counts, edges, fill=True, color=_COLOURS[0], alpha=0.85)
        for i, (name, place) in enumerate((marks or {}).items()):
            axes.axvline(place, color=_COLOURS[1 + i], linestyle=_DASHES[1 + i], label=name)
        if marks:
            axes.legend(frameon=False, fontsize=8.5)
        axes.set(xlabel=x, ylabel=y)
        return _svg(figure, alt)


def dots(
    names: Sequence[str],
    means: Sequence[float],
    margins: Sequence[float],
    alt: str,
    *,
    x: str,
    y: str,
    is_joined: bool = False,
) -> str:
    """A mean a bin with its margin above and below; joined where the bins have an order."""
    with _drawing(2.7) as (figure, axes):
        places = np.arange(len(names))
        axes.errorbar(
            places, means, margins, fmt="o-" if is_joined else "o", color=_COLOURS[0], capsize=3
        )
        shown = [shorten(name, 12) for name in names]
        axes.set_xticks(places, shown, rotation=20 if len(names) > 5 else 0)
        axes.set(xlabel=x, ylabel=y, ylim=(-0.03, 1.03))
        return _svg(figure, alt)


def points(
    x_values: Sequence[float],
    y_values: Sequence[float],
    alt: str,
    *,
    x: str,
    y: str,
    names: Sequence[str] = (),
    is_log: bool = False,
    is_diagonal: bool = False,
) -> str:
    """A point for each pair, some of them named."""
    with _drawing(3.0) as (figure, axes):
        axes.scatter(
            x_values, y_values, s=22, color=_COLOURS[0], alpha=0.65, edgecolors=_INK, linewidths=0.3
        )
        middle = (min(x_values) + max(x_values)) / 2
        for place, name in enumerate(names):
            if name:
                # Towards the middle, where there is room.
                is_left = x_values[place] <= middle
                note = axes.annotate(
                    shorten(name),
                    (x_values[place], y_values[place]),
                    xytext=(4 if is_left else -4, 4),
                    ha="left" if is_left else "right",
                    textcoords="offset points",
                    fontsize=8,
                )
                note.set_in_layout(False)
        if is_diagonal:
            ends = [min(*x_values, *y_values), max(*x_values, *y_values)]
            axes.plot(ends, ends, color=_GRID, linestyle="--", linewidth=1.2)
        if is_log:
            axes.set_xscale("log")
            _plain_numbers(axes.xaxis)
        axes.set(xlabel=x, ylabel=y)
        return _svg(figure, alt)


def reliability(confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, alt: str) -> str:
    """How often answers are right, over how sure the model was: (bins,) each; and how many."""
    with _drawing(3.4, rows=(3, 1)) as (figure, (above, below)):
        edges = np.linspace(0, 1, len(counts) + 1)
        is_met = counts > 0
        width = edges[1]
        middles = (edges[:-1] + width / 2)[is_met]
        above.bar(middles, accuracy[is_met], width * 0.92, color=_COLOURS[0], label="right")
        above.plot(
            confidence[is_met],
            confidence[is_met],
            linestyle="none",
            marker="D",
            markersize=4.5,
            color=_COLOURS[1],
            label="sure",
        )
        above.plot([0, 1], [0, 1], color=_GRID, linestyle="--", linewidth=1.2)
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right")
        above.tick_params(labelbottom=False)
        above.legend(frameon=False, fontsize=8.5, loc="upper left")
        below.bar(middles, counts[is_met], width * 0.92, color=_COLOURS[6])
        below.set(xlim=(0, 1), xlabel="how sure the model is", ylabel="answers")
        return _svg(figure, alt)


def matrix(counts: np.ndarray, labels: Sequence[str], alt: str) -> str:
    """Counts (labels, labels): wanted ones down, found ones across; shaded by share of the row."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(labels)
    height = 1.15 + max(2.3, 0.3 * size)
    with _drawing(height, width=max(_WIDTH, height + 0.7)) as (figure, axes):
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        letters = 8.5 if size <= 12 else 6.5
        for wanted, found in zip(*counts.nonzero(), strict=True):
            # White on dark blue and black on light, whatever the page is.
            colour = "#ffffff" if share[wanted, found] > 0.5 else "#111111"
            axes.text(
                found,
                wanted,
                f"{counts[wanted, found]:,}",
                ha="center",
                va="center",
                fontsize=letters,
                color=colour,
            )
        names = [shorten(label) for label in labels]
        axes.set_xticks(range(size), names, rotation=45, ha="right", fontsize=letters)
        axes.set_yticks(range(size), names, fontsize=letters)
        axes.set(xlabel="answered", ylabel="labelled")
        axes.grid(visible=False)
        return _svg(figure, alt)


def _plain_numbers(axis: Any) -> None:
    """Have a logarithmic axis say 0.001 instead of a power of ten."""
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def shorten(text: str, most: int = _MOST_LETTERS) -> str:
    """A text on one line, its end replaced by an ellipsis where it is longer."""
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return cut(text, most)


class _drawing:
    """A figure and its axes, in the page's style, without pyplot's global state."""

    def __init__(
        self, height: float, *, width: float = _WIDTH, rows: tuple[int, ...] = (1,)
    ) -> None:
        self.size, self.rows = (width, height), rows

    def __enter__(self) -> tuple[Any, Any]:
        import matplotlib
        from matplotlib.figure import Figure

        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        # The page's font has letters that matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        self._style = matplotlib.rc_context(
            {
                "text.parse_math": False,
                "svg.fonttype": "none",
                "svg.hashsalt": "ftkit",
                "font.size": 9.5,
                "text.color": _INK,
                "axes.labelcolor": _INK,
                "axes.edgecolor": _GRID,
                "xtick.color": _INK,
                "ytick.color": _INK,
                "axes.grid": True,
                "grid.color": _GRID,
                "grid.linewidth": 0.6,
                "axes.axisbelow": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.constrained_layout.use": True,
                "legend.labelcolor": _INK,
            }
        )
        self._style.__enter__()
        figure = Figure(figsize=self.size)
        if len(self.rows) == 1:
            return figure, figure.subplots()
        return figure, figure.subplots(len(self.rows), height_ratios=self.rows)

    def __exit__(self, *error: Any) -> None:
        self._style.__exit__(*error)
        self._warnings.__exit__(*error)


def _svg(figure: Any, alt: str) -> str:
    """The figure as an <svg> with its description, in the page's font and colours."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>\s*", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<!--.*?-->\s*", "", drawn, flags=re.DOTALL)
    # Ids are the page's, which has other figures too.
    mine = f"f{next(_number)}-"
    drawn = re.sub(r'\bid="', f'id="{mine}', drawn)
    drawn = drawn.replace("url(#", f"url(#{mine}").replace('href="#', f'href="#{mine}')
    drawn = drawn.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    drawn = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", drawn)
    head = re.match(r"<svg[^>]*>", drawn)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    width = float(box[0].split()[2])
    said = escape(shorten(alt, _MOST_SAID))
    opening = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{box[0]} role="img" aria-label="{said}" style="max-width: {width * 1.33:.0f}px">'
    )
    return opening + drawn[head.end() :].strip()
