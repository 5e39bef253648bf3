"""Fixtures of the bridge's tests: the real Blurr, rows of the samples, tiny checkpoints."""

import re
import sys
import warnings

import pandas as pd
import pytest
from fastai.torch_core import defaults, set_seed
from tiny_checkpoints import LENGTH, save_checkpoint

from ftkit.data.samples import sample_folder
from ftkit.errors import FtkitWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # Before any test module imports Blurr, which could not be imported without it.
    import ftkit.blurr  # noqa: F401

_ROWS = 48
_WORD = re.compile(r"\S+")


@pytest.fixture(autouse=True)
def seeded():
    """Blurr seeds nothing, and what a model answers after two steps must not be chance."""
    set_seed(0)


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch):
    """No processes for batches: to start them takes longer than to make so few. The notebook has
    them.
    """
    monkeypatch.setattr(defaults, "cpus", 0)


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """Every mend may say once more what it mends; the sentences that were said."""
    sentences: set[str] = set()
    monkeypatch.setattr("ftkit.blurr.patch._said", sentences)
    return sentences


def _sample(name):
    """Rows of a sample's training split, every fourth one marked as validation."""
    rows = pd.read_json(sample_folder(name) / "train.jsonl", lines=True)[:_ROWS]
    return rows.assign(is_valid=[i % 4 == 0 for i in range(len(rows))])


@pytest.fixture
def tickets():
    """Tickets: text, queue, and a column of 0 and 1 for each flag; `attrs["flags"]` names them."""
    rows = _sample("tickets")
    flags = sorted({flag for found in rows["flags"] for flag in found})
    for flag in flags:
        rows[flag] = [int(flag in found) for found in rows["flags"]]
    rows.attrs["flags"] = flags
    return rows


@pytest.fixture
def words(tickets):
    """Tickets as lists of words, with a BIO tag for each; `attrs["tags"]` has the whole set."""
    rows = pd.DataFrame([_tagged(row) for _, row in tickets.iterrows()])
    kinds = sorted({tag[2:] for tags in rows["token_labels"] for tag in tags} - {""})
    rows.attrs["tags"] = ["O", *(f"{letter}-{kind}" for kind in kinds for letter in "BI")]
    return rows


def _tagged(row):
    tokens, tags = [], []
    for word in list(_WORD.finditer(row["text"]))[:24]:
        tag = "O"
        for entity in row["entities"]:
            if word.start() < entity["end"] and word.end() > entity["start"]:
                letter = "B" if word.start() <= entity["start"] else "I"
                tag = f"{letter}-{entity['label']}"
        tokens.append(word[0])
        tags.append(tag)
    return {"tokens": tokens, "token_labels": tags, "is_valid": row["is_valid"]}


@pytest.fixture
def questions():
    """Questions with the columns that QAPreprocessor reads; a third of them has no answer."""
    rows = _sample("questions")
    rows["answer_text"] = ["".join(each["text"][:1]) for each in rows["answers"]]
    rows["ans_start_char_idx"] = [([*each["answer_start"], 0])[0] for each in rows["answers"]]
    rows["ans_end_char_idx"] = rows["ans_start_char_idx"] + rows["answer_text"].str.len()
    return rows


@pytest.fixture
def summaries():
    """Texts and summaries."""
    return _sample("summaries")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function that saves a tiny checkpoint whose tokenizer knows its longest text."""
    made = {}

    def make(architecture):
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

            save_checkpoint(architecture, _sample("tickets")["text"].tolist(), folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            tokenizer.model_max_length = LENGTH
            tokenizer.save_pretrained(folder)
            if architecture in ("bart", "t5"):
                # Blurr opens it with settings of generation, which a headless one has not.
                AutoModelForSeq2SeqLM.from_pretrained(folder).save_pretrained(folder)
            made[architecture] = str(folder)
        return made[architecture]

    return make


@pytest.fixture
def shown(monkeypatch):
    """The tables that Blurr shows, as DataFrames."""
    tables = []
    for name, module in list(sys.modules.items()):
        if name.startswith(("blurr.", "ftkit.blurr.")) and hasattr(module, "display_df"):
            monkeypatch.setattr(module, "display_df", tables.append)
    return tables


@pytest.fixture
def quiet():
    """What the mends say is not what the test is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FtkitWarning)
        yield


@pytest.fixture
def reopened(tmp_path):
    """A function that exports a Learner and loads it again."""
    from fastai.learner import load_learner

    def reopen(learn):
        learn.path = tmp_path
        learn.export("learner.pkl")
        return load_learner(tmp_path / "learner.pkl")

    return reopen
