"""The saved directory: whole or not at all, open to all Hugging Face tools, refused when broken."""

import errno
import json
import pickletools
import shutil
import stat

import pytest
import torch
import yaml
from datasets import ClassLabel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import ftkit
from ftkit.errors import CheckpointError, SettingError

FILES = [
    *("README.md", "config.json", "model.safetensors", "task.json"),
    *("tokenizer.json", "tokenizer_config.json"),
]
LABELS = ("billing", "delivery", "technical")


@pytest.fixture(scope="module")
def learn(tiny_data, tiny_checkpoint, tmp_path_factory):
    return ftkit.classification_learner(
        tiny_data, tiny_checkpoint, precision="fp32", path=tmp_path_factory.mktemp("learn")
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_pickle(data):
    try:
        list(pickletools.genops(data))
    except Exception:
        return data[:2] == b"PK"  # torch's own files are zip archives of pickles
    return True


# What is in it


def test_its_files(shared_bundle):
    assert sorted(path.name for path in shared_bundle.iterdir()) == FILES
    assert not [path.name for path in shared_bundle.iterdir() if is_pickle(path.read_bytes())]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in shared_bundle.iterdir()}
    assert len(modes) == 1  # whoever reads one file reads all
    assert shared_bundle.stat().st_mode & 0o555 == 0o555


