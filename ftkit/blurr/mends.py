"""What of Blurr ends in an error on today's stack, or always did: made to work as it says.

Each function mends one fault; `MENDS` is all of them, for `ftkit.blurr` to call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import blurr.text.data.token_classification as tagging_data
import blurr.text.modeling.all as modeling
import blurr.text.modeling.seq2seq.summarization as summarization
import blurr.text.modeling.seq2seq.translation as translation
import blurr.text.utils as utils
import pandas as pd
import torch
from blurr.text.data.core import first_blurr_tfm
from blurr.text.modeling.seq2seq.core import Seq2SeqMetricsCallback
from transformers import AutoConfig

from ftkit._fastai import (
    BCEWithLogitsLossFlat,
    F1Score,
    L,
    Learner,
    Pipeline,
    Transform,
    accuracy,
)
from ftkit.blurr.patch import change_arguments, replace, replace_method, say_once
from ftkit.errors import DataError, quoted

_SEQ2SEQ = (modeling.BlearnerForSummarization, modeling.BlearnerForTranslation)
_BLEARNERS = (
    modeling.BlearnerForSequenceClassification,
    modeling.BlearnerForTokenClassification,
    modeling.BlearnerForQuestionAnswering,
    modeling.BlearnerForLM,
    *_SEQ2SEQ,
)
_READERS: dict[str, Any] = {
    ".csv": pd.read_csv,
    ".json": partial(pd.read_json, orient="records"),
    ".jsonl": partial(pd.read_json, lines=True),
    ".xls": pd.read_excel,
    ".xlsx": pd.read_excel,
}


def files_are_read() -> None:
    """A path as `data` fails: what was read of the file is read as a file again."""

    def read(cls: type, given: dict[str, Any]) -> None:
        data = given["data"]
        if isinstance(data, (str, Path)):
            if Path(data).suffix not in _READERS:
                raise DataError(
                    f'Blurr reads no file such as "{data}"',
                    remedy=f"Give one of {quoted(list(_READERS))}, or a DataFrame.",
                )
            given["data"] = _READERS[Path(data).suffix](data)

    for each in _BLEARNERS:
        change_arguments(each, "from_data", read)


def settings_are_not_shared() -> None:
    """A Blearner's default metrics are written into a default argument, for all that follow."""

    def copy(cls: type, given: dict[str, Any]) -> None:
        given.update({name: dict(each) for name, each in given.items() if isinstance(each, dict)})

    for each in _BLEARNERS:
        change_arguments(each, "from_data", copy)


def many_classes_have_an_f1() -> None:
    """The default metric is the F1 of two classes, which fails on three: theirs is the macro F1."""

    def choose(cls: type, given: dict[str, Any]) -> None:
        label, data = given["label_attr"], given["data"]
        if isinstance(label, str) and len({row[label] for row in _rows(data)}) > 2:
            given["learner_kwargs"].setdefault("metrics", [F1Score(average="macro"), accuracy])

    change_arguments(modeling.BlearnerForSequenceClassification, "from_data", choose)


def tags_of_dicts_are_found() -> None:
    """The tags of a list of dicts are gathered row by row, and a list of tags is no label."""

    def gather(cls: type, given: dict[str, Any]) -> None:
        if given["labels"] is None:
            name = given["token_labels_attr"]
            given["labels"] = sorted({tag for row in _rows(given["data"]) for tag in row[name]})

    change_arguments(modeling.BlearnerForTokenClassification, "from_data", gather)


def answers_have_a_length() -> None:
    """Without `max_seq_len` the config is asked for `.get`, which no config has."""

    def measure(cls: type, given: dict[str, Any]) -> None:
        if given["max_seq_len"] is None:
            config = AutoConfig.from_pretrained(given["pretrained_model_name_or_path"])
            given["max_seq_len"] = getattr(config, "max_position_embeddings", 128)

    change_arguments(modeling.BlearnerForQuestionAnswering, "from_data", measure)


def generation_settings_are_kept() -> None:
    """`text_gen_kwargs` are dropped: `generate` no longer names them in its signature."""
    for each in _SEQ2SEQ:
        old = each.__dict__["from_data"].__func__
        signature = inspect.signature(old)

        def from_data(
            cls: type, *args: Any, _old: Any = old, _signature: Any = signature, **kwargs: Any
        ) -> Any:
            bound = _signature.bind(cls, *args, **kwargs)
            learn = _old(*bound.args, **bound.kwargs)
            transform = first_blurr_tfm(learn.dls)
            given = bound.arguments.get("text_gen_kwargs", {})
            transform.text_gen_kwargs = {**transform.text_gen_kwargs, **given}
            return learn

        replace_method(each, "from_data", from_data)


