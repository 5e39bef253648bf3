"""LoRA: what it trains, what stays as it was, and that both kinds of folder answer alike."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import ARCHITECTURES, save_checkpoint

import ftkit
from ftkit.errors import CheckpointError, SettingError
from ftkit.learner.build import finetune_learner
from ftkit.model.adapters import LoRA

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ftkit.errors.FtkitWarning"
)

_GOOD, _BAD = ["fine", "lovely", "great"], ["broken", "late", "awful"]
_THINGS = ["parcel", "invoice", "refund", "charger", "update"]


def rows_of(task):
    """Sixteen rows of a thing and how it was."""
    rows = []
    for i in range(16):
        pick = np.random.RandomState(i)
        thing, word = pick.choice(_THINGS), pick.choice([_GOOD, _BAD][i % 2])
        text = f"the {thing} was {word} today"
        span = {"start": 4, "end": 4 + len(thing), "label": "thing"}
        rows.append(
            {
                "classification": {"text": text, "label": "bad" if i % 2 else "good"},
                "ner": {"text": text, "entities": [span]},
                "qa": {
                    "question": "how was it?",
                    "context": text,
                    "answers": {"text": [word], "answer_start": [text.index(word)]},
                },
                "summarization": {"text": text, "summary": f"{thing} {word}"},
                "language_modeling": {"text": text},
            }[task]
        )
    return rows


_TEXTS = [row["text"] for row in rows_of("classification")] + ["how was it?"] * 4


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    made = {}

    def make(name):
        if name not in made:
            made[name] = save_checkpoint(name, _TEXTS * 8, tmp_path_factory.mktemp(name))
        return made[name]

    return make


def learner(folder, path, task="classification", **options):
    rows = rows_of(task)
    return finetune_learner(
        {"train": rows, "validation": rows[:8]},
        folder,
        task=task,
        path=path,
        **{"bs": 4, "precision": "fp32", "lora": 4, **options},
    )


def trainable(learn):
    return {name for name, p in learn.model.hf_model.named_parameters() if p.requires_grad}


def base_weights(learn):
    kept = trainable(learn)
    named = learn.model.hf_model.named_parameters()
    return {name: p.detach().clone() for name, p in named if name not in kept}


def outputs_of(model, learn):
    model.eval()
    batch, _ = learn.dls.valid.one_batch()
    with torch.no_grad():
        return model(batch)


def check_round_trip(learn, tmp_path):
    """Both kinds of folder give the outputs of the Learner's model."""
    merged = ftkit.save(learn, tmp_path / "merged")
    alone = ftkit.save(learn, tmp_path / "alone", adapter=True)
    assert not (alone / "model.safetensors").exists()
    wanted = outputs_of(learn.model, learn)
    plain = None
    for folder in (merged, alone):
        model = ftkit.load_model(folder, device="cpu").model
        torch.testing.assert_close(outputs_of(model, learn), wanted, atol=1e-5, rtol=1e-5)
        names = set(model.hf_model.state_dict())
        assert not any(".lora_" in name or "base_layer" in name for name in names)
        assert plain in (None, names)
        plain = names
    return merged, alone


def check_lora(learn, tmp_path):
    """All of it is trained, the base never, and it is saved both ways."""
    before, first = base_weights(learn), trainable(learn)
    assert any(".lora_A." in name for name in first)
    total = sum(p.numel() for p in learn.model.parameters())
    assert sum(p.numel() for p in learn.model.parameters() if p.requires_grad) < total / 2
    learn.freeze()
    assert trainable(learn) < first
    learn.unfreeze()
    assert trainable(learn) == first
    learn.fit_one_cycle(1, 1e-2)
    # B starts as zeros. It stays so where a layer has no part in the outputs, such as the pooler
    # of an encoder that a decoder reads.
    moved = [bool(each.any()) for n, each in learn.model.state_dict().items() if ".lora_B." in n]
    assert np.mean(moved) > 0.75
    after = base_weights(learn)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    return check_round_trip(learn, tmp_path)


# These two have no head for classification.
@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"pegasus", "led"}))
def test_classification(name, checkpoint, tmp_path):
    check_lora(learner(checkpoint(name), tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("roberta", "ner"),
        ("bert", "qa"),
        ("t5", "summarization"),
        ("bart", "summarization"),
        ("bert", "summarization"),  # warm-started: its cross-attention is new
        ("gpt2", "language_modeling"),
        ("bert", "language_modeling"),
    ],
)
def test_other_tasks(name, task, checkpoint, tmp_path):
    check_lora(learner(checkpoint(name), tmp_path, task), tmp_path)


