"""Two gloo processes: the steps, scores and weights of one process with the same batches."""

import json
import os
import subprocess
import sys

import parallel_run
import pytest
import torch

import ftkit
from ftkit.errors import SettingError

STILL_BERT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STILL_BART = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def rows_of(task, texts):
    words = [text.split() for text in texts]
    if task == "classification":
        return [{"text": text, "label": str(len(text) % 3)} for text in texts]
    if task == "ner":
        return [
            {"tokens": each, "tags": ["B-x", "O"] * (len(each) // 2) + ["O"] * (len(each) % 2)}
            for each in words
        ]
    if task == "qa":
        # One context is longer than the model, in validation only.
        contexts = [*texts[:-1], " ".join([texts[-1]] * 12)]
        answers = [{"text": [w[1]], "answer_start": [len(w[0]) + 1]} for w in words]
        return [
            {"question": "what is it ?", "context": context, "answers": answer}
            for context, answer in zip(contexts, answers, strict=True)
        ]
    return [
        {"text": text, "summary": " ".join(w[2:])} for text, w in zip(texts, words, strict=True)
    ]


@pytest.fixture(scope="module")
def jobs(tiny_data, make_checkpoint):
    texts = tiny_data["train"]["text"]
    bert = str(make_checkpoint("bert", **STILL_BERT))
    bart = str(make_checkpoint("bart", "ForConditionalGeneration", **STILL_BART))
    made = []
    for name, task, plain, accumulate in (
        ("classification", "classification", True, 1),
        ("accumulated", "classification", True, 3),
        ("adam", "classification", False, 1),
        ("ner", "ner", True, 1),
        ("qa", "qa", True, 1),
        ("summarization", "summarization", True, 1),
        ("last", "classification", False, 1),
    ):
        # 33 rows: of the last batch one process has none.
        data = {"train": rows_of(task, texts[:33])}
        if task == "qa":
            data["train"] = rows_of(task, texts[:34])[:33]
        data["validation"] = rows_of(task, texts[40:57])
        made.append(
            {
                "name": name,
                "task": task,
                "plain": plain,
                "accumulate": accumulate,
                "lr": 0.1 if plain else 1e-3,
                "data": data,
                "checkpoint": bart if task == "summarization" else bert,
            }
        )
    return made


@pytest.fixture(scope="module")
def two(jobs, tmp_path_factory):
    """What two processes end with."""
    work = tmp_path_factory.mktemp("two")
    (work / "jobs.json").write_text(json.dumps(jobs))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    options = ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    done = subprocess.run(
        [*launch, *options, parallel_run.__file__, str(work)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Only the first process speaks: a line an epoch, whatever the number of processes.
    assert done.stdout.count("epoch  train_loss") == len(jobs) + 3
    return [torch.load(work / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(jobs, tmp_path_factory):
    """What one process ends with."""
    work = tmp_path_factory.mktemp("one")
    return {job["name"]: parallel_run.train(work, job, 1) for job in jobs}


NAMES = ["classification", "accumulated", "adam", "ner", "qa", "summarization"]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(one, two, name):
    alone, (first, second) = one[name], (found[name] for found in two)
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert first["last"] == pytest.approx(alone["last"], rel=1e-4, nan_ok=True)
    for key, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][key])
        if name != "adam":
            assert torch.allclose(weight, alone["weights"][key], atol=1e-5), key
    assert first["last"] == pytest.approx(second["last"], nan_ok=True)


def test_predictions_are_in_order(one, two):
    for found in two:
        predictions = found["classification"]["predictions"]
        assert torch.allclose(predictions, one["classification"]["predictions"], atol=1e-4)


def test_what_is_saved_answers_as_what_one_process_saves(one, two):
    texts = ["my refund please", "the courier was late"]
    saved = [ftkit.load_model(each["classification"]["saved"]) for each in (one, two[0])]
    alone, together = (model.predict(texts) for model in saved)
    assert [each.label for each in alone] == [each.label for each in together]
    assert [each.score for each in alone] == pytest.approx([e.score for e in together], abs=1e-4)


def test_both_resume_together(two):
    for found in two:
        ends = found["resume"]
        for name, weight in ends["whole"].items():
            assert torch.equal(weight, ends["resumed"][name])
        assert any(not torch.equal(w, ends["stopped"][n]) for n, w in ends["whole"].items())


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_a_model_that_is_to_be_shared_out_is_refused(tiny_data, tiny_checkpoint, name, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(SettingError, match=f"accelerate is set to {name}, .* lora=8"):
        ftkit.classification_learner(tiny_data, tiny_checkpoint)
