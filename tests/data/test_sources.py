"""load_data: every source gives the same rows, every bad input one clear error."""

import json
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from ftkit.data import parts
from ftkit.data.samples import sample_folder
from ftkit.data.sources import load_data
from ftkit.errors import DataError, FtkitError, FtkitWarning, SettingError
from ftkit.tasks import Classification

ROWS = [{"text": f"hello, {i}", "label": "ab"[i % 2]} for i in range(20)]
CSV = "text,label\n" + "".join(f'"hello, {i}",{"ab"[i % 2]}\n' for i in range(20))


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


JSONL = jsonl(ROWS)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(source, *args, **options) -> DatasetDict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FtkitWarning)
        return load_data(source, *args, **options)


def rows_of(data: DatasetDict) -> list[dict]:
    """All rows in the order of their texts' numbers."""
    rows = [row for split in data.values() for row in split]
    return sorted(rows, key=lambda row: int(row["text"].split()[-1]))


# Every source gives the same rows


def write_as(kind: str, folder: Path):
    frame = pd.DataFrame(ROWS)
    path = folder / f"rows.{kind}"
    match kind:
        case "csv":
            frame.to_csv(path, index=False)
        case "tsv":
            frame.to_csv(path, index=False, sep="\t")
        case "parquet":
            frame.to_parquet(path)
        case "jsonl":
            write(path, JSONL)
        case "json":
            write(path, json.dumps(ROWS))
        case "saved":
            Dataset.from_list(ROWS).save_to_disk(str(path))
        case "saved dict":
            DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk(str(path))
        case "frame":
            return frame
        case "categories":
            return frame.astype({"label": "category"})
        case "rows":
            return ROWS
        case "dataset":
            return Dataset.from_list(ROWS)
        case "dict":
            return {"train": frame}
        case "dict of files":
            return {"train": str(write(path.with_suffix(".jsonl"), JSONL))}
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("csv", "tsv", "parquet", "jsonl", "json", "saved", "saved dict", "frame"),
        *("categories", "rows", "dataset", "dict", "dict of files"),
    ],
)
def test_sources_give_the_same_rows(kind, tmp_path):
    data = load(write_as(kind, tmp_path))
    assert list(data) == ["train", "validation"]
    assert rows_of(data) == ROWS
    assert data["validation"]["text"] == load(ROWS)["validation"]["text"]


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_byte_order_mark_and_line_ends(mark, name, ending, tmp_path):
    content = CSV if name == "x.csv" else JSONL if name == "x.jsonl" else json.dumps(ROWS)
    path = write(tmp_path / name, mark + content.replace("\n", ending).encode())
    assert rows_of(load(path)) == ROWS


def test_folder_of_mixed_formats(tmp_path):
    write(tmp_path / "train.csv", CSV)
    write(tmp_path / "Valid.jsonl", JSONL)
    write(tmp_path / "test" / "part-0.json", json.dumps(ROWS))
    write(tmp_path / "README.md", "rows")
    data = load(tmp_path)
    assert list(data) == ["train", "validation", "test"]
    assert all(split.to_list() == ROWS for split in data.values())


def test_shards_are_read_in_order(tmp_path):
    for i in range(3):
        write(tmp_path / "data" / f"train-0000{i}-of-00003.jsonl", jsonl(ROWS[7 * i : 7 * i + 7]))
    write(tmp_path / "data" / "dev.jsonl", JSONL)
    assert load(tmp_path)["train"].to_list() == ROWS


def test_folder_of_one_file_is_train(tmp_path):
    write(tmp_path / "tickets.csv", CSV)
    assert rows_of(load(str(tmp_path))) == ROWS


def test_sample():
    columns = {"label": "queue"}
    data = load("sample:tickets", columns=columns)
    assert list(data) == ["train", "validation", "test"]
    assert data["train"][0] == load(sample_folder("tickets"), columns=columns)["train"][0]


def test_split_names_and_what_is_left_out():
    with pytest.warns(FtkitWarning, match="left out: unsupervised"):
        data = load_data({"unsupervised": ROWS, "dev": ROWS, "train": ROWS})
    assert list(data) == ["train", "validation"]