def default_metrics_are_computable() -> None:
    """The default metrics of Summarization and Translation download code, models and WordNet."""
    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    options = {"rouge_types": names, "use_stemmer": True}
    defaults: list[tuple[str, dict[str, Any]]] = [
        ("bertscore", {"rouge": {"compute_kwargs": options, "returns": list(names)}}),
        ("meteor", {"bleu": {"returns": "bleu"}, "sacrebleu": {"returns": "score"}}),
    ]
    for owner, (left_out, metrics) in zip(_SEQ2SEQ, defaults, strict=True):

        def get_metrics_cb(cls: type, _metrics: Any = metrics, _left_out: str = left_out) -> Any:
            say_once(f"{_left_out}, which downloads what it needs, is not among the metrics")
            return Seq2SeqMetricsCallback(custom_metrics=_metrics)

        replace_method(owner, "get_metrics_cb", get_metrics_cb)


def models_open_as_before() -> None:
    """Transformers 5 opens weights in the precision they were saved in, and gives the model a copy
    of the config, so that a padding token set later is not seen. A folder's Path fails.
    """
    old = utils.get_hf_objects
    signature = inspect.signature(old)

    def get_hf_objects(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        given["pretrained_model_name_or_path"] = str(given["pretrained_model_name_or_path"])
        if not {"dtype", "torch_dtype"} & given["model_kwargs"].keys():
            given["model_kwargs"] = {"dtype": torch.float32, **given["model_kwargs"]}
        architecture, _, tokenizer, model = old(*bound.args, **bound.kwargs)
        return architecture, model.config, tokenizer, model

    replace(old, get_hf_objects)


def chunks_know_their_tokenizer() -> None:
    """TokenClassPreprocessor cuts long rows with a global `hf_tokenizer` that only Blurr's own
    notebook had.
    """
    old = tagging_data.TokenClassPreprocessor._process_df_batch

    def _process_df_batch(self: Any, *args: Any) -> Any:
        tagging_data.hf_tokenizer = self.hf_tokenizer
        return old(self, *args)

    replace_method(tagging_data.TokenClassPreprocessor, "_process_df_batch", _process_df_batch)


def labels_are_whole() -> None:
    """`blurr_predict` gives the first letter of a label, and fails where labels are numbers:
    fasttransform no longer wraps what it decodes.
    """

    def blurr_predict(self: Any, items: Any, rm_type_tfms: Any = None) -> list[dict[str, Any]]:
        transform = first_blurr_tfm(self.dls)
        names = transform.kwargs.get("labels") or self.dls.vocab
        is_words = transform.is_split_into_words and isinstance(items[0], str)
        if not isinstance(items, pd.DataFrame) and (is_words or not isinstance(items, (list, L))):
            items = [items]
        loader = self.dls.test_dl(items, rm_type_tfms=rm_type_tfms, num_workers=0)
        with self.no_bar():
            scores, _, decided = self.get_preds(dl=loader, with_decoded=True)
        found = []
        for row, decision in zip(scores.tolist(), decided.tolist(), strict=True):
            common = {"class_labels": names, "probs": row}
            if isinstance(self.loss_func, BCEWithLogitsLossFlat):
                chosen = [i for i, is_chosen in enumerate(decision) if is_chosen]
                labels = [names[i] for i in chosen]
                places = [int(each) for each in decision]
                of = {"labels": labels, "scores": [row[i] for i in chosen]}
                found.append({**of, "class_indices": places, **common})
            else:
                of = {"label": names[decision], "score": row[decision]}
                found.append({**of, "class_index": decision, **common})
        return found

    replace_method(Learner, "blurr_predict", blurr_predict)


def prefixes_are_transforms() -> None:
    """T5's prefix is added to a Pipeline, which no longer makes a Transform of a function."""
    for module in (summarization, translation):
        module.Pipeline = GrowingPipeline


class Added(Transform):
    """A function as a Transform that can be pickled."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def encodes(self, value: Any) -> Any:
        """What the function makes of it."""
        return self.function(value)


class GrowingPipeline(Pipeline):
    """A Pipeline that takes functions too."""

    def add(self, ts: Any, items: Any = None, train_setup: bool = False) -> None:
        """Add a function, a Transform, or a list of these."""
        ts = ts if isinstance(ts, (list, L)) else [ts]
        made = L([each if isinstance(each, Transform) else Added(each) for each in ts])
        super().add(made, items, train_setup)


def each_row_is_written_for() -> None:
    """`show_results` shows one row with the texts of all: a batch of ids is taken for one item."""
    old = Learner.blurr_generate

    def blurr_generate(self: Any, items: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(items, torch.Tensor) and items.ndim == 2:
            items = [row[None] for row in items]
        return old(self, items, *args, **kwargs)

    replace_method(Learner, "blurr_generate", blurr_generate)


def _rows(data: Any) -> Any:
    return data.to_dict("records") if isinstance(data, pd.DataFrame) else data


MENDS = (
    answers_have_a_length,
    chunks_know_their_tokenizer,
    default_metrics_are_computable,
    generation_settings_are_kept,
    each_row_is_written_for,
    labels_are_whole,
    models_open_as_before,
    prefixes_are_transforms,
    many_classes_have_an_f1,
    tags_of_dicts_are_found,
    # What is put on last runs first: the others are given settings to write into, and rows.
    settings_are_not_shared,
    files_are_read,
)
