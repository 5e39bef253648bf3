"""A folder answered by Ray: alone and on a cluster, killed and going on, with rows that are bad."""

import re
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ftkit
from ftkit.errors import DataError, SettingError
from ftkit.jobs.predict import PredictJob
from ftkit.tasks import Classification

ray = pytest.importorskip("ray")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

_RECIPE = Path(__file__).parents[2] / "recipes" / "predict_many.py"
_PROGRESS = re.compile(r"([\d,]+ of [\d,]+ rows, [\d,]+ rows/s\n)*")


@pytest.fixture(scope="module")
def bundle(make_checkpoint, tmp_path_factory):
    from ftkit.inference.bundle import save_bundle
    from ftkit.model.checkpoint import open_bundled

    task = Classification(kind="single", labels=("billing", "delivery", "technical"))
    checkpoint = make_checkpoint("bert", "ForSequenceClassification", **task.head().config)
    model, tokenizer = open_bundled(checkpoint, task.head())
    folder = tmp_path_factory.mktemp("many") / "model"
    return str(save_bundle(folder, model, tokenizer, task, limit=64, card=""))


def write_rows(path, count, group=100):
    """Rows of different lengths; every 100th has no text."""
    path.parent.mkdir(exist_ok=True)
    texts = [f"late {i} " + "again " * (i % 13) if i % 100 else None for i in range(count)]
    rows = pa.table({"id": range(count), "text": pa.array(texts, pa.string())})
    pq.write_table(rows, path, row_group_size=group)
    return rows


def check_answers(files, rows, bundle):
    """Every row is there in its order, with the answer that it gets alone."""
    found = pa.concat_tables(pq.read_table(file) for file in sorted(files))
    assert found.drop_columns(["prediction", "prediction_error"]).equals(rows)
    readable = [row for row in found.to_pylist() if row["text"] is not None]
    expected = ftkit.load_model(bundle).predict([row["text"] for row in readable])
    for row, answer in zip(readable, expected, strict=True):
        assert row["prediction"]["label"] == answer.label
        assert dict(row["prediction"]["scores"]) == pytest.approx(answer.scores, abs=1e-5)
    for row in found.filter(pa.compute.is_null(found["text"])).to_pylist():
        assert row["prediction"] is None
        assert "found nothing where a text should be" in row["prediction_error"]
    assert found["prediction"].null_count == found["text"].null_count > 0


