"""Rows of many threads in shared batches: nobody gets another's answer, nobody waits for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ftkit.errors import DataError, SettingError
from ftkit.inference.batching import Batcher, OverloadError


@pytest.fixture
def batches(model, monkeypatch):
    """Rows of each call of the model."""
    seen, predict = [], model.predict

    def counted(rows, **options):
        seen.append(list(rows))
        return predict(rows, **options)

    monkeypatch.setattr(model, "predict", counted)
    return seen


@pytest.fixture
def held(model, monkeypatch):
    """A lock that holds the model up."""
    lock, predict = threading.Event(), model.predict

    def waits(rows, **options):
        lock.wait(10)
        return predict(rows, **options)

    monkeypatch.setattr(model, "predict", waits)
    return lock


def test_everyone_gets_their_own_answer(model, batches):
    texts = [f"{'late refund ' * (n % 7)} courier {n % 13}" for n in range(400)]
    expected = model.predict(texts)
    batches.clear()
    batcher = Batcher(model, max_wait=0.02)
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda text: batcher.submit(text).result(30), texts))
    batcher.close()
    for ours, alone in zip(found, expected, strict=True):
        assert ours.scores == pytest.approx(alone.scores, abs=1e-5)
    assert sum(map(len, batches)) == 400
    assert len(batches) < 200


def test_a_batch_keeps_to_its_tokens(model, batches, held):
    batcher = Batcher(model, max_tokens=60, max_wait=0.05)
    texts = ["late"] * 5 + ["late " * 28] * 3 + ["late " * 90]
    futures = [batcher.submit(text) for text in texts]
    held.set()
    for future in futures:
        future.result(30)
    batcher.close()
    # With its special tokens a text has 3, 30 or 92.
    assert sum(map(len, batches)) == len(texts)
    for batch in batches:
        longest = max(len(text.split()) + 2 for text in batch)
        assert len(batch) == 1 or longest * len(batch) <= 60


def test_a_lonely_row_does_not_wait_for_others(model):
    batcher = Batcher(model, max_wait=0.0)
    assert batcher.submit("late").result(10) == model.predict(["late"])[0]
    batcher.close()


def test_too_many_rows_are_refused_at_once(model, held):
    batcher = Batcher(model, max_waiting=4, max_tokens=1, max_wait=0)
    futures = []
    with pytest.raises(OverloadError, match="4 rows wait already"):
        futures.extend(batcher.submit("late") for _ in range(10))
    assert 4 <= len(futures) <= 6
    held.set()
    assert {future.result(10).label for future in futures} == {model.predict(["late"])[0].label}
    batcher.close()


def test_rows_that_cannot_be_read(model):
    batcher = Batcher(model, max_row_tokens=50)
    for row, message in ((None, "found nothing"), (7, "found 7"), ("late " * 60, "the row has 62")):
        with pytest.raises(DataError, match=message):
            batcher.submit(row)
    assert batcher.submit("late").result(10)
    batcher.close()
    with pytest.raises(SettingError):
        Batcher(model, max_tokens=0)


def test_a_row_that_spoils_a_batch_spoils_no_other(model, monkeypatch, held):
    predict = model.predict

    def fails(rows, **options):
        if any(row == "poison" for row in rows):
            raise RuntimeError("out of memory")
        return predict(rows, **options)

    monkeypatch.setattr(model, "predict", fails)
    batcher = Batcher(model, max_wait=0.2)
    futures = [batcher.submit(text) for text in ("late", "poison", "refund")]
    held.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        futures[1].result(10)
    assert futures[0].result(10).label == predict(["late"])[0].label
    assert futures[2].result(10).label == predict(["refund"])[0].label
    batcher.close()


def test_rows_given_up_take_no_place_in_a_batch(model, batches, held):
    batcher = Batcher(model, max_tokens=6, max_wait=0)
    first = batcher.submit("late")
    while batcher.waiting:
        time.sleep(0.001)
    futures = [batcher.submit(text) for text in ("refund", "late", "invoice", "parcel")]
    assert [future.cancel() for future in futures[1:3]] == [True, True]
    held.set()
    for future in (first, futures[0], futures[3]):
        assert future.result(10)
    batcher.close()
    # A text has 3 tokens: two fill a batch.
    assert batches == [["late"], ["refund", "parcel"]]


def test_closing_answers_what_waits(model, held):
    batcher = Batcher(model, max_tokens=10, max_wait=5)
    futures = [batcher.submit("late") for _ in range(7)]
    cancelled = futures[5].cancel()
    threading.Timer(0.1, held.set).start()
    batcher.close()
    assert [future.done() for future in futures] == [True] * 7
    assert cancelled == futures[5].cancelled()
    with pytest.raises(OverloadError, match="closing"):
        batcher.submit("late")
    batcher.close()
