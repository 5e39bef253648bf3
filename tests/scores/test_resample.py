"""Intervals by the bootstrap: against scores computed anew on every draw, and against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from ftkit.arrays import as_array
from ftkit.errors import SettingError
from ftkit.scores.answers import AnswerMetrics
from ftkit.scores.entities import SpanMetrics
from ftkit.scores.labels import ClassMetrics, LabelsMetrics, ValueMetrics
from ftkit.scores.resample import confidence_intervals, resample, resampled_scores
from ftkit.scores.texts import SummaryMetrics, TranslationMetrics
from ftkit.targets.tags import TagSet, tags_of_types
from ftkit.task import Draw
from ftkit.tasks.language_modeling import Perplexity

pytestmark = pytest.mark.unit
ROWS = 40
LABELS = ("a", "b", "c", "d")
TAGS = TagSet(tags_of_types(["city", "firm", "person"]))
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "was", "late", "again"]


def class_rows(rng):
    wanted = rng.choice(3, ROWS)  # the fourth label is never met, or only found
    return torch.from_numpy(rng.normal(size=(ROWS, 4)) + 2 * np.eye(4)[wanted]), wanted, None


def labels_rows(rng):
    wanted = rng.random((ROWS, 4)) < [0.5, 0.3, 0.1, 0.0]
    return torch.from_numpy(rng.normal(size=(ROWS, 4)) + 2 * wanted - 1), wanted.astype(float), None


def value_rows(rng):
    """Numbers with many ties."""
    wanted = rng.integers(0, 6, ROWS).astype(np.float32)
    return torch.from_numpy(wanted + rng.integers(-2, 3, ROWS)).float()[:, None], wanted, None


def span_rows(rng):
    wanted = torch.from_numpy(TAGS.mended(rng.choice(len(TAGS.labels), (ROWS, 6))))
    found = torch.where(torch.rand(wanted.shape) < 0.7, wanted, rng.integers(len(TAGS.labels)))
    wanted[torch.arange(6) >= torch.from_numpy(rng.integers(0, 7, ROWS))[:, None]] = -100
    return torch.nn.functional.one_hot(found, len(TAGS.labels)).float(), wanted.numpy(), None


def answer_rows(rng):
    rows = []
    for _ in range(ROWS):
        context = " ".join(rng.choice(WORDS, 8))
        golds = [context[:7]] if rng.random() < 0.7 else []
        answers = {"text": golds, "answer_start": [0] * len(golds)}
        rows.append({"context": context, "answers": answers})
    ends = rng.integers(1, 20, ROWS)
    scores = np.stack([np.zeros(ROWS), ends, rng.normal(size=ROWS), rng.normal(size=ROWS)], 1)
    return torch.from_numpy(scores), np.zeros(ROWS), rows


def block_rows(rng):
    """Some blocks have no target."""
    wanted = np.where(rng.random((ROWS, 5)) < 0.4, rng.integers(0, 7, (ROWS, 5)), -100)
    return torch.from_numpy(rng.normal(size=(ROWS, 5, 7))), wanted, [None] * ROWS


TEXTS = [
    " ".join(np.random.default_rng(i).choice(WORDS, i % 9)) + "." * (i % 3) for i in range(ROWS)
]


def text_rows(rng):
    """Written texts are numbers of these; some have two references."""
    rows = []
    for i in range(ROWS):
        text = " ".join(rng.permutation(TEXTS[i].split())) or "nothing"
        row = {
            "text": TEXTS[i - (i % 3 > 0)] + " so",
            "source": TEXTS[i - (i % 4 > 0)],
            "summary": text,
        }
        rows.append(
            row | {"target": text} | ({"references": [text, "a cat"]} if i % 5 == 0 else {})
        )
    return torch.arange(ROWS)[:, None], np.zeros(ROWS), rows


def read(ids):
    return [TEXTS[i] for i in ids[:, 0].tolist()]


def same(outputs):
    return outputs


KINDS = {
    "labels": (lambda: ClassMetrics(LABELS), class_rows),
    "several labels": (lambda: LabelsMetrics(LABELS, 0.5), labels_rows),
    "values": (ValueMetrics, value_rows),
    "entities": (
        lambda: SpanMetrics(TAGS, lambda o: TAGS.mended(as_array(o).argmax(-1))),
        span_rows,
    ),
    "answers": (lambda: AnswerMetrics(same, has_unanswerable=False), answer_rows),
    "answers or none": (lambda: AnswerMetrics(same, has_unanswerable=True), answer_rows),
    "summaries": (lambda: SummaryMetrics(read), text_rows),
    "translations": (lambda: TranslationMetrics(read), text_rows),
    "blocks": (Perplexity, block_rows),
}


def intervals_of(metrics, resamples):
    return confidence_intervals(resampled_scores(metrics, resamples))


def gathered(make, outputs, targets, rows, numbers, batch=7):
    metrics = make()
    for start in range(0, len(numbers), batch):
        part = torch.as_tensor(numbers[start : start + batch])
        some = [] if rows is None else [rows[i] for i in part.tolist()]
        metrics.add(outputs[part], torch.as_tensor(targets)[part], some)
    return metrics


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_draws_are_those_computed_anew(kind):
    make, rows_of = KINDS[kind]
    torch.manual_seed(0)
    rows = rows_of(np.random.default_rng(1))
    metrics = gathered(make, *rows, range(ROWS))
    found = metrics.resampled(Draw(25, seed=5))
    draws = np.random.default_rng(5).integers(ROWS, size=(25, ROWS))
    expected = [gathered(make, *rows, draw).compute() for draw in draws]
    assert list(found) == list(metrics.compute())
    for name, scores in found.items():
        assert scores.tolist() == pytest.approx([each[name] for each in expected], nan_ok=True)
        assert len(set(scores.tolist())) > 2
    # The intervals hold the scores of these rows, or are of scores that a draw lowers.
    for name, (low, high) in intervals_of(metrics, 200).items():
        assert low <= high
        assert low <= metrics.compute()[name] <= high


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_and_none(kind, recwarn):
    make, rows_of = KINDS[kind]
    assert intervals_of(make(), 9) == {}
    metrics = gathered(make, *rows_of(np.random.default_rng(1)), [3])
    scores = metrics.compute()
    found = intervals_of(metrics, 9)
    assert set(found) == {name for name, score in scores.items() if math.isfinite(score)}
    for name, ends in found.items():
        assert ends == pytest.approx((scores[name], scores[name]))
    assert intervals_of(metrics, 0) == {}
    assert not recwarn.list


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_are_drawn_whatever_their_order(kind):
    """Two models batch rows in different orders; their resamples must be pairs all the same."""
    make, rows_of = KINDS[kind]
    torch.manual_seed(0)
    rows, order = rows_of(np.random.default_rng(1)), np.random.default_rng(4).permutation(ROWS)
    straight = resampled_scores(gathered(make, *rows, range(ROWS)), 20, np.arange(ROWS))
    shuffled = resampled_scores(gathered(make, *rows, order), 20, order)
    unaware = resampled_scores(gathered(make, *rows, order), 20)
    for name, scores in straight.items():
        assert shuffled[name].tolist() == pytest.approx(scores.tolist(), nan_ok=True)
        assert unaware[name].tolist() != pytest.approx(scores.tolist(), nan_ok=True)


def test_intervals_are_those_of_scipy():
    make, rows_of = KINDS["values"]
    metrics = gathered(make, *rows_of(np.random.default_rng(2)), range(ROWS))
    low, high = intervals_of(metrics, 20_000)["mae"]
    wanted, found = np.concatenate(metrics.wanted), np.concatenate(metrics.found)
    theirs = bootstrap(
        (np.abs(wanted - found),), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    # Two quantiles of 20,000 draws; the ends are 0.4 apart.
    assert high - low > 0.3
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 300 samples with an accuracy of 0.8, about 95 % of the intervals hold it."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        metrics = ClassMetrics(("a", "b"))
        is_right = rng.random(150) < 0.8
        metrics.add(torch.eye(2)[is_right.astype(int)], torch.ones(150, dtype=torch.long), [])
        low, high = intervals_of(metrics, 300)["accuracy"]
        held += low <= 0.8 <= high
    assert 0.90 < held / 300 < 0.98


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    def scores(counts):
        return {"mean": counts @ np.arange(9.0)}

    together = resample(Draw(50, seed=3), 9, scores)["mean"]
    monkeypatch.setattr("ftkit.scores.resample._CELLS", 40)
    assert (resample(Draw(50, seed=3), 9, scores)["mean"] == together).all()


def test_several_labels_without_a_threshold_have_no_intervals():
    metrics = gathered(
        lambda: LabelsMetrics(LABELS, None), *labels_rows(np.random.default_rng(0)), range(ROWS)
    )
    assert intervals_of(metrics, 9) == {}
    with pytest.raises(SettingError, match="resamples is -1"):
        intervals_of(metrics, -1)
