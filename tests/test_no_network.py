"""No default path reaches out: nothing is asked of a network where all files are here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A Learner from the package and from a folder, a short fit, and all that follows one; then a name
# of the hub, which shows that an attempt is seen.
SCRIPT = """
import socket, sys, time

asked = []

def refuse(kind):
    def refused(*args, **kwargs):
        import traceback
        asked.append((kind, args, traceback.format_stack()[-6:-1]))
        raise OSError(f"{kind}: there is no network")
    return refused

real = socket.socket.connect

def connect(self, address):
    is_here = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1")
    return real(self, address) if is_here else refuse("connect")(address)

socket.socket.connect = connect
socket.socket.connect_ex = lambda self, address: connect(self, address) or 0
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse(name))

import ftkit

rows, folder, packaged, checkpoint = sys.argv[1:]
data = ftkit.load_data(rows)
ftkit.classification_learner(data, packaged, bs=4)
learn = ftkit.classification_learner(data, checkpoint, bs=4)
learn.fit_one_cycle(1)
ftkit.save(learn, f"{folder}/model")
ftkit.load_model(f"{folder}/model").predict(["The parcel is late"])
ftkit.check(rows, checkpoint=checkpoint)
ftkit.report(learn).save(f"{folder}/report.html")
for kind, args, stack in asked:
    print(kind, args, *stack, file=sys.stderr)
if asked:
    sys.exit(1)
time.sleep = lambda seconds: None  # the hub's client waits between its attempts
try:
    ftkit.classification_learner(data, "some-body/of-the-hub")
except ftkit.FtkitError:
    print(f"attempts: {len(asked)}")
"""


@pytest.mark.slow
def test_nothing_is_asked_of_a_network_but_for_a_name_of_the_hub(
    tmp_path: Path, tiny_checkpoint: Path, minilm: str
) -> None:
    rows = tmp_path / "rows.csv"
    lines = [f"the parcel number {i} is late,{'ab'[i % 2]}" for i in range(12)]
    rows.write_text("\n".join(["text,label", *lines]) + "\n", "utf-8")
    left_out = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE")
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, rows, tmp_path, minilm, tiny_checkpoint],
        env={**env, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert (tmp_path / "report.html").exists()
    assert int(ended.stdout.rpartition("attempts: ")[2]) > 0
