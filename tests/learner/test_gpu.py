"""Training and answering on a GPU that is pretended: nothing is left on the CPU, numbers are its.

Speed, and what a GPU rounds otherwise, only a real one shows.
"""

from dataclasses import asdict

import fastai.torch_core
import numpy as np
import pytest
import torch
from fastai.learner import load_learner
from pretended_gpu import OnGpu, pretended_gpu

import ftkit
from ftkit.learner.build import finetune_learner
from ftkit.learner.resume import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")

TASKS = [
    (ftkit.Classification(), "bert"),
    (ftkit.NER(), "bert"),
    (ftkit.QuestionAnswering(), "bert"),
    (ftkit.Summarization(num_beams=2, max_target_length=6), "bart"),
    (ftkit.Translation(num_beams=1, max_target_length=6), "t5"),
    (ftkit.LanguageModeling(), "gpt2"),
]
each_task = pytest.mark.parametrize(
    ("task", "architecture"), TASKS, ids=[task.name for task, _ in TASKS]
)


@pytest.fixture
def gpu(monkeypatch):
    with pretended_gpu(monkeypatch):
        yield


def test_it_refuses_what_a_gpu_refuses(gpu):
    on_gpu, on_cpu = torch.ones(3, device="cuda"), torch.ones(3)
    assert on_gpu.device.type == "cuda"
    with pytest.raises(RuntimeError, match="same device"):
        on_gpu + on_cpu
    with pytest.raises(TypeError, match="numpy"):
        on_gpu.numpy()
    assert type((on_gpu + on_cpu.to("cuda")).cpu()) is torch.Tensor


def everything(task, architecture, task_data, make_checkpoint, folder, precision="fp32"):
    """What a Learner learns and says, and what it says when it was saved and opened again."""
    data = task_data(task.name)
    learn = finetune_learner(
        data, make_checkpoint(architecture), task=task, bs=4, precision=precision, path=folder
    )
    learn.fit_one_cycle(1, 5e-3, cbs=ftkit.Accumulate(2))
    found = {
        "weights": {name: each.cpu().numpy() for name, each in learn.model.state_dict().items()},
        "history": [{**row, "seconds": 0} for row in learn.history.rows],
        "checked": list(learn.validate()),
    }
    model = ftkit.load_model(ftkit.save(learn, folder / "model"))
    if not model.task.packs:
        rows = [dict(each) for each in data["validation"].take(6)]
        found["answers"] = [asdict(each) for each in model.predict(rows)]
        found["scores"] = model.evaluate(data["validation"]).scores
    if not model.task.generates:
        found["outputs"] = [[row.numpy() for row in each] for each in learn.get_preds()]
    if task.name == "classification":
        words = model.explain(rows[0], n_steps=8).words
        found["explained"] = [round(each.score, 5) for each in words]
        found["page"] = str(ftkit.report(learn, resamples=10).html()).count("<svg")
    return found, {type(each) for each in (*learn.model.parameters(), *model.model.parameters())}


@each_task
def test_it_computes_what_the_cpu_does(
    task, architecture, task_data, make_checkpoint, tmp_path, monkeypatch
):
    given = (task, architecture, task_data, make_checkpoint)
    on_cpu, kinds = everything(*given, tmp_path / "cpu")
    assert kinds == {torch.nn.Parameter}
    with pretended_gpu(monkeypatch):
        on_gpu, kinds = everything(*given, tmp_path / "gpu")
        assert kinds == {OnGpu}
    assert on_gpu.keys() == on_cpu.keys()
    for name, values in on_cpu.items():
        np.testing.assert_equal(on_gpu[name], values, name)


@pytest.mark.parametrize("precision", ["auto", "fp16"])
@each_task
def test_mixed_precision_is_near(
    precision, task, architecture, task_data, make_checkpoint, tmp_path, gpu
):
    checkpoint, data = make_checkpoint(architecture), task_data(task.name)
    losses = []
    for chosen in ("fp32", precision):
        learn = finetune_learner(
            data, checkpoint, task=task, bs=4, precision=chosen, path=tmp_path / chosen
        )
        learn.fit_one_cycle(1, 1e-3)
        losses.append(learn.history.rows[-1]["valid_loss"])
        types = {"fp32": None, "auto": torch.bfloat16, "fp16": torch.float16}
        assert learn.model.autocast_dtype == types[chosen]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # in fp16 the first steps may overflow


def test_a_stopped_training_goes_on(make_learner, tmp_path, gpu):
    class Stop(ftkit._fastai.Callback):
        order = 70

        def after_batch(self):
            if self.training and self.learn.train_iter == 7:
                raise KeyboardInterrupt

    def train(folder, *cbs):
        learn = make_learner(cbs=[Checkpoints(folder, every=3, resume=True), *cbs])
        learn.fit_one_cycle(1, 1e-3)
        return {name: each.cpu().numpy() for name, each in learn.model.state_dict().items()}

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", Stop())
    np.testing.assert_equal(train(tmp_path / "stopped"), whole)


def test_what_is_exported_opens_on_the_cpu(make_learner, tmp_path, gpu):
    learn = make_learner()
    learn.fit(1, 1e-3)
    learn.export("learner.pkl")
    said = learn.predict("my invoice was charged")[0]
    opened = load_learner(tmp_path / "learner.pkl")
    assert {type(each) for each in opened.model.parameters()} == {torch.nn.Parameter}
    assert opened.predict("my invoice was charged")[0] == said


def test_fastai_may_forbid_it(make_learner, monkeypatch, gpu):
    monkeypatch.setattr(fastai.torch_core.defaults, "use_cuda", False)
    learn = make_learner()
    learn.fit(1, 1e-3)
    assert {each.device.type for each in learn.model.parameters()} == {"cpu"}
