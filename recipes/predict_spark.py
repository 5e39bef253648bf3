"""Answer the rows of a Spark DataFrame: `mapInPandas`, with a model loaded once a partition.

    spark.sparkContext.addPyFile("recipes/predict_spark.py")
    schema = rows.schema.add("label", "string").add("score", "double").add("error", "string")
    rows.mapInPandas(answering("/models/first"), schema).write.parquet("answers/")

All workers need ftkit, and see the model's folder. A row that cannot be read has no label, and an
error that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pandas as pd

import ftkit
from ftkit.errors import DataError

Frames: TypeAlias = Iterator[pd.DataFrame]


def answering(folder: str, text: str = "text") -> Callable[[Frames], Frames]:
    """The function for `mapInPandas`: a classifier's answers to the texts of a column."""

    def answer(frames: Frames) -> Frames:
        model = ftkit.load_model(folder)
        for frame in frames:
            errors: list[DataError] = []
            found = list(model.stream(frame[text], on_error=errors.append, progress=False))
            said = {error.row: error.problem for error in errors}
            columns: dict[str, Any] = {
                "label": [each and each.label for each in found],
                "score": [each and each.score for each in found],
                "error": [said.get(row) for row in range(1, len(found) + 1)],
            }
            yield frame.assign(**columns)

    return answer
