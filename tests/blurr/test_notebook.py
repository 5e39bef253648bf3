"""The notebook for those who come from Blurr: its table has every name, and ours in it exist."""

import json
import re
import sys
from pathlib import Path

from fastai.learner import Learner

import ftkit
import ftkit.blurr

_NOTEBOOK = Path(ftkit.__file__).parents[1] / "nbs" / "07_coming_from_blurr.ipynb"


def rows():
    """The names in the first column of each row of the table, and its second column."""
    cells = json.loads(_NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    table = "".join(
        next(cell["source"] for cell in cells if "| Blurr |" in "".join(cell["source"]))
    )
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    for line in lines:
        theirs, ours = line.strip("| ").split(" | ", 1)
        yield re.findall(r"`(\w+)`", theirs), ours


def public_names():
    """What the modules of Blurr list in `__all__`, and the methods it gives to Learners."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "blurr":
            yield from getattr(module, "__all__", ())
    yield from (name for name in vars(Learner) if name.startswith("blurr_"))


def test_every_name_of_blurr_is_in_the_table_once():
    found = [name for names, _ in rows() for name in names]
    assert len(set(public_names())) > 75
    assert sorted(found) == sorted(set(public_names()))


def test_every_name_of_ours_exists():
    named = [name for _, ours in rows() for name in re.findall(r"`ftkit\.(\w+)`", ours)]
    assert len(set(named)) > 15
    assert set(named) <= set(dir(ftkit))
    for _, ours in rows():
        assert "`" in ours or ours.startswith("not needed: ")
