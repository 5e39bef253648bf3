"""`ftkit check`: what it prints and writes, and its exit codes."""

import json

import pytest

from ftkit.cli import main


@pytest.fixture(scope="module")
def folder(tiny_data, tmp_path_factory):
    """tiny_data as JSON Lines, its columns called body and queue."""
    folder = tmp_path_factory.mktemp("rows")
    for split, rows in tiny_data.items():
        lines = (json.dumps({"body": r["text"], "queue": r["label"]}) for r in rows)
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


COLUMNS = ("--columns", "text=body,label=queue")


def test_good_rows(folder, tiny_checkpoint, tmp_path, capsys):
    file = tmp_path / "check.json"
    command = ["check", "classification", "--data", str(folder), *COLUMNS]
    command += ["--checkpoint", str(tiny_checkpoint), "--max-length", "16", "--json", str(file)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"classification with {tiny_checkpoint}: " in printed
    content = json.loads(file.read_text())
    assert content["ok"]
    assert [split["rows"] for split in content["splits"]] == [96, 24, 24]
    assert content["splits"][0]["lengths"]["limit"] == 16


def test_json_alone(folder, capsys):
    assert main(["check", "classification", "--data", str(folder), *COLUMNS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "classification"


def test_rows_that_cannot_train(folder, tmp_path, capsys):
    assert main(["check", "classification", "--data", str(folder)]) == 1
    assert 'there is no column "text"' in " ".join(capsys.readouterr().out.split())
    (tmp_path / "train.csv").write_bytes(b"text,label\na,b\ncaf\xe9,c\n")
    assert main(["check", "classification", "--data", str(tmp_path)]) == 1
    assert "row 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        ("--data", "none.csv"),
        ("--columns", "txt=body"),
        ("--max-length", "2"),
        ("--limit", "0"),
        ("--option", "no_such=1"),
        ("--checkpoint", "./none"),
        ("--suspects", "a.csv"),
        ("--model", "./none"),
    ],
)
def test_a_users_mistake(folder, wrong, capsys):
    assert main(["check", "classification", "--data", str(folder), *COLUMNS, *wrong]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ftkit: ")
    assert said.count("\n") == 1
