"""Two gloo processes: the steps, scores and weights of one process with the same batches, be the
model whole in each of them or in shares.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import parallel_run
import pytest
import torch

import ftkit
from ftkit.errors import SettingError
from ftkit.model.device import computes_in_bf16

STILL_BERT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STILL_BART = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
STILL_GPT2 = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
ROOT = Path(ftkit.__file__).parents[1]

# What differs from classification by plain SGD with one batch a step.
JOBS = {
    "classification": {},
    "accumulated": {"accumulate": 3, "clip": 0.1, "tracked": True},
    "adam": {"plain": False},
    "ner": {"task": "ner"},
    "qa": {"task": "qa"},
    "summarization": {"task": "summarization"},
    "tied": {"task": "language_modeling", "task_options": {"block": 16}},
    "phases": {"phases": True},
    "lora": {"options": {"lora": 2}},
}
NAMES = ["classification", "accumulated", "adam", "ner", "qa", "summarization"]
IN_SHARES = ["accumulated", "adam", "ner", "qa", "summarization", "tied", "phases", "lora"]
TELL = """
import json, os, pathlib
told = {name: value for name, value in os.environ.items() if name[:5] in ("FSDP_", "ACCEL")}
pathlib.Path(os.environ["RANK"]).write_text(json.dumps(told))
"""


def rows_of(task, texts):
    words = [text.split() for text in texts]
    if task == "language_modeling":
        return [{"text": text} for text in texts]
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
def fsdp(tmp_path_factory):
    """What accelerate tells the processes that it starts by recipes/fsdp.yaml."""
    folder = tmp_path_factory.mktemp("fsdp")
    (folder / "tell.py").write_text(TELL)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    config = ["--config_file", str(ROOT / "recipes" / "fsdp.yaml")]
    subprocess.run([*launch, *config, "tell.py"], cwd=folder, check=True)
    first, second = (json.loads((folder / rank).read_text()) for rank in "01")
    assert first == second
    return first


@pytest.fixture(scope="module")
def jobs(tiny_data, make_checkpoint):
    texts = tiny_data["train"]["text"]
    checkpoints = {
        "summarization": make_checkpoint("bart", "ForConditionalGeneration", **STILL_BART),
        "language_modeling": make_checkpoint("gpt2", "LMHeadModel", **STILL_GPT2),
    }
    made = {}
    for name, changes in JOBS.items():
        job = {"name": name, "task": "classification", "plain": True, "accumulate": 1, **changes}
        task = job["task"]
        # 33 rows: of the last batch one process has none.
        data = {"train": rows_of(task, texts[:33])}
        if task == "qa":
            data["train"] = rows_of(task, texts[:34])[:33]
        data["validation"] = rows_of(task, texts[40:57])
        checkpoint = checkpoints.get(task) or make_checkpoint("bert", **STILL_BERT)
        lr = 0.1 if job["plain"] else 1e-3
        made[name] = {**job, "data": data, "checkpoint": str(checkpoint), "lr": lr}
    return made


@pytest.fixture(scope="module")
def two(jobs, fsdp, tmp_path_factory):
    """What two processes end with."""
    work = tmp_path_factory.mktemp("two")
    wraps = "FSDP_TRANSFORMER_CLS_TO_WRAP"
    told = dict.fromkeys(IN_SHARES, fsdp)
    # One embedding is tied to the head, and cannot be gathered alone.
    told["tied"] = {**fsdp, wraps: "GPT2Block,Embedding"}
    told["phases"] = {
        **fsdp,
        wraps: "BertLayer,BertEmbeddings",
        "FSDP_RESHARD_AFTER_FORWARD": "false",
        "FSDP_ACTIVATION_CHECKPOINTING": "true",
    }
    in_shares = [{**jobs[name], "env": env} for name, env in told.items()]
    bf16 = {**jobs["classification"], "name": "bf16", "options": {"precision": "bf16"}}
    if computes_in_bf16(torch.device("cpu")):
        in_shares.append({**bf16, "env": {**fsdp, "ACCELERATE_MIXED_PRECISION": "bf16"}})
    in_shares += [
        {**jobs["adam"], "name": does, "does": f"{does}_shares", "env": fsdp}
        for does in ("resume", "refuse")
    ]
    asked = [
        *(jobs[name] for name in NAMES),
        {**jobs["adam"], "name": "resume", "does": "resume"},
        *({**job, "name": f"{job['name']} in shares"} for job in in_shares),
    ]
    (work / "jobs.json").write_text(json.dumps(asked))
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
    fits = {"phases in shares": 2, "resume": 3, "resume in shares": 5, "refuse in shares": 2}
    shown = done.stdout.count("epoch  train_loss")
    assert shown == sum(fits.get(job["name"], 1) for job in asked)
    return [torch.load(work / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(jobs, tmp_path_factory):
    """What one process ends with."""
    work = tmp_path_factory.mktemp("one")
    return {name: parallel_run.train(work, job, 1) for name, job in jobs.items()}


def compare(alone, together, name):
    """Both processes end as one alone does."""
    first, second = together
    assert len(first["losses"]) == len(alone["losses"]) > 0
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert len(first["history"]) == len(alone["history"]) > 1
    for row, wanted, other in zip(
        first["history"], alone["history"], second["history"], strict=True
    ):
        assert row == pytest.approx(wanted, rel=1e-4, nan_ok=True)
        assert row == pytest.approx(other, nan_ok=True)
    assert first["weights"].keys() == alone["weights"].keys()
    for key, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][key])
        if name != "adam":
            assert torch.allclose(weight, alone["weights"][key], atol=1e-5), key


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(one, two, name):
    compare(one[name], [found[name] for found in two], name)


def test_predictions_are_in_order(one, two):
    for found in two:
        predictions = found["classification"]["predictions"]
        assert torch.allclose(predictions, one["classification"]["predictions"], atol=1e-4)


@pytest.mark.parametrize("kind", ["classification", "accumulated in shares", "lora in shares"])
def test_what_is_saved_answers_as_what_one_process_saves(one, two, kind):
    texts = ["my refund please", "the courier was late"]
    saved = one[kind.split()[0]]["saved"], two[0][kind]["saved"]
    alone, together = (ftkit.load_model(folder).predict(texts) for folder in saved)
    assert [each.label for each in alone] == [each.label for each in together]
    assert [each.score for each in alone] == pytest.approx([e.score for e in together], abs=1e-4)


def test_both_resume_together(two):
    for found in two:
        ends = found["resume"]
        for name, weight in ends["whole"].items():
            assert torch.equal(weight, ends["resumed"][name])
        assert any(not torch.equal(w, ends["stopped"][n]) for n, w in ends["whole"].items())


@pytest.mark.parametrize("name", IN_SHARES)
def test_shares_are_one_model(one, two, name):
    shared = [found[f"{name} in shares"] for found in two]
    compare(one[name], shared, name)
    if name in NAMES:
        # Only the order of additions differs from whole models in both processes.
        for key, weight in shared[0]["weights"].items():
            assert torch.allclose(weight, two[0][name]["weights"][key], atol=1e-4), key


@pytest.mark.parametrize("name", IN_SHARES)
def test_each_process_holds_its_share(one, two, name):
    (_, total, remembered), shares = one[name]["held"], []
    for found in two:
        weights, parameters, state = found[f"{name} in shares"]["held"]
        assert parameters == total
        shares.append((weights, state))
    assert [sum(each) for each in zip(*shares, strict=True)] == [total, remembered]
    # A tensor of odd length is cut unevenly.
    assert all(abs(weights / total - 0.5) < 0.02 for weights, _ in shares)
    assert bool(remembered) == (name == "adam")


def test_norms_and_rows_are_tracked(one, two):
    alone = one["accumulated"]
    for kind in ("accumulated", "accumulated in shares"):
        found = two[0][kind]
        assert len(found["norms"]) == 4
        assert found["norms"] == pytest.approx(alone["norms"], rel=1e-4)
        assert found["tables"] == alone["tables"] == 1


@pytest.mark.skipif(
    not computes_in_bf16(torch.device("cpu")), reason="this CPU has no bf16 instructions"
)
def test_bf16_in_shares_is_near_to_fp32(one, two):
    alone, found = one["classification"], two[0]["bf16 in shares"]
    assert found["losses"] != alone["losses"]
    assert found["losses"] == pytest.approx(alone["losses"], rel=0.02)


def test_shares_resume(two):
    for found in two:
        ends = found["resume in shares"]
        assert ends["whole"].keys() == ends["resumed"].keys()
        for name, weight in ends["whole"].items():
            assert torch.equal(weight, ends["resumed"][name]), name


def test_what_cannot_work_in_shares_is_refused(two):
    for rank, found in enumerate(two):
        refused = found["refuse in shares"]
        assert "Let it answer when an epoch" in refused["said"]
        assert refused["answers"] == (not rank)
        assert not refused["part"]


def test_deepspeed_is_refused(tiny_data, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(SettingError, match=r"accelerate is set to DEEPSPEED, .* lora=8"):
        ftkit.classification_learner(tiny_data, tiny_checkpoint)


def test_one_process_has_nothing_to_share(tiny_data, tiny_checkpoint, fsdp, monkeypatch):
    for name, value in fsdp.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=r"there is one process.* num_processes: 2"):
        ftkit.classification_learner(tiny_data, tiny_checkpoint)
