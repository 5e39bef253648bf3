"""Figures: well-formed, described, in the page's colours, whatever the labels are."""

import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from ftkit.reports import figures
from ftkit.reports.figures import Line

_HOSTILE = '<script>$x$ & "é" 東京 \x00\x1b ' + "long " * 30


def draw_all(name: str) -> dict[str, str]:
    lines = [Line(name, [1, 2, 3], [1.0, 0.5, 0.25]), Line("b", [1, 3], [1.0, 0.1], True)]
    counts = np.array([[3, 1], [0, 0]])
    bins = np.zeros(10)
    return {
        "lines": figures.lines(lines, name, x="x", y="y"),
        "log": figures.lines(lines, name, x="x", y="y", is_log=True, limits=(0.01, 2)),
        "bars": figures.bars({name: 0.5, "b": float("nan")}, name, x="F1"),
        "columns": figures.columns([0, 1, 2], [3, 4], name, x="x", y="y", marks={"mean": 1.2}),
        "dots": figures.dots([name, "b"], [0.1, 0.9], [0.1, 0.0], name, x="x", y="y"),
        "points": figures.points(
            [1, 100], [0.0, 1.0], name, x="x", y="y", names=[name, ""], is_log=True
        ),
        "diagonal": figures.points([1, 2], [2, 1], name, x="x", y="y", is_diagonal=True),
        "reliability": figures.reliability(bins, bins, bins, name),
        "matrix": figures.matrix(counts, [name, "b"], name),
    }


@pytest.fixture(scope="module")
def drawn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return draw_all(_HOSTILE)


def test_they_are_well_formed_and_described(drawn):
    for svg in drawn.values():
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_text_takes_the_colour_and_the_font_of_the_page(drawn):
    for svg in drawn.values():
        assert "currentColor" in svg
        assert "var(--font)" in svg
        assert "DejaVu" not in svg
        assert "#010203" not in svg


def test_ids_are_of_one_figure_only(drawn):
    ids = [
        {each.get("id") for each in ElementTree.fromstring(svg).iter() if each.get("id")}
        for svg in drawn.values()
    ]
    assert sum(map(len, ids)) == len(set().union(*ids))
    for svg, own in zip(drawn.values(), ids, strict=True):
        for part in svg.split("url(#")[1:]:
            assert part.split(")")[0] in own


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    draw_all("a")
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs


@pytest.mark.parametrize(
    ("text", "expected"), [("a", "a"), ("a\n b\x00", "a b"), ("x" * 30, "x" * 21 + "…")]
)
def test_shorten(text, expected):
    assert figures.shorten(text) == expected