def test_hub_id(monkeypatch):
    class Hub:
        def dataset_info(self, name, timeout):
            assert name == "org/name"

    monkeypatch.setattr(parts, "HfApi", Hub)
    monkeypatch.setattr(
        parts, "load_dataset", lambda name: DatasetDict(train=Dataset.from_list(ROWS))
    )
    assert rows_of(load("org/name")) == ROWS


def test_unknown_hub_id(monkeypatch):
    class Hub:
        def dataset_info(self, name, timeout):
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr(parts, "HfApi", Hub)
    message = '"org/nome" is neither a path here nor a data set that the hub gives (Name or'
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        load("org/nome")
    assert "network" in raised.value.remedy
    assert raised.value.__suppress_context__


# Columns and types


def test_columns_are_renamed_and_others_kept(tmp_path):
    rows = [{"id": i, "body": "x", "queue": "ab"[i % 2], "text": 5} for i in range(8)]
    data = load(rows, columns={"text": "body", "label": "queue"})
    assert data["train"].column_names == ["text", "label", "id"]
    assert set(data["train"]["text"]) == {"x"}


@pytest.mark.parametrize(
    ("columns", "label"),
    [({"text": 0, "label": 1}, 1), ({"text": 0, "label": [1, 2]}, ["1"])],
)
def test_names_of_columns_may_be_numbers(columns, label):
    frame = pd.DataFrame([["a", 1, 0], ["b", 0, 1]] * 6)
    rows = load(frame, columns=columns)["train"]
    assert {"a": label} == {row["text"]: row["label"] for row in rows if row["text"] == "a"}
    named = frame.rename(columns={0: "text"})
    assert set(load(named, columns={"label": 1})["train"]["label"]) == {0, 1}


def test_alias_and_pair():
    data = load([{"text": "a", "text_pair": "b", "labels": i % 2} for i in range(8)])
    assert data["train"].column_names == ["text", "text_pair", "label"]


@pytest.mark.parametrize(
    "flags", [(0, 1), (False, True), (0.0, 1.0), ("0", "1"), ("False", "TRUE")]
)
def test_fold(flags):
    rows = [{"t": "x", "urgent": flags[i % 2], "angry": flags[i % 4 == 0]} for i in range(40)]
    data = load(rows, columns={"text": "t", "label": ["urgent", "angry"]}, limit=20)
    assert data["train"].column_names == ["text", "label"]
    wanted = {(): 5, ("angry",): 5, ("urgent",): 10}
    assert Counter(map(tuple, data["train"]["label"])) == wanted


def test_fold_in_csv(tmp_path):
    path = write(tmp_path / "x.csv", "text,u,v\n" + "a,1,0\nb,0,1\nc,1,1\nd,0,0\n" * 3)
    data = load(path, columns={"label": ["u", "v"]})
    wanted = {"a": ["u"], "b": ["v"], "c": ["u", "v"], "d": []}
    assert all(row["label"] == wanted[row["text"]] for split in data.values() for row in split)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "b"], "string"),
        (["1", "2"], "int64"),
        (["1", "2.5"], "float64"),
        (["01", "02"], "string"),
        (["1", "x"], "string"),
        (["NA", "None"], "string"),
        (["true", "false"], "string"),
        (["1.5", "nan"], "string"),
    ],
)
def test_csv_labels(labels, kind, tmp_path):
    lines = [f"a{i},{labels[i % 2]}\n" for i in range(12)]
    data = load(write(tmp_path / "x.csv", "text,label\n" + "".join(lines)))
    assert data["train"].features["label"].dtype == kind


def test_csv_label_type_is_one_for_all_splits(tmp_path):
    write(tmp_path / "train.csv", "text,label\n" + "a,1\nb,x\n" * 5)
    write(tmp_path / "test.csv", "text,label\n" + "a,1\n" * 5)
    assert load(tmp_path)["test"]["label"][:] == ["1"] * 5


def test_csv_text_is_never_inferred(tmp_path):
    texts = ["NA", "None", "null", "007", "1.0", "2020-01-01", "true", "nan"]
    path = write(tmp_path / "x.csv", "text,label\n" + "".join(f"{t},a\n{t},b\n" for t in texts))
    found = {text for split in load(path).values() for text in split["text"]}
    assert found == set(texts)


