"""The recipe runs as a person would run it, on fewer rows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.slow
def test_recipe_trains_saves_and_predicts(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = recipe.main(output="runs/tickets", epochs=3, limit=200)

    printed = capsys.readouterr().out
    assert evaluation.rows == 200
    # Eight labels: chance is one in eight.
    assert evaluation.scores["accuracy"] > 0.3
    assert (tmp_path / "runs" / "tickets" / "task.json").exists()
    assert all(ticket in printed for ticket in recipe.NEW_TICKETS)
    assert "Try next" in printed
