"""A job in shards: whole row groups of Parquet files, each answered once, in a file of its own."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ftkit
from ftkit.errors import DataError, FtkitWarning, SettingError
from ftkit.inference import Predictor
from ftkit.jobs.predict import PredictJob, predict
from ftkit.jobs.shards import Shard, answer_shard, plan_shards, remove_partial


def write_rows(path, count, *, group=10, texts=None):
    """Rows of different lengths; every 25th text is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = texts or [f"late {i} " + "again " * (i % 13) if i % 25 else None for i in range(count)]
    rows = pa.table(
        {"id": pa.array(range(count), pa.int32()), "text": pa.array(texts, pa.string())}
    )
    pq.write_table(rows, path, row_group_size=group)
    return path


def names_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def plan(bundle, tmp_path, monkeypatch):
    """A function that plans a job in a folder of its own; gives it and its shards."""
    monkeypatch.chdir(tmp_path)

    def make(source="rows", output="answers", rows=25, **options):
        job = PredictJob(bundle, source, batch_size=1, **options)
        return job, plan_shards(job, Path(output), rows)

    return make


@pytest.fixture
def answer(bundle):
    """A function that answers shards; gives how many rows have no answer."""
    model = ftkit.load_model(bundle)
    return lambda job, shards: sum(answer_shard(job, model, shard) for shard in shards)


def test_shards_are_whole_row_groups(plan, tmp_path):
    write_rows(Path("rows/a.parquet"), 47)
    write_rows(Path("rows/day=1/b.parquet"), 70, group=60)
    write_rows(Path("rows/day=2/empty.parquet"), 0)
    for hidden in ("rows/_temporary/c.parquet", "rows/.d.parquet", "rows/e.csv"):
        write_rows(Path(hidden), 5)
    shards = plan()[1]
    rows, answers = tmp_path / "rows", tmp_path / "answers"
    assert [(shard.file, shard.first, shard.end, shard.rows, shard.output) for shard in shards] == [
        (f"{rows}/a.parquet", 0, 3, 30, f"{answers}/a-00000.parquet"),
        (f"{rows}/a.parquet", 3, 5, 17, f"{answers}/a-00001.parquet"),
        (f"{rows}/day=1/b.parquet", 0, 1, 60, f"{answers}/day=1/b-00000.parquet"),
        (f"{rows}/day=1/b.parquet", 1, 2, 10, f"{answers}/day=1/b-00001.parquet"),
    ]
    for pattern, count in (("rows/*.parquet", 2), ("rows/**/b*", 2), ("rows/a.parquet", 2)):
        assert len(plan(pattern, output="other")[1]) == count


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_answers_are_those_of_ftkit_predict(plan, answer, bundle):
    file = write_rows(Path("rows/a.parquet"), 300, group=32)
    job, shards = plan(rows=128)
    assert predict(PredictJob(bundle, str(file), "whole.parquet", batch_size=1)).failed == 12
    assert answer(job, reversed(shards)) == 12
    whole = pq.read_table("whole.parquet")
    assert whole.column("prediction_error")[25].as_py().startswith('column "text": found nothing')
    assert whole.column("prediction").null_count == 12
    assert len(shards) == 3
    assert pa.concat_tables(pq.read_table(shard.output) for shard in shards).equals(whole)


def test_a_row_group_is_read_piece_by_piece(plan, answer, monkeypatch):
    """And written as soon as there is enough of it."""
    write_rows(Path("rows/a.parquet"), 500, group=500)
    monkeypatch.setattr("ftkit.jobs.formats._GROUP_BYTES", 15_000)
    sizes, stream = [], Predictor.stream

    def counted(model, rows, **options):
        sizes.append(len(rows))
        return stream(model, rows, **options)

    monkeypatch.setattr(Predictor, "stream", counted)
    job, (shard,) = plan()
    answer(job, [shard])
    assert max(sizes) == 32
    written = pq.read_metadata(shard.output)
    assert written.num_row_groups > 2
    assert max(written.row_group(i).num_rows for i in range(written.num_row_groups)) < 300


