"""Exported models: they say what the original says, smaller and without torch."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import onnx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ftkit
from ftkit.cli import main
from ftkit.errors import CheckpointError, SettingError
from ftkit.inference.onnx import export_onnx
from ftkit.inference.push import list_files


@pytest.fixture(scope="module")
def exported(shared_bundle, tmp_path_factory, tiny_data):
    return export_onnx(
        shared_bundle, tmp_path_factory.mktemp("onnx") / "model", rows=tiny_data["test"]
    )


@pytest.fixture(scope="module")
def one_layer(make_checkpoint):
    """A checkpoint that is traced in less time, where the head alone is another."""
    return make_checkpoint("bert", num_hidden_layers=1)


@pytest.fixture
def traced(exported, monkeypatch):
    """Exports of a bundle begin with the shared one's graph: to trace it takes most of the time."""
    graph = exported.folder / "model.onnx"
    monkeypatch.setattr("ftkit.inference.onnx._trace", lambda _, file: shutil.copy(graph, file))


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of an export to break."""
    return Path(shutil.copytree(exported.folder, tmp_path / "model"))


def assert_same(ours, theirs, tolerance=1e-4):
    """Every number of the predictions, and everything else exactly."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.to_dict(), other.to_dict(), tolerance)


def assert_close(one, other, tolerance):
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_close(one[key], other[key], tolerance)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b, tolerance)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=tolerance)
    else:
        assert one == other


# What is written


def test_an_export_answers_as_the_original(exported, model, tiny_data):
    texts = [*tiny_data["test"]["text"], "", "Qué?", *(f"{'late ' * n}" for n in range(50))]
    answers = ftkit.load_model(exported.folder)
    assert_same(answers.predict(texts), model.predict(texts))
    assert_same(answers.predict(texts, batch_size=1), model.predict(texts))
    assert exported.original == model.evaluate(tiny_data["test"])
    assert exported.exported.scores == pytest.approx(exported.original.scores, abs=1e-6)


def test_what_an_export_holds(exported, shared_bundle):
    names = {path.name for path in exported.folder.iterdir()}
    kept = {path.name for path in shared_bundle.iterdir()} - {"model.safetensors"}
    assert names == kept | {"model.onnx", "export.json"}
    facts = json.loads((exported.folder / "export.json").read_text("utf-8"))
    assert facts["precision"] == "fp32"
    assert facts["original"]["scores"] == exported.original.scores
    assert facts["exported"]["rows"] == 24
    card = (exported.folder / "README.md").read_text("utf-8")
    assert "| export | " in card.partition("## Export")[2]
    assert "ftkit.load_model" in card
    assert "pipeline(" not in card
    graph = onnx.load(exported.folder / "model.onnx").graph
    for given in graph.input:
        assert [each.dim_param != "" for each in given.type.tensor_type.shape.dim] == [True, True]


def test_an_exported_model_is_for_answers_alone(exported, tiny_data):
    model = ftkit.load_model(exported.folder)
    with pytest.raises(SettingError, match="no torch module"):
        _ = model.model
    with pytest.raises(SettingError, match="is what it was exported as"):
        ftkit.load_model(exported.folder, precision="bf16")
    with pytest.raises(SettingError, match='no device "tpu"'):
        ftkit.load_model(exported.folder, device="tpu")
    with pytest.raises(CheckpointError, match="answers and cannot be trained"):
        ftkit.classification_learner(tiny_data, exported.folder)
    assert "model.onnx" in list_files(exported.folder, "me/model")


