"""Scores of entities, against seqeval, nervaluate and a plain count."""

import numpy as np
import pytest

from ftkit.scores.entities import SpanMetrics
from ftkit.spans import entities_of_tags
from ftkit.targets.tags import TagSet, tags_of_types

pytestmark = pytest.mark.unit
TAGS = TagSet(tags_of_types(["city", "firm", "person"]))


def drawn(seed, rows=60):
    """Tags wanted and found (rows, words), -100 behind the words; found is right at times."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 15, rows)
    share = [0.5, *[0.5 / (len(TAGS.labels) - 1)] * (len(TAGS.labels) - 1)]
    wanted = rng.choice(len(TAGS.labels), (rows, 15), p=share)
    found = np.where(rng.random(wanted.shape) < 0.8, wanted, rng.choice(len(share), wanted.shape))
    wanted = TAGS.mended(wanted)
    wanted[np.arange(15) >= lengths[:, None]] = -100
    return wanted, found


def scored(wanted, found):
    metrics = SpanMetrics(TAGS, lambda outputs: TAGS.mended(outputs.argmax(-1)))
    outputs = np.eye(len(TAGS.labels), dtype=np.float32)[found]
    for start in range(0, len(wanted), 7):
        metrics.add(outputs[start : start + 7], wanted[start : start + 7], [])
    return metrics


def named(wanted, found):
    lengths = (wanted >= 0).sum(1).tolist()
    return [
        [
            [TAGS.labels[tag] for tag in row[:length]]
            for row, length in zip(part, lengths, strict=True)
        ]
        for part in (wanted.tolist(), TAGS.mended(found).tolist())
    ]


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_a_plain_count(seed):
    wanted, found = drawn(seed)
    metrics = scored(wanted, found)
    gold, answers = (
        {(i, *each) for i, row in enumerate(part) for each in entities_of_tags(row)}
        for part in named(wanted, found)
    )
    both = len(gold & answers)
    assert 0 < both < len(gold)
    is_word = wanted >= 0
    assert metrics.compute() == pytest.approx(
        {
            "f1": 2 * both / (len(gold) + len(answers)),
            "precision": both / len(answers),
            "recall": both / len(gold),
            "accuracy": (TAGS.mended(found) == wanted)[is_word].mean(),
        }
    )
    assert list(metrics.compute()) == ["f1", "precision", "recall", "accuracy"]
    for kind, row in metrics.per_label().items():
        assert row["support"] == sum(each[-1] == kind for each in gold)
    assert metrics.chosen() == {}


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_seqevals_in_strict_mode(seed):
    seqeval = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme").IOB2
    wanted, found = drawn(seed)
    metrics = scored(wanted, found)
    report = seqeval.classification_report(
        *named(wanted, found), mode="strict", scheme=scheme, output_dict=True
    )
    ours = {**metrics.per_label(), "micro avg": metrics.compute()}
    for name, row in ours.items():
        for score in ("precision", "recall"):
            assert row[score] == pytest.approx(report[name][score])
        assert row["f1"] == pytest.approx(report[name]["f1-score"])
    assert metrics.compute()["accuracy"] == pytest.approx(
        seqeval.accuracy_score(*named(wanted, found))
    )


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_nervaluates_in_strict_mode(seed):
    nervaluate = pytest.importorskip("nervaluate")
    wanted, found = drawn(seed)
    metrics = scored(wanted, found)
    evaluator = nervaluate.Evaluator(*named(wanted, found), tags=list(TAGS.types), loader="list")
    strict = evaluator.evaluate()["overall"]["strict"]
    ours = metrics.compute()
    assert ours["f1"] == pytest.approx(strict.f1)
    assert ours["precision"] == pytest.approx(strict.precision)
    assert ours["recall"] == pytest.approx(strict.recall)


def test_nothing_found_and_nothing_wanted_is_zero_without_a_warning(recwarn):
    wanted = np.array([[0, 0, -100], [-100, -100, -100]])
    metrics = scored(wanted, np.zeros_like(wanted))
    assert metrics.compute() == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0}
    assert SpanMetrics(TAGS, np.argmax).compute()["accuracy"] == 0.0
    assert not recwarn.list


def test_an_entity_does_not_go_on_in_the_next_row():
    wanted = np.array([[1], [2]])
    metrics = scored(TAGS.mended(wanted), np.array([[1], [1]]))
    assert metrics.counts[:, 0].tolist() == [2, 2, 2]