def test_a_stopped_job_goes_on_with_what_lacks(plan, answer, monkeypatch, tmp_path):
    write_rows(Path("rows/a.parquet"), 100)
    job, shards = plan()
    answer(job, shards[:2])
    with monkeypatch.context() as patch:
        patch.setattr("ftkit.jobs.formats.os.fsync", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            answer(job, shards[2:])
    assert names_below(tmp_path / "answers") == [
        "_job.json",
        "a-00000.parquet",
        "a-00001.parquet",
    ]
    Path("answers/.a-00002.parquet.0123").write_text("of a killed worker")
    with pytest.raises(SettingError, match="has answers already"):
        plan()
    job, again = plan(resume=True)
    assert again == shards
    assert [shard.is_done for shard in again] == [True, True, False, False]
    answer(job, again[2:])
    remove_partial(again)
    assert names_below(tmp_path / "answers") == [
        "_job.json",
        *(f"a-0000{i}.parquet" for i in range(4)),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": 30}, "shard_rows is 30, not 25"),
        ({"top_k": 1}, "top_k is 1, not None"),
        ({"options": {"max_length": 16}}, "options is {'max_length': 16}, not {}"),
        ("a file that is read", "the input is another one"),
        ("a file of the same size", "the input is another one"),
        ("a new file", "the input is another one"),
        ("the model", "the model is another one"),
        ("the description", "has files, and none that says of which job"),
    ],
    ids=str,
)
def test_another_job_does_not_go_on(plan, answer, bundle, change, said):
    Path("model").mkdir()
    for file in Path(bundle).iterdir():
        Path("model", file.name).write_bytes(file.read_bytes())
    rows = write_rows(Path("rows/a.parquet"), 30)
    job, shards = plan()
    answer(job, shards)
    if change == "a file that is read":
        write_rows(rows, 30, texts=["late"] * 30)
    elif change == "a file of the same size":
        time.sleep(0.01)
        rows.write_bytes(rows.read_bytes().replace(b"late 7", b"late 8"))
    elif change == "a new file":
        write_rows(Path("rows/b.parquet"), 3)
    elif change == "the model":
        Path(bundle, "README.md").write_text("another card\n")
    elif change == "the description":
        Path("answers/_job.json").unlink()
    before = Path(shards[0].output).read_bytes()
    try:
        with pytest.raises(SettingError, match=said):
            plan(resume=True, **change if isinstance(change, dict) else {})
    finally:
        Path(bundle, "README.md").write_bytes(Path("model/README.md").read_bytes())
    assert Path(shards[0].output).read_bytes() == before


def test_a_job_without_answers_begins_anew(plan):
    write_rows(Path("rows/a.parquet"), 30)
    plan()
    assert plan(rows=10, resume=True)[1] == plan(rows=10)[1]
    state = json.loads(Path("answers/_job.json").read_text())
    assert state["job"]["shard_rows"] == 10


def test_a_job_of_other_versions_goes_on_with_a_note(plan, answer):
    write_rows(Path("rows/a.parquet"), 30)
    answer(*plan())
    state = json.loads(Path("answers/_job.json").read_text())
    state["versions"]["torch"] = "1.0"
    Path("answers/_job.json").write_text(json.dumps(state))
    with pytest.warns(FtkitWarning, match="torch was 1.0"):
        plan(resume=True)


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("nothing", "answers", "nothing: there is no such file or folder"),
        ("hollow", "answers", "hollow: no .parquet file is there"),
        ("good/*.csv", "answers", "no .parquet file is there"),
        ("empty", "answers", "the files have no rows"),
        ("good", "good", "all of them are in the output's folder"),
        ("broken", "answers", "b.parquet: this is no parquet file"),
        ("body", "answers", 'b.parquet, column "text".*--columns text='),
        ("taken", "answers", 'b.parquet, column "prediction": the answers are written'),
    ],
)
def test_folders_that_cannot_be_answered(plan, source, output, said):
    good = pa.table({"text": ["late"]})
    Path("hollow").mkdir()
    for name in ("good", "broken", "body", "taken", "empty"):
        write_rows(Path(name, "a.parquet"), 3 * (name != "empty"))
    Path("broken/b.parquet").write_bytes(b"late" * 9)
    pq.write_table(good.rename_columns(["body"]), "body/b.parquet")
    pq.write_table(good.append_column("prediction", [["late"]]), "taken/b.parquet")
    with pytest.raises(DataError, match=said) as found:
        plan(source, output)
    assert "\n" not in str(found.value)
    assert not Path("answers").exists()


def test_settings_that_cannot_work(plan):
    write_rows(Path("rows/a.parquet"), 3)
    for options in ({"rows": 0}, {"options": {"treshold": 1}}, {"columns": {"txt": "text"}}):
        with pytest.raises((SettingError, DataError)):
            plan(**options)
    assert not Path("answers").exists()


def test_what_a_folder_holds_of_answers_is_not_read(plan):
    write_rows(Path("a.parquet"), 3)
    write_rows(Path("answers/b.parquet"), 3)
    with pytest.raises(SettingError, match="has files, and none that says"):
        plan(".")
    assert len(plan(".", output="other")[1]) == 2
    assert len(plan("*.parquet", output="answers/more")[1]) == 1


def test_a_file_that_was_damaged_leaves_no_answers(plan, answer, tmp_path):
    file = write_rows(Path("rows/a.parquet"), 3000, group=1000)
    job, shards = plan(rows=1000)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: the parquet file is damaged"):
        answer(job, shards)
    write_rows(file, 20)
    with pytest.raises(DataError, match="has changed since the job began"):
        answer(job, shards[2:])
    assert not [name for name in names_below(tmp_path / "answers") if "a-00001" in name]
    assert Shard(str(file), 0, 1, 1000, "no/a.parquet").is_done is False
