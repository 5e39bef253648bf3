"""The recipe runs as a person would run it, on fewer rows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.slow
def test_recipe_trains_saves_and_predicts(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Few rows make few steps, and few steps want a higher rate than the default.
    evaluation = recipe.main(output="runs/entities", epochs=3, lr=5e-3, limit=80)

    printed = capsys.readouterr().out
    assert evaluation.rows == 80
    # Whole entities of seven labels; answering nothing scores 0.
    assert evaluation.scores["f1"] > 0.2
    assert (tmp_path / "runs" / "entities" / "task.json").exists()
    assert all(ticket in printed for ticket in recipe.NEW_TICKETS)
    assert "Try next" in printed