def test_only_a_line_feed_ends_a_line_of_text(tmp_path):
    path = write(tmp_path / "x.txt", "one\u2028two\n\nform\x0cfeed\r\nnel\x85x\n")
    data = load({"train": path, "validation": path}, "language_modeling")
    assert data["train"]["text"][:] == ["one\u2028two", "form\x0cfeed", "nel\x85x"]


def test_jsonl_text_that_looks_like_a_date_stays_text(tmp_path):
    rows = [{"text": "2020-01-01", "label": ["2020-01-02", "x"][i % 2]} for i in range(10)]
    data = load(write(tmp_path / "x.jsonl", jsonl(rows)))
    assert set(data["train"]["text"]) == {"2020-01-01"}
    assert set(data["train"]["label"]) == {"2020-01-02", "x"}


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_very_long_texts(name, tmp_path):
    rows = [{"text": "word " * 20_000, "label": "ab"[i % 2]} for i in range(4)]
    rows.append({"text": "x" * 17_000_000, "label": "a"})
    frame, path = pd.DataFrame(rows), tmp_path / name
    if name == "x.csv":
        frame.to_csv(path, index=False)
    elif name == "x.jsonl":
        write(path, jsonl(rows))
    else:
        frame.to_parquet(path)
    data = load(path)
    assert sum(len(text) for split in data.values() for text in split["text"]) == 17_400_000


@pytest.mark.parametrize("through", ["dataset", "selection", "parquet", "saved"])
def test_class_names_travel(through, tmp_path):
    dataset = Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 1] * 4})
    dataset = dataset.cast_column("label", ClassLabel(names=["no", "yes"]))
    source = dataset
    if through == "selection":
        source = dataset.shuffle(seed=1)
    elif through == "parquet":
        source = tmp_path / "x.parquet"
        dataset.to_parquet(source)
    elif through == "saved":
        source = tmp_path / "x"
        dataset.save_to_disk(str(source))
    data = load(source, columns={"text": "text"})
    for split in data.values():
        assert split.features["label"] == ClassLabel(names=["no", "yes"])
        assert all(row["label"] == "abcdefgh".index(row["text"]) % 2 for row in split)


# Splits


def test_validation_is_made_and_said():
    with pytest.warns(FtkitWarning) as caught:
        data = load_data(ROWS, valid=0.2, seed=7)
    assert len(data["validation"]) == 4
    message = str(caught[0].message)
    assert message == (
        "no validation split: 4 of the 20 rows of train (20.0%) are held out for it, stratified "
        "by label, seed 7"
    )
    assert caught[0].filename == __file__


def test_a_validation_split_is_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data({"train": ROWS, "val": ROWS[:4], "test": ROWS})
    assert data["validation"].to_list() == ROWS[:4]


def test_grouped_split():
    rows = [{**row, "customer": f"c{i // 4}"} for i, row in enumerate(ROWS)]
    with pytest.warns(FtkitWarning, match='whole groups of "customer"'):
        data = load_data(rows, group="customer", valid=0.2)
    assert not set(data["train"]["customer"]) & set(data["validation"]["customer"])
    torn = {"train": rows, "validation": rows[:8]}
    with pytest.warns(FtkitWarning, match='2 groups of "customer" are both in train and'):
        load_data(torn, group="customer")


def test_whole_numbers_of_a_regression_are_no_classes():
    rows = [{"text": "x", "label": i} for i in range(100)]
    data = load(rows, Classification(kind="regression"))
    assert len(data["validation"]) == 10


def test_limit():
    rows = [{"text": str(i), "label": f"c{i % 7}"} for i in range(700)]
    data = load({"train": rows, "test": rows}, limit=70)
    assert {split: len(part) for split, part in data.items()} == dict.fromkeys(data, 70)
    assert all(len(set(part["label"])) == 7 for part in data.values())
    texts = [int(text) for text in data["test"]["text"]]
    assert texts == sorted(texts)
    few = load({"train": rows, "test": rows}, limit=4)
    assert set(few["test"]["label"]) <= set(few["train"]["label"])
    numbered = [{"text": str(i), "label": i % 7 + 0.5} for i in range(700)]
    few = load({"train": numbered, "test": numbered[3:]}, Classification(kind="single"), limit=4)
    assert set(few["test"]["label"]) <= set(few["train"]["label"])
    assert load(rows, limit=70, seed=1)["train"]["text"] != load(rows, limit=70)["train"]["text"]


