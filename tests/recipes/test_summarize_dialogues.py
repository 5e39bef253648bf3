"""The recipe runs as a person would run it, on fewer rows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.slow
def test_recipe_trains_saves_and_writes(
    recipe: ModuleType, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = recipe.main(checkpoint=minilm, output="runs/summaries", epochs=1, limit=3)

    printed = capsys.readouterr().out
    assert evaluation.rows == 3
    assert 0 <= evaluation.scores["rougeLsum"] <= 1
    assert (tmp_path / "runs" / "summaries" / "task.json").exists()
    assert printed.count("  wanted: ") == printed.count("  found:  ") == 3
    assert "Try next" in printed
