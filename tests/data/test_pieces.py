"""Rows read piece by piece are those that are read whole."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftkit.data.files import read_file
from ftkit.data.pieces import find_inputs, open_lines, open_rows
from ftkit.errors import DataError, SettingError
from ftkit.tasks import NER, Classification, QuestionAnswering

_CELLS = [
    "",
    "late",
    "a,b",
    "a\tb",
    'say "no"',
    "two\nlines",
    "\r\n",
    "é 漢 \U0001f600",
    "\u2028",
    " x ",
]


def as_csv(rows, delimiter, end):
    """Rows with every cell in quotes that needs them."""
    return "".join(
        delimiter.join(
            '"' + cell.replace('"', '""') + '"' if set(cell) & set(',\t"\r\n') else cell
            for cell in row
        )
        + end
        for row in rows
    )


def rows_in(path, size, task=None):
    source = open_rows(str(path), task or Classification())
    pieces = list(source.pieces(size))
    assert not any(piece.errors for piece in pieces)
    assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert [piece.first for piece in pieces] == list(range(0, source.total, size))
    return [row for piece in pieces for row in piece.rows()]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_is_read_as_pyarrow_reads_it(tmp_path, kind, delimiter, seed):
    rng = np.random.default_rng(seed)
    rows = [[str(i), *rng.choice(_CELLS, 2)] for i in range(50)]
    text = as_csv([["id", "text", "more"], *rows], delimiter, ["\n", "\r\n"][seed % 2])
    # Empty lines, and the mark that Excel writes.
    text = "\n" * (seed > 1) + text.replace("\n9", "\n\n9") + "\n" * (seed > 1)
    file = tmp_path / f"rows.{kind}"
    file.write_bytes(b"\xef\xbb\xbf" * (seed > 2) + text.encode())
    assert rows_in(file, 7) == read_file(file).to_pylist()


def test_other_files_are_read_as_a_whole_one_is(tmp_path):
    rows = [
        {"text": "2024-05-01", "n": i, "list": [{"a": 1.5}] * (i % 3), "none": None}
        for i in range(40)
    ]
    lines = "\n\n".join(map(json.dumps, rows))
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=3)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for kind in ("jsonl", "parquet", "json"):
        assert rows_in(tmp_path / f"rows.{kind}", 7) == rows
    (tmp_path / "rows.txt").write_bytes("a\u2028b\n\n c\r\nd".encode())
    assert rows_in(tmp_path / "rows.txt", 2) == [{"text": t} for t in ("a\u2028b", " c", "d")]
    assert rows_in(tmp_path / "rows.txt", 2) == read_file(tmp_path / "rows.txt").to_pylist()


def test_what_is_known_before_the_rows_are_read(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": 1.5, "x": null}\n')
    source = open_rows(str(file), Classification())
    assert (source.total, source.mixed) == (2, None)
    assert source.schema == pa.schema(
        [("text", pa.string()), ("n", pa.float64()), ("x", pa.string())]
    )
    file.write_text('{"text": "a"}\n' * 4096 + '{"text": 5}\n' * 9)
    source = open_rows(str(file), Classification())
    assert "rows before row 4,097 have other types" in str(source.mixed)
    assert source.schema.names == ["text"]


def test_columns_for_the_model(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("words,question,passage,id\na,b,c,1\n")
    for task, columns, found in (
        (QuestionAnswering(), {"context": "passage"}, {"context": "passage"}),
        (NER(), None, {"tokens": "words"}),
        (Classification(), {"text": "words", "label": "id"}, {"text": "words"}),
        (Classification(), {"text": "words", "text_pair": "id"}, {"text_pair": "id"}),
    ):
        source = open_rows(str(file), task)
        assert found.items() <= find_inputs(source, task, columns).items()
    source = open_rows(str(file), Classification())
    with pytest.raises(DataError, match=r"rows.csv.*no column \"text\""):
        find_inputs(source, Classification(), None)
    with pytest.raises(DataError, match='no column "nowhere"'):
        find_inputs(source, Classification(), {"text": "nowhere"})
    file.write_text("0,1\na,b\n")
    source = open_rows(str(file), Classification())
    assert find_inputs(source, Classification(), {"text": 0, "label": 1}) == {"text": "0"}
    with pytest.raises(SettingError, match='names "txt"'):
        find_inputs(source, Classification(), {"txt": "id"})
    file.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match='no column "text"'):
        find_inputs(open_rows(str(file), NER()), NER(), None)


def test_lines_that_are_awaited_come_one_by_one():
    read = []

    def lines():
        for text in (b"one\n", b"two\n", b"three"):
            read.append(text)
            yield text

    pieces = open_lines(lines(), Classification(), is_awaited=True).pieces(100)
    assert next(pieces).rows() == [{"text": "one"}]
    assert read == [b"one\n"]
    (rest,) = open_lines(lines(), Classification(), is_awaited=False).pieces(100)
    assert len(rest) == 3


def test_text_of_a_parquet_file_that_is_not_utf8(tmp_path):
    bad = pa.array([b"late"] * 9 + [b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r'rows.parquet, row 10, column "text": the text is not'):
        list(open_rows(str(tmp_path / "rows.parquet"), Classification()).pieces(4))
