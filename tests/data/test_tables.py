"""Tables where they are shown: a terminal, IPython, a notebook."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from ftkit.data.tables import print_table
from ftkit.marks import Mark, MarkedText

ROWS = [{"text": MarkedText("in [Oslo|city]", "in Oslo", [Mark(3, 7, "city")]), "n": "1 < 2"}]


def test_a_terminal_gets_text(capsys):
    print_table(ROWS)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["text", "n"]
    assert row.split() == ["in", "[Oslo|city]", "1", "<", "2"]


@pytest.mark.parametrize("kernel", [True, False])
def test_a_notebook_gets_html_and_the_text(monkeypatch, capsys, kernel):
    import IPython

    shell = SimpleNamespace(kernel=None) if kernel else SimpleNamespace()
    given = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr("IPython.display.display", lambda *data, **how: given.append((data, how)))
    print_table(ROWS)
    printed = capsys.readouterr().out
    if not kernel:
        assert "[Oslo|city]" in printed
        assert given == []
        return
    assert printed == ""
    ((((data,), how)),) = given
    assert how == {"raw": True}
    assert set(data) == {"text/html", "text/plain"}
    assert "[Oslo|city]" in data["text/plain"]
    assert "<mark" in data["text/html"]
    assert "1 &lt; 2" in data["text/html"]


def test_ipython_is_not_imported_for_a_terminal():
    code = """
import sys
from ftkit.data.tables import print_table
print_table([{"text": "hello"}])
assert "IPython" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["text", "hello"]
