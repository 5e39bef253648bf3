"""read_conll: sentences of words and tags, and one clear error for each broken file."""

from pathlib import Path

import pytest

from ftkit.data.conll import read_conll
from ftkit.errors import DataError

pytestmark = pytest.mark.unit
WANTED = {
    "tokens": [["Ann", "Lee", "slept"], ["In", "Oslo"]],
    "tags": [["B-per", "I-per", "O"], ["O", "B-loc"]],
}


def write(path: Path, content: str | bytes) -> Path:
    file = path / "train.conll"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    "content",
    [
        "Ann B-per\nLee I-per\nslept O\n\nIn O\nOslo B-loc\n",
        "Ann\tB-per\nLee\tI-per\nslept\tO\n\nIn\tO\nOslo\tB-loc",
        "\ufeffAnn B-per\r\nLee I-per\r\nslept O\r\n\r\nIn O\r\nOslo B-loc\r\n",
        "\n\nAnn   B-per \nLee I-per\nslept O\n \n\t\n\nIn O\nOslo B-loc\n\n\n",
        "-DOCSTART- -X- O O\n\nAnn NNP I-NP B-per\nLee NNP I-NP I-per\nslept VB I-VP O\n\n"
        "-DOCSTART- -X- O O\n\nIn IN I-PP O\nOslo NNP I-NP B-loc\n",
        "-DOCSTART- O\nAnn\tNN\tB-per\nLee\tNN\tI-per\nslept\tVB\tO\n\nIn\tIN\tO\nOslo\tNN\tB-loc",
    ],
)
def test_sentences(tmp_path, content):
    table = read_conll(write(tmp_path, content))
    assert table.to_pydict() == WANTED
    assert [str(kind) for kind in table.schema.types] == ["list<item: string>"] * 2


def test_words_stay_as_they_are(tmp_path):
    words = ["New York", "a\u2028b", "\xa0", "#", "\u200e", "x\x0cy"]
    content = "".join(f"{word}\tO\n" for word in words)
    assert read_conll(write(tmp_path, content)).to_pydict()["tokens"] == [words]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb\n", r"line 2 \(b\) has 1 column, and the lines before it have 2"),
        ("a O\n\nb X O\n", r"line 3 \(b X O\) has 3 columns, and the lines before it have 2"),
        ("hello\nyou\n", r"line 1 \(hello\) has 1 column\. Give each line a word"),
        ("a\tO\nb\t\n", r"line 2 .* has no word, or no tag"),
        ("\tO\n", r"line 1 .* has no word, or no tag"),
        ("", "the file has no words"),
        ("\n\n-DOCSTART- O\n\n", "the file has no words"),
        ("Ann O\nZürich O\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, content, message):
    file = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_conll(file)
    assert caught.value.file == str(file)


@pytest.mark.data
def test_the_same_rows_as_a_public_set(tmp_path, data_dir):
    import pyarrow.parquet as pq

    rows = pq.read_table(data_dir / "wnut17" / "validation.parquet").to_pydict()
    sentences = zip(rows["tokens"], rows["ner_tags"], strict=True)
    content = "\n".join(
        "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
        for words, tags in sentences
    )
    found = read_conll(write(tmp_path, content)).to_pydict()
    assert found == {"tokens": rows["tokens"], "tags": rows["ner_tags"]}
