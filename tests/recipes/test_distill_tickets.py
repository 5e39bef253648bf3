"""The recipe runs whole on a tiny checkpoint."""

import importlib.util
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "distill_tickets.py"


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_recipe_compares_teacher_and_students(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("distill_tickets", RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)

    found = recipe.main(str(tiny_checkpoint), output="out", layers=1, epochs=1, limit=48)

    assert {name: each.rows for name, each in found.items()} == {
        "teacher": 48,
        "plain": 48,
        "distilled": 48,
    }
    sizes = [(tmp_path / "out" / name / "model.safetensors").stat().st_size for name in found]
    assert sizes[0] > sizes[1] == sizes[2]
    printed = capsys.readouterr().out
    assert "tickets a second" in printed
    assert "of the teacher's macro F1 with 1 layers" in printed
    assert "Try next" in printed
