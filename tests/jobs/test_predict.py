"""`ftkit predict`: rows keep their order and columns, a stopped job goes on, a bad row is told."""

import io
import json
import os
import resource
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ftkit
from ftkit.cli import main
from ftkit.inference import Predictor
from ftkit.jobs import predict as jobs
from ftkit.locks import hold
from ftkit.tasks import NER, Classification, QuestionAnswering, Summarization

_SCRIPT = Path(__file__).parents[1] / "killed_job.py"


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def names_here():
    return sorted(path.name for path in Path().iterdir())


def write_rows(path, count, text="late parcel {} please {}"):
    """Rows of different lengths, in the format of the path."""
    rows = [{"id": i, "text": text.format(i, "again " * (i % 13))} for i in range(count)]
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=50)
    elif path.suffix == ".csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def predict(bundle, tmp_path, monkeypatch, capsys):
    """A function that runs `ftkit predict` in a folder of its own; gives code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*given, model=bundle):
        capsys.readouterr()
        code = main(["predict", str(model), *map(str, given)])
        return code, *capsys.readouterr()

    return run


# What is written


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_answers_are_those_of_the_predictor_in_the_order_of_the_rows(
    predict, bundle, tmp_path, kind
):
    file = write_rows(tmp_path / f"rows.{kind}", 150)
    rows = [json.loads(line) for line in predict(file, "--batch-size", 2)[1].splitlines()]
    assert [int(row["id"]) for row in rows] == list(range(150))
    expected = ftkit.load_model(bundle).predict([row["text"] for row in rows])
    for row, answer in zip(rows, expected, strict=True):
        assert row["prediction"]["scores"] == pytest.approx(answer.scores, abs=1e-5)
        assert list(row) == ["id", "text", "prediction"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_both_formats_say_the_same(predict, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("ftkit.jobs.formats._ROW_GROUP", 50)
    file = write_rows(tmp_path / f"rows.{kind}", 80)
    assert predict(file, "--output", "a.jsonl", "--batch-size", 1)[0] == 0
    code, out, err = predict(file, "--output", "a.parquet", "--batch-size", 1)
    assert (code, err) == (0, "")
    assert out.startswith("80 predictions in a.parquet, ")
    # Two pieces of 32 rows are written together, in groups of 50 and 14; 16 are left.
    groups = pq.read_metadata("a.parquet")
    assert [groups.row_group(i).num_rows for i in range(3)] == [50, 14, 16]
    table = pq.read_table("a.parquet")
    assert table.column_names == ["id", "text", "prediction", "prediction_error"]
    for line, row in zip(lines_of("a.jsonl"), table.to_pylist(), strict=True):
        row["prediction"]["scores"] = dict(row["prediction"]["scores"])
        assert row.pop("prediction_error") is None
        assert line == row
    assert names_here() == ["a.jsonl", "a.parquet", file.name]


def test_columns_keep_their_types(predict, tmp_path):
    stamp = pd.Timestamp(2024, 5, 1, nanosecond=7)
    table = pa.table(
        {
            "when": pa.array([stamp, None], pa.timestamp("ns")),
            "body": pa.array(["late", "refund"], pa.large_string()),
            "price": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
            "small": pa.array([1, 2], pa.int8()),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "nested": pa.array([{"a": [1]}, None]),
            "bytes": pa.array([b"\xff", None]),
        }
    )
    pq.write_table(table, "rows.parquet")
    assert predict("rows.parquet", "--columns", "text=body", "--output", "a.parquet")[0] == 0
    answered = pq.read_table("a.parquet")
    assert answered.drop_columns(["prediction", "prediction_error"]).equals(table)
    assert answered.column("prediction").null_count == 0
    assert predict("rows.parquet", "--columns", "text=body", "--output", "a.jsonl")[0] == 0
    assert [row["body"] for row in lines_of("a.jsonl")] == ["late", "refund"]


def test_rows_of_json_may_differ(predict, tmp_path):
    """In JSON each keeps what it has; Parquet takes types that hold all, or refuses."""
    rows = [{"text": "late", "n": 1}] * 40 + [{"n": 2.5, "text": "my", "tags": ["a"]}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--batch-size", 1]
    assert predict("rows.jsonl", "--output", "a.jsonl", *options)[0] == 0
    found = lines_of("a.jsonl")
    assert [{k: row[k] for k in row if k != "prediction"} for row in found] == rows
    assert predict("rows.jsonl", "--output", "a.parquet", *options)[0] == 0
    table = pq.read_table("a.parquet")
    assert table.schema.field("n").type == pa.float64()
    assert table.column("tags").to_pylist() == [None] * 40 + [["a"]]
    with Path("rows.jsonl").open("a") as file:
        file.write('{"text": "late", "n": "three", "x": NaN}\n')
    code, _, err = predict("rows.jsonl", "--output", "b.parquet", *options)
    assert (code, "row 42" in err, 'column "n"' in err) == (2, True, True), err
    assert predict("rows.jsonl", "--output", "b.jsonl", *options)[0] == 0
    assert lines_of("b.jsonl")[-1]["x"] is None
    assert "NaN" not in Path("b.jsonl").read_text()


_TAGS = ("O", "B-city", "I-city")
_LINE = "hello my parcel is late again please help"
_CONTEXT = {"question": "Who?", "context": "It was late, I was late."}


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize(
    ("task", "rows", "names"),
    [
        (Classification(kind="single", labels=("a", "b")), ["late"], "label score scores"),
        (Classification(kind="multi", labels=("a", "b")), ["late"], "labels scores"),
        (Classification(kind="regression", labels=("value",)), ["late"], "value"),
        (
            NER(labels=_TAGS),
            ["hello my parcel is late again please help", "refund invoice"],
            "entities words tags",
        ),
        (QuestionAnswering(), [_CONTEXT], "answer start end score alternatives"),
        (Summarization(max_target_length=4), ["late"], "summary"),
    ],
    ids=lambda each: getattr(each, "kind", getattr(each, "name", "")),
)
def test_parquet_has_the_fields_of_every_tasks_prediction(predict, task_bundle, task, rows, names):
    rows = [row if isinstance(row, dict) else {"text": row} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), "rows.parquet")
    folder = task_bundle(task)
    given = ["rows.parquet", "--output", "a.parquet"] + ["--top-k", 2] * (task.name == "qa")
    assert predict(*given, model=folder)[0] == 0
    found = pq.read_table("a.parquet").column("prediction")
    assert [field.name for field in found.type] == names.split()
    options = {"top_k": 2} if task.name == "qa" else {}
    expected = ftkit.load_model(folder).predict(rows, **options)
    for row, answer in zip(found.to_pylist(), expected, strict=True):
        for name, value in row.items():
            wanted = getattr(answer, name)
            if name == "scores":
                assert dict(value) == pytest.approx(wanted, abs=1e-5)
            elif name == "entities":
                assert [each["text"] for each in value] == [each.text for each in wanted]
                assert value, "no entity was found to compare"
            elif name == "alternatives":
                assert [each["start"] for each in value] == [each.start for each in wanted]
                assert value
            elif isinstance(value, float):
                assert value == pytest.approx(wanted, abs=1e-5)
            else:
                assert value == (list(wanted) if isinstance(wanted, tuple) else wanted)


def test_options_of_a_call(predict, task_bundle, tmp_path):
    folder = task_bundle(Classification(kind="multi", labels=("a", "b")))
    file = write_rows(tmp_path / "rows.csv", 3)
    for threshold, count in (("1e-9", 2), ("0.999999999", 0)):
        _, out, _ = predict(file, "--option", f"threshold={threshold}", model=folder)
        answers = [json.loads(line)["prediction"] for line in out.splitlines()]
        assert {len(answer["labels"]) for answer in answers} == {count}
    for option, said in (
        ("treshold=0.5", 'no setting "treshold"'),
        ("progress=1", 'no setting "progress"'),
        ("labels=a", 'no setting "labels"'),
        ("threshold=high", "Give a number or nothing"),
        ("max_length=many", "Give a whole number or nothing"),
        ("threshold=2", "threshold is 2"),
        ("max_length=65", "the model reads 64 tokens at most"),
    ):
        code, _, err = predict(file, "--option", option, "--output", "a.jsonl", model=folder)
        assert (code, said in err) == (2, True), err
    assert names_here() == ["rows.csv"]


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_other_sources_are_read_whole(predict):
    Path("rows.json").write_text('[{"text": "late"}, {"text": "my"}]')
    code, out, _ = predict("rows.json")
    assert (code, len(out.splitlines())) == (0, 2)
    assert predict("sample:tickets", "--output", "a.parquet")[0] == 0
    assert pq.read_table("a.parquet").column("prediction").null_count == 0
    assert "--resume goes on with a file" in predict("sample:tickets", "--resume")[2]


def test_lines_on_how_far_it_is(predict, tmp_path, monkeypatch):
    monkeypatch.setattr("ftkit.jobs.progress._SECONDS", 0)
    file = write_rows(tmp_path / "rows.csv", 70)
    lines = predict(file, "--batch-size", 1)[2].splitlines()
    assert [line.split(",")[0] for line in lines] == [f"{rows} of 70 rows" for rows in (32, 64, 70)]


def test_a_bar_in_a_terminal(predict, tmp_path, monkeypatch, capsys):
    file = write_rows(tmp_path / "rows.csv", 70)
    with file.open("a") as more:
        more.write("70,\n")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    err = predict(file, "--batch-size", 1, "--output", "a.jsonl")[2]
    assert "71/71" in err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "71/71" not in predict(file, "--batch-size", 1)[2]
    assert "\nnote: " in err.replace("\r", "\n")


# Standard output


def test_standard_output_is_utf8_whatever_the_terminal_is(predict, monkeypatch):
    Path("rows.txt").write_text("caf\u00e9 \u6f22\n", encoding="utf-8")
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", out)
    assert predict("rows.txt")[0] == 0
    assert json.loads(out.buffer.getvalue())["text"] == "caf\u00e9 \u6f22"


def test_standard_output_is_closed(predict, tmp_path, monkeypatch):
    file = write_rows(tmp_path / "rows.csv", 3)
    monkeypatch.setattr("sys.stdout", None)
    code, _, err = predict(file)
    assert (code, err) == (2, "ftkit: standard output is closed. Give --output FILE.\n")
    assert predict(file, "--output", "a.jsonl")[0] == 0


def test_a_pipe_has_answers_alone(predict, tmp_path):
    file = write_rows(tmp_path / "rows.csv", 3)
    read, write = os.pipe()
    _, out, err = predict(file, "--output", f"/dev/fd/{write}")
    os.close(write)
    with os.fdopen(read) as pipe:
        assert [json.loads(line)["id"] for line in pipe] == ["0", "1", "2"]
    assert (out, err.startswith("3 predictions in /dev/fd/")) == ("", True)


# Standard input


def test_lines_of_standard_input(predict, monkeypatch):
    data = b"\xef\xbb\xbflate parcel\n\ncaf\xe9\nmy refund"
    for output in ([], ["--output", "a.jsonl"], ["--output", "a.parquet"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        code, out, err = predict("-", *output)
        assert code == 0
        assert "standard input, row 2: byte 0xe9 is not UTF-8" in err
        assert "left out: 1 blank lines" in err
        assert "1 of 3 rows could not be read" in err
        if output == ["--output", "a.parquet"]:
            rows = pq.read_table("a.parquet").to_pylist()
        else:
            rows = lines_of("a.jsonl") if output else list(map(json.loads, out.splitlines()))
        assert [row.get("text") for row in rows] == ["late parcel", None, "my refund"]
        assert [row["prediction"] is None for row in rows] == [False, True, False]
    for output in ([], ["--output", "b.jsonl"], ["--output", "b.parquet"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
        assert predict("-", *output)[::2] == (0, "")
    assert Path("b.jsonl").read_text() == ""
    assert len(pq.read_table("b.parquet")) == 0
    assert names_here() == ["a.jsonl", "a.parquet", "b.jsonl", "b.parquet"]


def test_objects_of_standard_input(predict, task_bundle, monkeypatch):
    rows = [_CONTEXT, "text", {"question": "Who?"}, {**_CONTEXT, "id": 7}]
    data = "\n".join(map(json.dumps, rows)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, err = predict("-", model=task_bundle(QuestionAnswering()))
    assert code == 0
    assert "row 2: the line is text, not a JSON object" in err
    assert 'row 3, column "context": found nothing' in err
    found = list(map(json.loads, out.splitlines()))
    assert [row["prediction"] is None for row in found] == [False, True, True, False]
    assert found[3]["id"] == 7
    taken = json.dumps({**_CONTEXT, "prediction": 1}).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(taken)))
    code, _, err = predict("-", model=task_bundle(QuestionAnswering()))
    assert (code, 'column "prediction": the answers are written' in err) == (2, True)


# Rows that cannot be read

_BAD_FILES = {
    "ragged.csv": b"id,text\n1,late\n2,late,again\n3\n\n4,my\n",
    "bytes.csv": b"id,text\n1,caf\xe9\n2,late\n",
    "null.csv": b"id,text\n1,late\n2,\n",
    "broken.jsonl": b'{"text": "late"}\n\n{"text": \n[1]\n{"text": 7}\n{"id": 1, "id": 2}\n',
    "half.jsonl": b'{"text": "late", "x": "\\ud83d"}\n{"text": "\\ud83d\\ude00", "x": "\xff"}\n'
    b'{"text": "\\ud83d\\ude00"}\n',
}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("ragged.csv", {2: "3 fields where the header has 2", 3: "1 field where"}),
        ("bytes.csv", {1: 'column "text": byte 0xe9 is not UTF-8'}),
        ("null.csv", {2: 'column "text": found nothing'}),
        (
            "broken.jsonl",
            {2: "broken JSON", 3: "a list of numbers", 4: "found 7", 5: "this key twice"},
        ),
        ("half.jsonl", {1: "half a character", 2: "byte 0xff is not UTF-8"}),
    ],
)
@pytest.mark.parametrize("output", ["a.jsonl", "a.parquet"])
def test_bad_rows_are_told_and_keep_their_place(predict, name, bad, output):
    Path(name).write_bytes(_BAD_FILES[name])
    if name == "broken.jsonl" and output == "a.parquet":
        assert predict(name, "--output", output)[0] == 2  # its column is of two types
        return
    code, out, err = predict(name, "--output", output)
    rows = lines_of(output) if output == "a.jsonl" else pq.read_table(output).to_pylist()
    assert code == 0
    for number, row in enumerate(rows, start=1):
        assert (row["prediction"] is None) == (number in bad)
        assert bad.get(number, "") in (row.get("prediction_error") or "")
    told = [line for line in err.splitlines() if f"{name}, row" in line]
    assert [int(line.split("row ")[1].split(",")[0].split(":")[0]) for line in told] == sorted(bad)
    assert f"{len(bad)} of {len(rows)} rows could not be read and have no answer" in err
    assert out.startswith(f"{len(rows) - len(bad)} predictions")
    code, _, err = predict(name, "--output", "b.jsonl", "--strict")
    assert code == 2
    assert f"{name}, row {min(bad)}" in err
    assert not Path("b.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.txt", b"late\n\n \nmy\n\n"),
        ("rows.jsonl", b'\n{"text": "late"}\n\n \n{"text": "my"}'),
        ("rows.csv", b"\ntext\nlate\n\n\nmy\n\n"),
    ],
)
def test_blank_lines_are_counted(predict, name, content):
    Path(name).write_bytes(content)
    _, out, err = predict(name)
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["late", "my"]
    said = "note: left out: 3 blank lines; the numbers of rows do not count them\n"
    assert err == said


def test_a_row_without_its_optional_text_is_answered(predict, bundle):
    Path("rows.csv").write_text("text,text_pair\nlate,\nmy,parcel\nrefund,\n")
    pd.read_csv("rows.csv").to_parquet("rows.parquet")
    expected = ftkit.load_model(bundle).predict(["late", ("my", "parcel"), "refund"])
    for name, size in (("rows.csv", 1), ("rows.csv", 32), ("rows.parquet", 32)):
        _, out, err = predict(name, "--batch-size", size)
        rows = [json.loads(line) for line in out.splitlines()]
        assert (err, [row["text_pair"] for row in rows]) == ("", [None, "parcel", None])
        for row, answer in zip(rows, expected, strict=True):
            assert row["prediction"]["scores"] == pytest.approx(answer.scores, abs=1e-5)


def test_many_bad_rows_are_counted(predict):
    Path("rows.csv").write_text("id,text\n1,late\n" + "2,\n" * 70)
    code, _, err = predict("rows.csv", "--output", "a.jsonl", "--batch-size", 1)
    assert code == 0
    lines = err.splitlines()
    assert sum("found nothing" in line for line in lines) == 20
    assert sum("further rows" in line for line in lines) == 1
    assert lines[-1].startswith("note: 70 of 71 rows could not be read")


def test_a_file_of_bad_rows_alone_is_a_mistake(predict):
    Path("rows.csv").write_text("id,text\n1,\n2,\n")
    code, _, err = predict("rows.csv", "--output", "a.jsonl")
    assert code == 2
    assert "2 of 2 rows could not be read" in err.splitlines()[-1]
    assert [row["id"] for row in lines_of("a.jsonl")] == ["1", "2"]


def test_a_long_row(predict):
    """Longer than what csv takes by itself."""
    Path("rows.csv").write_text("text\n" + "late " * 30_000 + "\nmy\n")
    assert predict("rows.csv", "--output", "a.parquet")[0] == 0
    assert len(pq.read_table("a.parquet").column("text")[0].as_py()) == 150_000


# Mistakes


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", b"", "the file is empty"),
        ("blank.csv", b"\n\n", "the file is empty"),
        ("header.csv", b"text\n", "has no rows"),
        ("blank.jsonl", b"\n", "has no rows"),
        ("body.csv", b"body,x\nlate,1\n", "--columns text=body"),
        ("body.jsonl", b'{"body": "late"}', "--columns text=body"),
        ("number.jsonl", b'{"text": 1}', "values of type int64 where texts belong"),
        ("twice.csv", b"text,text\na,b\n", 'two columns are called "text"'),
        ("semicolon.csv", b"id;text\n1;late\n", 'separated by ";"'),
        ("latin.csv", b"text,caf\xe9\na,b\n", "byte 0xe9 is not UTF-8"),
        ("quote.csv", b'id,text\n1,a\n2,"late\n3,my\n', "row 2: a quote that opens here"),
        ("wide.csv", b'text\n"' + b"x" * (1 << 24) + b'x"\n', "row 1: cannot be read as csv"),
        ("taken.csv", b"text,prediction\na,b\n", 'column "prediction": the answers'),
        ("why.csv", b"text,prediction_error\na,b\n", 'column "prediction_error": the answers'),
        ("rows.csv.gz", b"\x1f\x8b", 'ending in ".gz" cannot be read'),
        ("rows.docx", b"late", 'ending in ".docx" cannot be read'),
        ("broken.parquet", b"late" * 9, "no parquet file"),
    ],
)
def test_files_that_cannot_be_answered(predict, name, content, said):
    if content is not None:
        Path(name).write_bytes(content)
    code, _, err = predict(name, "--output", "a.jsonl")
    assert code == 2
    (line,) = err.splitlines()
    assert name in line
    assert said in line
    assert names_here() == [name] * (content is not None)


def test_outputs_that_cannot_be(predict, tmp_path, monkeypatch):
    file = write_rows(tmp_path / "rows.jsonl", 3)
    before = file.read_bytes()
    for given, code, said in (
        (["--output", "rows.jsonl"], 2, "is the file that is read"),
        (["--output", "a.csv"], 2, 'ends in ".csv"'),
        (["--output", "no/a.jsonl"], 2, 'the folder "no" for --output does not exist'),
        (["--output", "."], 2, '--output "." is a folder'),
        (["--resume"], 2, "--resume goes on with a file"),
        (["--output", "a.jsonl", "--batch-size", "0"], 2, "batch_size is 0"),
        (["--output", "a.jsonl", "--columns", "txt=body"], 2, 'Did you mean "text"'),
    ):
        found = predict(file, *given)
        assert (found[0], said in found[2]) == (code, True), found
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"late\n")))
    assert "--resume goes on" in predict("-", "--output", "a.jsonl", "--resume")[2]
    Path("a.jsonl.part").write_text("somebody's own")
    assert "is in the way" in predict(file, "--output", "a.jsonl", "--resume")[2]
    assert Path("a.jsonl.part").read_text() == "somebody's own"
    assert file.read_bytes() == before
    assert names_here() == ["a.jsonl.part", "rows.jsonl"]


def test_an_output_in_the_folder_that_is_read(predict, tmp_path):
    for name in ("train", "test"):
        (tmp_path / "fold" / name).mkdir(parents=True)
        write_rows(tmp_path / "fold" / name / "rows.parquet", 3)
    file = tmp_path / "fold" / "test" / "rows.parquet"
    Path("link.parquet").symlink_to(file)
    before = file.read_bytes()
    for output in (file, "link.parquet"):
        code, _, err = predict("fold", "--output", output)
        assert (code, "--output is a file of the folder that is read" in err) == (2, True)
    assert file.read_bytes() == before
    assert predict("fold", "--output", "fold/a.jsonl")[0] == 0


def test_a_pipe_is_no_file(predict):
    os.mkfifo("rows.csv")
    code, _, err = predict("rows.csv")
    assert (code, "rows.csv: this is a pipe or a device" in err) == (2, True)


def test_a_map_that_serves_evaluate_serves_predict_too(predict):
    Path("rows.csv").write_text("body,queue\nlate,x\n")
    code, out, _ = predict("rows.csv", "--columns", "text=body,label=queue")
    assert (code, json.loads(out)["queue"]) == (0, "x")


# Stopped, and going on


class _Stop:
    """Ends the job with an error when the model is asked for a number of pieces."""

    def __init__(self, monkeypatch, pieces, error=KeyboardInterrupt):
        real = Predictor.stream

        def stream(model, rows, **options):
            self.left -= options.get("on_error") is not None
            if self.left < 0:
                raise error
            return real(model, rows, **options)

        self.left = pieces
        monkeypatch.setattr(Predictor, "stream", stream)


@pytest.fixture
def stopped(predict, tmp_path):
    """Answers of rows in one go, and a job on them that was stopped after three pieces of 32."""
    file = write_rows(tmp_path / "rows.csv", 150)
    with file.open("a") as more:
        more.write("150,\n")  # in the last piece
    assert predict(file, "--output", "whole.jsonl", "--batch-size", 1)[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        _Stop(patch, 3)
        code, _, err = predict(file, "--output", "a.jsonl", "--batch-size", 1)
    assert code == 130
    assert f'note: 96 rows are in "{tmp_path}/a.jsonl.part": the same command with --resume' in err
    return [file, "--output", "a.jsonl", "--batch-size", 1]


def test_a_stopped_job_goes_on(predict, stopped, monkeypatch):
    assert len(lines_of("a.jsonl.part")) == 96
    code, _, err = predict(*stopped)
    assert (code, "holds 96 rows of a job that was stopped. Go on" in err) == (2, True)
    # Half a line, as of a write that was cut off.
    with Path("a.jsonl.part").open("a") as part:
        part.write('{"id": "96", "text": "la')
    counted = _Stop(monkeypatch, 99)
    code, out, err = predict(*stopped, "--resume")
    assert code == 0
    assert 99 - counted.left == 2
    assert out.startswith("150 predictions in a.jsonl")
    assert "1 of 151 rows could not be read" in err
    assert Path("a.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert names_here() == ["a.jsonl", "rows.csv", "whole.jsonl"]
    # What is finished is done again, and takes its place when it is whole.
    assert predict(*stopped, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--batch-size", 2], "batch_size is 2, not 1, as in the job"),
        (["--top-k", 1], "top_k is 1, not None"),
        (["--option", "max_length=16"], "options is {'max_length': 16}, not {}"),
        (["--columns", "text=id"], "columns is {'text': 'id'}, not None"),
        ("input", "the input is another one than in the job"),
        ("model", "the model is another one than in the job"),
    ],
)
def test_another_job_does_not_go_on(predict, stopped, bundle, tmp_path, change, said):
    model = bundle
    if change == "input":
        stopped[0].write_text(stopped[0].read_text().replace("149", "941"))
    elif change == "model":
        model = tmp_path / "other"
        model.mkdir()
        for file in Path(bundle).iterdir():
            (model / file.name).write_bytes(file.read_bytes())
        (model / "README.md").write_text("another card\n")
    given = change if isinstance(change, list) else []
    code, _, err = predict(*stopped, *given, "--resume", model=model)
    assert code == 2
    assert said in err
    assert len(lines_of("a.jsonl.part")) == 96


def test_a_job_of_other_versions_goes_on_with_a_note(predict, stopped):
    state = json.loads(Path("a.jsonl.part.json").read_text())
    state["versions"]["torch"] = "1.0"
    Path("a.jsonl.part.json").write_text(json.dumps(state))
    code, _, err = predict(*stopped, "--resume")
    assert (code, "other versions began this job (torch was 1.0)" in err) == (0, True)
    assert Path("a.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_job_without_rows_leaves_nothing(predict, tmp_path, monkeypatch):
    file = write_rows(tmp_path / "rows.csv", 5)
    Path("a.jsonl").write_text("old")
    _Stop(monkeypatch, 0)
    assert predict(file, "--output", "a.jsonl")[0] == 130
    assert names_here() == ["a.jsonl", "rows.csv"]
    assert Path("a.jsonl").read_text() == "old"


def test_a_strict_job_goes_on_without_being_strict(predict, stopped):
    assert predict(*stopped, "--resume", "--strict")[0] == 2
    assert len(lines_of("a.jsonl.part")) == 128
    assert predict(*stopped, "--resume")[0] == 0
    assert Path("a.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_two_jobs_at_one_file(predict, stopped, tmp_path):
    with (tmp_path / "a.jsonl.part").open("a") as other:
        hold(other.fileno(), Path(other.name))
        code, _, said = predict(*stopped, "--resume")
        assert (code, "another process writes to" in said) == (2, True)
    assert predict(*stopped, "--resume")[0] == 0


def test_a_file_that_changes_while_it_is_read(predict, tmp_path, monkeypatch):
    file, answer = write_rows(tmp_path / "rows.jsonl", 10), jobs.answer_piece

    def answer_late(*given):
        with file.open("a") as opened:
            opened.write('{"id": 10, "text": "late"}\n')
        return answer(*given)

    monkeypatch.setattr(jobs, "answer_piece", answer_late)
    code, _, said = predict(file, "--output", "out.jsonl")
    assert (code, "rows.jsonl: the file changed while it was read" in said) == (2, True)
    assert not Path("out.jsonl").exists()


def test_a_link_stays_one(predict, tmp_path):
    (tmp_path / "real").mkdir()
    Path("a.jsonl").symlink_to(tmp_path / "real" / "b.jsonl")
    file = write_rows(tmp_path / "rows.csv", 5)
    assert predict(file, "--output", "a.jsonl")[0] == 0
    assert Path("a.jsonl").is_symlink()
    assert len(lines_of(tmp_path / "real" / "b.jsonl")) == 5


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_full_disk_keeps_what_it_took(predict, tmp_path, suffix):
    """A limit on the size of files stands in for the disk: both refuse a write in its middle."""
    file = write_rows(tmp_path / "rows.csv", 150)
    assert predict(file, "--output", f"whole.{suffix}", "--batch-size", 1)[0] == 0
    given = [file, "--output", f"a.{suffix}", "--batch-size", 1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, hard))
    try:
        code, _, err = predict(*given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    note, line = err.splitlines()
    assert "--resume goes on" in note
    assert line == "ftkit: File too large"
    assert predict(*given, "--resume")[0] == 0
    if suffix == "jsonl":
        assert Path("a.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    else:
        assert pq.read_table("a.parquet").equals(pq.read_table("whole.parquet"))


def test_a_killed_job_ends_as_one_never_killed(predict, bundle, tmp_path):
    kills, seed = 10, 1
    command = [sys.executable, _SCRIPT, kills, seed, bundle]
    files = {"a.jsonl": tmp_path / "rows.csv", "a.parquet": tmp_path / "rows.parquet"}
    for output, file in files.items():
        command += [write_rows(file, 110 * kills), output]
    # One thread, as the whole job here has: a sum in another order is another number.
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert len(kept) == 2 * kills
    assert 0 < kept[0] < kept[kills - 1] < 110 * kills
    for output, file in files.items():
        killed = Path(output).read_bytes()
        assert predict(file, "--output", output, "--batch-size", 1)[0] == 0
        if output.endswith("jsonl"):
            assert killed == Path(output).read_bytes()
        else:
            assert pq.read_table(io.BytesIO(killed)).equals(pq.read_table(output))


# Memory


_PEAKS = """
import sys
from pathlib import Path
from ftkit.cli import main
model, *files = sys.argv[1:]
for file in files:
    assert main(["predict", model, file, "--output", file + ".jsonl", "--batch-size", "8"]) == 0
    (peak,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    print(peak.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_memory_is_flat(bundle, tmp_path):
    files = []
    for count in (500, 5_000):
        files.append(tmp_path / f"{count}.parquet")
        # A column that the model does not read costs memory and no time.
        columns = {"note": ["x" * 16_000] * count, "text": ["late"] * count}
        pq.write_table(pa.table(columns), files[-1])
    command = [sys.executable, "-c", _PEAKS, bundle, *files]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    few, many = (int(line) for line in done.stdout.splitlines() if line.isdigit())
    # Held whole, the notes alone would take 72 MB more, and as much again for what is written.
    assert many - few < 36_000
