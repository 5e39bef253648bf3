"""Quality: `ftkit train` against Hugging Face's Trainer as it comes, on the same rows of real data.

For each of four data sets both contenders read one folder of parquet files, drawn once. The Trainer
runs with three learning rates and is given the best of them by its TEST score; ftkit runs once a
seed with its defaults. Every run is one process and one line of JSON in --results; a run that is
already there is skipped, so the work can be stopped and continued. `--table` prints what is there.

    python recipes/bench/quality.py --work /tmp/bench --contenders trainer ftkit
    python recipes/bench/quality.py --work /tmp/bench --table
"""

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from common import (
    MAX_LENGTH,
    WORK,
    Rows,
    build_trainer,
    machine,
    minilm_folder,
    package_versions,
    prepare_folder,
    tokenize_folder,
)

EPOCHS = {"sst2": 2, "ag_news": 1, "banking77": 3, "go_emotions": 2}
LEARNING_RATES = (1e-4, 5e-5, 2e-5)
FTKIT_DEFAULT = None  # the learning rate of ftkit's lines: the one it chooses


@dataclass(frozen=True)
class Run:
    """One training run: what makes it different from every other line of the results."""

    dataset: str
    contender: str  # "trainer" or "ftkit"
    lr: float | None
    seed: int

    def key(self, rows: Rows) -> tuple[Any, ...]:
        return (self.dataset, self.contender, self.lr, self.seed, tuple(asdict(rows).values()))

    def folder(self, work: Path) -> Path:
        return work / "runs" / f"{self.dataset}-{self.contender}-{self.lr or 'default'}-{self.seed}"


def train_with_trainer(run: Run, data_folder: Path, output: Path) -> dict[str, Any]:
    """Fine-tune with the Trainer, then score validation and test; called in a fresh process."""
    from transformers import AutoTokenizer

    data = tokenize_folder(data_folder, AutoTokenizer.from_pretrained(minilm_folder()))
    trainer = build_trainer(data, output, EPOCHS[run.dataset], run.lr or 0.0, run.seed)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    splits = ("validation", "test")
    outputs = {split: predict_by_length(trainer, data.splits[split]) for split in splits}
    if data.is_multi_label:
        threshold = best_threshold(*outputs["validation"])
        scores = {split: multi_label_scores(*outputs[split], threshold) for split in outputs}
    else:
        scores = {split: single_label_scores(*outputs[split]) for split in outputs}
    settings = {
        "batch_size": 32,
        "max_length": MAX_LENGTH,
        "precision": str(trainer.model.dtype),
        "optimizer": str(trainer.args.optim),
        "schedule": str(trainer.args.lr_scheduler_type),
        "weight_decay": trainer.args.weight_decay,
    }
    return {"scores": scores, "train_seconds": seconds, "settings": settings, "machine": machine()}


