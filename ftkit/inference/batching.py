"""Rows of many callers at once -> shared batches, for a service.

One thread asks the model; callers wait for their own row. A batch is closed when its tokens reach a
budget, or when the oldest row in it has waited long enough. Imports `predictor`; the recipe
`serve_api.py` puts HTTP before it.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ftkit.errors import DataError, FtkitError, check_least
from ftkit.features import input_columns
from ftkit.inference.engine import TorchEngine
from ftkit.inference.predictor import Predictor

# Rows that a CPU computes together. Measured with sentences: 64 of them take half the time in parts
# of 16, sorted by length, because less is padded.
_CPU_ROWS = 16


class OverloadError(FtkitError):
    """More rows wait than a service was told to let wait."""


@dataclass(frozen=True)
class _Asked:
    """A row on its way."""

    row: Any
    tokens: int
    since: float
    answer: Future[Any] = field(default_factory=Future)


class Batcher:
    """Answers rows that come one by one from any thread, several at a time."""

    def __init__(
        self,
        model: Predictor,
        *,
        max_tokens: int = 4096,
        max_wait: float = 0.005,
        max_waiting: int = 1024,
        max_row_tokens: int | None = None,
    ) -> None:
        """`max_tokens` a batch; `max_wait` seconds that a row waits for others; `max_waiting` rows
        in the queue; `max_row_tokens` a row, None for any number.

        Raises SettingError for values that cannot work.
        """
        check_least(1, max_tokens=max_tokens, max_waiting=max_waiting)
        check_least(1, max_row_tokens=max_row_tokens)
        check_least(0, "s", max_wait=max_wait)
        self.model, self.max_tokens, self.max_wait = model, max_tokens, max_wait
        is_gpu = isinstance(model.engine, TorchEngine) and model.engine.device.type != "cpu"
        self._rows_at_once = max_tokens if is_gpu else _CPU_ROWS
        self.max_waiting, self.max_row_tokens = max_waiting, max_row_tokens
        self._queue: queue.Queue[_Asked | None] = queue.Queue(max_waiting)
        self._is_closed, self._closing = False, threading.Lock()
        self._thread = threading.Thread(target=self._work, name="ftkit-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._queue.qsize()

    def submit(self, row: Any) -> Future[Any]:
        """The row's prediction, once it is there; a row is what `Predictor.predict` takes.

        Raises DataError for a row that cannot be read or has too many tokens, and OverloadError
        where too many rows wait or the service is closing.
        """
        columns = input_columns([row], self.model.task)
        tokens = self._count(columns)
        if self.max_row_tokens is not None and tokens > self.max_row_tokens:
            raise DataError(
                f"the row has {tokens:,} tokens, and {self.max_row_tokens:,} are allowed",
                remedy="Split it, or shorten it.",
            )
        asked = _Asked(row, tokens, time.monotonic())
        # No row may come behind the sign of closing, where nobody would read it.
        with self._closing:
            if self._is_closed:
                raise OverloadError("the service is closing", remedy="Ask another one.")
            try:
                self._queue.put_nowait(asked)
            except queue.Full:
                raise OverloadError(
                    f"{self.max_waiting:,} rows wait already", remedy="Ask again in a while."
                ) from None
        return asked.answer

    def close(self) -> None:
        """Answer what waits, take nothing more, and end the thread."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()

    def _count(self, columns: dict[str, list[Any]]) -> int:
        """Tokens of a row, as far as its batch is concerned."""
        texts = [text if isinstance(text, str) else " ".join(text) for (text,) in columns.values()]
        encoded = self.model.tokenizer(
            texts, truncation=False, padding=False, return_attention_mask=False, verbose=False
        )
        return sum(len(ids) for ids in encoded["input_ids"])

    def _work(self) -> None:
        first: _Asked | None = None
        while True:
            first = first or self._queue.get()
            if first is None:
                break
            batch, first = self._fill(first)
            self._answer(batch)

    def _fill(self, first: _Asked) -> tuple[list[_Asked], _Asked | None]:
        """A batch that begins with that row, and a row that no longer went in."""
        batch, longest = [first], first.tokens
        until = first.since + self.max_wait
        while True:
            try:
                asked = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, None
            if asked is None:
                self._queue.put(None)  # for `_work`
                return batch, None
            if asked.answer.cancelled():
                continue  # it must not take the place of one that somebody waits for
            longest = max(longest, asked.tokens)
            if longest * (len(batch) + 1) > self.max_tokens:
                return batch, asked
            batch.append(asked)

    def _answer(self, batch: list[_Asked]) -> None:
        live = [asked for asked in batch if asked.answer.set_running_or_notify_cancel()]
        rows = [asked.row for asked in live]
        try:
            found = self.model.predict(rows, batch_size=self._rows_at_once)
        except Exception:
            # One row may have spoilt the others' batch: each is asked alone.
            for asked in live:
                self._answer_alone(asked)
            return
        for asked, prediction in zip(live, found, strict=True):
            asked.answer.set_result(prediction)

    def _answer_alone(self, asked: _Asked) -> None:
        try:
            asked.answer.set_result(self.model.predict([asked.row])[0])
        except Exception as error:
            asked.answer.set_exception(error)
