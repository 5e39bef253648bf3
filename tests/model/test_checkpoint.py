"""Checkpoints: what opens, with which head and labels, and one clear error for what does not."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import ftkit
from ftkit.errors import CheckpointError
from ftkit.learner.save import predictor
from ftkit.model import checkpoint as rooms
from ftkit.model.checkpoint import (
    fit_without_weights,
    open_bundled,
    open_checkpoint,
    token_limit,
)
from ftkit.model.tokenizer import load_tokenizer
from ftkit.tasks import Classification, LanguageModeling, Summarization

HEAD = "ForSequenceClassification"
NAMES = ("technical", "billing", "delivery")  # not in the order of the alphabet
TASK = Classification()


def labelled(labels) -> DatasetDict:
    rows = Dataset.from_dict({"text": [f"hello {i}" for i in range(len(labels))], "label": labels})
    return DatasetDict({"train": rows, "validation": rows})


def named(names=NAMES, problem="single_label_classification", **config):
    """Arguments of make_checkpoint for a checkpoint that was fine-tuned for labels."""
    return {
        "head": HEAD,
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": problem,
        **config,
    }


@pytest.fixture
def copied(tiny_checkpoint, tmp_path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


# What opens


def test_a_plain_checkpoint_gets_a_head_for_the_labels(tiny_checkpoint, tiny_data, tiny_model):
    opened = open_checkpoint(tiny_checkpoint, TASK, tiny_data)
    assert opened.name == str(tiny_checkpoint)
    assert opened.task.labels == ("billing", "delivery", "technical")
    config = opened.model.config
    assert config.id2label == {0: "billing", 1: "delivery", 2: "technical"}
    assert config.label2id == {"billing": 0, "delivery": 1, "technical": 2}
    assert config.problem_type == "single_label_classification"
    assert opened.limit == 64
    assert opened.model.classifier.weight.shape == (3, 32)
    assert {p.dtype for p in opened.model.parameters()} == {torch.float32}
    body = {f"bert.{name}": tensor for name, tensor in state_of(tiny_model("bert")).items()}
    found = state_of(opened.model)
    assert_equal_states({name: found[name] for name in body}, body)


@pytest.mark.parametrize(
    ("kind", "labels", "outputs", "problem"),
    [
        ("multi", [["a"], ["b", "a"]], 2, "multi_label_classification"),
        ("regression", [0.5, 1.0], 1, "regression"),
    ],
)
def test_heads_of_the_other_kinds(tiny_checkpoint, kind, labels, outputs, problem):
    opened = open_checkpoint(tiny_checkpoint, TASK, labelled(labels))
    assert opened.task.kind == kind
    assert opened.model.config.problem_type == problem
    assert opened.model.classifier.weight.shape == (outputs, 32)


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "albert", "gpt2", "t5", "bart"])
def test_other_architectures_answer(make_checkpoint, tiny_data, architecture):
    opened = open_checkpoint(make_checkpoint(architecture), TASK, tiny_data)
    texts = ["hello", "refund", "the courier was late"]
    inputs = opened.tokenizer(texts, padding=True, return_tensors="pt")
    logits = opened.model.eval()(**inputs).logits
    assert logits.shape == (3, 3)
    assert logits.isfinite().all()
    assert opened.limit == {"t5": 512}.get(architecture, 64)


def test_the_head_depends_on_its_seed_alone(tiny_checkpoint, tiny_data):
    def head(**options):
        return open_checkpoint(tiny_checkpoint, TASK, tiny_data, **options).model.classifier.weight

    first = head(seed=1)
    torch.rand(100)
    assert torch.equal(head(seed=1), first)
    assert not torch.equal(head(seed=2), first)


@pytest.mark.parametrize("options", [{}, {"new_head": True}])
def test_global_random_numbers_stay_as_they_were(make_checkpoint, tiny_data, options):
    folder = make_checkpoint("bert", **named())
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    open_checkpoint(folder, TASK, tiny_data, **options)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("config", [{}, {"pad_token_id": 5}])
def test_a_decoder_without_a_pad_token_gets_its_end_token(make_checkpoint, tiny_data, config):
    # A config may name a token that the tokenizer does not: both must mean the same one.
    folder = make_checkpoint("gpt2", **config)
    opened = open_checkpoint(folder, TASK, tiny_data)
    assert opened.tokenizer.pad_token == opened.tokenizer.eos_token == "<|endoftext|>"
    assert opened.model.config.pad_token_id == opened.tokenizer.pad_token_id
    texts = ["hello refund", "the parcel was late again today"]
    model = opened.model.eval()
    together = model(**opened.tokenizer(texts, padding=True, return_tensors="pt")).logits
    alone = model(**opened.tokenizer(texts[:1], return_tensors="pt")).logits
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize("head", ["ForMaskedLM", HEAD])
def test_a_checkpoint_in_half_precision_is_trained_in_full(
    make_checkpoint, tiny_data, tmp_path, tiny_model, tiny_tokenizer, head
):
    tiny_model("bert", head).to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer("bert").save_pretrained(tmp_path)
    opened = open_checkpoint(tmp_path, TASK, tiny_data, new_head=True)
    assert {p.dtype for p in opened.model.parameters()} == {torch.float32}


def test_a_tilde_is_the_home_folder(tiny_checkpoint, tiny_data, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_checkpoint.parent))
    opened = open_checkpoint(f"~/{tiny_checkpoint.name}", TASK, tiny_data)
    assert opened.task.labels == ("billing", "delivery", "technical")


# Labels of a checkpoint that was fine-tuned before


def test_labels_are_matched_by_name_whatever_their_order(make_checkpoint, tiny_data, tiny_model):
    opened = open_checkpoint(make_checkpoint("bert", **named()), TASK, tiny_data)
    assert opened.task.labels == NAMES
    assert opened.model.config.id2label == dict(enumerate(NAMES))
    assert_equal_states(state_of(opened.model), state_of(tiny_model("bert", **named())))
    rows = {"text": ["hello"], "label": ["billing"]}
    assert opened.task.prepare(rows, opened.tokenizer, 64)["target"] == [1]


def test_class_weights_follow_the_checkpoints_order(make_checkpoint, tiny_data):
    task = Classification(class_weights={"technical": 5.0})
    opened = open_checkpoint(make_checkpoint("bert", **named()), task, tiny_data)
    assert opened.task.class_weights == (5.0, 1.0, 1.0)


def test_a_checkpoint_may_have_more_labels_than_the_data(make_checkpoint, tiny_data):
    names = ("other", *NAMES)
    opened = open_checkpoint(make_checkpoint("bert", **named(names)), TASK, tiny_data)
    assert opened.task.labels == names
    assert opened.model.classifier.weight.shape[0] == 4


def test_labels_that_a_checkpoint_lacks_are_named(make_checkpoint, tiny_data):
    folder = make_checkpoint("bert", **named(("billing", "shipping")))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, TASK, tiny_data)
    assert 'the data has the label(s) "delivery", "technical"' in str(caught.value)
    assert 'was fine-tuned for "billing", "shipping"' in str(caught.value)
    assert "new_head=True" in caught.value.remedy


def test_labels_without_names_cannot_be_matched(make_checkpoint, tiny_data):
    folder = make_checkpoint("bert", head=HEAD, num_labels=3)
    with pytest.raises(CheckpointError, match=r"3 labels without names.*new_head=True"):
        open_checkpoint(folder, TASK, tiny_data)
    assert open_checkpoint(folder, TASK, tiny_data, new_head=True).task.labels == tuple(
        sorted(NAMES)
    )


@pytest.mark.parametrize(
    ("trained_for", "labels", "message"),
    [
        (named(problem="multi_label_classification"), NAMES, "for multi_label_classification, and"),
        (named(), [[name] for name in NAMES], "for single_label_classification, and"),
        (named(), [0.5, 1.0], "for single_label_classification, and the data is for regression"),
        (named(problem=None), [0.5, 1.0], "for 3 labels, and the data is for regression"),
        (
            named(("value",), problem="regression"),
            [*NAMES],
            "for regression, and the data is for single_label_classification",
        ),
    ],
)
def test_a_head_of_another_kind_is_refused(make_checkpoint, trained_for, labels, message):
    folder, data = make_checkpoint("bert", **trained_for), labelled(list(labels))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder, TASK, data)
    assert "new_head=True" in caught.value.remedy
    opened = open_checkpoint(folder, TASK, data, new_head=True)
    assert opened.model.config.problem_type == opened.task.head().config["problem_type"]


def test_a_regression_head_goes_on(make_checkpoint, tiny_model):
    trained_for = named(("value",), problem="regression")
    opened = open_checkpoint(make_checkpoint("bert", **trained_for), TASK, labelled([0.5, 1.0]))
    assert_equal_states(state_of(opened.model), state_of(tiny_model("bert", **trained_for)))


@pytest.mark.parametrize("knows_its_class", [True, False])
def test_a_new_head_is_really_new(make_checkpoint, tiny_data, tmp_path, knows_its_class):
    folder = Path(shutil.copytree(make_checkpoint("bert", **named()), tmp_path / "copy"))
    if not knows_its_class:
        config = json.loads((folder / "config.json").read_text())
        del config["architectures"]
        (folder / "config.json").write_text(json.dumps(config))
    old = load_file(folder / "model.safetensors")
    opened = open_checkpoint(folder, TASK, tiny_data, new_head=True)
    assert opened.task.labels == ("billing", "delivery", "technical")
    new = state_of(opened.model)
    assert not torch.equal(new["classifier.weight"], old["classifier.weight"])
    body = [name for name in old if name.startswith("bert.")]
    assert_equal_states({n: new[n] for n in body}, {n: old[n] for n in body})


@pytest.mark.parametrize(
    ("architecture", "head", "prefix", "new_prefix"),
    [
        ("bert", "ForMaskedLM", "bert.", "bert."),
        ("roberta", "ForMaskedLM", "roberta.", "roberta."),
        ("distilbert", "ForMaskedLM", "distilbert.", "distilbert."),
        ("albert", "ForMaskedLM", "albert.", "albert."),
        ("gpt2", "LMHeadModel", "transformer.", "transformer."),
        ("t5", "ForConditionalGeneration", "", "transformer."),
        ("bart", "ForConditionalGeneration", "model.", "model."),
    ],
)
def test_the_body_of_a_language_model_comes_along(
    make_checkpoint, tiny_data, architecture, head, prefix, new_prefix
):
    folder = make_checkpoint(architecture, head)
    old = {
        new_prefix + name.removeprefix(prefix): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.startswith(prefix)
    }
    new = state_of(open_checkpoint(folder, TASK, tiny_data).model)
    assert len(old) >= 23
    assert_equal_states({name: new[name] for name in old if name in new}, old)


# What does not open


def test_a_folder_that_is_not_there(tiny_data, tmp_path):
    with pytest.raises(CheckpointError, match=r'there is no folder ".*nothing".*or a hub id'):
        open_checkpoint(tmp_path / "nothing", TASK, tiny_data)


def test_a_file_is_no_folder(tiny_data, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r'there is no folder "model.safetensors"'):
        open_checkpoint("model.safetensors", TASK, tiny_data)


@pytest.mark.parametrize("name", ["nobody/nothing-here", "nothing-here"])
def test_an_unknown_hub_id_without_a_network(tiny_data, name):
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=f'"{name}" is neither a folder here') as caught:
        open_checkpoint(name, TASK, tiny_data)
    assert '"minilm"' in caught.value.remedy
    assert time.monotonic() - start < 10


def test_a_folder_without_a_config(copied, tiny_data):
    (copied / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config.json"):
        open_checkpoint(copied, TASK, tiny_data)


def test_the_folder_of_a_run_points_to_its_model(copied, tiny_data):
    run = copied.parent / "run"
    copied.rename(run.with_name("model"))
    run.mkdir()
    run.with_name("model").rename(run / "model")
    with pytest.raises(CheckpointError, match=f"Did you mean {run / 'model'}"):
        open_checkpoint(run, TASK, tiny_data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"the config.json of .* cannot be read"),
        ("{}", r"the config.json of .* cannot be read"),
        ('{"model_type": "nonsense"}', "nonsense"),
    ],
)
def test_a_config_that_cannot_be_read(copied, tiny_data, text, message):
    (copied / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(copied, TASK, tiny_data)


def test_code_of_a_checkpoints_own_is_not_run(copied, tiny_data):
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.TheirConfig"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "theirs.py").write_text("raise SystemExit('their code ran')")
    with pytest.raises(CheckpointError, match=r"wants to run code of its own") as caught:
        open_checkpoint(copied, TASK, tiny_data)
    assert "trust_remote_code=True" in caught.value.remedy


def test_a_folder_without_weights(copied, tiny_data):
    (copied / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no weights.*model.safetensors"):
        open_checkpoint(copied, TASK, tiny_data)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_pickle_is_never_opened(copied, tiny_data, file):
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / file)
    with pytest.raises(CheckpointError, match=rf"only as a pickle \({file}\)"):
        open_checkpoint(copied, TASK, tiny_data)


def test_a_pickle_beside_safetensors_is_left_alone(copied, tiny_data):
    (copied / "pytorch_model.bin").write_bytes(b"no pickle at all")
    assert open_checkpoint(copied, TASK, tiny_data).limit == 64


def test_a_truncated_file_of_weights(copied, tiny_data):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"weights of .* cannot be opened.*is whole"):
        open_checkpoint(copied, TASK, tiny_data)


def remove_tensors(folder: Path, *parts: str) -> None:
    file = folder / "model.safetensors"
    kept = {
        name: tensor
        for name, tensor in load_file(file).items()
        if not any(part in name for part in parts)
    }
    save_file(kept, file, metadata={"format": "pt"})


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", HEAD])
@pytest.mark.parametrize("new_head", [False, True])
def test_missing_tensors_are_said(make_checkpoint, tiny_data, tmp_path, head, new_head):
    source = make_checkpoint("bert", **(named() if head == HEAD else {"head": head}))
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    remove_tensors(folder, "encoder.layer.1.output.dense")
    with pytest.raises(CheckpointError, match=r"lack 2 of the tensors.*layer.1.output.dense.bias"):
        open_checkpoint(folder, TASK, tiny_data, new_head=new_head)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_a_pooler_may_be_missing(make_checkpoint, tiny_data, tmp_path, head):
    folder = Path(shutil.copytree(make_checkpoint("bert", head), tmp_path / "copy"))
    remove_tensors(folder, "pooler")
    assert open_checkpoint(folder, TASK, tiny_data).limit == 64


def test_a_head_that_goes_on_may_not_be_missing(make_checkpoint, tiny_data, tmp_path):
    folder = Path(shutil.copytree(make_checkpoint("bert", **named()), tmp_path / "copy"))
    remove_tensors(folder, "classifier")
    with pytest.raises(CheckpointError, match=r"lack 2 of the tensors.*classifier.bias"):
        open_checkpoint(folder, TASK, tiny_data)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "t5"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tokenizer.json", "the tokenizer of .* cannot be opened"),
        ("tokenizer*", "has no tokenizer"),
    ],
)
def test_a_missing_tokenizer(make_checkpoint, tiny_data, tmp_path, architecture, file, message):
    folder = Path(shutil.copytree(make_checkpoint(architecture), tmp_path / "copy"))
    for path in folder.glob(file):
        path.unlink()
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder, TASK, tiny_data)
    assert "Put tokenizer.json" in caught.value.remedy


def test_a_broken_tokenizer(copied, tiny_data):
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"the tokenizer of .* cannot be opened"):
        open_checkpoint(copied, TASK, tiny_data)


def test_a_tokenizer_that_breaks_at_a_pair(copied, tiny_data):
    settings = json.loads((copied / "tokenizer.json").read_text())
    first, second = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first],
        "pair": [first, {"SpecialToken": {"id": "[GONE]", "type_id": 0}}, second],
        "special_tokens": {},
    }
    (copied / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"breaks at a text of one letter \(PanicException"):
        open_checkpoint(copied, TASK, tiny_data)


def test_an_architecture_without_such_a_head_names_those_that_have_one(
    tiny_data, tiny_tokenizer, tmp_path
):
    from transformers import PegasusConfig, PegasusModel

    sizes = {"vocab_size": 200, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    PegasusModel(PegasusConfig(**sizes, **heads)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path, TASK, tiny_data)
    assert "is a pegasus, which has no ForSequenceClassification head" in caught.value.found
    known = caught.value.remedy.removeprefix("These have one: ").rstrip(".").split(", ")
    assert {"bert", "roberta", "t5", "modernbert"} <= set(known)
    assert "pegasus" not in known


# Tokenizers and limits


def test_a_tokenizers_own_truncation_and_padding_are_off(copied, tiny_data):
    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.backend_tokenizer.enable_truncation(6)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokenizer.backend_tokenizer.save(str(copied / "tokenizer.json"))
    opened = open_checkpoint(copied, TASK, tiny_data)
    backend = opened.tokenizer.backend_tokenizer
    assert backend.truncation is backend.padding is None
    rows = {"text": ["hello " * 30, "hello"]}
    prepared = opened.task.prepare(rows, opened.tokenizer, 64)
    assert [len(window) for (window,) in prepared["input_ids"]] == [32, 3]


def test_a_slow_tokenizer_is_refused(copied, tiny_data, monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **options: Slow())
    with pytest.raises(CheckpointError, match=r"has no fast version"):
        load_tokenizer(str(copied), "slow")


@pytest.mark.parametrize(
    ("architecture", "config", "limit"),
    [
        ("bert", {}, 64),
        ("roberta", {}, 64),
        ("roberta", {"max_position_embeddings": 514}, 512),
        ("distilbert", {}, 64),
        ("albert", {}, 64),
        ("gpt2", {}, 64),
        ("t5", {}, 512),
        ("bart", {}, 64),
    ],
)
def test_token_limit_is_what_the_model_takes(
    tiny_model, tiny_tokenizer, architecture, config, limit
):
    model, tokenizer = tiny_model(architecture, **config), tiny_tokenizer(architecture)
    assert token_limit(tokenizer, model) == limit
    ids = torch.full((1, limit), 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        model(**inputs)


def test_token_limit_heeds_the_tokenizer(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 40
    assert token_limit(tokenizer, tiny_model("bert")) == 40
    tokenizer.model_max_length = 4000
    assert token_limit(tokenizer, tiny_model("bert")) == 64


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("bert", Classification()),
        ("roberta", Classification()),
        ("gpt2", Classification()),
        ("t5", Summarization()),
        ("bart", Summarization(max_target_length=1000)),
        ("bert", Summarization()),
    ],
)
def test_without_weights_it_fits_as_with_them(make_checkpoint, tiny_data, architecture, task):
    folder = make_checkpoint(architecture)
    data = tiny_data.map(lambda row: {"summary": row["text"][:9]})
    state = torch.random.get_rng_state()
    fitted, tokenizer, limit = fit_without_weights(folder, task, data)
    assert torch.equal(torch.random.get_rng_state(), state)
    opened = open_checkpoint(folder, task, data)
    assert (fitted, limit) == (opened.task, opened.limit)
    assert tokenizer.backend_tokenizer.to_str() == opened.tokenizer.backend_tokenizer.to_str()
    assert tokenizer.pad_token == opened.tokenizer.pad_token


# Bundles


def test_open_bundled_gives_model_and_tokenizer_as_they_were(make_checkpoint, tiny_model):
    task = Classification(kind="single", labels=NAMES)
    model, tokenizer = open_bundled(make_checkpoint("bert", **named()), task.head())
    assert_equal_states(state_of(model), state_of(tiny_model("bert", **named())))
    assert tokenizer("hello")["input_ids"][0] == tokenizer.cls_token_id


def test_open_bundled_wants_the_head_too(make_checkpoint, tmp_path):
    folder = Path(shutil.copytree(make_checkpoint("bert", **named()), tmp_path / "copy"))
    remove_tensors(folder, "classifier")
    task = Classification(kind="single", labels=NAMES)
    with pytest.raises(CheckpointError, match=r"lack 2 of the tensors"):
        open_bundled(folder, task.head())


# The alias


def test_the_alias_is_refused_where_the_package_holds_other_weights(monkeypatch, minilm, tiny_data):
    monkeypatch.setattr(rooms, "MINILM_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match=r"holds other weights.*53aa5117.*Install it anew"):
        open_checkpoint(minilm, TASK, tiny_data)


def test_the_alias_is_the_hubs_where_there_is_no_package(monkeypatch, tiny_data):
    monkeypatch.setattr(rooms.importlib.util, "find_spec", lambda name: None)
    assert rooms._locate("minilm") == rooms.MINILM
    with pytest.raises(CheckpointError, match=r'"minilm" is neither a folder here'):
        open_checkpoint("minilm", TASK, tiny_data)


@pytest.mark.slow
def test_the_alias_opens(minilm, tiny_data):
    opened = open_checkpoint(minilm, TASK, tiny_data)
    assert (opened.name, opened.limit) == ("minilm", 512)
    assert opened.model.config.hidden_size == 384
    assert opened.tokenizer("hello " * 600, verbose=False)["input_ids"].__len__() == 602
    assert (opened.task.kind, len(opened.task.labels)) == ("single", 3)


def test_a_new_head_starts_from_the_shares_of_the_labels(tiny_checkpoint, tiny_data):
    opened = open_checkpoint(tiny_checkpoint, Classification(), tiny_data)
    rows = tiny_data["train"]["label"][:]
    shares = [rows.count(name) / len(rows) for name in opened.task.labels]
    assert opened.model.classifier.bias.softmax(0).tolist() == pytest.approx(shares, rel=1e-4)


def test_a_head_for_weighted_classes_starts_from_nothing(tiny_checkpoint, tiny_data):
    task = Classification(class_weights="balanced")
    opened = open_checkpoint(tiny_checkpoint, task, tiny_data)
    assert opened.model.classifier.bias.abs().max() == 0


def test_a_head_for_numbers_starts_from_their_mean(tiny_checkpoint):
    rows = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [3.0, 5.0, 6.0, 10.0]})
    opened = open_checkpoint(tiny_checkpoint, Classification(), DatasetDict(train=rows))
    assert opened.model.classifier.bias.tolist() == [6.0]


def test_a_head_that_is_listed_before_the_body_starts_there_too(make_checkpoint):
    rows = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [3.0, 5.0, 6.0, 10.0]})
    folder = make_checkpoint("xlm-roberta")
    opened = open_checkpoint(folder, Classification(), DatasetDict(train=rows))
    assert opened.model.classifier.out_proj.bias.tolist() == [6.0]


@pytest.mark.parametrize("knows_its_class", [True, False])
def test_the_head_of_a_language_model_comes_along(
    make_checkpoint, tiny_data, tmp_path, knows_its_class
):
    folder = Path(shutil.copytree(make_checkpoint("bert", "ForPreTraining"), tmp_path / "copy"))
    if not knows_its_class:
        config = json.loads((folder / "config.json").read_text())
        del config["architectures"]
        (folder / "config.json").write_text(json.dumps(config))
    old = load_file(folder / "model.safetensors")
    opened = open_checkpoint(folder, LanguageModeling(kind="masked"), tiny_data)
    head = "cls.predictions.transform.dense.weight"
    assert torch.equal(state_of(opened.model)[head], old[head])
    assert not opened.new
    new = open_checkpoint(folder, LanguageModeling(kind="masked"), tiny_data, new_head=True)
    assert not torch.equal(state_of(new.model)[head], old[head])


@pytest.mark.parametrize("lost", ["decoder.", "encoder.block.1."])
def test_half_of_a_t5_is_not_enough(make_checkpoint, tiny_data, tmp_path, lost):
    folder = Path(shutil.copytree(make_checkpoint("t5", "Model"), tmp_path / "copy"))
    remove_tensors(folder, lost)
    data = tiny_data.rename_column("label", "summary")
    with pytest.raises(CheckpointError, match=r"lack 8 of the tensors|weights hold"):
        open_checkpoint(folder, Summarization(), data)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "bart"])
def test_batches_are_padded_where_the_model_can_bear_it(make_checkpoint, tmp_path, architecture):
    folder = Path(shutil.copytree(make_checkpoint(architecture), tmp_path / "copy"))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.save_pretrained(folder)
    rows = [
        {"text": text * n, "label": str(n % 2)} for n, text in enumerate(["late "] * 9, start=1)
    ]
    learn = ftkit.classification_learner(
        {"train": rows, "validation": rows}, folder, bs=3, precision="fp32", path=tmp_path
    )
    model = predictor(learn)
    together = model.predict(rows)
    for row, found in zip(rows, together, strict=True):
        (alone,) = model.predict([row])
        assert found.scores == pytest.approx(alone.scores, abs=1e-5)


def test_a_decoders_config_is_told_what_pads(make_checkpoint, tiny_data, tmp_path):
    folder = Path(shutil.copytree(make_checkpoint("gpt2"), tmp_path / "copy"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # What a config says after another token was chosen to pad.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(5)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] = tokenizer.eos_token_id
    (folder / "config.json").write_text(json.dumps(config))
    opened = open_checkpoint(folder, TASK, tiny_data)
    assert opened.model.config.pad_token_id == opened.tokenizer.pad_token_id == 5


def test_positions_that_count_from_the_padding_stay(make_checkpoint, tiny_data, tmp_path):
    folder = Path(shutil.copytree(make_checkpoint("roberta"), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] += 4
    (folder / "config.json").write_text(json.dumps(config))
    opened = open_checkpoint(folder, TASK, tiny_data)
    assert opened.model.config.pad_token_id == config["pad_token_id"]