def test_config_names_the_labels(shared_bundle):
    config = json.loads((shared_bundle / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(LABELS)}
    assert config["label2id"] == {name: i for i, name in enumerate(LABELS)}
    assert config["problem_type"] == "single_label_classification"
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_weights_are_float32(shared_bundle):
    weights = load_file(shared_bundle / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_the_card_has_front_matter(shared_bundle):
    _, front, body = (shared_bundle / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "text-classification"
    assert body.strip().startswith("# ")


def test_transformers_opens_it(shared_bundle):
    model, report = AutoModelForSequenceClassification.from_pretrained(
        shared_bundle, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_labels == 3


def test_its_tokenizer_cuts_nothing_by_itself(shared_bundle):
    ids = AutoTokenizer.from_pretrained(shared_bundle)("hello " * 100)["input_ids"]
    assert len(ids) == 102


# Saving over something


def test_an_old_bundle_is_replaced(learn, bundle):
    before = contents(bundle)
    (bundle / "old.txt").write_text("from the old one")
    ftkit.save(learn, bundle)
    assert sorted(contents(bundle)) == FILES
    assert contents(bundle)["model.safetensors"] != before["model.safetensors"]
    assert [path.name for path in bundle.parent.iterdir()] == ["model"]


def test_an_empty_folder_is_filled(learn, tmp_path):
    (tmp_path / "model").mkdir()
    assert sorted(contents(ftkit.save(learn, tmp_path / "model"))) == FILES


def test_folders_on_the_way_are_made(learn, tmp_path):
    assert sorted(contents(ftkit.save(learn, tmp_path / "a" / "b" / "model"))) == FILES


def test_a_link_to_a_bundle_stays_a_link(learn, bundle, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(bundle)
    before = contents(bundle)["model.safetensors"]
    ftkit.save(learn, link)
    assert link.is_symlink()
    assert contents(bundle)["model.safetensors"] != before
    assert {path.name for path in tmp_path.iterdir()} == {"model", "latest"}


def test_a_foreign_folder_is_refused(learn, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    (tmp_path / "notes").write_text("mine")
    for name in ("thesis", "notes"):
        with pytest.raises(SettingError, match=rf'{name}" exists and is no ftkit model'):
            ftkit.save(learn, tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "mine"
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        KeyboardInterrupt(),
    ],
)
@pytest.mark.parametrize("part", ["hf_model", "tokenizer"])
def test_a_failure_leaves_the_old_bundle_whole(learn, bundle, monkeypatch, failure, part):
    before = contents(bundle)

    def fail(folder, **kwargs):
        (folder / "half.safetensors").write_bytes(b"half")
        raise failure

    owner = learn.model.hf_model if part == "hf_model" else learn.dls.train.dataset.tokenizer
    monkeypatch.setattr(owner, "save_pretrained", fail)
    expected = OSError if isinstance(failure, Exception) else KeyboardInterrupt
    with pytest.raises(expected):
        ftkit.save(learn, bundle)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["model"]


# What is broken is refused


def edit_task(bundle, **changes):
    file = bundle / "task.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


BROKEN = {
    "no folder": (shutil.rmtree, "no ftkit model"),
    "no task.json": (lambda b: (b / "task.json").unlink(), "has no task.json"),
    "half a task.json": (
        lambda b: (b / "task.json").write_text('{"format": 1, "ta'),
        "task.json.*cannot be read",
    ),
    "a list in task.json": (lambda b: (b / "task.json").write_text("[]"), "cannot be read"),
    "a later format": (lambda b: edit_task(b, format=99), "format 99"),
    "an unknown task": (lambda b: edit_task(b, task="poetry"), "cannot be read"),
    "an unknown option": (lambda b: edit_task(b, options={"mood": 1}), "cannot be read"),
    "an option that cannot be": (
        lambda b: edit_task(b, options={"kind": "single", "labels": ["a"], "stride": -1}),
        "cannot be read",
    ),
    "no weights": (lambda b: (b / "model.safetensors").unlink(), "has no weights"),
    "half the weights": (
        lambda b: (b / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{"),
        "weights of .* cannot be opened",
    ),
    "only a pickle": (
        lambda b: (b / "model.safetensors").rename(b / "pytorch_model.bin"),
        "only as a pickle",
    ),
    "no tokenizer": (
        lambda b: [(b / f"tokenizer{rest}.json").unlink() for rest in ("", "_config")],
        "no tokenizer",
    ),
    "no config": (lambda b: (b / "config.json").unlink(), "has no config.json"),
    "a broken config": (lambda b: (b / "config.json").write_text("{"), "config.json"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_bundle_is_refused(bundle, how):
    break_it, message = BROKEN[how]
    break_it(bundle)
    with pytest.raises(CheckpointError, match=message) as caught:
        ftkit.load_model(bundle)
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused(bundle):
    weights = load_file(bundle / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, bundle / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 of the tensors .* classifier.weight"):
        ftkit.load_model(bundle)


def test_the_folder_of_a_run_names_the_model_in_it(bundle):
    with pytest.raises(CheckpointError, match=r'Did you mean ".*/model"\?'):
        ftkit.load_model(bundle.parent)


# Going on from it


@pytest.fixture
def go_on(tmp_path):
    def go(data, folder, **options):
        return ftkit.finetune_learner(
            data, folder, task="classification", bs=8, precision="fp32", path=tmp_path, **options
        )

    return go


def test_labels_are_matched_by_name(go_on, shared_bundle, tiny_data):
    """The data numbers its labels in another order; the head keeps its own."""
    data = tiny_data.cast_column("label", ClassLabel(names=["technical", "billing", "delivery"]))
    learn = go_on(data, shared_bundle)
    assert learn.dls.train.dataset.task.labels == LABELS
    assert learn.validate()[1] >= 0.9  # before any training
    learn.fit_one_cycle(1, 1e-4)
    assert learn.model.hf_model.config.id2label == dict(enumerate(LABELS))


def test_data_may_have_fewer_labels(go_on, shared_bundle, tiny_data):
    data = tiny_data.filter(lambda row: row["label"] != "delivery")
    learn = go_on(data, shared_bundle)
    assert learn.dls.train.dataset.task.labels == LABELS
    assert learn.validate()[1] >= 0.9
    learn.fit_one_cycle(1, 1e-4)


def test_other_labels_are_refused_and_named(go_on, shared_bundle, tiny_data):
    new = {"billing": "money", "delivery": "delivery", "technical": "gadgets"}
    data = tiny_data.map(lambda row: {"label": new[row["label"]]})
    with pytest.raises(CheckpointError, match='"gadgets", "money"') as caught:
        go_on(data, shared_bundle)
    assert '"billing", "delivery", "technical"' in str(caught.value)
    assert "new_head" in str(caught.value)
    learn = go_on(data, shared_bundle, new_head=True)
    assert learn.dls.train.dataset.task.labels == ("delivery", "gadgets", "money")
    old = load_file(shared_bundle / "model.safetensors")
    body = learn.model.hf_model.state_dict()
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(body[name], old[name])
    assert not torch.equal(body["classifier.weight"], old["classifier.weight"])
    learn.fit_one_cycle(1, 1e-3)


def test_another_kind_is_refused(go_on, shared_bundle, tiny_data):
    data = tiny_data.map(lambda row: {"label": [row["label"]]}, remove_columns="label")
    with pytest.raises(CheckpointError, match="was fine-tuned for single_label_classification"):
        go_on(data, shared_bundle)