@pytest.mark.parametrize("kind", ["several labels of pairs", "a value of windows"])
@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_kinds_of_classification(make_bundle, one_layer, tiny_data, tmp_path, kind):
    data, options, more = tiny_data, {"checkpoint": one_layer}, []
    if kind == "several labels of pairs":
        data = data.map(lambda row: {"text_pair": " ".join(row["text"].split()[::-2])})
        data = data.map(lambda row: {"label": [row["label"], "any"]})
    else:
        options["task"] = ftkit.Classification(long_texts="windows", max_length=16, stride=4)
        data = data.map(lambda row: {"score": float(len(row["text"]))}, remove_columns="label")
        data = data.rename_column("score", "label")
        more = [{"text": "late refund courier " * n} for n in (1, 10, 300)]
    folder = make_bundle(data, **options)
    original = ftkit.load_model(folder)
    rows = [{name: row[name] for name in row if name != "label"} for row in data["test"].to_list()]
    rows += more
    found = export_onnx(folder, tmp_path / "onnx", rows=data["test"])
    assert_same(ftkit.load_model(found.folder).predict(rows), original.predict(rows), 1e-3)


# Other tasks


LONG = "the parcel for Ann Lee in Oslo is late again " * 8
NER_ROWS = [
    {
        "tokens": ["Ann", "Lee", "moved", "to", "Oslo"],
        "tags": ["B-PER", "I-PER", "O", "O", "B-LOC"],
    },
    {"tokens": ["the", "parcel", "is", "in", "Rome"], "tags": ["O"] * 4 + ["B-LOC"]},
] * 8
QA_ROWS = [
    {
        "question": "where is it?",
        "context": f"{filler}the parcel is in {place}",
        "answers": {"text": [place], "answer_start": [len(filler) + 17]},
    }
    for filler in ("", LONG)
    for place in ("Oslo", "Rome") * 4
]


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
@pytest.mark.parametrize(
    ("task", "rows"),
    [
        ("ner", NER_ROWS),
        ("qa", QA_ROWS),
    ],
)
def test_other_tasks(one_layer, tmp_path, task, rows):
    learn = ftkit.finetune_learner(
        {"train": rows, "validation": rows}, one_layer, task=task, bs=4, precision="fp32"
    )
    learn.fit_one_cycle(2, 1e-2)
    original = ftkit.load_model(ftkit.save(learn, tmp_path / "model"), device="cpu")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    found = export_onnx(tmp_path / "model", tmp_path / "onnx", rows=columns)
    exported = ftkit.load_model(found.folder)
    asked = [*rows, {"tokens": LONG.split()}] if task == "ner" else rows
    assert_same(exported.predict(asked), original.predict(asked), 1e-3)
    assert found.exported.scores == pytest.approx(found.original.scores, abs=1e-6)


