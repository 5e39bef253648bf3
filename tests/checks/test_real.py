"""The public data sets: what is known to be in them is found."""

import pytest

import ftkit

pytestmark = pytest.mark.data


def test_banking77(data_dir):
    check = ftkit.check(data_dir / "banking77")
    shared = {f.split: f for f in check.findings if f.name == "same_text_in_train"}
    # The data's own notes name 6; two texts differ in case and white space alone.
    assert 6 <= shared["test"].count <= 8
    assert check.ok
    assert len(check.splits[0].labels) == 77
    assert check.splits[0].languages["en"] > 0.75 * sum(check.splits[0].languages.values())


def test_squad(data_dir):
    check = ftkit.check(data_dir / "squad_v2", "qa", limit=500)
    assert check.ok
    assert {"unanswerable", "repeated_answers"} <= {each.name for each in check.findings}


def test_wnut17(data_dir):
    check = ftkit.check(data_dir / "wnut17", "ner", limit=500)
    assert check.ok
    assert "person" in check.splits[0].labels


def test_dialogsum(data_dir):
    check = ftkit.check(data_dir / "dialogsum", "summarization")
    (shared,) = check.of_level("error")
    assert (shared.name, shared.split) == ("same_text_in_train", "validation")
    data = ftkit.load_data(data_dir / "dialogsum", "summarization")
    # No two of them are equal letter by letter: they differ in white space.
    plain = {
        split: [" ".join(text.lower().split()) for text in data[split]["text"]]
        for split in ("train", "validation")
    }
    assert shared.count == sum(text in set(plain["train"]) for text in plain["validation"]) > 25


def test_wikitext(data_dir):
    rows = {"train": str(data_dir / "wikitext2" / "test.parquet")}
    rows["validation"] = str(data_dir / "wikitext2" / "validation.parquet")
    check = ftkit.check(rows, "language_modeling")
    assert [each for each in check.findings if each.level == "error"] == []
