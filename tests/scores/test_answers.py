"""Exact match and F1 against cases worked by hand from SQuAD's official rules."""

import math

import numpy as np
import pytest
import torch

from ftkit.scores.answers import (
    AnswerMetrics,
    best_null_threshold,
    normalize_answer,
    score_answer,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Quick, brown fox!", "quick brown fox"),
        ("an apple a day", "apple day"),
        ("Theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),
        ("a", ""),
        ("?!", ""),
        ("«naïve»", "«naïve»"),
        ("one\u00a0two\tthree\n", "one two three"),
        ("the_cat", "thecat"),
    ],
)
def test_normalisation(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("found", "golds", "exact", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel tower."], 1, 1),
        ("Eiffel", ["Eiffel Tower"], 0, 2 / 3),
        # 3 words found, 2 wanted, 2 shared: precision 2/3, recall 1.
        ("in the old town", ["old town"], 0, 0.8),
        # A word counts as often as both have it: 1 shared of 3 and 1.
        ("no no no", ["no"], 0, 0.5),
        ("x y y", ["y y z"], 0, 2 / 3),
        ("Oslo", ["Rome", "Oslo"], 1, 1),
        ("big red bus", ["red", "red bus", "blue"], 0, 0.8),
        ("Oslo", ["Rome"], 0, 0),
        ("", ["Rome"], 0, 0),
        ("", [], 1, 1),
        ("Rome", [], 0, 0),
        ("the", [], 1, 1),
        # A gold answer of articles and punctuation alone counts only where there is no other.
        ("", ["the", "Rome"], 0, 0),
        ("", ["the"], 1, 1),
        ("10,000", ["10000"], 1, 1),
    ],
)
def test_answers_worked_by_hand(found, golds, exact, f1):
    assert score_answer(found, golds) == (exact, pytest.approx(f1))


CONTEXT = "Anna met Ben in Rome."


def row(*golds):
    starts = [CONTEXT.index(gold) for gold in golds]
    return {"context": CONTEXT, "answers": {"text": list(golds), "answer_start": starts}}


ROWS = [row("Ben"), row("in Rome", "Rome"), row(), row(), row("Anna")]
# Start, end, logit of the best answer and of none.
SCORES = torch.tensor(
    [[9, 12, 5, 1], [13, 20, 3, 4], [0, 4, 2, 3], [0, 4, 9, 1], [-1, -1, -1e9, 0.0]]
)


def gathered(**options):
    metrics = AnswerMetrics(lambda outputs: outputs, **options)
    metrics.add(SCORES[:3], torch.zeros(3, 2), ROWS[:3])
    metrics.add(SCORES[3:], torch.zeros(2, 2), ROWS[3:])
    return metrics


def test_scores_where_an_answer_is_always_given():
    metrics = gathered(has_unanswerable=False)
    assert metrics.compute() == {"f1": pytest.approx(2 / 5), "exact_match": pytest.approx(2 / 5)}
    assert metrics.chosen() == metrics.per_label() == {}


def test_scores_at_a_threshold_and_their_parts():
    # At 0 the second and third row are refused, and the last has nothing to give.
    assert gathered(has_unanswerable=True, threshold=0.0).compute() == {
        "f1": pytest.approx(2 / 5),
        "exact_match": pytest.approx(2 / 5),
        "has_answer_f1": pytest.approx(1 / 3),
        "has_answer_exact_match": pytest.approx(1 / 3),
        "no_answer_exact_match": 0.5,
    }


def test_the_threshold_chosen_is_used_and_given():
    metrics = gathered(has_unanswerable=True, threshold=None)
    # Margins are -4, 1, 1, -8, 1e9; what is best is to give the first four rows their answer, or
    # to refuse the second and third: the rows of margin 1 cannot be told apart.
    assert metrics.compute()["f1"] == pytest.approx(2 / 5)
    threshold = metrics.chosen()["null_threshold"]
    again = gathered(has_unanswerable=True, threshold=threshold)
    assert again.compute() == metrics.compute()
    assert again.chosen() == {"null_threshold": threshold}


def test_nothing_is_chosen_from_rows_of_one_kind():
    metrics = AnswerMetrics(lambda outputs: outputs, has_unanswerable=True, threshold=None)
    metrics.add(SCORES[:2], torch.zeros(2, 2), ROWS[:2])
    assert metrics.chosen() == {}
    scores = metrics.compute()
    assert math.isnan(scores["no_answer_exact_match"])
    assert scores["f1"] == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold_is_that_of_a_search_over_all(seed):
    rng = np.random.default_rng(seed)
    margins = rng.integers(-4, 5, 30) / rng.choice([1, 3])
    has_answer = rng.random(30) < rng.choice([0.2, 0.5, 0.8])
    f1 = rng.choice([0.0, 0.5, 1.0], 30) * has_answer

    def mean_f1(threshold):
        return np.where(margins > threshold, ~has_answer, f1).mean()

    best = max(mean_f1(threshold) for threshold in [-9.0, *margins])
    found = best_null_threshold(margins, f1, has_answer)
    assert mean_f1(found) == pytest.approx(best)
    assert np.abs(margins - found).min() > 0.1
