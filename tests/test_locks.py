"""One process at a time: what is held is refused to others, and let go of by who dies."""

import os
import subprocess
import sys

import pytest

from ftkit.errors import SettingError
from ftkit.locks import alone_at, hold

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps nobody out")

_HOLDER = """
import sys
from pathlib import Path
from ftkit.locks import alone_at
with alone_at(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_kept_out_until_it_dies(tmp_path):
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SettingError, match="another process writes to"), alone_at(tmp_path):
            pass
        other.kill()
    with alone_at(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_what_was_replaced_is_not_held(tmp_path):
    file, other = tmp_path / "rows.part", tmp_path / "other"
    other.touch()
    with file.open("a") as opened:
        hold(opened.fileno(), file)
        other.replace(file)
        with pytest.raises(SettingError, match="another process"):
            hold(opened.fileno(), file)