def predict_by_length(trainer: Any, rows: Any) -> tuple[Any, Any]:
    """Labels and logits of a split, in order of length: less padding, the same scores."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    prediction = trainer.predict(rows.select(sorted(range(len(rows)), key=lengths.__getitem__)))
    return prediction.label_ids, prediction.predictions


def single_label_scores(labels: Any, logits: Any) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    guesses = logits.argmax(axis=1)
    macro = f1_score(labels, guesses, average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(labels, guesses)), "macro_f1": float(macro)}


def multi_label_scores(labels: Any, logits: Any, threshold: float) -> dict[str, float]:
    """Micro and macro F1 at the threshold chosen on validation, and micro F1 at the usual 0.5."""
    return {
        "micro_f1": f1_above(threshold, labels, logits),
        "micro_f1_at_0.5": f1_above(0.5, labels, logits),
        "macro_f1": f1_above(threshold, labels, logits, average="macro"),
        "threshold": threshold,
    }


def best_threshold(labels: Any, logits: Any) -> float:
    """The threshold from 0.05 to 0.95 in steps of 0.01 with the best micro F1."""
    grid = [step / 100 for step in range(5, 96)]
    return max(grid, key=lambda threshold: f1_above(threshold, labels, logits))


def f1_above(threshold: float, labels: Any, logits: Any, average: str = "micro") -> float:
    """F1 where a label is given when its probability reaches the threshold."""
    from scipy.special import expit
    from sklearn.metrics import f1_score

    return float(f1_score(labels, expit(logits) >= threshold, average=average, zero_division=0))


def train_with_ftkit(run: Run, data_folder: Path, output: Path) -> dict[str, Any]:
    """`ftkit train classification` with its defaults; the scores are those it writes itself."""
    shutil.rmtree(output, ignore_errors=True)
    options = {
        "--data": data_folder,
        "--checkpoint": "minilm",
        "--epochs": EPOCHS[run.dataset],
        "--output": output,
        "--seed": run.seed,
    }
    words = [str(word) for option in options.items() for word in option]
    program = str(Path(sys.executable).with_name("ftkit"))
    subprocess.run([program, "train", "classification", *words], check=True)
    metrics = json.loads((output / "metrics.json").read_text())
    settings = (output / "run.toml").read_text() if (output / "run.toml").exists() else ""
    return {
        "scores": {split: metrics[split] for split in ("validation", "test")},
        "train_seconds": metrics.get("seconds"),
        "settings": {"run.toml": settings},
        "machine": machine(),
    }


CONTENDERS = {"trainer": train_with_trainer, "ftkit": train_with_ftkit}


def planned_runs(datasets: list[str], contenders: list[str], seeds: list[int]) -> Iterator[Run]:
    """Every run, in the order that completes a data set at a time."""
    for seed in seeds:
        for dataset in datasets:
            for contender in contenders:
                rates = LEARNING_RATES if contender == "trainer" else (FTKIT_DEFAULT,)
                yield from (Run(dataset, contender, lr, seed) for lr in rates)


def measure(run: Run, rows: Rows, work: Path) -> dict[str, Any]:
    """One run in a fresh process, as a line of the results."""
    data_folder = prepare_folder(run.dataset, rows, work)
    started = time.perf_counter()
    train = CONTENDERS[run.contender]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        outcome = process.submit(train, run, data_folder, run.folder(work)).result()
    return {
        **asdict(run),
        "rows": asdict(rows),
        "epochs": EPOCHS[run.dataset],
        **outcome,
        "seconds": time.perf_counter() - started,
        "versions": package_versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def read_lines(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    run = Run(line["dataset"], line["contender"], line["lr"], line["seed"])
    return run.key(Rows(**line["rows"]))


def table(lines: list[dict[str, Any]], rows: Rows) -> str:
    """Markdown: test scores in per cent, means over seeds (min to max where there are several)."""
    rates = sorted(LEARNING_RATES)
    head = ["data", "epochs", "score on test", *(f"Trainer {lr:.0e}" for lr in rates)]
    head += ["best Trainer", "ftkit", "difference", "seeds"]
    out = [table_row(head), "|---|---:|---|" + "---:|" * (len(head) - 3)]
    chosen = [line for line in lines if line["rows"] == asdict(rows)]
    for dataset, epochs in EPOCHS.items():
        for name in ("micro_f1", "micro_f1_at_0.5") if dataset == "go_emotions" else ("accuracy",):
            scores: dict[float | None, list[float]] = {}
            for line in chosen:
                if line["dataset"] == dataset and name in line["scores"]["test"]:
                    scores.setdefault(line["lr"], []).append(100 * line["scores"]["test"][name])
            ours = scores.pop(FTKIT_DEFAULT, [])
            best = max(scores.values(), key=mean, default=[])
            difference = f"{mean(ours) - mean(best):+.2f}" if ours and best else ""
            cells = [cell(values) for values in (*(scores.get(lr, []) for lr in rates), best, ours)]
            seeds = str(len({line["seed"] for line in chosen if line["dataset"] == dataset}))
            out.append(table_row([dataset, str(epochs), name, *cells, difference, seeds]))
    return "\n".join(out)


def table_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def cell(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality of ftkit against the Trainer.")
    parser.add_argument("--work", type=Path, default=WORK, help="rows drawn, runs, results")
    parser.add_argument("--results", type=Path, help="default: WORK/quality.jsonl")
    parser.add_argument("--datasets", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--rows", nargs=3, type=int, metavar=("TRAIN", "VALIDATION", "TEST"))
    parser.add_argument("--table", action="store_true", help="print the results and stop")
    options = parser.parse_args()
    rows = Rows(*options.rows) if options.rows else Rows()
    results = options.results or options.work / "quality.jsonl"
    if options.table:
        print(table(read_lines(results), rows))
        return
    results.parent.mkdir(parents=True, exist_ok=True)
    for run in planned_runs(options.datasets, options.contenders, options.seeds):
        if run.key(rows) in map(key_of, read_lines(results)):
            continue
        say(f"{run}")
        line = measure(run, rows, options.work)
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        say(f"{line['scores']['test']} in {line['seconds']:.0f} s")


if __name__ == "__main__":
    main()
