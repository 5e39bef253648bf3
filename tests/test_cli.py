"""The command line: train, evaluate, predict, and one line for each mistake of the user's."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
from run_files import RUN_FILES

import ftkit
from ftkit.cli import main, parse_columns
from ftkit.errors import SettingError

_LINES = 3  # rows of the files to predict


@pytest.fixture(scope="module")
def data(tiny_data, tmp_path_factory):
    """A folder with tiny_data as csv."""
    folder = tmp_path_factory.mktemp("data")
    for split, rows in tiny_data.items():
        rows.to_pandas().to_csv(folder / f"{split}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def arguments(data, tiny_checkpoint):
    """What `ftkit train` needs, but for --output."""
    named = {"--data": data, "--checkpoint": tiny_checkpoint, "--precision": "fp32"}
    small = {"--epochs": 1, "--batch-size": 16}
    options = [str(each) for pair in (named | small).items() for each in pair]
    return ["train", "classification", *options]


@pytest.fixture(scope="module")
def trained(arguments, tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*arguments, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def rows_file(tmp_path):
    """A function that writes unlabelled rows to a file of that kind."""
    frame = pd.DataFrame({"id": range(_LINES), "text": ["my refund", "late, again", "crash"]})

    def write(kind):
        path = tmp_path / f"rows.{kind}"
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "tsv":
            frame.to_csv(path, index=False, sep="\t")
        elif kind == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path)
        return path

    return write


@pytest.fixture
def fails(capsys):
    """A function that runs a command which must end in one clear line; gives that line."""

    def run(*given, code=2):
        capsys.readouterr()
        try:
            found = main([str(each) for each in given])
        except SystemExit as stop:  # argparse leaves like this
            found = stop.code
        printed = capsys.readouterr()
        assert found == code, printed.err
        lines = [line for line in printed.err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("ftkit: ")
        return lines[0]

    return run


def answers_of(text):
    return [json.loads(line) for line in text.splitlines()]


# Train


def test_train_leaves_a_run(trained):
    names = sorted(path.name for path in trained.iterdir())
    assert names == RUN_FILES


def test_train_prints_the_scores(arguments, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "run"), "--limit", "12"]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for split in ("validation", "test"):
        assert f"{split} (12 rows): accuracy {metrics[split]['accuracy']:.4f}" in printed
    assert f"the model is in {tmp_path}/run/model" in printed


def test_compare(trained, tmp_path, capsys, fails):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    file = tmp_path / "comparison.json"
    assert main(["compare", str(trained), str(other), "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"differences from {trained.name}" in printed
    assert "within chance" in printed
    scores = json.loads(file.read_text())["scores"]
    assert {each["verdict"] for each in scores} == {"", "within chance"}
    assert "cannot be read as a finished run" in fails("compare", trained, tmp_path)


def test_config_repeats_a_run(trained, tmp_path, capsys):
    again = tmp_path / "again"
    assert main(["train", "--config", str(trained / "run.toml"), "--output", str(again)]) == 0
    one, two = (json.loads((each / "metrics.json").read_text()) for each in (trained, again))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    capsys.readouterr()
    other = tmp_path / "other"
    config = ["--config", str(trained / "run.toml"), "--output", str(other)]
    assert main(["train", *config, "--seed", "5", "--limit", "12"]) == 0
    assert json.loads((other / "metrics.json").read_text())["rows"]["train"] == 12


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--freeze-epochs 2", {"freeze_epochs": 2}),
        ("--accumulate 3", {"accumulate": 3}),
        ("--max-length 12", {"max_length": 12}),
        ("--long-texts windows", {"long_texts": "windows"}),
        ("--limit 9", {"limit": 9}),
        ("--seed 7", {"seed": 7}),
        ("--lr 3e-4", {"lr": 3e-4}),
        ("--batch-size 5", {"batch_size": 5}),
        ("--epochs 4", {"epochs": 4}),
        ("--precision bf16", {"precision": "bf16"}),
        ("--columns text=body,label=a+b", {"columns": {"text": "body", "label": ["a", "b"]}}),
        ("--group customer", {"group": "customer"}),
        ("--new-head", {"new_head": True}),
        ("--keep-best accuracy --patience 3", {"keep_best": "accuracy", "patience": 3}),
        ("--lora 8", {"lora": 8}),
        ("--wandb tickets", {"wandb": "tickets"}),
        ("--save-steps 50 --save-minutes 2.5", {"save_steps": 50, "save_minutes": 2.5}),
    ],
)
def test_every_option_reaches_its_setting(arguments, monkeypatch, option, expected):
    """What a setting does is the business of tests/learner/test_run.py."""
    from ftkit.learner import run as rooms

    given = []

    def stop(settings, resume):
        assert not resume
        given.append(settings)
        raise SettingError("stopped", remedy="Fine.")

    monkeypatch.setattr(rooms, "run", stop)
    assert main([*arguments, "--output", "out", *option.split()]) == 2
    for name, value in expected.items():
        assert getattr(given[0], name) == value


def test_parse_columns():
    assert parse_columns(None) is None
    assert parse_columns("text=body, label=a+b") == {"text": "body", "label": ["a", "b"]}
    for wrong in ("text", "text=", "=body", "text=a,text=b", ""):
        with pytest.raises(SettingError, match="--columns"):
            parse_columns(wrong)


# Evaluate


def test_evaluate_repeats_the_scores_of_the_run(trained, data, tmp_path, capsys):
    metrics = json.loads((trained / "metrics.json").read_text())
    file = tmp_path / "scores.json"
    model = str(trained / "model")
    assert main(["evaluate", model, "--data", str(data), "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["scores"] == pytest.approx(metrics["test"], abs=1e-9)
    assert found["per_label"] == metrics["per_label"]
    assert found["rows"] == 24
    low, high = found["intervals"]["accuracy"]
    assert low < found["scores"]["accuracy"] < high
    printed = capsys.readouterr().out
    assert printed.startswith("24 rows; 95 % intervals by 1,000 resamples\n")
    assert f"\naccuracy {found['scores']['accuracy']:.4f} ({low:.4f} to {high:.4f})\n" in printed
    assert "billing" in printed
    given = ["--split", "validation", "--json", str(file), "--resamples", "0"]
    assert main(["evaluate", model, "--data", str(data), *given]) == 0
    found = json.loads(file.read_text())
    assert found["scores"] == pytest.approx(metrics["validation"], abs=1e-9)
    assert found["intervals"] == {}
    assert capsys.readouterr().out.startswith("24 rows\naccuracy")


def test_evaluate_names_an_unknown_label_and_its_row(trained, tmp_path, fails):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nlate,delivery\nhello,sales\n")
    said = fails("evaluate", trained / "model", "--data", file)
    assert 'row 2, column "label": the label "sales"' in said
    assert '"billing", "delivery", "technical"' in said


def test_evaluate_columns(trained, tmp_path, capsys):
    file = tmp_path / "rows.csv"
    file.write_text("body,queue\nlate,delivery\nhello,billing\n")
    columns = ["--columns", "text=body,label=queue"]
    assert main(["evaluate", str(trained / "model"), "--data", str(file), *columns]) == 0
    assert capsys.readouterr().out.startswith("2 rows")


# Predict


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_predict_from_files(trained, rows_file, tmp_path, capsys, kind):
    file, output = rows_file(kind), tmp_path / "answers.jsonl"
    expected = ftkit.load_model(trained / "model").predict(["my refund", "late, again", "crash"])
    assert main(["predict", str(trained / "model"), str(file)]) == 0
    printed = capsys.readouterr().out
    command = ["predict", str(trained / "model"), str(file), "--output", str(output)]
    assert main(command) == 0
    assert output.read_text() == printed
    rows = answers_of(printed)
    assert [row["text"] for row in rows] == ["my refund", "late, again", "crash"]
    assert [int(row["id"]) for row in rows] == [0, 1, 2]
    assert [row["prediction"]["label"] for row in rows] == [each.label for each in expected]
    assert [row["prediction"]["score"] for row in rows] == [each.score for each in expected]
    assert f"{_LINES} predictions in {output}" in capsys.readouterr().out


def test_predict_from_standard_input(trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("my refund\nlate, again\n"))
    assert main(["predict", str(trained / "model"), "-", "--top-k", "1"]) == 0
    rows = answers_of(capsys.readouterr().out)
    assert [row["text"] for row in rows] == ["my refund", "late, again"]
    assert all(len(row["prediction"]["scores"]) == 1 for row in rows)


def test_predict_says_that_it_leaves_out_blank_lines(trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("my refund\n\n  \nlate\n"))
    assert main(["predict", str(trained / "model"), "-"]) == 0
    printed = capsys.readouterr()
    assert [row["text"] for row in answers_of(printed.out)] == ["my refund", "late"]
    assert "note: left out: 2 blank lines; the numbers of rows do not" in printed.err


def test_predict_leaves_labels_alone(trained, tmp_path, capsys):
    """Labels that the model does not know, or empty ones, do not matter."""
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nlate,sales\nhello,\n")
    assert main(["predict", str(trained / "model"), str(file)]) == 0
    assert len(answers_of(capsys.readouterr().out)) == 2


def test_predict_columns(trained, tmp_path, capsys):
    file = tmp_path / "rows.csv"
    file.write_text("body\nlate\n")
    command = ["predict", str(trained / "model"), str(file), "--columns", "text=body"]
    assert main(command) == 0
    # The user's columns keep their names.
    assert answers_of(capsys.readouterr().out)[0]["body"] == "late"


@pytest.mark.parametrize("encoding", ["strict", "surrogateescape"])
def test_predict_refuses_what_is_not_utf8(trained, monkeypatch, fails, encoding):
    text = io.TextIOWrapper(io.BytesIO(b"fine\ncaf\xe9\n"), encoding="utf-8", errors=encoding)
    monkeypatch.setattr("sys.stdin", text)
    said = fails("predict", trained / "model", "-", "--strict")
    assert "row 2: byte 0xe9 is not UTF-8" in said


# Output that cannot be written


def test_a_reader_that_goes_away(trained, rows_file, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    # What could not be written must not be tried once more when the file is closed.
    with os.fdopen(writer, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        assert main(["predict", str(trained / "model"), str(rows_file("csv"))]) == 0
    monkeypatch.undo()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk(trained, rows_file, data, monkeypatch, fails):
    file = rows_file("csv")
    line = fails("predict", trained / "model", file, "--output", "/dev/full", code=1)
    assert line == "ftkit: No space left on device"
    given = ["--data", data, "--json", "/dev/full"]
    assert "No space left" in fails("evaluate", trained / "model", *given, code=1)
    said = []
    # Closing it fails once more, and would hide any other failure.
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        said.append(fails("predict", trained / "model", file, code=1))
    assert said == ["ftkit: No space left on device"]


def test_a_disk_that_fills_up_while_saving(arguments, tmp_path, monkeypatch, fails):
    from safetensors import SafetensorError

    def fail(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    said = fails(*arguments, "--limit", "12", "--output", tmp_path / "run", code=1)
    assert "cannot be written" in said
    assert "No space left" in said


def test_folders_that_cannot_be_made(trained, arguments, rows_file, tmp_path, fails):
    file = rows_file("csv")
    assert "Not a directory" in fails(*arguments, "--output", file / "run", code=1)
    output = ["--output", tmp_path / "a" / "b.jsonl"]
    assert "does not exist" in fails("predict", trained / "model", file, *output)
    assert "is a folder" in fails("predict", trained / "model", file, "--output", tmp_path)


# Mistakes of the user's

_FILES = {
    "columns.csv": "body,queue\nlate,delivery\nrefund,billing\n",
    "empty.csv": "",
    "header.csv": "text,label\n",
    "one.csv": "text,label\n" + "late,delivery\n" * 9,
    "ragged.csv": "text,label\nlate,delivery\nlate,again,delivery\n",
    "null.csv": "text,label\n,delivery\nlate,billing\n",
    "few.csv": "text,label\nlate,delivery\nrefund,billing\n",
    "notes.docx": "late",
    "broken.parquet": "PAR1 but no more",
    "broken.jsonl": '{"text": "late", "label": \n',
}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("columns.csv", "--columns text=body"),
        ("empty.csv", "the file is empty"),
        ("header.csv", "has no rows"),
        ("one.csv", 'only the label "delivery"'),
        ("ragged.csv", "row 2: 3 fields where the header has 2"),
        ("null.csv", "row 1"),
        ("few.csv", "no validation rows can be held out of 2"),
        ("notes.docx", 'ending in ".docx" cannot be read'),
        ("broken.parquet", "parquet"),
        ("broken.jsonl", "broken JSON"),
        ("latin.csv", "not UTF-8"),
        ("nowhere.csv", "no such file"),
    ],
)
def test_bad_data_is_named(arguments, tmp_path, fails, name, said):
    for file, text in _FILES.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,delivery\n".encode("latin1"))
    line = fails(*arguments, "--data", tmp_path / name, "--output", tmp_path / "run")
    assert said in line
    assert name in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "required: COMMAND"),
        ("compose", "invalid choice"),
        ("train", "missing: task, --data, --checkpoint, --output"),
        ("train classification --epochs many", "invalid int value"),
        ("train poetry --data d --checkpoint c --output o", 'no task is called "poetry"'),
        ("train classification --data d --checkpoint c --output o --lr 7", "lr is 7.0"),
        ("train --config nowhere.toml --output o", "run.toml"),
        ("evaluate nowhere --data d", "no ftkit model"),
        ("predict nowhere -", "no ftkit model"),
        ("predict", "required: DIR/model, INPUT"),
        ("train classification --data d --checkpoint c --output o --columns text", "--columns"),
    ],
)
def test_mistakes_end_in_one_line(fails, given, said):
    assert said in fails(*given.split())


def test_mistakes_with_a_model(trained, arguments, data, rows_file, tmp_path, fails):
    model, file = trained / "model", rows_file("csv")
    assert "Did you mean" in fails("predict", trained, file)
    frame = pd.read_csv(file)
    frame["prediction"] = "late"
    frame.to_csv(tmp_path / "answered.csv", index=False)
    line = fails("predict", model, tmp_path / "answered.csv")
    assert 'answered.csv, column "prediction": the answers are written under this name' in line
    assert "top_k is 0" in fails("predict", model, file, "--top-k", "0")
    assert 'no split "dev2"' in fails("evaluate", model, "--data", data, "--split", "dev2")
    assert 'column "label"' in fails("evaluate", model, "--data", file)
    assert "holds another run" in fails(*arguments, "--output", trained)
    assert "holds other files" in fails(*arguments, "--output", tmp_path)
    assert "seed is -1" in fails(*arguments, "--output", tmp_path / "run", "--seed", "-1")
    assert "fp16 needs a CUDA GPU" in fails("predict", model, file, "--precision", "fp16")


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_a_row_of_100_000_characters(arguments, tiny_data, tmp_path, capsys):
    """Trained on and answered, and said to be cut."""
    rows = [*tiny_data["train"].select(range(30)), {"text": "late " * 20_000, "label": "delivery"}]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    run = ["--data", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "run")]
    assert main([*arguments, *run]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["truncated"]["train"] + metrics["truncated"]["validation"] == 1
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run" / "model"), str(tmp_path / "rows.csv")]) == 0
    assert len(answers_of(capsys.readouterr().out)) == 31


def test_warnings_are_as_before_when_it_ends(trained, rows_file, recwarn, capsys):
    before = warnings.showwarning
    assert main(["predict", str(trained / "model"), str(rows_file("csv"))]) == 0
    assert warnings.showwarning is before


def test_notes_are_lines(arguments, tiny_data, tmp_path, capsys):
    tiny_data["train"].to_csv(str(tmp_path / "rows.csv"))
    run = ["--data", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "run")]
    assert main([*arguments, *run]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "validation split" in line]
    assert len(notes) == 1
    assert notes[0].startswith("note: no validation split: 10 of the 96 rows")


def test_ctrl_c(arguments, tmp_path, monkeypatch, fails):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ftkit.learner.run.fit", interrupt)
    assert fails(*arguments, "--output", tmp_path / "run", code=130) == "ftkit: stopped"


def test_resume(arguments, tmp_path, capsys, fails):
    """What it goes on with is the business of tests/learner/test_resume.py and test_run.py."""
    folder = str(tmp_path / "run")
    assert "missing: task" in fails("train", "--output", folder, "--resume")
    assert main([*arguments, "--output", folder, "--resume"]) == 0  # the first time, it begins
    before = capsys.readouterr().out.splitlines()
    for again in (["train"], [*arguments, "--epochs", "1"]):
        assert main([*again, "--output", folder, "--resume"]) == 0
        assert capsys.readouterr().out.splitlines() == before[-3:]
    said = fails(*arguments, "--output", folder, "--resume", "--seed", "7")
    assert said.startswith("ftkit: seed is 7, and was 42")
    config = ["train", "--config", f"{folder}/run.toml", "--resume"]
    before = (tmp_path / "run" / "run.toml").read_bytes()
    for output in ([], ["--output", folder]):
        assert main([*config, *output]) == 0
        assert "lr is 0.5, and was None" in fails(*config, *output, "--lr", "0.5")
    assert (tmp_path / "run" / "run.toml").read_bytes() == before


# Processes

_FTKIT = [sys.executable, "-c", "import sys; from ftkit.cli import main; sys.exit(main())"]


def test_help_imports_nothing_heavy():
    """So it answers at once: torch alone takes two seconds."""
    script = (
        "import sys\nfrom ftkit.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    for given in (["--help"], ["train", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *given], capture_output=True, text=True, check=True
        )
        assert done.stdout
        heavy = {"torch", "transformers", "fastai", "datasets", "numpy", "pandas", "tomli_w"}
        assert not heavy & set(eval(done.stderr))


def test_sigterm_is_survived(arguments, tmp_path, fails):
    said, ended = io.StringIO(), threading.Event()
    # Else, where it is not heeded, it would end the tests.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = [*arguments, "--output", tmp_path / "run", "--epochs", "100000"]

    def terminate():
        while said.getvalue().count("\n") < 3:  # in its second epoch
            if ended.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        with contextlib.redirect_stdout(said):
            last = fails(*run, code=128 + signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert last.startswith("ftkit: stopped after")
    assert last.endswith(f"Go on with: ftkit train --output {tmp_path / 'run'} --resume")
    assert "holds a run that was stopped" in fails(*arguments, "--output", tmp_path / "run")


def test_a_killed_run_is_started_anew_by_the_same_command(arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    command = [*arguments, "--output", str(folder), "--limit", "40"]
    with (tmp_path / "said").open("w") as log:
        long = subprocess.Popen([*_FTKIT, *command, "--epochs", "100000"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 240
            while (tmp_path / "said").read_text().count("\n") < 3:  # in its second epoch
                assert long.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            long.send_signal(signal.SIGKILL)
            long.wait()
    assert sorted(path.name for path in folder.iterdir()) == ["check.json", "run.toml"]
    assert main(command) == 0
    assert "holds an unfinished run, which is started anew" in capsys.readouterr().err
    assert (folder / "metrics.json").exists()
    assert (folder / "model" / "task.json").exists()
