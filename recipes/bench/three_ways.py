"""The same job three ways: docs/three_ways in turns, on the same rows.

export HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1
taskset -c 1 python recipes/bench/three_ways.py --rows 300 --epochs 1 --rounds 5
python recipes/bench/three_ways.py --rows 1400 --epochs 3 --rounds 1    # scores worth reading

A round calls `main` of each file: reads the tickets, fine-tunes, saves, answers one ticket and all
of the test tickets. Imports are not timed. What each side caches on the disk, such as tokenised
rows, it has cached after the first round, which is not counted (unless there is one round only).
"""

import argparse
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import machine, minilm_folder, package_versions
from rounds import Comparison, Measure, table, take_turns

WAYS = Path(__file__).parents[2] / "docs" / "three_ways"
# Hugging Face's Trainer is the yardstick. ftkit's own choice of precision is bf16 where the CPU
# computes in it; the others compute in fp32.
NAMES = ("trainer", "ftkit", "ftkit-fp32", "blurr")


def count_lines(file: Path) -> int:
    """Lines that are neither blank nor a comment, the docstrings' counted."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#"))


def load_way(name: str) -> Callable[..., dict[str, float]]:
    """The `main` of a file in docs/three_ways."""
    spec = importlib.util.spec_from_file_location(f"{name}_way", WAYS / f"{name}_way.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    way: Callable[..., dict[str, float]] = module.main
    return way


def write_rows(folder: Path, rows: int) -> Path:
    """At most `rows` tickets of each split, in the proportions of the queues, for all to read."""
    import ftkit

    folder.mkdir(parents=True)
    tickets = ftkit.load_data("sample:tickets", columns={"label": "queue"}, limit=rows)
    for split, chosen in tickets.items():
        named = chosen.select_columns(["text", "label"]).rename_column("label", "queue")
        named.to_json(folder / f"{split}.jsonl")
    return folder


def main(
    rows: int = 300, epochs: int = 1, rounds: int = 5, ways: tuple[str, ...] = NAMES[:3]
) -> dict[str, dict[str, float]]:
    """Take turns, print ratios of times, lines and scores; returns the scores of each way."""
    scores: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = write_rows(Path(work, "tickets"), rows)

        def measure(name: str, clock: Callable[[], float]) -> Measure:
            way, output = load_way(name.partition("-")[0]), Path(work, name)
            options = {"precision": "fp32"} if name.endswith("-fp32") else {}

            def once() -> float:
                shutil.rmtree(output, ignore_errors=True)
                started = clock()
                scores[name] = way(str(folder), minilm_folder(), str(output), epochs, **options)
                return clock() - started

            return once

        contenders = {name: measure(name, time.process_time) for name in ways}
        figures = take_turns(contenders, rounds, warm_up=rounds > 1)
    print(table([Comparison(f"{rows} rows, {epochs} epochs", "s", figures, {})]))
    for name in ways:
        shown = "  ".join(f"{score} {value:.4f}" for score, value in scores[name].items())
        lines = count_lines(WAYS / f"{name.partition('-')[0]}_way.py")
        print(f"{name}: {lines} lines; test {shown}")
    print(machine(), package_versions())
    return scores


def _options() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300, help="of each split, at most")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=NAMES, default=NAMES[:3])
    return vars(parser.parse_args())


if __name__ == "__main__":
    main(**_options())
