"""Texts and tables as HTML: nothing of the user's is markup, no colour speaks alone."""

import re
from html.parser import HTMLParser

import pytest

from ftkit.html import AGAINST, FOR, marked_text, scored_text, table
from ftkit.marks import MISSED, Mark, MarkedText

pytestmark = pytest.mark.unit

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'so' <b>"


class Reader(HTMLParser):
    """The tags and the texts of some HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_what_is_the_users_is_escaped():
    rows = [{HOSTILE: MarkedText("x", HOSTILE, [Mark(0, 8, HOSTILE, HOSTILE)]), "n": HOSTILE}]
    found = Reader(table(rows, 999))
    assert set(found.tags) == {"table", "thead", "tbody", "tr", "th", "td", "mark", "small"}
    assert "".join(found.texts).count(HOSTILE) == 4
    assert Reader(scored_text(HOSTILE, [(0, 8, 1.0)], 1.0)).tags == ["span"]


def test_a_mark_says_its_label_and_its_note():
    shown = marked_text("in Oslo on Monday", [Mark(11, 17, "date", MISSED), Mark(3, 7, "city")])
    city, date = re.findall(r"<mark.*?</mark>", shown)
    assert Reader(city).texts == ["Oslo ", "city"]
    assert Reader(date).texts == ["Monday ", "date missed"]
    assert (f"2px solid rgb({FOR})" in city, f"2px dashed rgb({AGAINST})" in date) == (True, True)
    assert "".join(Reader(shown).texts) == "in Oslo city on Monday date missed"
    assert Reader(marked_text("by Ann", [Mark(3, 6)])).texts == ["by ", "Ann"]


def test_colours_are_laid_over_any_theme():
    shown = marked_text("Oslo", [Mark(0, 4, "city", MISSED)]) + table([{"a": "b"}], 9)
    assert "color: inherit" in shown
    backgrounds = re.findall(r"background: rgba\([^)]*, ([0-9.]+)\)", shown)
    assert len(backgrounds) == 1
    assert float(backgrounds[0]) <= 0.5


def test_long_texts_are_shortened_around_their_marks():
    words = " ".join(f"w{i:02}" for i in range(100))
    shown = marked_text(words, [Mark(200, 203, "n"), Mark(80, 83)], most=24)
    assert "".join(Reader(shown).texts) == "… w19 w20 w21 … w49 w50 n w51 …"
    assert marked_text(words, [], most=10) == "w00 w01 …"
    # A mark that there is no room for is left out whole.
    shown = marked_text(words, [Mark(0, 3), Mark(4, 395)], most=20)
    assert shown.count("<mark") == 1


def test_a_table_has_a_row_a_row():
    shown = table([{"text": "a", "n": 1}, {"text": "b", "n": None}], 9)
    assert Reader(shown).texts == ["text", "n", "a", "1", "b", "None"]
    assert Reader(shown).tags.count("tr") == 3
    assert shown.count('scope="col"') == 2
    assert Reader(table([], 9)).texts == []
