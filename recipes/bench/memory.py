"""Memory: `ftkit predict` over a million short rows of Parquet needs no more than over 50,000.

The command runs in a process of its own, over files of different length that begin alike; every
20 ms the resident memory of that process and of all below it is added up, with and without what is
mapped from files, such as libraries. The model is a small random BERT with a tokenizer trained on
the rows: what a row leaves behind does not depend on the weights. Exits with 1 where a longer
file's peak is more than `--most` above the shortest one's.

    python recipes/bench/memory.py --work /tmp/ftkit-bench/memory
"""

import argparse
import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
from common import DATA_SEED, WORK, machine, package_versions, tiny_config

ROW_GROUP = 100_000
LABELS = ("billing", "delivery", "technical")
SECONDS = 0.02  # between two looks at the memory


@dataclass(frozen=True)
class Run:
    """`ftkit predict` over a file."""

    rows: int
    peak: float  # MiB, all processes together
    own: float  # MiB, the peak of what is not mapped from files
    seconds: float


def write_rows(path: Path, count: int) -> None:
    """Rows of 2 to 12 words, drawn from 2,000 by a seed; each file begins as the others do."""
    rng = random.Random(DATA_SEED)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(2000)]
    schema = pa.schema({"id": pa.int64(), "text": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, count, ROW_GROUP):
            ids = range(first, min(first + ROW_GROUP, count))
            texts = [" ".join(rng.choices(words, k=rng.randint(2, 12))) for _ in ids]
            writer.write_table(pa.table({"id": ids, "text": texts}, schema=schema))


def save_model(folder: Path, texts: list[str]) -> None:
    """A bundle of a BERT of two layers of 64, with random weights."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertForSequenceClassification, BertTokenizer

    from ftkit.inference.bundle import save_bundle
    from ftkit.tasks import Classification

    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(texts, vocab_size=2000, show_progress=False)
    tokenizer = BertTokenizer(vocab=trained.get_vocab())
    task = Classification(kind="single", labels=LABELS)
    config = tiny_config(tokenizer, 64, **task.head().config)
    save_bundle(folder, BertForSequenceClassification(config), tokenizer, task, limit=64, card="")


def predict(model: Path, source: Path, output: Path, rows: int) -> Run:
    """What `ftkit predict` takes."""
    command = [sys.executable, "-m", "ftkit.cli", "predict", str(model), str(source)]
    command += ["--output", str(output)]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        peak, own = watch(job)
    if job.returncode:
        sys.exit(f"ftkit predict ended with {job.returncode}")
    found = pq.read_metadata(output).num_rows
    if found != rows:
        sys.exit(f"{found:,} answers to {rows:,} rows")
    return Run(rows, peak, own, time.perf_counter() - started)


def watch(job: subprocess.Popen[Any]) -> tuple[float, float]:
    """Wait for the job; the peaks of its process tree, with and without what is mapped, in MiB."""
    peak, own = 0, 0
    process = psutil.Process(job.pid)
    while job.poll() is None:
        sizes = [resident(each) for each in [process, *process.children(recursive=True)]]
        peak = max(peak, sum(rss for rss, _ in sizes))
        own = max(own, sum(rss - mapped for rss, mapped in sizes))
        time.sleep(SECONDS)
    return peak / 2**20, own / 2**20


def resident(process: Any) -> tuple[int, int]:
    """Bytes, and those mapped from files, of a process that may have ended since it was listed."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0, 0
    return memory.rss, memory.shared


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of ftkit predict by rows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--most", type=float, default=0.1, help="what a longer file may add (0.1)")
    parser.add_argument("--work", type=Path, default=WORK / "memory", help="rows, model, answers")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    for count in sorted(options.rows):
        source = work / f"rows-{count}.parquet"
        write_rows(source, count)
        if not runs:
            save_model(work / "model", pq.read_table(source)["text"].to_pylist()[:20_000])
        runs.append(predict(work / "model", source, work / f"answers-{count}.parquet", count))
        print(f"{runs[-1]}", flush=True)
    print(f"\n{machine()}, {package_versions()}\n")
    print(
        "| rows | peak, MiB | against the fewest | of its own, MiB | against the fewest | rows/s |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    for run in runs:
        ratios = [f"{run.peak / runs[0].peak:.3f}", f"{run.own / runs[0].own:.3f}"]
        cells = [f"{run.rows:,}", f"{run.peak:,.0f}", ratios[0], f"{run.own:,.0f}", ratios[1]]
        print(f"| {' | '.join([*cells, f'{run.rows / run.seconds:,.0f}'])} |")
    if options.json:
        figures = [asdict(run) for run in runs]
        record = {"machine": machine(), "versions": package_versions(), "runs": figures}
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    if max(run.peak for run in runs) > (1 + options.most) * runs[0].peak:
        sys.exit(f"memory is not flat within {options.most:.0%}")


if __name__ == "__main__":
    main()
