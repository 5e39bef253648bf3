"""Splits: their promises, checked over many seeds and label shapes."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from ftkit.data.splits import draw, encode_labels, hold_out

pytestmark = pytest.mark.unit

SEEDS = range(20)


def make_classes(seed: int, rows: int = 200) -> list[str]:
    rng = np.random.RandomState(seed)
    chances = rng.dirichlet(np.full(8, 0.4))
    return [f"c{i}" for i in rng.choice(8, rows, p=chances)]


def make_label_sets(seed: int, rows: int = 200) -> list[list[str]]:
    rng = np.random.RandomState(seed)
    chances = np.geomspace(0.5, 0.01, 10)
    return [[f"m{i}" for i in np.flatnonzero(rng.rand(10) < chances)] for _ in range(rows)]


def names(labels: list, mask: np.ndarray) -> Counter:
    picked = [label for label, is_in in zip(labels, mask, strict=True) if is_in]
    return Counter(n for label in picked for n in (label if isinstance(label, list) else [label]))


@pytest.mark.parametrize("seed", SEEDS)
def test_single_labels_stand_on_both_sides(seed):
    labels = make_classes(seed)
    valid = hold_out(labels, 0.1, seed)
    assert valid.sum() == 20
    for name, count in Counter(labels).items():
        held = names(labels, valid)[name]
        assert abs(held - 0.1 * count) < 2
        assert held < count
        assert held >= (count > 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_train_keeps_every_label_of_label_sets(seed):
    labels = make_label_sets(seed)
    valid = hold_out(labels, 0.2, seed)
    total, train = names(labels, np.ones(200, bool)), names(labels, ~valid)
    assert valid.sum() == 40
    assert set(train) == set(total)
    for name, count in total.items():
        if count >= 40:
            assert abs(names(labels, valid)[name] / count - 0.2) < 0.12


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_stay_whole(seed):
    rng = np.random.RandomState(seed)
    labels, groups = make_classes(seed), rng.randint(0, 40, 200).tolist()
    valid = hold_out(labels, 0.1, seed, groups)
    inside = {group for group, is_in in zip(groups, valid, strict=True) if is_in}
    outside = {group for group, is_in in zip(groups, valid, strict=True) if not is_in}
    assert not inside & outside
    assert 0.05 <= valid.mean() <= 0.15
    assert set(names(labels, ~valid)) == set(labels)


def test_a_group_that_holds_all_rows_of_a_label_stays_in_train():
    labels = ["a", "b"] * 20 + ["only here"] * 4
    groups = [i // 4 for i in range(44)]
    for seed in SEEDS:
        valid = hold_out(labels, 0.3, seed, groups)
        assert valid.any()
        assert not valid[40:].any()


def test_float_labels_are_held_out_over_their_whole_range():
    labels = [float(i) for i in range(1000)]
    valid = np.flatnonzero(hold_out(labels, 0.1, 42))
    assert len(valid) == 100
    assert (np.histogram(valid, bins=10, range=(0, 1000))[0] == 10).all()


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([], None),
        (["a"], None),
        (["a", "b", "c"], None),
        (["a", "b", "a", "b"], [1, 1, 1, 1]),
        (["a", "a", "b", "b"], [1, 1, 2, 2]),
    ],
)
def test_no_split_where_train_would_lose_a_label(labels, groups):
    assert not hold_out(labels, 0.5, 42, groups).any()


@pytest.mark.parametrize("labels", [[None] * 50, [{"answer": "x"}] * 50, [[{"x": 1}]] * 50])
def test_rows_without_comparable_labels_are_held_out_at_random(labels):
    assert hold_out(labels, 0.1, 42).sum() == 5
    assert draw(labels, 7, 42).sum() == 7


@pytest.mark.parametrize("make", [make_classes, make_label_sets])
@pytest.mark.parametrize("count", [10, 30, 199, 200, 500])
def test_draw_keeps_every_label(make, count):
    for seed in SEEDS:
        labels = make(seed)
        drawn = draw(labels, count, seed)
        assert drawn.sum() == min(count, 200)
        assert set(names(labels, drawn)) == set(names(labels, np.ones(200, bool)))


def test_draw_of_fewer_rows_than_labels():
    assert draw([f"c{i % 77}" for i in range(770)], 50, 42).sum() == 50


def test_draw_keeps_proportions():
    labels = ["a"] * 700 + ["b"] * 200 + ["c"] * 100
    assert names(labels, draw(labels, 100, 1)) == {"a": 70, "b": 20, "c": 10}


def test_seed_decides():
    labels = make_classes(0)
    assert (hold_out(labels, 0.1, 1) == hold_out(labels, 0.1, 1)).all()
    assert (hold_out(labels, 0.1, 1) != hold_out(labels, 0.1, 2)).any()
    assert (draw(labels, 20, 1) != draw(labels, 20, 2)).any()


def test_pinned_rows():
    """A change here changes everyone's validation split."""
    labels = ["a", "b", "b", "c"] * 10
    sets = [["x"], ["x", "y"], [], ["y", "z"]] * 10
    groups = [i // 4 for i in range(40)]
    assert np.flatnonzero(hold_out(labels, 0.1, 42)).tolist() == PINNED["labels"]
    assert np.flatnonzero(hold_out(sets, 0.1, 42)).tolist() == PINNED["sets"]
    assert np.flatnonzero(hold_out(labels, 0.1, 42, groups)).tolist() == PINNED["groups"]
    assert np.flatnonzero(draw(labels, 4, 42)).tolist() == PINNED["draw"]


PINNED = {
    "labels": [4, 6, 15, 37],
    "sets": [4, 12, 15, 26],
    "groups": [32, 33, 34, 35],
    "draw": [16, 19, 26, 37],
}


def test_hash_seed_does_not_matter():
    program = (
        "from ftkit.data.splits import hold_out, draw\n"
        "sets = [['x', 'q'], ['x', 'y'], [], ['y', 'z']] * 20\n"
        "groups = [f'g{i % 9}' for i in range(80)]\n"
        "print(hold_out(sets, 0.2, 3).nonzero(), hold_out(sets, 0.2, 3, groups).nonzero(),\n"
        "      draw(sets, 9, 3).nonzero())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_encode_labels_finds_the_rarest():
    encoded = encode_labels([["a", "b"], ["a"], ["a", "b"], []])
    assert encoded.rows.tolist() == [0, 0, 1, 2, 2]
    assert encoded.codes.tolist() == [0, 1, 0, 0, 1]
    assert encoded.strata[0] == encoded.strata[2]
    assert len(set(encoded.strata.tolist())) == 3
