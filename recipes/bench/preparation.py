"""Preparation: from a file of rows to batches, ftkit against datasets and against Blurr.

Each run is a process of its own, in which one side reads csv or Parquet, tokenises, makes batches
of 32, reads all of them once, shuffled, and takes a few training steps with a tiny model. The
first run finds no cache, the next one that of the first. Rows a second count from the file to the
last batch, imports left out; the peak of memory is that of the process. scale.py asks the same
over numbers of rows and lengths of texts.

    python recipes/bench/preparation.py --clock cpu
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from common import (
    DATA,
    DATA_SEED,
    MAX_LENGTH,
    WORK,
    conditions,
    minilm_folder,
    tiny_config,
    write_section,
)
from memory import watch
from rounds import Comparison, Measure, table, take_turns

BATCH = 32
STEPS = 20
LABELS = 4
HELD_OUT = 100  # validation rows
ROW_GROUP = 100_000
FORMATS = ("csv", "parquet")


@dataclass(frozen=True)
class Run:
    """What one process took."""

    prepare: float  # seconds, from the file to a loader
    read: float  # seconds, all batches once
    step: float  # milliseconds of a training step of the tiny model, setting up included
    batches: int
    peak: float  # MiB, resident
    own: float  # MiB, of that, what is not mapped from files


def write_rows(folder: Path, rows: int, words: int, format: str) -> None:
    """Train and validation files: texts of `words` words, cut out of ag_news at random places.

    A word with the row's number makes each text another one.
    """
    if (folder / f"train.{format}").exists():
        return
    texts = pq.read_table(DATA / "ag_news" / "train.parquet")["text"].to_pylist()
    corpus = " ".join(texts).split()
    rng = random.Random(DATA_SEED)
    schema = pa.schema({"text": pa.string(), "label": pa.int64()})
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("validation", HELD_OUT), ("train", rows)):
        file = folder / f"{split}.{format}"
        part = file.with_suffix(".part")
        writer: Any = pq.ParquetWriter if format == "parquet" else pyarrow.csv.CSVWriter
        with writer(part, schema) as out:
            for first in range(0, count, ROW_GROUP):
                numbers = range(first, min(first + ROW_GROUP, count))
                starts = [rng.randrange(len(corpus) - words) for _ in numbers]
                pieces = [
                    f"w{number} {' '.join(corpus[start : start + words - 1])}"
                    for number, start in zip(numbers, starts, strict=True)
                ]
                labels = [number % LABELS for number in numbers]
                out.write_table(pa.table({"text": pieces, "label": labels}, schema=schema))
        part.rename(file)


def save_tiny(folder: Path) -> Path:
    """A BERT of two layers of 64, with random weights and MiniLM's tokenizer."""
    from transformers import AutoTokenizer, BertModel

    if not (folder / "config.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
        tokenizer.save_pretrained(folder)
        BertModel(tiny_config(tokenizer, MAX_LENGTH)).save_pretrained(folder)
    return folder


# The sides. Each gives its loader, and what takes the training steps.

Side = tuple[Any, Callable[[], Any]]


def with_ftkit(folder: Path, checkpoint: Path) -> Side:
    """Rows checked, tokenised in bulk and kept in a cache; batches of like length."""
    import ftkit

    learn = ftkit.classification_learner(folder, checkpoint, bs=BATCH, precision="fp32")
    return learn.dls.train, partial(take_steps, learn)


def with_datasets(folder: Path, checkpoint: Path) -> Side:
    """`load_dataset`, `map`, a DataLoader that pads batches at random; the Trainer's steps."""
    from datasets import load_dataset
    from torch.utils.data import DataLoader
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    files = {file.stem: str(file) for file in folder.iterdir()}
    kind = Path(files["train"]).suffix[1:]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def encode(part: dict[str, list[Any]]) -> Any:
        return tokenizer(part["text"], truncation=True, max_length=MAX_LENGTH)

    data = load_dataset(kind, data_files=files)
    rows = data.map(encode, batched=True, remove_columns=["text"])["train"]
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=LABELS)
    pad = DataCollatorWithPadding(tokenizer)
    options = TrainingArguments(
        output_dir=str(folder.with_name("trainer")),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, options, train_dataset=rows, data_collator=pad)
    return DataLoader(rows, BATCH, shuffle=True, collate_fn=pad), trainer.train


def with_blurr(folder: Path, checkpoint: Path) -> Side:
    """A DataFrame; each batch is tokenised when it is read, and nothing is kept."""
    import ftkit.blurr  # noqa: F401, I001 - first: it gives back what Blurr expects

    import pandas as pd
    from blurr.text.modeling.all import BlearnerForSequenceClassification

    read: dict[str, Any] = {"csv": pd.read_csv, "parquet": pd.read_parquet}
    parts = [
        read[file.suffix[1:]](file).assign(is_valid=file.stem == "validation")
        for file in folder.iterdir()
    ]
    learn = BlearnerForSequenceClassification.from_data(
        pd.concat(parts, ignore_index=True),
        str(checkpoint),
        text_attr="text",
        label_attr="label",
        dl_kwargs={"bs": BATCH},
    )
    learn.unfreeze()
    return learn.dls.train, partial(take_steps, learn)


