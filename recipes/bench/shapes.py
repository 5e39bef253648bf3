"""Shapes: what oneDNN keeps for batches of many shapes, in training and in answering, in bf16.

Each figure is of a fresh process: either with as many shapes as ftkit keeps, or with the 1,024 of
torch and oneDNN. Memory is what is not mapped from files, at the end less at the start; seconds
are CPU time. The kinds of process take turns.

    python recipes/bench/shapes.py --work /tmp/ftkit-bench --rounds 5
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from answering import train_briefly
from common import WORK, Rows, prepare_folder
from rounds import Comparison, Measure, table, take_turns

DATA = ("sst2", Rows(320, 32, 500))
BATCH, EPOCHS = 8, 3  # 120 steps
BATCHES = 200
KEPT = {"1,024 shapes kept": "1024", "ftkit": None}  # None: what ftkit sets
CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def train(work: Path) -> None:
    """120 steps of 8 sentences."""
    import ftkit

    data = ftkit.load_data(prepare_folder(*DATA, work), "classification")
    learn = ftkit.finetune_learner(
        data, "minilm", task="classification", bs=BATCH, precision="bf16"
    )
    with told(), learn.no_bar(), learn.no_logging():
        learn.fit(EPOCHS, 1e-4)


def answer(work: Path) -> None:
    """200 batches of 1 to 32 texts of 1 to 40 words."""
    import ftkit

    model = ftkit.load_model(work / "bundle-shapes", device="cpu", precision="bf16")
    rng = random.Random(0)
    with told():
        for _ in range(BATCHES):
            model.predict(["word " * rng.randint(1, 40)] * rng.randint(1, 32))


@contextmanager
def told() -> Iterator[None]:
    """Print what this context takes: MiB and seconds."""
    memory, started = own_memory(), time.process_time()
    yield
    print(json.dumps([own_memory() - memory, time.process_time() - started]))


def own_memory() -> float:
    """MiB of this process that are not mapped from files."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - memory.shared) / 2**20


PARTS = {"training": train, "answering": answer}


def in_process(part: str, capacity: str | None, work: Path) -> tuple[float, float]:
    """MiB and seconds of a part in a process of its own."""
    env = {name: value for name, value in os.environ.items() if name not in CAPACITIES}
    if capacity:
        env |= dict.fromkeys(CAPACITIES, capacity)
    command = [sys.executable, __file__, "--work", str(work), "--part", part]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    memory, seconds = json.loads(done.stdout.splitlines()[-1])
    return memory, seconds


def compare(part: str, work: Path, rounds: int) -> list[Comparison]:
    """Memory and seconds of a part, by how many shapes are kept."""
    seconds: dict[str, list[float]] = {name: [] for name in KEPT}

    def measure(name: str) -> float:
        memory, taken = in_process(part, KEPT[name], work)
        seconds[name].append(taken)
        return memory

    contenders: dict[str, Measure] = {name: partial(measure, name) for name in KEPT}
    memory = take_turns(contenders, rounds, warm_up=False)
    return [Comparison(part, "MiB", memory, {}), Comparison(part, "s", seconds, {})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=PARTS, help="run this here, instead of comparing")
    args = parser.parse_args()
    if args.part:
        PARTS[args.part](args.work)
        return
    bundle = args.work / "bundle-shapes"
    if not bundle.exists():
        train_briefly("classification", prepare_folder(*DATA, args.work), bundle)
    print(table([each for part in PARTS for each in compare(part, args.work, args.rounds)]))


if __name__ == "__main__":
    main()