@pytest.mark.slow  # Ray takes seconds to start
def test_a_folder_is_answered_here(recipe, bundle, capfd):
    rows = write_rows(Path("rows/good.parquet"), 600)
    write_rows(Path("rows/torn.parquet"), 400, group=200)
    content = bytearray(Path("rows/torn.parquet").read_bytes())
    content[len(content) // 4 : len(content) // 4 + 400] = bytes(400)
    Path("rows/torn.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"1 shards were not answered.*torn.parquet: .*damaged"):
        recipe.main(PredictJob(bundle, "rows"), "answers", shard_rows=100, actors=2)
    out, err = capfd.readouterr()
    assert "800 rows answered in 7 of 8 shards\n8 of them could not be read" in out
    assert _PROGRESS.fullmatch(err)
    answers = list(Path("answers").glob("good-*.parquet"))
    assert len(answers) == 6
    check_answers(answers, rows, bundle)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_killed_job_goes_on_on_a_cluster(recipe, bundle, tmp_path, monkeypatch, capfd):
    rows = write_rows(tmp_path / "rows" / "a.parquet", 1600)
    answers = tmp_path / "answers"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    command = [sys.executable, _RECIPE, bundle, tmp_path / "rows", "--output", answers]
    command += ["--shard-rows", "100", "--address", cluster.address]
    capfd.readouterr()
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while len(list(answers.glob("*.parquet"))) < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = {file: file.stat().st_mtime_ns for file in answers.glob("*.parquet")}
        assert len(done) < 16
        job = PredictJob(bundle, str(tmp_path / "rows"), resume=True)
        recipe.main(job, str(answers), shard_rows=100, address=cluster.address)
    finally:
        cluster.shutdown()
    out, err = capfd.readouterr()
    assert _PROGRESS.fullmatch(err)
    found = re.match(r"([\d,]+) rows answered in (\d+) of 16 shards", out)
    # The last shard of the killed job may have become whole after we looked.
    assert 16 - len(done) - int(found[2]) in (0, 1)
    assert int(found[1].replace(",", "")) == 100 * int(found[2])
    for file, stamp in done.items():
        assert file.stat().st_mtime_ns == stamp
    check_answers(answers.glob("*.parquet"), rows, bundle)
    assert len(list(answers.iterdir())) == 17  # the shards, what the job is, and nothing hidden

    monkeypatch.setattr(sys, "argv", [*map(str, command[1:]), "--resume", "--top-k", "1"])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(_RECIPE), run_name="__main__")
    assert refused.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("predict_many: top_k is 1, not None, as in the job that left")


def test_what_is_done_needs_no_ray(recipe, bundle, capsys, monkeypatch):
    write_rows(Path("rows/a.parquet"), 300)
    job = PredictJob(bundle, "rows")
    (shard,) = recipe.plan_shards(job, Path("answers"), 1000)
    recipe.answer_shard(job, ftkit.load_model(bundle), shard)
    monkeypatch.setattr(recipe, "answer_all", None)
    with pytest.raises(SettingError, match="has answers already"):
        recipe.main(job, "answers", shard_rows=1000)
    recipe.main(PredictJob(bundle, "rows", resume=True), "answers", shard_rows=1000)
    assert capsys.readouterr().out == "0 rows answered in 0 of 1 shards\n"


def test_an_actor_tells_what_cannot_be_read_or_written(recipe, bundle):
    write_rows(Path("rows/a.parquet"), 300)
    job = PredictJob(bundle, "rows")
    shards = recipe.plan_shards(job, Path("answers"), 150)
    actor = recipe.Answerer(job, 1)
    Path("answers").rename("away")
    Path("answers").write_text("in the way")
    found = actor(pa.Table.from_pylist(list(map(asdict, shards[:1]))))
    assert "File exists" in found.pop("unwritten")[0]
    assert found == {"rows": [0], "failed": [0], "unread": [""]}
    Path("answers").unlink()
    Path("rows/a.parquet").write_bytes(b"late" * 9)
    found = actor(pa.Table.from_pylist(list(map(asdict, shards))))
    assert ["no parquet file" in each for each in found["unread"]] == [True, True]


def test_a_cluster_that_is_not_there(recipe, bundle, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_rows(Path("rows/a.parquet"), 3)
    with pytest.raises(SettingError, match=r"Could not find any running Ray.*Check --address"):
        recipe.main(PredictJob(bundle, "rows"), "answers", address="auto")


def test_a_disk_that_is_full_ends_the_job(recipe, bundle, monkeypatch):
    write_rows(Path("rows/a.parquet"), 3)
    done = {"rows": 0, "failed": 0, "unread": "", "unwritten": "No space left on device"}
    monkeypatch.setattr(recipe, "answer_all", lambda *_: iter([done]))
    with pytest.raises(OSError, match="No space left"):
        recipe.main(PredictJob(bundle, "rows"), "answers")


def test_mistakes_are_met_before_ray_starts(recipe, bundle, monkeypatch):
    monkeypatch.setattr(recipe, "answer_all", None)
    Path("hollow").mkdir()
    write_rows(Path("rows/a.parquet"), 3)
    pq.write_table(pa.table({"body": ["late"]}), "rows/b.parquet")
    for source, said in (("hollow", "no .parquet file is there"), ("rows", 'b.parquet.*"text"')):
        with pytest.raises(DataError, match=said):
            recipe.main(PredictJob(bundle, source), "answers")


def test_the_command_line_gives_what_was_asked(recipe, monkeypatch):
    given = "recipe model rows --output out --columns text=body --option threshold=0.4 --actors 3"
    monkeypatch.setattr(sys, "argv", given.split())
    asked = recipe.parse()
    model = str(Path("model").absolute())
    expected = PredictJob(model, "rows", columns={"text": "body"}, options={"threshold": 0.4})
    assert asked.pop("job") == expected
    others = {"shard_rows": 100_000, "gpus": 0, "address": None}
    assert asked == {"output": "out", "actors": 3, **others}


_PEAKS = """
import runpy, sys
from dataclasses import asdict
from pathlib import Path
import pyarrow as pa

recipe = runpy.run_path(sys.argv[1])
for file in sys.argv[3:]:
    job = recipe["PredictJob"](sys.argv[2], file, batch_size=8)
    shards = recipe["plan_shards"](job, Path(file).with_suffix(""), 1_000_000)
    (done,) = recipe["Answerer"](job, 1)(pa.Table.from_pylist(list(map(asdict, shards))))["rows"]
    (peak,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    print(done, peak.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_a_large_shard_is_answered_in_flat_memory(bundle, tmp_path):
    """One row group of 10,000 rows asks no more of an actor than one of 1,000."""
    counts, files = (1_000, 10_000), []
    for count in counts:
        files.append(tmp_path / f"{count}.parquet")
        # A column that the model does not read costs memory and no time.
        columns = {"note": ["x" * 16_000] * count, "text": ["late"] * count}
        pq.write_table(pa.table(columns), files[-1])
    command = [sys.executable, "-c", _PEAKS, _RECIPE, bundle, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (few, peak_of_few), (many, peak_of_many) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    assert (few, many) == counts
    # Held whole, the notes alone would take 144 MB more.
    assert peak_of_many - peak_of_few < 100_000