@pytest.mark.parametrize("seed", range(8))
def test_numbers_that_are_classes_all_stay_in_train(seed):
    """The rare ones too, which parts of a range would lose."""
    task = Classification(kind="single")
    for labels, options in (
        ([1.0] * 990 + [2.0, 3.0] * 5, {"limit": 50}),
        ([1.0] * 20 + [2.0, 3.0], {"valid": 0.3}),
    ):
        rows = [{"text": str(i), "label": label} for i, label in enumerate(labels)]
        assert set(load(rows, task, seed=seed, **options)["train"]["label"]) == {1.0, 2.0, 3.0}


def test_fingerprints_name_the_content(tmp_path):
    path = write(tmp_path / "x.csv", CSV)

    def prints(**options):
        return {split: rows._fingerprint for split, rows in load(path, **options).items()}

    first = prints()
    assert first == prints()
    assert not set(first.values()) & set(prints(seed=1).values())
    write(path, CSV + "more,a\n")
    assert not set(first.values()) & set(prints().values())
    again = (load(ROWS)["train"]._fingerprint for _ in range(2))
    assert len(set(again)) == 1


# Bad input: one error each, with file, row, column and remedy

BAD_FILES = {
    "empty.csv": ("", ["empty.csv: the file is empty"]),
    "empty.jsonl": ("", ["empty.jsonl: the file is empty"]),
    "empty.parquet": ("", ["empty.parquet: the file is empty"]),
    "lines.csv": ("\n\n", ["lines.csv: the file is empty"]),
    "header.csv": ("text,label\n", ["header.csv: has no rows"]),
    "lines.jsonl": ("\n\n", ["lines.jsonl: has no rows"]),
    "missing.csv": (
        CSV.replace("text", "body", 1),
        [
            'missing.csv, column "text": there is no column "text"; the columns are body, label',
            'columns={"text": "body"}',
            "--columns text=body",
        ],
    ),
    "close.csv": (CSV.replace("label", "Lable", 1), ['"labels"', 'columns={"label": "Lable"}']),
    "twice.csv": (CSV.replace("label", "text", 1), ['twice.csv: two columns are called "text"']),
    "semicolons.csv": (
        CSV.replace(",", ";"),
        ['separated by ";", not by ","', "pandas.read_csv('semicolons.csv', sep=';')"],
    ),
    "tabs.csv": (CSV.replace(",", "\t"), ['separated by "tab"']),
    "commas.tsv": (CSV, ['separated by ",", not by "tab"']),
    "wide.csv": (
        CSV + "\nyes, but,a\n",
        ["wide.csv, row 21: 3 fields where the header has 2: yes, but,a", "double quotes"],
    ),
    "narrow.csv": (CSV + "x\n", ["row 21: 1 field where the header has 2: x", "missing field"]),
    "quote.csv": (CSV + '"x,a\ny,b\n', ["row 21", '"x,a\\ny,b', "quote that is never closed"]),
    "latin.csv": (
        (CSV + "café,a\n").encode("latin1"),
        [
            'latin.csv, row 21, column "text": byte 0xe9 at offset 284 is not UTF-8; the file may',
            "iconv -f latin1 -t utf-8 latin.csv",
        ],
    ),
    "quotes.csv": ((CSV + "“x”,a\n").encode("cp1252"), ["row 21", "may be windows-1252"]),
    "header8.csv": (CSV.replace("text", "téxt").encode("latin1"), ["offset 1 is", "latin1"]),
    "wide16.csv": (CSV.encode("utf-16"), ["offset 0 is not UTF-8", "may be utf-16"]),
    "latin.jsonl": (
        JSONL.encode() + jsonl([{"text": "café", "label": "a"}]).encode("latin1"),
        ["latin.jsonl, row 21: byte 0xe9 at offset", "iconv -f latin1"],
    ),
    "latin.json": (
        json.dumps([{"text": "é"}], ensure_ascii=False).encode("latin1"),
        ["latin.json: byte 0xe9 at offset 11"],
    ),
    "null.csv": (
        CSV + ",a\n",
        ['null.csv, row 21, column "text": the text is missing (null); 1 of 21 rows'],
    ),
    "quoted-null.csv": (CSV + '"",a\n', ['quoted-null.csv, row 21, column "text"']),
    "null-label.csv": (CSV + "x,\n", ['null-label.csv, row 21, column "label"']),
    "null.jsonl": (JSONL + '{"text": null, "label": "a"}', ['null.jsonl, row 21, column "text"']),
    "lacks.jsonl": (JSONL + '\n{"label": "a"}', ['lacks.jsonl, row 21, column "text"']),
    "numbers.jsonl": (
        jsonl({"text": i + 5, "label": "a"} for i in range(9)),
        ['numbers.jsonl, row 1, column "text": a number (5) where a text belongs; 9 of 9 rows'],
    ),
    "lists.jsonl": (
        jsonl({"text": ["word" * 30], "label": "a"} for i in range(9)),
        ["row 1", "a list of text (['wordwordword", "...) where a text belongs"],
    ),
    "mixed.jsonl": (
        JSONL + '{"text": 5, "label": "a"}',
        ['mixed.jsonl, row 21, column "text": a number (5) where 20 rows have text'],
    ),
    "mixed-label.jsonl": (
        '{"text": "x", "label": 7}\n' + JSONL,
        ['mixed-label.jsonl, row 1, column "label": a number (7) where 20 rows have text'],
    ),
    "broken.jsonl": (
        JSONL + '{"text": "a", "lab\n' + JSONL,
        ["broken.jsonl, row 21: broken JSON at character", "one JSON object a line"],
    ),
    "list-row.jsonl": (JSONL + "[1]", ["row 21: the row is a list of numbers, not an object"]),
    "key-twice.jsonl": (
        JSONL + '{"text": "a", "text": "b"}',
        ['key-twice.jsonl, row 21, column "text": the row has this key twice'],
    ),
    "surrogate.jsonl": (JSONL + '{"text": "\\ud800", "label": "a"}', ["surrogate"]),
    "broken.json": (json.dumps(ROWS)[:-3], ["broken.json: broken JSON at line 1, character"]),
    "number.json": (json.dumps([*ROWS, 5]), ["number.json, row 21: the row is a number"]),
    "bad.parquet": ("no parquet" * 9, ["bad.parquet: this is no parquet file, or its end"]),
    "rows.docx": (CSV, ['rows.docx: files ending in ".docx" cannot be read', ".jsonl"]),
    "one-label.csv": ("text,label\n" + "x,a\n" * 9, ['one-label.csv, column "label"', '"a"']),
}