def test_it_learns(checkpoint, tmp_path):
    learn = learner(checkpoint("bert"), tmp_path)
    learn.fit_one_cycle(16, 2e-2)
    first, *_, last = learn.history.rows
    assert last["valid_loss"] < first["valid_loss"] / 2
    assert last["accuracy"] == 1


def test_what_is_trained(checkpoint, tmp_path):
    names = trainable(learner(checkpoint("bert"), tmp_path))
    lora = {name for name in names if ".lora_" in name}
    assert names - lora == {"classifier.weight", "classifier.bias"}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in lora} == {"query", "value"}
    assert len(lora) == 2 * 2 * 2
    # A decoder's cross-attention is new, so it is trained whole; the encoder beside it is not.
    names = trainable(learner(checkpoint("bert"), tmp_path, "summarization"))
    crossed = [name for name in names if "crossattention" in name]
    assert crossed
    assert not any(".lora_" in name for name in crossed)
    assert not any("word_embeddings" in name for name in names)


def test_targets(checkpoint, tmp_path):
    lora = LoRA(r=2, alpha=3, targets=("output.dense",))
    learn = learner(checkpoint("bert"), tmp_path, lora=lora)
    found = {name for name in trainable(learn) if ".lora_A." in name}
    assert found
    assert all(".output.dense.lora_A." in name for name in found)
    folder = ftkit.save(learn, tmp_path / "model")
    assert "| LoRA | rank 2, alpha 3, on dense |" in (folder / "README.md").read_text()
    everywhere = trainable(learner(checkpoint("bert"), tmp_path, lora=LoRA(targets="all-linear")))
    assert sum(".lora_A." in name for name in everywhere) == 2 * 6 + 1  # and the pooler's


def test_a_head_that_was_trained_goes_on(checkpoint, tmp_path):
    first = learner(checkpoint("bert"), tmp_path, lora=None)
    first.fit_one_cycle(1, 1e-2)
    base = ftkit.save(first, tmp_path / "base")
    learn = learner(base, tmp_path)
    assert {"classifier.weight", "classifier.bias"} <= trainable(learn)
    head = learn.model.hf_model.classifier.weight
    assert torch.equal(head, first.model.hf_model.classifier.weight)
    check_lora(learn, tmp_path)


def test_a_head_beside_the_halves_of_a_t5_goes_on(checkpoint, tmp_path):
    base = ftkit.save(learner(checkpoint("t5"), tmp_path, "qa", lora=None), tmp_path / "base")
    learn = learner(base, tmp_path, "qa")
    assert {"qa_outputs.weight", "qa_outputs.bias"} <= trainable(learn)
    check_lora(learn, tmp_path)


def test_other_weights_that_the_base_lacks_travel_with_the_adapter(checkpoint, tmp_path):
    # A tagger has no pooler, and a classifier draws one.
    tagger = learner(checkpoint("bert"), tmp_path, "ner", lora=None)
    learn = learner(ftkit.save(tagger, tmp_path / "base"), tmp_path)
    assert "bert.pooler.dense.weight" in trainable(learn)
    check_lora(learn, tmp_path)


