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
from fastai.callback.core import Callback
from fastai.optimizer import SGD

import ftkit
from ftkit.errors import FtkitWarning
from ftkit.learner.callbacks import Accumulate
from ftkit.learner.resume import Checkpoints, TrainingStopped

ROWS = 8
"""Rows of a batch, over all processes."""


def train(work, job, processes):
    """What a fit ends with: losses, scores, weights and predictions."""
    learn = ftkit.finetune_learner(
        job["data"],
        job["checkpoint"],
        task=job["task"],
        bs=ROWS // processes,
        precision="fp32",
        path=work,
        cbs=[Accumulate(job["accumulate"])] if job["accumulate"] > 1 else None,
    )
    if job["plain"]:
        # Adam makes steps of rounding errors where a gradient is zero.
        learn.opt_func = SGD
    learn.fit_one_cycle(2, job["lr"])
    rows = {k: v for k, v in learn.history.rows[-1].items() if k != "seconds"}
    predictions = learn.get_preds()[0] if job["task"] == "classification" else None
    return {
        "losses": [float(each) for each in learn.recorder.losses],
        "last": rows,
        "weights": {name: p.detach().clone() for name, p in learn.model.named_parameters()},
        "predictions": predictions,
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
        learn = ftkit.finetune_learner(
            job["data"],
            job["checkpoint"],
            task=job["task"],
            bs=ROWS // processes,
            precision="fp32",
            path=work,
            cbs=[kept, *([Stop()] if stops else [])],
        )
        with pytest.raises(TrainingStopped, match="3 steps") if stops else nullcontext():
            learn.fit_one_cycle(2, 1e-3)
        ends.append({name: p.detach().clone() for name, p in learn.model.named_parameters()})
    return {"whole": ends[0], "stopped": ends[1], "resumed": ends[2]}


def main(work):
    work = Path(work)
    jobs = json.loads((work / "jobs.json").read_text())
    rank, processes = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FtkitWarning)
        found = {job["name"]: train(work, job, processes) for job in jobs}
        found["resume"] = resume(work, jobs[-1], processes)
    torch.save(found, work / f"{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