def assert_one_clear_error(error: FtkitError, expected: list[str]) -> None:
    message = str(error)
    for part in expected:
        assert part in message
    assert "\n" not in message
    assert error.remedy
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name, tmp_path):
    content, expected = BAD_FILES[name]
    with pytest.raises(DataError) as raised:
        load(write(tmp_path / name, content))
    assert_one_clear_error(raised.value, expected)


def flags(value):
    return [{"text": "x", "u": i % 2, "v": 1} for i in range(9)] + [
        {"text": "x", "u": value, "v": 1}
    ]


BAD_SOURCES = {
    "no dict": ([*ROWS, "x"], {}, ['split "train", row 21: the row is text, not an object']),
    "lacks text": ([*ROWS, {"label": "a"}], {}, ['row 21, column "text": the text is missing']),
    "number": ([*ROWS, {"text": 5, "label": "a"}], {}, ['row 21, column "text": a number (5)']),
    "no rows": ([], {}, ['split "train": has no rows']),
    "no rows in test": ({"train": ROWS, "test": []}, {}, ['split "test": has no rows']),
    "nan": (pd.DataFrame([*ROWS, {"text": np.nan, "label": "a"}]), {}, ['row 21, column "text"']),
    "mixed frame": (
        pd.DataFrame([*ROWS, {"text": 5, "label": "a"}]),
        {},
        ['split "train", row 21, column "text": a number (5) where 20 rows have text'],
    ),
    "arrays": (
        pd.DataFrame({"text": ["a", np.array([1, 2])], "label": ["a", "b"]}),
        {},
        ['row 2, column "text": a list of numbers ('],
    ),
    "names twice": (
        pd.DataFrame([["x", "a"]], columns=["text", "text"]),
        {},
        ['two columns are called "text"'],
    ),
    "columns": ({"text": ["x"], "label": ["a"]}, {}, ["no train split among text, label"]),
    "no train": ({"test": ROWS}, {}, ["there is no train split among test"]),
    "split twice": ({"train": ROWS, "val": ROWS, "dev": ROWS}, {}, ['are the split "validation"']),
    "kind": (5, {}, ["data of type int cannot be read"]),
    "only in test": (
        {"train": ROWS, "test": [*ROWS, {"text": "x", "label": "c"}]},
        {},
        ['split "test", row 21, column "label"', '"c"'],
    ),
    "no label in test": (
        {"train": ROWS, "test": [{"text": "x"}]},
        {},
        ['split "test", column "label": there is no column "label" or "labels"'],
    ),
    "pair in test only": (
        {"train": ROWS, "test": [{"text": "x", "text_pair": "y", "label": "a"}]},
        {},
        ['split "train", column "text_pair": there is no such column, which test has'],
    ),
    "null pair": (
        [{**row, "text_pair": None if i == 6 else "x"} for i, row in enumerate(ROWS)],
        {},
        ['row 7, column "text_pair": the text is missing'],
    ),
    "user's name": (
        [{"body": "x", "label": "a"}, {"body": None, "label": "b"}],
        {"columns": {"text": "body"}},
        ['row 2, column "body": the text is missing'],
    ),
    "map": (ROWS, {"columns": {"text": "txt"}}, ['no column "txt"', 'columns={"text": "text"}']),
    "flag": (
        flags(2),
        {"columns": {"label": ["u", "v"]}},
        ['row 10, column "u": 2 where a label\'s column has 0 or 1'],
    ),
    "flags in a list": (
        [{"text": "x", "label": [0, 1, i % 2]} for i in range(9)],
        {},
        ['split "train", row 1, column "label": found a 0 or 1 for each label', "lists of names"],
    ),
    "null flag": (flags(None), {"columns": {"label": ["u", "v"]}}, ['row 10, column "u": null']),
    "fold": (flags(0), {"columns": {"label": ["u", "w"]}}, ['no column "w"', '{"label": [...]}']),
    "group": (ROWS, {"group": "who"}, ['column "who": there is no such column']),
    "null group": (
        [{**row, "who": None if i == 4 else 1} for i, row in enumerate(ROWS)],
        {"group": "who"},
        ['row 5, column "who": null names no group'],
    ),
    "one group": (
        [{**row, "who": 1} for row in ROWS],
        {"group": "who"},
        ["no validation rows can"],
    ),
    "two rows": (ROWS[:2], {}, ["no validation rows can be held out of 2"]),
    "missing": ("/nowhere/x.csv", {}, ['/nowhere/x.csv: the folder "/nowhere" does not exist']),
    "sample": ("sample:nothing", {}, ["nothing", "tickets"]),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_bad_source(name):
    source, options, expected = BAD_SOURCES[name]
    with pytest.raises(DataError) as raised:
        load(source, **options)
    assert_one_clear_error(raised.value, expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"valid": 0}, "valid is 0"),
        ({"valid": 1.5}, "valid is 1.5"),
        ({"limit": 0}, "limit is 0"),
        ({"columns": {"txt": "text"}}, 'Did you mean "text"?'),
        ({"columns": {"text": ["a", "b"]}}, '2 names for "text"'),
        ({"columns": {"label": []}}, '0 names for "label"'),
    ],
)
def test_bad_option(options, expected):
    with pytest.raises(SettingError, match=re.escape(expected)):
        load(ROWS, **options)