def test_the_same_seed_gives_the_same_adapter(checkpoint, tmp_path):
    one, two, other = (learner(checkpoint("bert"), tmp_path, seed=seed) for seed in (1, 1, 2))
    for learn in (one, two):
        learn.fit_one_cycle(1, 1e-3)
    weights = [learn.model.state_dict() for learn in (one, two, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any((weights[0][n] != weights[2][n]).any() for n in weights[0] if ".lora_A." in n)


def test_saving_leaves_the_learner_as_it_was(checkpoint, tmp_path):
    learn = learner(checkpoint("bert"), tmp_path)
    learn.fit_one_cycle(1, 1e-2)
    before = {name: each.clone() for name, each in learn.model.state_dict().items()}
    check_round_trip(learn, tmp_path)
    after = learn.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradient_checkpointing_changes_nothing(checkpoint, tmp_path):
    found = []
    for is_on in (False, True):
        learn = learner(checkpoint("bert"), tmp_path, gradient_checkpointing=is_on)
        learn.model.first_token_from = None  # or dropout is drawn for less
        learn.fit_one_cycle(1, 1e-2)
        found.append(learn.model.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-6, rtol=1e-6)


def test_rates(checkpoint, tmp_path):
    assert isinstance(learner(checkpoint("bert"), tmp_path).lr, float)
    assert isinstance(learner(checkpoint("bert"), tmp_path, lora=None).lr, slice)


def test_transformers_and_peft_open_the_folders(checkpoint, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    learn = learner(checkpoint("bert"), tmp_path)
    learn.fit_one_cycle(2, 1e-2)
    merged, alone = check_round_trip(learn, tmp_path)
    wanted = [answer.scores for answer in ftkit.load_model(merged).predict(_TEXTS[:4])]
    answer = pipeline("text-classification", model=str(merged), top_k=None)
    for found, scores in zip(answer(_TEXTS[:4]), wanted, strict=True):
        assert {each["label"]: each["score"] for each in found} == pytest.approx(scores, abs=1e-5)
    config = json.loads((alone / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoint("bert"))
    assert config["modules_to_save"] == ["classifier"]
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint("bert"), num_labels=2)
    model = peft.PeftModel.from_pretrained(base, alone).eval()
    tokens = AutoTokenizer.from_pretrained(alone)(_TEXTS[:4], return_tensors="pt", padding=True)
    with torch.no_grad():
        scores = model(**tokens).logits.softmax(-1)
    found = [dict(zip(("bad", "good"), row, strict=True)) for row in scores.tolist()]
    assert found == [pytest.approx(each, abs=1e-5) for each in wanted]


def test_the_card_of_an_adapter(checkpoint, tmp_path):
    folder = ftkit.save(learner(checkpoint("bert"), tmp_path), tmp_path / "model", adapter=True)
    card = (folder / "README.md").read_text()
    assert "library_name: peft" in card
    assert "load_model" in card
    assert "pipeline(" not in card
    assert set(load_file(folder / "adapter_model.safetensors")) >= {
        "base_model.model.classifier.weight",
        "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight",
    }
    with pytest.raises(CheckpointError, match=r"holds an adapter alone.* merges the two"):
        learner(folder, tmp_path)


@pytest.mark.slow
def test_the_alias_of_minilm_is_found_again(minilm, tmp_path):
    learn = learner(minilm, tmp_path)
    _, alone = check_round_trip(learn, tmp_path)
    config = json.loads((alone / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"


# Mistakes


def test_a_missing_or_wrong_base(checkpoint, tmp_path):
    base = shutil.copytree(checkpoint("bert"), tmp_path / "base")
    folder = ftkit.save(learner(base, tmp_path), tmp_path / "model", adapter=True)
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match=r'an adapter of ".*base", which cannot be opened'):
        ftkit.load_model(folder)
    shutil.copytree(checkpoint("distilbert"), base)
    with pytest.raises(CheckpointError, match=r"cannot be opened: .* differs from .* base"):
        ftkit.load_model(folder)


def test_an_adapter_that_lacks_a_part(checkpoint, tmp_path):
    from safetensors.torch import save_file

    folder = ftkit.save(learner(checkpoint("bert"), tmp_path), tmp_path / "model", adapter=True)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for gone in ("base_model.model.classifier.bias", next(n for n in tensors if "lora_B" in n)):
        save_file({name: each for name, each in tensors.items() if name != gone}, file)
        with pytest.raises(CheckpointError, match=r"does not fit its base: .*(bias|lora_B)"):
            ftkit.load_model(folder)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be put on its base"):
        ftkit.load_model(folder)


def test_without_peft(checkpoint, tmp_path, monkeypatch):
    folder = ftkit.save(learner(checkpoint("bert"), tmp_path), tmp_path / "model", adapter=True)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name)
    )
    for use in (lambda: learner(checkpoint("bert"), tmp_path), lambda: ftkit.load_model(folder)):
        with pytest.raises(SettingError, match=r'pip install "ftkit\[lora\]"'):
            use()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "rank of LoRA is 0"),
        ({"alpha": 0}, "alpha of LoRA is 0"),
        ({"dropout": 1.0}, r"dropout of LoRA is 1\.0"),
        ({"targets": "query"}, r'targets of LoRA are "query".*tuple of names'),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(SettingError, match=message):
        LoRA(**options)


def test_targets_that_are_not_there(checkpoint, tmp_path):
    with pytest.raises(SettingError, match=r'ends in "q_proj".*"query"'):
        learner(checkpoint("bert"), tmp_path, lora=LoRA(targets=("q_proj",)))


def test_no_adapter_to_save(checkpoint, tmp_path):
    learn = learner(checkpoint("bert"), tmp_path, lora=None)
    with pytest.raises(SettingError, match="no adapter to save"):
        ftkit.save(learn, tmp_path / "model", adapter=True)
    assert not (tmp_path / "model").exists()
