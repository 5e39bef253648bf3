"""What Blurr's imports ask for and today's libraries no longer have, given back to Blurr.

Each function mends one such name. `import_blurr` gives them while Blurr's modules are imported,
and takes them back: what other code sees of fastcore, datasets and nltk stays as it was. Imports
the door and `ftkit.blurr.metrics`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import datasets
import pandas as pd
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ftkit._fastai import fastcore_all, show_batch, show_results
from ftkit.blurr.metrics import load_metric
from ftkit.errors import SettingError, first_line
from ftkit.scores.texts import split_sentences

VERSION = "1.0.5"
_DATA = "blurr.text.data."
_MODULES = (
    "blurr.callbacks",
    "blurr.text.callbacks",
    "blurr.text.data.all",
    "blurr.text.modeling.all",
)


def import_blurr() -> None:
    """Import all of Blurr, with the names that it needs.

    Raises SettingError where Blurr 1.0.5, or a package that it needs, is not installed.
    """
    try:
        found = version("ohmeow-blurr")
    except PackageNotFoundError:
        found = None
    if found != VERSION:
        raise SettingError(
            f"ftkit.blurr needs ohmeow-blurr {VERSION}, and found {found or 'none'}",
            remedy="Its metadata refuses torch 2, so install it by itself: "
            f"pip install --no-deps ohmeow-blurr=={VERSION}",
        )
    verbosity = logging.get_verbosity()
    try:
        with ExitStack() as names:
            for give in (type_dispatch_name, load_metric_name, nltk_without_download):
                names.enter_context(give())
            for module in _MODULES:
                importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SettingError(
            f"Blurr needs the package {error.name}, which is not installed",
            remedy=f"Install it: pip install {error.name}",
        ) from None
    except ImportError as error:
        raise SettingError(
            f"Blurr cannot be imported ({first_line(error)})",
            remedy="Install the versions that ftkit's requirements.lock names.",
        ) from error
    finally:
        # Blurr silences transformers for the whole process.
        logging.set_verbosity(verbosity)
    append_to_frames()
    target_tokenizer()
    sentences_without_download()


@contextmanager
def _given(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """The module with a name that it lacks, or another value of it, inside."""
    before = vars(module).get(name)
    setattr(module, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(module, name)
        else:
            setattr(module, name, before)


@contextmanager
def type_dispatch_name() -> Iterator[None]:
    """Fastcore's `typedispatch` is gone: fastai shows batches through plum's functions now."""
    with _given(fastcore_all, "typedispatch", type_dispatch):
        yield


def type_dispatch(function: Callable[..., Any]) -> Any:
    """Have fastai call a `show_batch` or `show_results` for the types that its arguments name."""

    # plum matches all arguments given by place: Blurr's go by name from the loaders on.
    def show(x: Any, y: Any, *rest: Any, **options: Any) -> Any:
        return function(x, y, *rest, **options)

    show.__annotations__.update(function.__annotations__)
    shown = {"show_batch": show_batch, "show_results": show_results}[function.__name__]
    shown.dispatch(show)
    return shown


@contextmanager
def load_metric_name() -> Iterator[None]:
    """`datasets.load_metric` is gone: Blurr gets metrics that compute with what is installed."""
    with _given(datasets, "load_metric", load_metric):
        yield


@contextmanager
def nltk_without_download() -> Iterator[None]:
    """Blurr downloads a data set of nltk's at import, which fails or waits without a network."""
    nltk = importlib.import_module("nltk")
    with _given(nltk, "download", lambda *arguments, **options: True):
        yield


def sentences_without_download() -> None:
    """ROUGE-Lsum splits sentences with a model that nltk no longer ships: ftkit's splitter does."""
    core = importlib.import_module("blurr.text.modeling.seq2seq.core")
    core.sent_tokenize = split_sentences  # type: ignore[attr-defined]


class Frame(pd.DataFrame):
    """A DataFrame that can still `append`; what comes of it otherwise are plain ones."""

    def append(self, other: pd.DataFrame) -> Frame:
        """Both, one below the other."""
        return Frame(pd.concat([self, other]) if len(self) else other)


class _Pandas(ModuleType):
    """pandas with a DataFrame that can still `append`."""

    DataFrame = Frame

    def __getattr__(self, name: str) -> Any:
        return getattr(pd, name)


def append_to_frames() -> None:
    """Pandas 2 dropped `DataFrame.append`, on which every preprocessor of Blurr builds."""
    proxy = _Pandas("pandas")
    for part in (
        "core",
        "language_modeling",
        "question_answering",
        "token_classification",
        "seq2seq.summarization",
        "seq2seq.translation",
    ):
        importlib.import_module(_DATA + part).pd = proxy  # type: ignore[attr-defined]


def target_tokenizer() -> None:
    """Transformers 5 dropped `as_target_tokenizer`: it comes back for tokenizers without it."""
    if not hasattr(PreTrainedTokenizerBase, "as_target_tokenizer"):
        PreTrainedTokenizerBase.as_target_tokenizer = _as_target_tokenizer  # type: ignore[attr-defined]


@contextmanager
def _as_target_tokenizer(self: Any) -> Iterator[None]:
    """Inside, the tokenizer reads texts in the language that is written."""
    switch = getattr(self, "_switch_to_target_mode", None)
    if switch is not None:
        switch()
    try:
        yield
    finally:
        if switch is not None:
            self._switch_to_input_mode()
