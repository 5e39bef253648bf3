"""Trains every task for test_distributed.py: in one process, or under torchrun in two.

torchrun --nproc_per_node 2 parallel_run.py WORK    reads WORK/jobs.json, writes WORK/RANK.pt
"""

import json
import os
import signal
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from fastai.callback.all import GradientAccumulation, GradientClip
from fastai.callback.core import Callback
from fastai.optimizer import SGD

import ftkit
from ftkit.errors import FtkitWarning, SettingError, TrainingError
from ftkit.learner.averaging import AverageWeights
from ftkit.learner.best import KeepBest
from ftkit.learner.callbacks import Accumulate
from ftkit.learner.distributed import wait
from ftkit.learner.resume import Checkpoints, TrainingStopped
from ftkit.learner.save import predictor
from ftkit.learner.tracking import Tracker
from ftkit.tasks import get_task, with_options

ROWS = 8
"""Rows of a batch, over all processes."""


class Held(Callback):
    """What of the weights and of the optimizer's state this process holds behind a step."""

    def after_step(self):
        def held(tensors):
            return sum((t.to_local() if hasattr(t, "to_local") else t).numel() for t in tensors)

        parameters = list(self.learn.model.parameters())
        inner = getattr(self.learn.opt, "opt", self.learn.opt)
        state = [each for values in inner.state.values() for each in values.values()]
        state = [each for each in state if isinstance(each, torch.Tensor) and each.ndim]
        self.counts = held(parameters), sum(p.numel() for p in parameters), held(state)
        if hasattr(self.learn, "share_out"):
            assert not sum(p.numel() for p in self.learn.share_out.whole.parameters())


class Notes:
    """A service that keeps the numbers that it is given, in memory."""

    def __init__(self):
        self.norms, self.tables = [], []

    def start(self, run_id, step):
        return "notes"

    def scalars(self, values, step):
        self.norms += [v for name, v in values.items() if name == "train/gradient_norm"]

    def table(self, name, rows, step):
        self.tables.append(rows)

    def configure(self, *given):
        pass

    confusion = histogram = page = bundle = finish = configure


def build(work, job, processes, cbs):
    """The Learner of a job."""
    task = get_task(job["task"])
    return ftkit.finetune_learner(
        job["data"],
        job["checkpoint"],
        task=with_options(task, job.get("task_options", {})),
        bs=ROWS // processes,
        path=work,
        cbs=cbs,
        **{"precision": "fp32", **job.get("options", {})},
    )


def weights_of(learn):
    """A copy of every parameter, by its name."""
    return {name: p.detach().clone() for name, p in learn.model.named_parameters()}


def train(work, job, processes):
    """What a fit ends with: losses, scores, weights and predictions."""
    notes, held = Notes(), Held()
    cbs = [held, *([Accumulate(job["accumulate"])] if job["accumulate"] > 1 else [])]
    cbs += [GradientClip(job["clip"])] if "clip" in job else []
    learn = build(work, job, processes, cbs)
    if job.get("tracked"):
        learn.add_cb(Tracker(notes, predictions=3))
    if job["plain"]:
        # Adam makes steps of rounding errors where a gradient is zero.
        learn.opt_func = SGD
    if job.get("phases"):
        learn.fine_tune(phases=[ftkit.Phase(1, 0.1, groups=1), ftkit.Phase(2, slice(0.01, 0.1))])
    else:
        learn.fit_one_cycle(2, job["lr"])
    losses = [float(each) for each in learn.recorder.losses]
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in learn.history.rows]
    predictions = learn.get_preds()[0] if job["task"] == "classification" else None
    if processes > 1:
        with pytest.raises(SettingError, match="lr_find looks in one process alone"):
            learn.lr_find()
    return {
        "losses": losses,
        "history": rows,
        "weights": weights_of(learn),
        "predictions": predictions,
        "held": held.counts,
        "norms": notes.norms,
        "tables": len(notes.tables),
        "saved": str(ftkit.save(learn, work / f"{job['name']}-{processes}")),
    }


