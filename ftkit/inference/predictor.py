"""A saved model -> typed predictions, batched by length.

Serves without fastai, pandas, matplotlib or wandb; an exported model without torch too.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ftkit.errors import CheckpointError, DataError, SettingError, check_least, quoted
from ftkit.features import (
    ColumnRows,
    Features,
    Padding,
    input_columns,
    iterate_rows,
    named_labels,
    prepare_rows,
)
from ftkit.inference.engine import Engine, TorchEngine
from ftkit.inference.onnx_engine import MODEL_FILE, OnnxEngine
from ftkit.inference.task_file import read_task
from ftkit.model.trust import check_folder
from ftkit.scores.resample import confidence_intervals, resampled_scores
from ftkit.task import Prediction, Rows, Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ftkit.inference.explanation import Explanation, Method
    from ftkit.model.device import Precision
    from ftkit.model.module import TextModel

Watch: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray, Rows], object]
"""What looks on at an evaluation: numbers of a batch's rows, outputs, targets, and the rows."""

_SLICE = 4096  # rows tokenised and sorted by length at once


def load_model(
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
    compile: bool | str = False,
) -> Predictor:
    """Open a model that `ftkit.save`, `ftkit train` or `ftkit export` wrote.

    `device` is the first GPU, else the CPU, where it is None. Answers in fp32 agree with
    transformers' pipelines; bf16 is faster where the device computes in it. `compile` has
    torch.compile make the model's code, which takes minutes before the first answer; a string
    names another backend than "inductor".

    Raises CheckpointError for a folder that is no bundle, SettingError for a device that is not
    there and for a precision that it does not have.
    """
    folder = Path(folder)
    if (folder / MODEL_FILE).exists():
        return _open_exported(folder, device, precision, compile)
    if importlib.util.find_spec("torch") is None:
        raise CheckpointError(
            f'"{folder}" needs torch, and it is not installed',
            remedy="Install torch, or export the model where there is one: ftkit export --onnx.",
        )
    from ftkit.inference.bundle import read_bundle
    from ftkit.model.module import compile_in_place

    hf_model, tokenizer, task, limit = read_bundle(folder)
    engine = open_engine(hf_model, task, device, precision)
    if compile:
        compile_in_place(hf_model, compile)
    return Predictor(engine, tokenizer, task, limit)


def _open_exported(
    folder: Path,
    device: str | torch.device | None,
    precision: Precision,
    compile: bool | str,
) -> Predictor:
    from ftkit.model.tokenizer import load_tokenizer

    task, limit, _ = read_task(folder)
    check_folder(folder, str(folder))
    if precision not in ("auto", "fp32") or compile:
        given = "compile" if compile else f"precision {precision}"
        raise SettingError(
            f"{given} is asked for, and an exported model is what it was exported as",
            remedy="Leave it out, or load the folder that it was exported from.",
        )
    engine = OnnxEngine(folder / MODEL_FILE, None if device is None else str(device))
    return Predictor(engine, load_tokenizer(str(folder), str(folder)), task, limit)


