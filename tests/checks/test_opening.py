"""Sources that load_data refuses: what can be read is looked at, the rest is told."""

import json

import pandas as pd
import pytest

import ftkit
from ftkit.errors import CheckpointError, DataError, SettingError

ROWS = [
    {"text": f"this is text number {n} of all", "label": "yes" if n % 2 else "no"}
    for n in range(40)
]


def csv_of(rows) -> bytes:
    return b"text,label\n" + b"".join(f"{r['text']},{r['label']}\n".encode() for r in rows)


def jsonl_of(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


BROKEN = {
    "a csv line of three cells": ("csv", csv_of(ROWS) + b"a,b,c\n", "unreadable_rows", 40, [41]),
    "a csv line that is not UTF-8": (
        "csv",
        csv_of(ROWS[:5]) + b"caf\xe9 au lait,yes\n" + csv_of(ROWS[5:]).split(b"\n", 1)[1],
        *("unreadable_rows", 40, [6]),
    ),
    "a broken line of JSON": (
        "jsonl",
        jsonl_of(ROWS[:2]) + b'{"text": \n' + jsonl_of(ROWS[2:]),
        *("unreadable_rows", 40, [3]),
    ),
    "an empty file": ("csv", b"", "unusable_data", 0, []),
    "a header alone": ("csv", b"text,label\n", "unusable_data", 0, []),
    "no such columns": ("csv", b"a,b\nc,d\n", "unusable_data", 0, []),
    "no parquet": ("parquet", b"PAR1 and no more", "unusable_data", 0, []),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file(name, tmp_path):
    kind, content, finding, rows, numbers = BROKEN[name]
    file = tmp_path / f"train.{kind}"
    file.write_bytes(content)
    for source in (file, tmp_path):
        check = ftkit.check(str(source))
        (error,) = check.of_level("error")
        assert error.name == finding
        assert sum(split.rows for split in check.splits) == rows
        assert [example.row for example in error.examples] == numbers
        assert not check.ok
        assert str(check)


def test_a_broken_file_beside_others(tmp_path):
    (tmp_path / "train.csv").write_bytes(csv_of(ROWS))
    (tmp_path / "test.csv").write_bytes(b"")
    check = ftkit.check(tmp_path)
    assert [error.split for error in check.of_level("error")] == ["test"]
    assert [(split.name, split.rows) for split in check.splits] == [
        *(("train", 36), ("validation", 4))
    ]


def test_a_split_without_the_columns(tmp_path):
    (tmp_path / "train.csv").write_bytes(csv_of(ROWS))
    (tmp_path / "test.csv").write_bytes(b"text,other\na,b\n")
    check = ftkit.check(tmp_path)
    (error,) = check.of_level("error")
    assert (error.split, error.column) == ("test", "label")
    assert ("test", 0, 1) in [(s.name, s.rows, s.unreadable) for s in check.splits]


def test_no_train_split(tmp_path):
    (tmp_path / "test.csv").write_bytes(csv_of(ROWS))
    (error,) = ftkit.check(tmp_path).of_level("error")
    assert "there is no train split among test" in error.message


ODD = {
    "all rows are the same": ([ROWS[0]] * 50, False),
    "one row": (ROWS[:1], False),
    "markup": ([{**row, "text": f"<script>{row['text']}</script>\x1b[31m"} for row in ROWS], True),
    "a text of 100,000 characters": ([{**ROWS[0], "text": "long word " * 10_000}, *ROWS], True),
    "a word of 100,000 characters": ([{**ROWS[0], "text": "x" * 100_000}, *ROWS], True),
    "all texts are blank": ([{**row, "text": " "} for row in ROWS], True),
    "texts are numbers": ([{**row, "text": n} for n, row in enumerate(ROWS)], False),
    "texts are lists": ([{**row, "text": ["a"]} for row in ROWS], False),
    "all texts are null": ([{**row, "text": None} for row in ROWS], False),
    "all labels are null": ([{**row, "label": None} for row in ROWS], False),
    "labels are objects": ([{**row, "label": {"a": 1}} for row in ROWS], False),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_rows(name, tiny_checkpoint):
    rows, is_ok = ODD[name]
    check = ftkit.check(rows, "classification", tiny_checkpoint)
    assert check.ok == is_ok, check
    assert "<script>" not in check._repr_html_()
    assert "\x1b" not in str(check)
    json.dumps(check.to_dict(), allow_nan=False)


@pytest.mark.parametrize("task", ["ner", "qa", "summarization", "translation", "language_modeling"])
@pytest.mark.parametrize("rows", [[{"other": 1}], [{"text": None, "tokens": None}], []])
def test_rows_of_another_task(task, rows):
    assert not ftkit.check({"train": rows}, task).ok


def test_names_of_columns_may_be_numbers():
    check = ftkit.check(
        pd.DataFrame(ROWS).set_axis([0, 1], axis=1), columns={"text": 0, "label": 1}
    )
    assert check.ok, check
    assert set(check.splits[0].labels) == {"no", "yes"}


def test_a_users_mistake_in_the_settings_is_raised(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        ftkit.check(tmp_path / "none.csv")
    with pytest.raises(SettingError, match="no task is called"):
        ftkit.check(ROWS, "guessing")
    with pytest.raises(SettingError, match="which the task does not read"):
        ftkit.check(ROWS, columns={"txt": "text"})
    with pytest.raises(SettingError, match="batch_size is 0"):
        ftkit.check(ROWS, batch_size=0)
    with pytest.raises(SettingError, match="seed is -1"):
        ftkit.check(ROWS, seed=-1)
    with pytest.raises(CheckpointError, match="there is no folder"):
        ftkit.check(ROWS, "classification", tmp_path / "none")
