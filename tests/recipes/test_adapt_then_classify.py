"""The recipe runs whole on a tiny checkpoint; what adapting gains is measured elsewhere."""

import json

import pytest


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_recipe_adapts_and_compares(recipe, tiny_checkpoint, tmp_path, capsys):
    found = recipe.main(
        str(tiny_checkpoint), rows_per_label=2, adapt_epochs=1, epochs=1, output="out", limit=24
    )

    assert {name: each.rows for name, each in found.items()} == {"as it is": 24, "adapted": 24}
    for name, task in (
        ("body", "language_modeling"),
        ("adapted", "classification"),
        ("as_it_is", "classification"),
    ):
        settings = json.loads((tmp_path / "out" / name / "task.json").read_text())
        assert settings["task"] == task
    printed = capsys.readouterr().out
    assert "16 labelled rows, 24 texts to adapt to" in printed
    assert printed.count("test accuracy") == 2


def test_rows_are_drawn_by_label_and_seed(recipe, tiny_data):
    rows = tiny_data["train"]
    drawn = recipe.draw(rows, 5, seed=1)
    assert sorted(drawn["label"]) == ["billing"] * 5 + ["delivery"] * 5 + ["technical"] * 5
    assert set(drawn["text"]) <= set(rows["text"])
    assert drawn["text"][:] == recipe.draw(rows, 5, seed=1)["text"][:]
    assert drawn["text"][:] != recipe.draw(rows, 5, seed=2)["text"][:]
