"""Texts that are nearly the same: all that a comparison of all pairs finds, and nothing else."""

import random

import numpy as np
import pyarrow as pa
import pytest

from ftkit.checks.near import NEAR, best_partners, make_shingles

_WORDS = [f"w{n}" for n in range(400)]


def shares(texts: list[str], n_train: int) -> np.ndarray:
    """The highest Jaccard of each other text with one of train, by sets."""
    sets = [
        {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
        for words in (text.split() for text in texts)
    ]
    return np.array([max(len(a & b) / len(a | b) for b in sets[:n_train]) for a in sets[n_train:]])


def changed(rng: random.Random, text: str, count: int) -> str:
    words = text.split()
    for _ in range(count):
        words[rng.randrange(len(words))] = rng.choice(_WORDS)
    return " ".join(words)


def test_agrees_with_a_comparison_of_all_pairs():
    rng = random.Random(0)
    train = [" ".join(rng.choices(_WORDS, k=rng.randint(3, 60))) for _ in range(300)]
    other = [changed(rng, rng.choice(train), rng.randint(0, 3)) for _ in range(300)]
    exact = shares([*train, *other], len(train))
    arrays = [pa.array(each, pa.large_string()) for each in (train, other)]
    best, partner = best_partners(*map(make_shingles, arrays))
    assert 50 < (exact >= NEAR).sum() < 250
    missed = (exact >= NEAR) & (best < NEAR)
    assert missed.mean() < 0.01
    assert not ((best >= NEAR) & (exact < NEAR)).any()
    same = best == exact
    assert same[exact >= NEAR].mean() > 0.98
    assert partner.max() < len(train)


@pytest.mark.parametrize(
    ("left", "right", "share"),
    [
        ("a b c d", "a b c d", 1),
        ("a b c d", "A, b... c! d", 0),  # case is folded before
        ("a, b c d", "a b c - d", 1),
        ("a b c d", "a b c e", 1 / 3),
        ("a b", "a b", 1),
        ("a b", "a c", 0),
        ("私の荷物が届かない", "私の荷物が届かない!", 1),
        ("naïve café costs", "naïve café costs.", 1),
        ("a a a a a a", "a a a", 1),
        ("...", "...", 0),
        ("...", "!!!", 0),
        ("", "a", 0),
    ],
)
def test_shared_part(left, right, share):
    arrays = [pa.array([each], pa.large_string()) for each in (left, right)]
    best, _ = best_partners(*map(make_shingles, arrays))
    assert best[0] == share or (share < NEAR and best[0] < NEAR)


def test_one_template_for_all_rows_takes_no_time():
    texts = [
        f"Dear customer your order of {n} items has been sent to you today" for n in range(5000)
    ]
    array = pa.array(texts, pa.large_string())
    best, _ = best_partners(make_shingles(array), make_shingles(array))
    assert len(best) == 5000