def test_texts_are_not_written_yet(make_checkpoint, tmp_path):
    rows = [{"text": "the parcel is late", "summary": "late"}] * 8
    learn = ftkit.summarization_learner(
        {"train": rows, "validation": rows}, make_checkpoint("t5"), bs=4, precision="fp32"
    )
    folder = ftkit.save(learn, tmp_path / "model")
    with pytest.raises(SettingError, match="summarization cannot be exported yet"):
        export_onnx(folder, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_trace_that_is_not_the_model(traced, make_bundle, shared_bundle, monkeypatch, tmp_path):
    """What the trace says is held against the model, whatever the reason for a difference."""
    with pytest.raises(CheckpointError, match=r"not the model: with 1 windows of"):
        export_onnx(make_bundle(epochs=0), tmp_path / "onnx")
    monkeypatch.setattr("ftkit.inference.onnx._TOLERANCE", -1.0)
    with pytest.raises(CheckpointError, match=r"not the model: with 1 windows of"):
        export_onnx(shared_bundle, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_an_architecture_that_cannot_be_exported(shared_bundle, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.onnx.export", lambda *args, **options: 1 / 0)
    with pytest.raises(CheckpointError, match=r"cannot be exported.*division by zero"):
        export_onnx(shared_bundle, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("roberta", {}),
        ("deberta-v2", {}),
        ("gpt2", {}),
        ("t5", {"num_decoder_layers": 1}),
        ("xlnet", {"n_layer": 1}),
    ],
)
def test_other_architectures(make_checkpoint, tiny_data, tmp_path, architecture, config):
    checkpoint = make_checkpoint(architecture, **config)
    learn = ftkit.classification_learner(
        tiny_data, checkpoint, bs=8, precision="fp32", path=tmp_path
    )
    original = ftkit.load_model(ftkit.save(learn, tmp_path / "model"), device="cpu")
    if architecture == "xlnet":
        with pytest.raises(CheckpointError, match="XLNetForSequenceClassification cannot be"):
            export_onnx(tmp_path / "model", tmp_path / "onnx")
        return
    exported = ftkit.load_model(export_onnx(tmp_path / "model", tmp_path / "onnx").folder)
    texts = tiny_data["test"]["text"][:]
    assert_same(exported.predict(texts), original.predict(texts), 1e-3)


# From a stranger


def test_a_graph_that_cannot_be_run(copied):
    graph = copied / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model.onnx of .* cannot be opened"):
        ftkit.load_model(copied)
    graph.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"cannot be opened"):
        ftkit.load_model(copied)


def test_weights_that_lie_elsewhere_are_not_read(copied, tmp_path):
    """A graph may name a file with its weights; not one outside of its folder."""
    graph = onnx.load(copied / "model.onnx")
    onnx.save(graph, copied / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    assert ftkit.load_model(copied).predict(["late"])
    shutil.move(copied / "model.onnx.data", tmp_path / "secret")
    graph = onnx.load(copied / "model.onnx", load_external_data=False)
    for location in ("../secret", str(tmp_path / "secret")):
        for each in graph.graph.initializer:
            for entry in each.external_data:
                if entry.key == "location":
                    entry.value = location
        (copied / "model.onnx").write_bytes(graph.SerializeToString())
        with pytest.raises(CheckpointError, match=r"cannot be opened"):
            ftkit.load_model(copied)


def test_what_is_refused_in_a_bundle_is_in_an_export(copied):
    (copied / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="has the pickle"):
        ftkit.load_model(copied)


# int8


def test_int8_leaves_out_what_costs_the_score(traced, shared_bundle, exported, tiny_data, tmp_path):
    rows = tiny_data["test"]
    everything = export_onnx(shared_bundle, tmp_path / "all", int8=True)
    assert (everything.kept_in_fp32, everything.exported) == ((), None)
    operators = {node.op_type for node in onnx.load(tmp_path / "all" / "model.onnx").graph.node}
    assert "MatMulInteger" in operators
    card = (tmp_path / "all" / "README.md").read_text("utf-8")
    for told in (str(everything), card):
        assert "by a scale that the rows of a batch share" in told
    some = export_onnx(shared_bundle, tmp_path / "some", int8=True, rows=rows, tolerance=0.02)
    assert some.exported.scores["accuracy"] >= some.original.scores["accuracy"] - 0.02
    assert some.megabytes < exported.megabytes
    assert ftkit.load_model(tmp_path / "some").evaluate(rows) == some.exported


def test_int8_gives_way_product_by_product(traced, shared_bundle, tiny_data, tmp_path, monkeypatch):
    """Where the score asks for it, the product that disturbs most is the first to stay."""
    costs = iter([1.0, 1.0, 0.0])
    monkeypatch.setattr("ftkit.inference.int8._cost", lambda *args: next(costs))
    found = export_onnx(shared_bundle, tmp_path / "two", int8=True, rows=tiny_data["test"])
    assert len(found.kept_in_fp32) == 2
    assert all("layer" in name or "embeddings" in name for name in found.kept_in_fp32)
    kept = onnx.load(tmp_path / "two" / "model.onnx").graph.node
    assert sum(node.op_type == "MatMulInteger" for node in kept) > 0
    monkeypatch.setattr("ftkit.inference.int8._cost", lambda *args: 1.0)
    with pytest.raises(SettingError, match=r"costs more than 0.005 of accuracy"):
        export_onnx(shared_bundle, tmp_path / "none", int8=True, rows=tiny_data["test"])
    assert not (tmp_path / "none").exists()


# Without torch


@pytest.fixture(scope="module")
def site_without_torch(tmp_path_factory):
    """A folder of links to what transformers, onnxruntime and datasets need, and nothing else."""
    site, seen = tmp_path_factory.mktemp("site"), set()
    wanted = ["transformers", "onnxruntime", "datasets"]
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another system
        wanted += [
            each.name
            for each in map(Requirement, found.requires or [])
            if each.marker is None or each.marker.evaluate({"extra": ""})
        ]
        for top in {file.parts[0] for file in found.files or [] if ".." not in file.parts}:
            source = Path(found.locate_file(top))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    (site / "ftkit").symlink_to(Path(ftkit.__file__).parent)
    assert "torch" not in seen
    return site


def run_without_torch(site, code, *arguments):
    start = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_export_answers_where_there_is_no_torch(site_without_torch, exported, model):
    code = """
        import importlib.util, json
        assert importlib.util.find_spec("torch") is None
        from ftkit.inference import load_model
        model = load_model(sys.argv[1])
        print(json.dumps([each.to_dict() for each in model.predict(["my refund", "late"])]))
        assert not {"torch", "pandas", "sklearn", "scipy", "fastai"} & set(sys.modules)
    """
    found = json.loads(run_without_torch(site_without_torch, code, exported.folder))
    wanted = [each.to_dict() for each in model.predict(["my refund", "late"])]
    assert_close(found, wanted, 1e-5)


def test_the_command_line_predicts_where_there_is_no_torch(site_without_torch, exported, tmp_path):
    code = """
        from ftkit.cli import main
        sys.exit(main(["predict", *sys.argv[1:]]))
    """
    rows, found = tmp_path / "rows.csv", tmp_path / "found.jsonl"
    rows.write_text("text\nmy refund\nlate\n")
    run_without_torch(site_without_torch, code, exported.folder, rows, "--output", found)
    assert [json.loads(line)["text"] for line in found.open()] == ["my refund", "late"]


def test_a_bundle_wants_torch(site_without_torch, shared_bundle):
    code = """
        from ftkit.errors import FtkitError
        from ftkit.inference import load_model
        try:
            load_model(sys.argv[1])
        except FtkitError as error:
            print(error)
    """
    assert "needs torch" in run_without_torch(site_without_torch, code, shared_bundle)


# On the command line


def test_on_the_command_line(traced, shared_bundle, tiny_data, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    tiny_data["validation"].to_json(rows)
    command = ["export", str(shared_bundle), "--onnx", "--output", str(tmp_path / "onnx")]
    assert main([*command, "--data", str(rows), "--split", "train"]) == 0
    printed = capsys.readouterr().out
    assert "original  accuracy" in printed
    assert "exported  accuracy" in printed
    assert main(command) == 2
    assert "exists. Give a new folder" in capsys.readouterr().err
    command[-1] = str(tmp_path / "again")
    assert main([*command, "--tolerance", "-1"]) == 2
    assert main(command) == 0
    assert "no validation rows" in capsys.readouterr().err


def test_the_rows_of_its_run(tiny_checkpoint, tiny_data, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    tiny_data["train"].to_json(rows)
    run = f"train classification --data {rows} --checkpoint {tiny_checkpoint} --epochs 1"
    assert main([*run.split(), "--output", str(tmp_path / "run")]) == 0
    model = tmp_path / "run" / "model"
    assert main(["export", str(model), "--onnx", "--output", str(tmp_path / "onnx")]) == 0
    facts = json.loads((tmp_path / "onnx" / "export.json").read_text("utf-8"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert facts["original"]["scores"] == pytest.approx(metrics["validation"])
    rows.unlink()
    assert main(["export", str(model), "--onnx", "--output", str(tmp_path / "gone")]) == 2
    assert "rows.jsonl" in capsys.readouterr().err
