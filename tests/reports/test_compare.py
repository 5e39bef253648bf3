"""Runs side by side: chance from differences, on planted scores and on real runs."""

import json

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import save_file

from ftkit.errors import DataError, SettingError
from ftkit.reports.compare import RESAMPLES_FILE, compare


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run: rows right or wrong, drawn 1,000 times."""

    def make(name, is_right, rows="abc", score="accuracy", **settings):
        folder = tmp_path / name
        folder.mkdir()
        draws = np.random.default_rng(0).integers(len(is_right), size=(1000, len(is_right)))
        drawn = np.asarray(is_right, dtype=float)[draws].mean(1)
        save_file(
            {f"test/{score}": drawn}, folder / RESAMPLES_FILE, {"rows": json.dumps({"test": rows})}
        )
        (folder / "run.toml").write_text(tomli_w.dumps({"run": {"task": "t", **settings}}))
        metrics = {"test": {score: float(np.mean(is_right))}, "rows": {"test": len(is_right)}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return make


ROWS = np.random.default_rng(1).random(400) < 0.7


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda rows: rows, "within chance"),
        (lambda rows: np.roll(rows, 1), "within chance"),
        (lambda rows: rows | (np.arange(400) < 60), "better"),
        (lambda rows: rows & (np.arange(400) > 60), "worse"),
    ],
)
def test_verdicts(make_run, change, verdict):
    other = change(ROWS)
    found = compare([make_run("a", ROWS), make_run("b", other)])
    first, second = found.differences
    assert first.difference is None
    assert second.difference == pytest.approx(other.mean() - ROWS.mean())
    assert second.verdict == verdict
    low, high = second.interval
    assert low <= second.difference <= high
    assert (second.p < 0.05) == (verdict != "within chance")


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        *(("mae", "worse"), ("empty", "worse"), ("copied_sources", "worse")),
        *(("mean_length", "higher"), ("novel_bigrams", "higher"), ("copied_sentences", "higher")),
    ],
)
def test_a_score_that_is_not_to_rise(make_run, score, verdict):
    more = ROWS | (np.arange(400) < 60)
    first, second = make_run("a", ROWS, score=score), make_run("b", more, score=score)
    assert compare([first, second]).differences[1].verdict == verdict
    back = compare([second, first]).differences[1].verdict
    assert back == {"worse": "better", "higher": "lower"}[verdict]


def test_pairs_are_sharper_than_two_intervals(make_run):
    """Ten rows more of 400 right: told apart as pairs, though each interval holds both scores."""
    other = ROWS.copy()
    other[np.flatnonzero(~ROWS)[:10]] = True
    found = compare([make_run("a", ROWS), make_run("b", other)])
    assert found.differences[1].verdict == "better"
    assert other.mean() - ROWS.mean() < 1.96 * np.sqrt(0.7 * 0.3 / 400)


def test_it_says_which_settings_differ(make_run):
    found = compare([make_run("a", ROWS, lr=0.1, output="x"), make_run("b", ROWS, output="y")])
    assert found.settings == {"lr": ("0.1", "default")}
    printed = str(found)
    assert "400 rows of test; differences from a" in printed
    assert "lr: a 0.1, b default" in printed
    assert json.dumps(found.to_dict())


def test_folders_of_one_name_keep_their_paths(make_run, tmp_path):
    first = make_run("a", ROWS)
    (tmp_path / "other").mkdir()
    second = first.rename(tmp_path / "other" / "a")
    first = make_run("a", ROWS)
    assert compare([first, second]).names == (str(first), str(second))


@pytest.mark.parametrize(
    ("break_it", "error", "said"),
    [
        (lambda b: (b / RESAMPLES_FILE).write_bytes(b"no"), SettingError, "finished run"),
        (lambda b: (b / "metrics.json").unlink(), SettingError, "finished run"),
        (lambda b: (b / "run.toml").write_text("= ="), SettingError, "finished run"),
        (lambda b: (b / "metrics.json").write_text("[1]"), SettingError, "finished run"),
        (lambda b: (b / "metrics.json").write_text("{}"), SettingError, "finished run"),
    ],
)
def test_folders_that_are_no_runs(make_run, break_it, error, said):
    first, second = make_run("a", ROWS), make_run("b", ROWS)
    break_it(second)
    with pytest.raises(error, match=said):
        compare([first, second])


def test_other_rows_and_one_run(make_run):
    first = make_run("a", ROWS)
    with pytest.raises(DataError, match="b was not evaluated on the rows"):
        compare([first, make_run("b", ROWS, rows="other")])
    with pytest.raises(SettingError, match="one run"):
        compare([first])
    with pytest.raises(SettingError, match="a has no scores of train"):
        compare([first, first], split="train")
