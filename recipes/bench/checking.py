"""The data check over 100,000 rows: how long `ftkit.check` takes.

The rows are the texts of ag_news, again and again, in each of which about a quarter of the words is
drawn anew, so that few are the same and many are a little alike; 90,000 are train and 10,000 test.
A process of its own reads them from Parquet. Seconds are those of the wall clock and of the CPU,
all threads together: on a machine that does other work the latter say more. Exits with 1 where the
check takes longer than `--most`.

    python recipes/bench/checking.py --checkpoint minilm
"""

import argparse
import json
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from common import DATA, DATA_SEED, WORK, machine, package_versions


def write_rows(folder: Path, count: int) -> None:
    """Train and test files of `count` rows together."""
    rng = random.Random(DATA_SEED)
    table = pq.read_table(DATA / "ag_news" / "train.parquet")
    texts, labels = table["text"].to_pylist(), table["label"].to_pylist()
    rows = []
    for number in range(count):
        words = texts[number % len(texts)].split()
        for _ in range(max(1, len(words) // 4)):
            words[rng.randrange(len(words))] = rng.choice(words)
        words[rng.randrange(len(words))] = f"w{number}"
        rows.append({"text": " ".join(words), "label": labels[number % len(texts)]})
    rng.shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", rows[count // 10 :]), ("test", rows[: count // 10])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{split}.parquet")


def measure(folder: Path, checkpoint: str | None, cache: Path) -> None:
    """Check the rows in this process, and print its seconds as JSON."""
    clocks = [(time.perf_counter(), time.process_time())]
    import datasets

    import ftkit

    datasets.config.HF_DATASETS_CACHE = cache
    check = ftkit.check
    clocks.append((time.perf_counter(), time.process_time()))
    found = check(str(folder), "classification", checkpoint)
    clocks.append((time.perf_counter(), time.process_time()))
    took = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(clocks)]
    findings = {f"{each.name} of {each.split}": each.count for each in found.findings}
    print(json.dumps({"import": took[0], "check": took[1], "findings": findings}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of the data check.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--checkpoint", help="count tokens of it; words without it")
    parser.add_argument("--most", type=float, default=20, help="seconds that it may take (20)")
    parser.add_argument("--work", type=Path, default=WORK / "checking", help="rows and cache")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    work: Path = options.work
    if options.measure:
        measure(options.measure, options.checkpoint, work / "cache")
        return
    folder = work / f"rows-{options.rows}"
    if not (folder / "test.parquet").exists():
        write_rows(folder, options.rows)
    for file in (work / "cache" / "ftkit").glob("*.safetensors"):
        file.unlink()  # or tokens would be those of the last time
    command = [sys.executable, __file__, "--measure", str(folder), "--work", str(work)]
    command += ["--checkpoint", options.checkpoint] if options.checkpoint else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout)
    print(f"{machine()}, {package_versions()}\n")
    print(f"{options.rows:,} rows, {options.checkpoint or 'no checkpoint'}")
    print("| part | wall, s | CPU, s |\n|---|---:|---:|")
    for name in ("import", "check"):
        wall, cpu = figures[name]
        print(f"| {name} | {wall:.1f} | {cpu:.1f} |")
    print(figures["findings"])
    if options.json:
        record = {"machine": machine(), "versions": package_versions(), **figures}
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    if sum(figures[name][0] for name in ("import", "check")) > options.most:
        sys.exit(f"longer than {options.most:.0f} s")


if __name__ == "__main__":
    main()
