"""The recipe runs as a person would run it, on fewer rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "summarize_dialogues.py"


@pytest.mark.slow
def test_recipe_trains_saves_and_writes(
    minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("summarize_dialogues", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)

    evaluation = recipe.main(checkpoint=minilm, output="runs/summaries", epochs=1, limit=6)

    printed = capsys.readouterr().out
    assert evaluation.rows == 6
    assert 0 <= evaluation.scores["rougeLsum"] <= 1
    assert (tmp_path / "runs" / "summaries" / "task.json").exists()
    assert printed.count("  wanted: ") == printed.count("  found:  ") == 3
    assert "Try next" in printed
