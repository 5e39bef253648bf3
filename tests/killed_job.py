"""Answers rows in children of this process, which it kills. Run by tests/jobs/test_predict.py.

python killed_job.py KILLS SEED MODEL INPUT OUTPUT [INPUT OUTPUT]    answers each INPUT: runs
`ftkit predict --resume` again and again, kills it where it has written some rows more, and lets
the last one end. Prints how many rows there were at each kill.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import ftkit
import ftkit.jobs.predict
from ftkit.cli import main


def rows_of(state):
    """Rows that count; a state is replaced whole, so it can be read at any time."""
    try:
        return json.loads(state.read_text())["rows"]
    except FileNotFoundError:
        return 0


def run(model, source, output):
    """The process id of a child that answers the rows."""
    child = os.fork()
    if child == 0:
        given = [model, source, "--output", output, "--batch-size", "1", "--resume"]
        os._exit(main(["predict", *given]))
    return child


def kill_somewhere(command, state, rng):
    """Kill a child within the next rows that it writes."""
    until = rows_of(state) + rng.randint(1, 48)
    child = run(*command)
    while rows_of(state) < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        assert not ended, f"ended with {status} before it was killed"
        time.sleep(rng.random() / 500)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(rows_of(state), flush=True)


if __name__ == "__main__":
    kills, seed, model, *files = sys.argv[1:]
    rng = random.Random(int(seed))
    # What transformers imports and prepares for its first model, once for all children. It is not
    # asked: threads would not survive a fork.
    ftkit.load_model(model)
    for source, output in zip(files[::2], files[1::2], strict=True):
        for _ in range(int(kills)):
            kill_somewhere((model, source, output), Path(f"{output}.part.json"), rng)
        _, status = os.waitpid(run(model, source, output), 0)
        assert os.waitstatus_to_exitcode(status) == 0