def take_steps(learn: Any) -> None:
    """The first steps of a fit."""
    from fastai.callback.core import Callback, CancelFitException

    def stop(self: Any) -> None:
        if self.iter + 1 == STEPS:
            raise CancelFitException

    learn.fit(1, 1e-4, cbs=Callback(after_batch=stop))


THEIRS, OURS, BLURR = "load_dataset + map + DataLoader", "ftkit", "Blurr"
SIDES = {THEIRS: with_datasets, OURS: with_ftkit, BLURR: with_blurr}


def run_here(side: str, folder: Path, checkpoint: Path, clock: Measure) -> None:
    """Take the steps of one side in this process, and print the times as JSON."""
    from transformers.utils import logging

    # What a side imports is imported before the clock starts.
    if side == BLURR:
        import ftkit.blurr  # noqa: F401, I001 - first: it gives back what Blurr expects
        import blurr.text.modeling.all  # noqa: F401
    elif side == OURS:
        from ftkit import classification_learner  # noqa: F401
    else:
        from datasets import load_dataset  # noqa: F401
        from transformers import AutoModelForSequenceClassification, Trainer  # noqa: F401
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    marks = [clock()]
    loader, train = SIDES[side](folder, checkpoint)
    marks.append(clock())
    batches = sum(1 for _ in loader)
    marks.append(clock())
    train()
    marks.append(clock())
    prepare, read, steps = (b - a for a, b in pairwise(marks))
    figures = {
        "prepare": prepare,
        "read": read,
        "step": 1000 * steps / STEPS,
        "batches": batches,
    }
    print(f"\n{json.dumps(figures)}")


def run_apart(side: str, folder: Path, checkpoint: Path, cache: Path, clock: str) -> Run:
    """The same in a process of its own, whose memory is watched."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache)}
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    command += ["--checkpoint", str(checkpoint), "--clock", clock]
    log = cache.with_suffix(".log")
    with (
        log.open("w") as out,
        subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT) as job,
    ):
        peak, own = watch(job)
    lines = log.read_text().splitlines()
    if job.returncode:
        sys.exit(f"{side} over {folder} ended with {job.returncode}: see {log}")
    return Run(**json.loads(lines[-1]), peak=peak, own=own)


@dataclass(frozen=True)
class Runs:
    """First and cached runs of one side over the same file, a pair each round."""

    first: list[Run]
    cached: list[Run]


def measure_sides(
    sides: list[str], folder: Path, work: Path, rounds: int, clock: str
) -> dict[str, Runs]:
    """Sides in turns over one file: a run without a cache, and one with that of the first."""
    checkpoint = save_tiny(work / "tiny")
    runs = {side: Runs([], []) for side in sides}

    def pair(side: str) -> float:
        cache = work / f"cache-{time.time_ns()}"
        cache.mkdir()
        for kept in (runs[side].first, runs[side].cached):
            kept.append(run_apart(side, folder, checkpoint, cache, clock))
        shutil.rmtree(cache)
        cache.with_suffix(".log").unlink()
        return runs[side].first[-1].prepare

    take_turns({side: partial(pair, side) for side in sides}, rounds, warm_up=False)
    return runs


def compare(format: str, rows: int, runs: dict[str, Runs]) -> list[Comparison]:
    """Rows a second and memory, of one format."""

    def figures(of: Callable[[Runs], list[float]]) -> dict[str, list[float]]:
        return {side: of(found) for side, found in runs.items()}

    def rates(found: list[Run]) -> list[float]:
        return [rows / (run.prepare + run.read) for run in found]

    return [
        Comparison(f"{format}, first", "rows/s", figures(lambda found: rates(found.first)), {}),
        Comparison(f"{format}, cached", "rows/s", figures(lambda found: rates(found.cached)), {}),
        Comparison(
            f"{format}, the batches alone",
            "rows/s",
            figures(lambda found: [rows / run.read for run in found.cached]),
            {},
        ),
        Comparison(
            f"{format}, peak of memory, first",
            "MiB",
            figures(lambda found: [run.peak for run in found.first]),
            {},
        ),
        Comparison(
            f"{format}, of that not mapped from files",
            "MiB",
            figures(lambda found: [run.own for run in found.first]),
            {},
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows a second from a file to batches.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=40, help="of a text")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--work", type=Path, default=WORK / "preparation", help="rows and caches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--into", type=Path, help="write the table into this file, between markers")
    for name in ("side", "folder", "checkpoint"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        clock = time.process_time if options.clock == "cpu" else time.perf_counter
        run_here(options.side, Path(options.folder), Path(options.checkpoint), clock)
        return
    comparisons = []
    for format in options.formats:
        folder = options.work / f"{format}-{options.rows}-{options.words}"
        write_rows(folder, options.rows, options.words, format)
        print(f"{format}, {time.strftime('%H:%M:%S')}", flush=True)
        runs = measure_sides(list(SIDES), folder, options.work, options.rounds, options.clock)
        comparisons += compare(format, options.rows, runs)
    found = f"{options.rows:,} rows of {options.words} words.\n\n{table(comparisons)}\n\n"
    found += conditions(options.rounds, options.clock)
    print(f"\n{found}")
    if options.into:
        write_section(options.into, "preparation", found)


if __name__ == "__main__":
    main()
