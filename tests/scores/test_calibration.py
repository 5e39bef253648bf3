"""Reliability by hand-worked cases, and temperatures against a search and against sklearn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ftkit.arrays import sigmoid, softmax
from ftkit.scores.calibration import (
    answers_of,
    best_temperature,
    negative_log_likelihood,
    reliability,
)

pytestmark = pytest.mark.unit


def test_error_of_a_hand_worked_case():
    # Two answers at 0.95, one right: a gap of 0.45. Two at 0.65, both right: 0.35.
    found = reliability(np.array([0.95, 0.95, 0.65, 0.65]), np.array([1.0, 0.0, 1.0, 1.0]))
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert found.accuracy[[6, 9]].tolist() == [1.0, 0.5]
    assert found.error == pytest.approx((0.45 + 0.35) / 2)


def test_a_sure_answer_and_none_at_all():
    assert reliability(np.array([1.0]), np.array([1.0])).counts[-1] == 1
    assert reliability(np.array([]), np.array([])).error == 0.0


def test_answers_of_one_label_and_of_several():
    sure, right = answers_of(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 1]))
    assert sure.tolist() == [0.8, 0.6]
    assert right.tolist() == [1.0, 0.0]
    sure, right = answers_of(np.array([[0.2, 0.8]]), np.array([[1, 1]]))
    assert sure.tolist() == [0.8, 0.8]
    assert right.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("true", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_temperature_of_drawn_labels_is_found(kind, true):
    """Labels drawn from softmax(logits / T) are likeliest at T."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4000, 4))
    if kind == "single":
        chances = softmax(logits / true)
        targets = np.array([rng.choice(4, p=row) for row in chances])
    else:
        targets = (rng.random(logits.shape) < sigmoid(logits / true)).astype(np.float32)
    found = best_temperature(logits, targets)
    assert found == pytest.approx(true, rel=0.1)
    mended = negative_log_likelihood(logits / found, targets)
    for other in (found * 0.9, found * 1.1):
        assert mended <= negative_log_likelihood(logits / other, targets)


def test_the_likelihood_is_sklearns():
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(0, 2, (50, 3)), rng.integers(3, size=50)
    expected = log_loss(targets, softmax(logits), labels=[0, 1, 2])
    assert negative_log_likelihood(logits, targets) == pytest.approx(expected)


@pytest.mark.parametrize("targets", [np.arange(3), np.eye(3)], ids=["single", "multi"])
def test_answers_that_are_never_wrong_change_nothing(targets):
    """The likeliest temperature is 0 there, at which a model would be sure of everything."""
    logits = np.eye(3) * 5 - 1
    assert best_temperature(logits, targets) == 1
    logits[0, 1] = 9
    assert best_temperature(logits, targets) > 1
