"""The recipe runs whole on a tiny checkpoint, and with MiniLM beats chance by far."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_recipe_trains_saves_and_predicts(
    recipe: ModuleType, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = recipe.main(str(tiny_checkpoint), output="runs/tickets", epochs=1, limit=24)

    printed = capsys.readouterr().out
    assert evaluation.rows == 24
    assert (tmp_path / "runs" / "tickets" / "task.json").exists()
    assert (tmp_path / "runs" / "tickets.html").exists()
    assert all(ticket in printed for ticket in recipe.NEW_TICKETS)
    assert "Try next" in printed


@pytest.mark.slow
def test_sixty_four_tickets_go_a_long_way(recipe: ModuleType, minilm: str) -> None:
    # Few rows make few steps, and few steps want a higher rate than the default.
    evaluation = recipe.main(minilm, epochs=3, lr=5e-3, limit=64)
    # Eight labels: chance is one in eight.
    assert evaluation.scores["accuracy"] > 0.3
