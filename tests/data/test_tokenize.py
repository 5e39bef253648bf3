"""Tokenised once: what the cache keeps, when it is used, and what happens without it."""

import weakref
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from ftkit.data import tokenize as rooms
from ftkit.data.tokenize import tokenize
from ftkit.errors import FtkitWarning
from ftkit.features import named_labels, prepare_rows, slice_arrays
from ftkit.tasks import Classification

TASK = Classification(kind="single", labels=("billing", "delivery", "technical"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "ftkit"


@pytest.fixture
def rows(tiny_data) -> Dataset:
    return tiny_data["train"]


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer()


def assert_same(found, wanted):
    for name in ("window_offsets", "row_offsets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    for part in ("tokens", "rows"):
        assert getattr(found, part).keys() == getattr(wanted, part).keys()
        for name, values in getattr(wanted, part).items():
            np.testing.assert_array_equal(getattr(found, part)[name], values)


def files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


@pytest.mark.parametrize("at_once", [1, 7, 96, 1000])
@pytest.mark.parametrize("long_texts", ["head", "windows"])
def test_slices_give_what_all_rows_at_once_give(
    cache, rows, tokenizer, monkeypatch, at_once, long_texts
):
    task = replace(TASK, long_texts=long_texts, stride=2)
    whole = prepare_rows(named_labels(rows[:], rows.features), task, tokenizer, 10)
    assert (whole.windows.max() > 1) == (long_texts == "windows")
    monkeypatch.setattr(rooms, "_SLICE", at_once)
    assert_same(tokenize(rows, task, tokenizer, 10), whole)


def test_a_second_time_comes_from_the_file(cache, rows, tokenizer, monkeypatch):
    first = tokenize(rows, TASK, tokenizer, 64)
    (file,) = files(cache)
    written = file.stat().st_mtime_ns
    monkeypatch.setattr(rooms, "_tokenize_slices", lambda *args: pytest.fail("tokenised again"))
    assert_same(tokenize(rows, TASK, tokenizer, 64), first)
    assert files(cache) == [file]
    assert file.stat().st_mtime_ns == written


def test_the_same_rows_in_another_table_share_the_file(cache, rows, tokenizer):
    tokenize(rows, TASK, tokenizer, 64)
    tokenize(Dataset.from_list(rows.to_list()), TASK, tokenizer, 64)
    tokenize(rows.select(range(len(rows))), TASK, tokenizer, 64)
    tokenize(rows.add_column("note", ["not read"] * len(rows)), TASK, tokenizer, 64)
    assert len(files(cache)) == 1


def test_whatever_the_features_depend_on_has_a_file_of_its_own(
    cache, rows, tokenizer, tiny_tokenizer
):
    numbered, other_names = (
        Dataset.from_dict(
            {"text": ["hello"] * 3, "label": [0, 1, 2]},
            features=Features({"text": Value("string"), "label": ClassLabel(names=names)}),
        )
        for names in (list(TASK.labels), ["technical", "delivery", "billing"])
    )
    lower = tiny_tokenizer()
    lower.backend_tokenizer.normalizer = None
    settings = [
        (rows, TASK, tokenizer, 64),
        (rows, TASK, tokenizer, 63),
        (rows, replace(TASK, long_texts="tail"), tokenizer, 64),
        (rows, replace(TASK, stride=1), tokenizer, 64),
        (rows, replace(TASK, labels=("technical", "billing", "delivery")), tokenizer, 64),
        (rows, TASK, tiny_tokenizer("roberta"), 64),
        (rows, TASK, lower, 64),
        (rows.select(range(95)), TASK, tokenizer, 64),
        (rows.select(range(1, 96)), TASK, tokenizer, 64),
        (rows.select(range(95, -1, -1)), TASK, tokenizer, 64),
        (rows.remove_columns("label"), TASK, tokenizer, 64),
        (rows.add_column("text_pair", rows["text"]), TASK, tokenizer, 64),
        (numbered, TASK, tokenizer, 64),
        (other_names, TASK, tokenizer, 64),
    ]
    for i, each in enumerate(settings, start=1):
        tokenize(*each)
        assert len(files(cache)) == i, each
    assert {file.suffix for file in files(cache)} == {".safetensors"}


def test_targets_go_by_the_names_of_a_class_label(cache, rows, tokenizer):
    names = ["technical", "billing", "delivery"]
    numbered = rows.cast_column("label", ClassLabel(names=names))
    assert numbered["label"][0] == names.index(rows["label"][0])
    found = tokenize(numbered, TASK, tokenizer, 64).rows["target"]
    assert [TASK.labels[place] for place in found] == rows["label"][:]


@pytest.mark.parametrize("at", ["the folder", "the file"])
def test_a_cache_that_cannot_be_written_is_done_without(cache, rows, tokenizer, monkeypatch, at):
    if at == "the folder":
        cache.write_text("a file where the folder should be")
    else:
        monkeypatch.setattr(rooms, "save_file", fail_to_write)
    with pytest.warns(FtkitWarning, match="stay in memory: .* cannot be written"):
        found = tokenize(rows, TASK, tokenizer, 64)
    assert_same(found, prepare_rows(rows[:], TASK, tokenizer, 64))
    assert at == "the folder" or files(cache) == []


def fail_to_write(arrays, name):
    Path(name).write_bytes(b"half of it")
    raise OSError(28, "No space left on device")


def test_an_interrupted_write_leaves_nothing(cache, rows, tokenizer, monkeypatch):
    def interrupt(arrays, name):
        Path(name).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(rooms, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tokenize(rows, TASK, tokenizer, 64)
    assert files(cache) == []


def test_a_file_that_was_cut_is_written_anew(cache, rows, tokenizer):
    first = tokenize(rows, TASK, tokenizer, 64)
    (file,) = files(cache)
    whole = file.read_bytes()
    file.unlink()  # and not written over: `first` is mapped from it
    file.write_bytes(whole[:-100])
    assert_same(tokenize(rows, TASK, tokenizer, 64), first)
    assert file.read_bytes() == whole


def test_fresh_tokens_are_mapped_and_no_slice_is_kept(cache, rows, tokenizer, monkeypatch):
    """However many rows there are, one slice of them is in memory at a time."""
    monkeypatch.setattr(rooms, "_SLICE", 10)
    alive: list[weakref.ref] = []
    held = []

    def watched(prepared):
        held.append(sum(reference() is not None for reference in alive))
        arrays = slice_arrays(prepared)
        alive.extend(map(weakref.ref, arrays.values()))
        return arrays

    monkeypatch.setattr(rooms, "slice_arrays", watched)
    found = tokenize(rows, TASK, tokenizer, 64)
    assert len(held) == 10
    assert max(held) <= len(alive) / 10  # those of the slice before may still be on their way
    monkeypatch.setattr(rooms, "slice_arrays", slice_arrays)
    assert_same(found, prepare_rows(named_labels(rows[:], rows.features), TASK, tokenizer, 64))
