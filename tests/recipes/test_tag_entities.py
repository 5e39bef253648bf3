"""The recipe runs as a person would run it, on fewer rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "tag_entities.py"


@pytest.mark.slow
def test_recipe_trains_saves_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("tag_entities", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)

    evaluation = recipe.main(output="runs/entities", epochs=4, limit=240)

    printed = capsys.readouterr().out
    assert evaluation.rows == 240
    # Whole entities of seven labels; answering nothing scores 0.
    assert evaluation.scores["f1"] > 0.2
    assert (tmp_path / "runs" / "entities" / "task.json").exists()
    assert all(ticket in printed for ticket in recipe.NEW_TICKETS)
    assert "Try next" in printed
