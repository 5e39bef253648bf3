"""The recipe runs as a person would run it, on fewer rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "answer_questions.py"


@pytest.mark.slow
def test_recipe_trains_saves_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("answer_questions", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)

    evaluation = recipe.main(output="runs/answers", epochs=1, limit=64)

    printed = capsys.readouterr().out
    assert evaluation.rows == 64
    assert set(evaluation.scores) >= {"f1", "exact_match", "no_answer_exact_match"}
    assert (tmp_path / "runs" / "answers" / "task.json").exists()
    assert all(question in printed for question in recipe.QUESTIONS)
    assert "Try next" in printed
