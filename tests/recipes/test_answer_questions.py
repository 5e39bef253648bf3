"""The recipe runs as a person would run it, on fewer rows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.slow
def test_recipe_trains_saves_and_predicts(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = recipe.main(output="runs/answers", epochs=1, limit=64)

    printed = capsys.readouterr().out
    assert evaluation.rows == 64
    assert set(evaluation.scores) >= {"f1", "exact_match", "no_answer_exact_match"}
    assert (tmp_path / "runs" / "answers" / "task.json").exists()
    assert all(question in printed for question in recipe.QUESTIONS)
    assert "Try next" in printed
