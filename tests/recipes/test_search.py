"""The recipe searches whole on a tiny checkpoint, goes on after a stop, and gives up in time."""

import runpy
import sys

import pytest

import ftkit
from ftkit.errors import SettingError

optuna = pytest.importorskip("optuna")

pytestmark = pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")


@pytest.fixture
def without_plots(recipe, monkeypatch):
    """No plots, which take longer than so small a search; other tests look at them."""
    monkeypatch.setattr(recipe, "draw_plots", lambda *_: None)


def open_trials(output):
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{output}/study.db")
    return study, study.get_trials()


def test_the_best_by_validation_is_kept_and_tested(
    recipe, tiny_data, tiny_checkpoint, tmp_path, capsys
):
    type(tiny_data)({**tiny_data, "test": tiny_data["test"].select(range(21))}).save_to_disk("rows")
    options = {"data": "rows", "columns": "", "checkpoint": str(tiny_checkpoint)}
    evaluation = recipe.main(**options, trials=3, output="out")

    _, trials = open_trials("out")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    for trial in trials:
        epochs = trial.params["epochs"]
        assert list(trial.intermediate_values) == [12 * i // epochs for i in range(1, epochs + 1)]
        assert trial.value == trial.intermediate_values[12]
    best = max(trials, key=lambda trial: trial.value)
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["optimization_history.png", "slice.png", "study.db", f"trial-{best.number}"]

    model = ftkit.load_model(f"out/trial-{best.number}")
    assert model.evaluate(tiny_data["validation"]).scores["accuracy"] == best.value
    assert evaluation == model.evaluate(tiny_data["test"].select(range(21)))

    printed = capsys.readouterr().out.splitlines()
    numbers = [line.partition("  ")[0] for line in printed[:4]]
    assert numbers == ["trial 0", "trial 1", "trial 2", ""]
    assert "On 21 test rows, by which nothing was chosen:" in printed


def test_a_search_goes_on_as_if_it_had_not_stopped(recipe, tiny_checkpoint, tmp_path):
    recipe.N_RANDOM = 2  # so that Optuna chooses the last two
    options = {"checkpoint": str(tiny_checkpoint), "limit": 16}
    recipe.main(**options, trials=2, output="stopped")
    open_trials("stopped")[0].ask()  # what a kill leaves
    (tmp_path / "stopped" / ".trial-2-half").mkdir()
    evaluation = recipe.main(**options, trials=4, output="stopped")
    assert recipe.main(**options, trials=4, output="whole") == evaluation

    stopped, whole = (open_trials(name)[1] for name in ("stopped", "whole"))
    assert not list(tmp_path.glob("stopped/.trial-*"))
    assert (len(stopped), stopped.pop(2).state.name) == (5, "FAIL")
    assert [(trial.state, trial.params, trial.intermediate_values) for trial in stopped] == [
        (trial.state, trial.params, trial.intermediate_values) for trial in whole
    ]
    assert len({trial.params["lr"] for trial in whole}) == 4
    assert sum(trial.state.name == "COMPLETE" for trial in whole) > 2
    assert (tmp_path / "whole" / "param_importances.png").exists()


@pytest.mark.usefixtures("without_plots")
def test_a_trial_behind_the_others_is_given_up(recipe, tiny_checkpoint, capsys):
    options = {"checkpoint": str(tiny_checkpoint), "limit": 16, "output": "out"}
    recipe.main(**options, trials=1)
    study, (first,) = open_trials("out")
    for _ in range(recipe.N_RANDOM - 1):
        # Perfect on their way, and worthless at the end.
        study.add_trial(
            optuna.trial.create_trial(
                value=-1.0,
                params=first.params,
                distributions=first.distributions,
                intermediate_values=dict.fromkeys(range(1, 12), 1.0),
            )
        )
    recipe.main(**options, trials=6)

    given_up = open_trials("out")[1][4:]
    assert [trial.state.name for trial in given_up] == ["PRUNED"] * 2
    assert [len(trial.intermediate_values) for trial in given_up] == [1, 1]
    assert ftkit.load_model("out/trial-0")
    assert capsys.readouterr().out.count("(given up)") == 2


def test_an_error_is_to_fall_and_no_test_rows_are_needed(recipe, tiny_checkpoint, tmp_path):
    lines = [f"{'the parcel is late ' * (i % 4)}hello,{i % 4 + 0.5}" for i in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
    options = {"data": "rows.csv", "columns": "", "checkpoint": str(tiny_checkpoint)}
    assert recipe.main(**options, trials=2, output="out") is None

    study, trials = open_trials("out")
    assert study.direction.name == "MINIMIZE"
    best = min(trials, key=lambda trial: trial.value)
    assert [path.name for path in (tmp_path / "out").glob("trial-*")] == [f"trial-{best.number}"]


def test_trials_without_a_score_are_given_up(recipe, tiny_checkpoint, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(tiny_checkpoint)
    for weights in model.parameters():
        weights.data.fill_(float("nan"))
    model.save_pretrained("broken")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained("broken")
    (tmp_path / "rows.csv").write_text("text,label\n" + "the parcel,0.5\nhello,1.5\n" * 20)
    options = {"data": "rows.csv", "columns": "", "checkpoint": "broken", "output": "out"}
    with pytest.raises(SettingError, match="no trial ended with a mae"):
        recipe.main(**options, trials=2)
    assert [trial.state.name for trial in open_trials("out")[1]] == ["PRUNED"] * 2


@pytest.mark.usefixtures("without_plots")
def test_a_search_of_other_settings_is_not_mixed_in(recipe, tiny_checkpoint):
    options = {"checkpoint": str(tiny_checkpoint), "trials": 1, "output": "out"}
    recipe.main(**options, limit=16)
    with pytest.raises(SettingError, match='the search in "out" has another limit, seed'):
        recipe.main(**options, limit=17, seed=1)


def test_without_optuna_it_says_what_to_install(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingError, match=r'pip install "ftkit\[search\]"'):
        runpy.run_path(recipe.__file__)
