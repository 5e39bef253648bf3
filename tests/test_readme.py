"""What README.md tells a newcomer to do, done word by word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from code_blocks import Block, read_blocks, run_command, run_python
from run_files import RUN_FILES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks(language: str) -> list[Block]:
    """The code blocks of the README in that language, none of them left out."""
    found = [block for block in read_blocks(README) if block.language == language]
    assert not [block.place for block in found if block.reason]
    return found


@pytest.mark.slow
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert len(found) == 4
    names: dict[str, Any] = {}
    for block in found:
        run_python(block, names)
    assert (
        names["model"].predict(["My card was charged twice"])[0].label in names["model"].task.labels
    )
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert names["tagger"].task.name == "ner"
    assert len(names["reader"].predict([("Who?", "Ada signed it.")])) == 1


@pytest.mark.slow
def test_shell_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [(line, block.place) for block in blocks("bash") for line in block.lines]
    assert len(lines) == 8
    for line, place in lines:
        run_command(line, place)
    runs = tmp_path / "runs"
    assert (runs / "first" / "onnx" / "model.onnx").exists()
    assert sorted(file.name for file in (runs / "second").iterdir()) == RUN_FILES


def test_make_targets_named_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(
        r"^make (\w+)", "\n".join(block.code for block in blocks("")), flags=re.MULTILINE
    )
    assert named == ["demo", "test"]
    assert all(re.search(rf"^{name}:", makefile, flags=re.MULTILINE) for name in named)


def test_links_lead_somewhere() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert len(linked) >= 5
    assert [link for link in linked if not (ROOT / link).exists()] == []
