"""The code blocks of a page of markdown, and how they are run: what README and docs/ tell, done."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.cli import main

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    """What stands behind the fence; python and bash are code, all else is shown."""
    code: str
    place: str
    """File and line, for what fails."""
    reason: str | None
    """Why it is not run, from a comment above it: `<!-- not run: needs two GPUs -->`."""

    @property
    def is_run(self) -> bool:
        return self.language in ("python", "bash") and self.reason is None

    @property
    def lines(self) -> list[str]:
        """The commands of a shell block; a backslash ends a line that goes on."""
        return self.code.replace("\\\n", " ").splitlines()


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            found["language"],
            found["code"],
            f"{page.name}:{text.count(chr(10), 0, found.start('code')) + 1}",
            found["reason"],
        )
        for found in _BLOCK.finditer(text)
    ]


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block of Python with the names of the blocks before it."""
    exec(compile(block.code, block.place, "exec"), names)


def run_command(line: str, place: str) -> None:
    """Run a line of a shell block in this process where it is a plain call of `ftkit`, which saves
    the start of Python, and else in a shell.
    """
    words = shlex.split(line, comments=True)
    if words[:1] == ["ftkit"] and not {"|", ">", "<"} & set(words):
        assert main(words[1:]) == 0, f"{place}: {line}"
    else:
        run_in_shell(line, Path.cwd())


def run_in_shell(line: str, folder: Path) -> None:
    """Run a line as a reader would, in `folder`, with this environment's commands."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