def open_engine(
    hf_model: PreTrainedModel,
    task: Task,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> TorchEngine:
    """The model on its device; `device` and `precision` as in `load_model`."""
    from ftkit.model.device import autocast_dtype, find_device
    from ftkit.model.module import TextModel, convert_products

    where = find_device(device)
    model = TextModel(hf_model, task)
    model.autocast_dtype = autocast_dtype(precision, where)
    if model.autocast_dtype is not None:
        convert_products(hf_model, model.autocast_dtype)
    return TorchEngine(model, where)


@dataclass(frozen=True)
class Evaluation:
    """How a model did on labelled rows; printed, it is a table."""

    scores: dict[str, float]
    """The task's scores, fractions between 0 and 1."""
    per_label: dict[str, dict[str, float]]
    """Precision, recall, f1 and support of each label."""
    rows: int
    truncated: int
    """Rows of which the model saw a part only."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Between which numbers a score lies with 95 % confidence, by the bootstrap over rows."""
    resampled: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    """The score of each resample (resamples,): those of two models on the same rows are pairs."""

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON, without the resamples."""
        names = (each.name for each in fields(self) if each.name != "resampled")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        """Scores over all rows, then those of each label."""
        ends = {name: " ({:.4f} to {:.4f})".format(*each) for name, each in self.intervals.items()}
        scores = [f"{name} {value:.4f}{ends.get(name, '')}" for name, value in self.scores.items()]
        lines = scores if ends else ["  ".join(scores)]
        if self.per_label:
            width = max(5, *(len(label) for label in self.per_label))
            lines.append(f"{'label':<{width}}  precision  recall      f1  support")
            lines += [
                f"{label:<{width}}  {each['precision']:9.3f}  {each['recall']:6.3f}  "
                f"{each['f1']:6.3f}  {each['support']:7,}"
                for label, each in self.per_label.items()
            ]
        return "\n".join(lines)


class Predictor:
    """A model ready to answer."""

    def __init__(
        self, engine: Engine, tokenizer: PreTrainedTokenizerBase, task: Task, limit: int
    ) -> None:
        """`limit` is the longest sequence in tokens that the model sees at once."""
        self.engine, self.tokenizer, self.task, self.limit = engine, tokenizer, task, limit

    @property
    def model(self) -> TextModel:
        """The torch module that answers; raises SettingError where ONNX Runtime does."""
        if isinstance(self.engine, TorchEngine):
            return self.engine.model
        raise SettingError(
            "an exported model has no torch module",
            remedy="Load the folder that it was exported from.",
        )

    def predict(
        self,
        rows: Iterable[Any],
        *,
        top_k: int | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        **settings: Any,
    ) -> list[Any]:
        """Predictions, in the order of the rows: the task's own frozen dataclass for each.

        A row is a text, a tuple of texts, or a dict with the task's columns. A DataFrame is its
        rows. `top_k` asks for so many answers, the likeliest first; `batch_size` counts windows;
        `progress` shows a bar, without it where work is long and there is a terminal. `settings`
        are options of the task for this call alone, those in `task.settings`: a threshold, the
        stride of windows, the number of beams.

        Raises DataError, with the number of the row, for one that is none of these, and
        SettingError for a setting that the task does not have, or a `max_length` above the model's.
        """
        return list(
            self.stream(rows, top_k=top_k, batch_size=batch_size, progress=progress, **settings)
        )

    def stream(
        self,
        rows: Iterable[Any],
        *,
        top_k: int | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        on_error: Callable[[DataError], object] | None = None,
        **settings: Any,
    ) -> Iterator[Any]:
        """As `predict`, one prediction after the other, for any number of rows in flat memory.

        No more than 4,096 rows are read ahead; they are sorted by length to be batched. A row
        that cannot be read ends the stream with a DataError; where `on_error` is given, it is
        called with the error, which has the number of the row, and None stands in for the answer.
        """
        check_least(1, top_k=top_k, batch_size=batch_size)
        task, limit = self._with_settings(settings)
        if task.packs:
            raise SettingError(
                f"a model for {task.name} reads blocks of text and answers no rows",
                remedy="Fine-tune from its folder, or open it with transformers.",
            )
        total = len(rows) if isinstance(rows, Sized) else None
        each = iterate_rows(rows)
        return self._stream(each, total, task, limit, top_k, batch_size, progress, on_error)

    def _stream(
        self,
        rows: Iterator[Any],
        total: int | None,
        task: Task,
        limit: int,
        top_k: int | None,
        batch_size: int,
        progress: bool | None,
        on_error: Callable[[DataError], object] | None,
    ) -> Iterator[Any]:
        with _progress(total, progress) as bar:
            first = 0
            while part := list(islice(rows, _SLICE)):
                numbers, columns, features = _read(
                    part, first, task, self.tokenizer, limit, on_error
                )
                found: list[Prediction | None] = [None] * len(part)
                bar.update(len(part) - len(numbers))
                for places, outputs, _ in self.run(features, batch_size, task) if features else ():
                    chosen = ColumnRows(columns, places)
                    decoded = task.decode(outputs, chosen, self.tokenizer, top_k)
                    for place, prediction in zip(places, decoded, strict=True):
                        found[numbers[place]] = prediction
                    bar.update(len(places))
                first += len(part)
                yield from found

    def _with_settings(self, settings: Mapping[str, Any]) -> tuple[Task, int]:
        """The task with other options for a call, and the length in tokens that goes with them.

        Raises SettingError for a setting that the task does not have, and for more tokens than the
        model reads.
        """
        known = self.task.settings
        if unknown := [name for name in settings if name not in known]:
            raise SettingError(
                f"{self.task.name} has no setting {quoted(unknown)}",
                remedy=f"It has {quoted(known)}." if known else "It has none.",
            )
        limit = settings.get("max_length") or self.limit
        if limit > self.limit:
            raise SettingError(
                f"max_length is {limit}, and the model reads {self.limit} tokens at most",
                remedy="Give no more, or train it with a larger max_length.",
            )
        return replace(self.task, **settings), limit  # type: ignore[type-var]

    def evaluate(
        self,
        rows: Any,
        *,
        batch_size: int = 32,
        resamples: int = 0,
        watch: Watch | None = None,
    ) -> Evaluation:
        """Score the model on labelled rows: a `datasets.Dataset`, or a dict of columns.

        Intervals come from so many resamples of the rows; 1,000 are usual. `watch` is called with
        each batch: the numbers of its rows, outputs, targets, and the rows.

        Raises DataError where there are no rows, and for a label that is missing or that the model
        does not know.
        """
        is_dataset = all(hasattr(rows, name) for name in ("column_names", "with_format", "__len__"))
        columns = rows.values() if isinstance(rows, Mapping) else ()
        if not is_dataset and not (columns and all(isinstance(each, Sized) for each in columns)):
            raise DataError(
                "labelled rows are read from a Dataset, or from a dict of columns",
                remedy="Give ftkit.load_data(rows)[split].",
            )
        rows = rows.with_format(None) if is_dataset else rows
        names = rows.column_names if is_dataset else rows
        wanted = [column for column in self.task.columns() if not column.is_input]
        has_target = not wanted or any(column.name in names for column in wanted)
        for column in self.task.columns():
            is_needed = column.is_required or (column in wanted and not has_target)
            if is_needed and column.name not in names:
                raise DataError(
                    f"there is no such column among {quoted(list(names))}",
                    remedy="Rename the column that holds it.",
                    column=column.name,
                )
        metrics, truncated = self.task.metrics(self.tokenizer), 0
        order: list[np.ndarray] = []
        lengths = {len(rows)} if is_dataset else set(map(len, columns))
        if len(lengths) > 1:
            raise DataError(
                f"the columns are of different lengths: {', '.join(map(str, sorted(lengths)))}",
                remedy="Give each row a value in every column.",
            )
        n_rows = lengths.pop()
        if not n_rows:
            raise DataError("there are no rows to score", remedy="Give labelled rows.")
        for start in range(0, n_rows, _SLICE):
            part = slice_columns(rows, start, start + _SLICE)
            try:
                features = prepare_rows(part, self.task, self.tokenizer, self.limit)
            except DataError as error:
                raise error.located(row=error.row and error.row + start) from None
            for numbers, outputs, targets in self.run(features, batch_size):
                met = ColumnRows(part, numbers)
                metrics.add(outputs, targets, met)
                order.append(np.array(numbers) + start)
                if watch is not None:
                    watch(order[-1], outputs, targets, met)
            truncated += features.count_cut()
        drawn = resampled_scores(metrics, resamples, np.concatenate(order) if order else None)
        return Evaluation(
            metrics.compute(),
            metrics.per_label(),
            n_rows,
            truncated,
            confidence_intervals(drawn),
            drawn,
        )

    def explain(
        self,
        row: Any,
        *,
        label: str | None = None,
        entity: int | None = None,
        method: Method | None = None,
        n_steps: int | None = None,
        batch_size: int = 32,
    ) -> Explanation:
        """How much each word of a row speaks for the answer: classification, NER, QA.

        Explained is the label predicted, or `label`; the first entity found, or the one of number
        `entity` from 0; the answer given. `method` "integrated_gradients" (Sundararajan et al.
        2017; needs ftkit[explain]) is the default where the architecture allows it, and
        "occlusion", which hides a word at a time, where not. Padding stands in for a hidden word.
        `n_steps` are as many as the gap asks for, up to 256; `batch_size` counts windows.

        Raises DataError for a row that cannot be read or is too long, SettingError for what
        cannot be explained. Warns where the gap stays above 2 % of the scores.
        """
        from ftkit.inference.explain import explain_row

        return explain_row(
            self,
            row,
            label=label,
            entity=entity,
            method=method,
            n_steps=n_steps,
            batch_size=batch_size,
        )

    def run(
        self, features: Features, batch_size: int, task: Task | None = None
    ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Numbers of the rows, outputs and targets, batch by batch of rows of like length.

        For what answers with something else than the task's own predictions.
        """
        task = self.task if task is None else task
        padding = Padding.of(self.tokenizer)
        for rows in _batches(features, batch_size):
            inputs, targets = task.collate(features.fill(rows, padding))
            yield rows.tolist(), self.engine.answer(inputs, task), targets


def _batches(features: Features, batch_size: int) -> Iterator[np.ndarray]:
    """Rows of like length, of about `batch_size` windows together, the longest first."""
    order = np.argsort(-features.lengths, kind="stable")
    number = (features.windows[order].cumsum() - 1) // batch_size
    yield from np.split(order, np.flatnonzero(np.diff(number)) + 1) if len(order) else ()


def _read(
    part: Sequence[Any],
    first: int,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    on_error: Callable[[DataError], object] | None,
) -> tuple[list[int], dict[str, list[Any]], Features | None]:
    """Places of the rows that can be read, their columns and features; `on_error` hears of others.

    There are no features where there is no row.
    `first` is the number of the part's first row, from 0.
    """
    places = list(range(len(part)))
    if on_error is not None:
        places = [i for i in places if _is_readable(part[i], first + i, task, on_error)]
    while places:
        try:
            columns = input_columns([part[i] for i in places], task)
            return places, columns, prepare_rows(columns, task, tokenizer, limit)
        except DataError as error:
            if error.row is None:
                raise
            # It counts the rows that are left.
            place = places[error.row - 1]
            located = error.located(row=first + place + 1)
            if on_error is None:
                raise located from None
            on_error(located)
            places.remove(place)
    return places, {}, None


def _is_readable(
    row: Any, number: int, task: Task, on_error: Callable[[DataError], object]
) -> bool:
    try:
        input_columns([row], task, number)
    except DataError as error:
        on_error(error)
        return False
    return True


def _progress(total: int | None, is_wanted: bool | None) -> Any:
    """A bar over rows; by itself only where there are many of them, and a terminal."""
    from tqdm.auto import tqdm

    if is_wanted is None:
        is_long = total is None or total > _SLICE
        is_wanted = is_long and sys.stderr is not None and sys.stderr.isatty()
    return tqdm(total=total, unit=" rows", disable=not is_wanted)


def slice_columns(rows: Any, start: int, end: int) -> Mapping[str, Sequence[Any]]:
    """The columns of some rows, of a `datasets.Dataset` or a dict of columns."""
    if isinstance(rows, Mapping):
        return {name: values[start:end] for name, values in rows.items()}
    return named_labels(rows[start:end], rows.features)
