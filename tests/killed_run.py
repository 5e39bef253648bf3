"""Trains in children of this process, which the test kills. Run by test_resume.py.

python killed_run.py CHECKPOINT ROWS.json    then a line of JSON on stdin starts a child:
{"folder": ..., "end": FILE, "kill_at": "STAGE"|null}, whose process id is printed.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict

import ftkit
from ftkit.learner import state
from ftkit.learner.best import KeepBest
from ftkit.learner.callbacks import Accumulate
from ftkit.learner.resume import Checkpoints


def build(data, checkpoint, folder, **options):
    """A Learner with dropout and accumulation, whose state is written after every step."""
    kept = Checkpoints(folder, every=1, minutes=None, resume=True)
    return ftkit.classification_learner(
        data,
        checkpoint,
        bs=8,
        precision="fp32",
        cbs=[Accumulate(3), KeepBest("macro_f1"), kept],
        **options,
    )


def script(learn):
    """What a user would write: layers unfrozen from the head down, each at its own rate."""
    phases = [
        ftkit.Phase(1, 1e-2, groups=1),
        ftkit.Phase(1, groups=2),
        ftkit.Phase(1, slice(1e-3, 1e-2)),
    ]
    learn.fine_tune(phases=phases)
    return learn


def die(*args, **kwargs):
    """End as by a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_write(stage):
    """Die in the third write or one soon after of a state, at a stage of it."""
    left, real = [3 if stage == "_rename" else 12], getattr(state, stage)

    def counted(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            die()
        return real(*args, **kwargs)

    setattr(state, stage, counted)


def end_of(learn):
    """All that must be the same in the end, as tensors and JSON."""
    optimizer = learn.opt.state_dict()["state"]
    tensors = {name: p.detach().clone() for name, p in learn.model.named_parameters()}
    for i, each in optimizer.items():
        tensors.update({f"{i}/{name}": value.clone() for name, value in each.items()})
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in learn.history.rows]
    return {
        "tensors": tensors,
        "history": history,
        "losses": [float(loss) for loss in learn.recorder.losses],
        "lrs": [float(lr) for lr in learn.recorder.lrs],
        "values": [[float(each) for each in row] for row in learn.recorder.values],
    }


def main(checkpoint, rows):
    splits = json.loads(Path(rows).read_text())
    data = DatasetDict({name: Dataset.from_list(split) for name, split in splits.items()})
    # Imports what a Learner needs, without a step: autograd's threads would not survive a fork.
    build(data, checkpoint, Path(rows).with_name("none"))
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if pid := os.fork():
            print(pid, flush=True)
            os.waitpid(pid, 0)
            print("ended", flush=True)
            continue
        if order["kill_at"]:
            kill_in_write(order["kill_at"])
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        learn = script(build(data, checkpoint, order["folder"]))
        torch.save(end_of(learn), order["end"] + ".part")
        Path(order["end"] + ".part").replace(order["end"])  # a kill may fall into the writing
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