@pytest.mark.parametrize("damage", ["cut", "scrambled"])
def test_damaged_parquet(damage, tmp_path):
    pd.DataFrame({"text": [f"row {i}" for i in range(9999)], "label": 1}).to_parquet(
        tmp_path / "x.parquet"
    )
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    if damage == "cut":
        del content[-100:]
    else:
        content[100:2000] = b"\xff" * 1900
    with pytest.raises(DataError) as raised:
        load(write(tmp_path / "x.parquet", bytes(content)))
    assert_one_clear_error(raised.value, [f"{tmp_path}/x.parquet: the", "Copy or download"][1:])


@pytest.mark.parametrize("is_nested", [False, True])
def test_parquet_text_that_is_not_utf8(is_nested, tmp_path):
    text = pa.array([b"ok", b"caf\xe9"]).view(pa.string())
    if is_nested:
        text = pa.ListArray.from_arrays([0, 1, 2], text)
    pq.write_table(pa.table({"text": text, "label": ["a", "b"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError) as raised:
        load(tmp_path / "x.parquet")
    said = ["x.parquet, row 2, column \"text\": the text is not UTF-8: b'caf\\xe9'"]
    assert_one_clear_error(raised.value, said)


def test_a_name_with_a_null_character():
    with pytest.raises(DataError) as raised:
        load([{**row, "no\0te": 1} for row in ROWS])
    said = ["the name of a column has a null character in it. Rename the column."]
    assert_one_clear_error(raised.value, said)


def test_lists_in_lists_without_end(tmp_path):
    row = '{"text": "a", "label": "b", "more": %s}\n' % ("[" * 900 + "]" * 900)
    with pytest.raises(DataError) as raised:
        load(write(tmp_path / "x.jsonl", row * 8))
    assert_one_clear_error(raised.value, ["x.jsonl", "cannot be read as JSON"])


def test_row_in_a_later_shard(tmp_path):
    write(tmp_path / "train-0.csv", CSV)
    write(tmp_path / "train-1.csv", CSV + ",a\n")
    with pytest.raises(DataError) as raised:
        load(tmp_path)
    assert_one_clear_error(raised.value, ['train-1.csv, row 21, column "text"'])
    assert (raised.value.split, raised.value.row) == ("train", 21)


def test_shards_that_do_not_go_together(tmp_path):
    write(tmp_path / "train-0.jsonl", JSONL)
    write(tmp_path / "train-1.jsonl", jsonl({"text": "x", "label": 1} for _ in range(3)))
    with pytest.raises(DataError) as raised:
        load(tmp_path)
    assert_one_clear_error(raised.value, ["train-1.jsonl: the columns do not go with those of"])


def test_class_numbers_of_shards_must_agree(tmp_path):
    for i, names in enumerate((["a", "b"], ["b", "a"])):
        rows = Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]})
        rows.cast_column("label", ClassLabel(names=names)).to_parquet(
            tmp_path / f"train-{i}.parquet"
        )
    with pytest.raises(DataError, match=r"train-1\.parquet: .*numbers its classes in another way"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train.csv", "train_old.csv"], 'several files could be the split "train"'),
        (["train.csv", "train.jsonl"], 'several files could be the split "train"'),
        (["a.csv", "values.csv"], "no file here names its split (found: a.csv, values.csv)"),
        (["notes.md"], "no file here names its split (found: notes.md)"),
        ([], "no file here names its split (found: nothing)"),
        (["test.csv"], "there is no train split among test"),
        (["train/notes.md"], "the folder has no data file"),
    ],
)
def test_bad_folder(files, expected, tmp_path):
    for name in files:
        write(tmp_path / name, CSV)
    with pytest.raises(DataError) as raised:
        load(tmp_path)
    assert_one_clear_error(raised.value, [str(tmp_path), expected])


