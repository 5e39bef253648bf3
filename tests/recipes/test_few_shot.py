"""The recipe runs whole on a tiny checkpoint, and with MiniLM beats chance by far."""

import pytest


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_recipe_shows_the_spread_over_seeds(recipe, tiny_checkpoint, tmp_path, capsys):
    found = recipe.main(
        str(tiny_checkpoint), rows_per_label=2, epochs=1, seeds=(1, 2), output="out", limit=24
    )

    assert [each.rows for each in found] == [24, 24]
    assert (tmp_path / "out" / "task.json").exists()
    printed = capsys.readouterr().out
    assert "2 rows of each of 8 labels, 24 test rows" in printed
    assert " ± " in printed
    assert "By chance, accuracy would be about 0.125" in printed


@pytest.mark.slow
def test_eight_tickets_of_each_label_go_a_long_way(recipe, minilm):
    (evaluation,) = recipe.main(minilm, epochs=4, seeds=(42,), limit=80)
    assert evaluation.rows == 80
    # Eight labels: chance is one in eight.
    assert evaluation.scores["accuracy"] > 0.3