def resume(work, job, processes):
    """Stopped after its third step, then resumed: the weights it ends with."""

    class Stop(Callback):
        def after_step(self):
            if self.learn.train_iter == 2 and os.environ.get("RANK", "1") == "1":
                signal.raise_signal(signal.SIGTERM)

    ends = []
    for folder, stops in (("whole", False), ("states", True), ("states", False)):
        kept = Checkpoints(work / folder, minutes=None, resume=True)
        learn = build(work, job, processes, [kept, *([Stop()] if stops else [])])
        with pytest.raises(TrainingStopped, match="3 steps") if stops else nullcontext():
            learn.fit_one_cycle(2, 1e-3)
        ends.append(weights_of(learn))
    return {"whole": ends[0], "stopped": ends[1], "resumed": ends[2]}


def resume_shares(work, job, processes):
    """Two fits, stopped behind the first and in the second: the weights that they end with."""

    class Stop(Callback):
        def __init__(self, steps, event):
            self.left, self.event = steps, event

        def stop(self, event):
            self.left -= event == "after_step"
            if self.left == 0 and event == self.event and os.environ["RANK"] == "1":
                signal.raise_signal(signal.SIGTERM)

        def after_step(self):
            self.stop("after_step")

        def after_epoch(self):
            self.stop("after_epoch")

    ends = {}
    for folder, stop in (
        ("whole", None),
        ("resumed", (5, "after_epoch")),
        ("resumed", (2, "after_step")),
        ("resumed", None),
    ):
        kept = Checkpoints(work / job["name"] / folder, minutes=None, resume=True)
        cbs = [kept, AverageWeights(0.5), KeepBest("valid_loss"), *([Stop(*stop)] if stop else [])]
        learn = build(work, job, processes, cbs)
        with pytest.raises(TrainingStopped) if stop else nullcontext():
            learn.fit_one_cycle(1, 1e-3)
            learn.fit_one_cycle(2, 1e-3)
        ends[folder] = weights_of(learn)
    return ends


def refuse_shares(work, job, processes):
    """What only the first process does, and what would wait for the others or write a part."""
    is_first = os.environ["RANK"] == "0"

    class Alone(Callback):
        said = None

        def after_batch(self):
            if self.said is None and self.training:
                with pytest.raises(TrainingError, match="only trains") as said, torch.no_grad():
                    self.learn.model(*self.xb)
                Alone.said = str(said.value)
                for ask in (ftkit.save, predictor):
                    with pytest.raises(TrainingError, match="no whole model"):
                        ask(self.learn, *([work / "part"] if ask is ftkit.save else []))

    class Fail(Callback):
        def after_batch(self):
            raise RuntimeError("on purpose")

    class Extra(Callback):
        pass

    learn = build(work, job, processes, [Alone()])
    for cbs, found in (
        ([Extra()] if is_first else [], 'not every process has the callbacks "extra"'),
        ([GradientAccumulation(8)], "Give ftkit.Accumulate"),
    ):
        with pytest.raises(SettingError, match=found):
            learn.fit_one_cycle(1, 1e-3, cbs=cbs)
    learn.fit_one_cycle(1, 1e-3)
    with pytest.raises(SettingError, match="with_opt=False"):
        learn.save("part")
    learn.save("weights", with_opt=False)
    answers = 0
    if is_first:
        page = ftkit.report(learn, resamples=10, explain_seconds=0.2)
        page.save(work / "report.html")
        answers = len(predictor(learn).predict(["my refund"]))
    wait()
    with pytest.raises(RuntimeError, match="on purpose"):
        learn.fit_one_cycle(1, 1e-3, cbs=Fail())
    for ask in (learn.validate, lambda: learn.fit(1), lambda: ftkit.save(learn, work / "part")):
        with pytest.raises(TrainingError, match="begin with a new Learner"):
            ask()
    return {"answers": answers, "said": Alone.said, "part": (work / "part").exists()}


DOES = {
    "train": train,
    "resume": resume,
    "resume_shares": resume_shares,
    "refuse_shares": refuse_shares,
}


def main(work):
    work = Path(work)
    jobs = json.loads((work / "jobs.json").read_text())
    rank, processes = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FtkitWarning)
        warnings.filterwarnings("error", "FSDP2-wrapped module")
        for job in jobs:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in job.get("env", {}).items():
                    patch.setenv(name, value)
                found[job["name"]] = DOES[job.get("does", "train")](work, job, processes)
    torch.save(found, work / f"{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