def test_missing_path_names_what_is_close(tmp_path):
    write(tmp_path / "tickets.csv", CSV)
    with pytest.raises(DataError) as raised:
        load(tmp_path / "tikets.csv")
    assert_one_clear_error(raised.value, ["there is no such file", f'"{tmp_path}/tickets.csv"?'])


# Real data


@pytest.mark.data
def test_ag_news(data_dir):
    data = load(data_dir / "ag_news")
    assert {split: len(rows) for split, rows in data.items()} == {
        "train": 8657,
        "validation": 962,
        "test": 7600,
    }
    assert data["test"].features["label"].names == ["World", "Sports", "Business", "Sci/Tech"]
    before = np.bincount(load({"train": data["test"], "dev": data["test"]})["train"]["label"])
    assert before.tolist() == [1900] * 4


@pytest.mark.data
def test_go_emotions(data_dir):
    data = load(str(data_dir / "go_emotions"), limit=500)
    assert data["train"].column_names == ["text", "label", "id"]
    for rows in data.values():
        assert len(rows) == 500
        assert len({name for label in rows["label"] for name in label}) == 28


def test_lists_of_nulls_that_no_task_reads_do_no_harm(tmp_path):
    rows = [{"text": "hello", "label": str(i % 2), "extra": [None, None]} for i in range(8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    for source in (rows, pd.DataFrame(rows), file, tmp_path / "rows.parquet"):
        assert sum(map(len, load_data(source, "classification").values())) == 8
