"""Quality: `ftkit train` against Hugging Face's Trainer as it comes, on the same rows of real data.

For each of the data sets both contenders read one folder of parquet files, drawn once. The Trainer
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common import (
    MAX_LENGTH,
    WORK,
    Rows,
    build_trainer,
    by_length,
    describe_versions,
    machine,
    minilm_folder,
    package_versions,
    prepare_folder,
    tokenize_folder,
    write_section,
)
from peers import Peer, prepare_ner, prepare_qa


@dataclass(frozen=True)
class Study:
    """What is done with one data set; ftkit's task knows its columns by their names."""

    task: str  # as in `ftkit train TASK`
    epochs: int
    scores: tuple[str, ...]  # lines of the table
    rows: Rows = field(default_factory=Rows)  # unless --rows says otherwise


STUDIES = {
    "sst2": Study("classification", 2, ("accuracy",)),
    "ag_news": Study("classification", 1, ("accuracy",)),
    "banking77": Study("classification", 3, ("accuracy",)),
    "go_emotions": Study("classification", 2, ("micro_f1", "micro_f1_at_0.5")),
    "wnut17": Study("ner", 3, ("f1",), Rows(3394, 500, 1287)),
    "broad_twitter": Study("ner", 3, ("f1",), Rows(3000, 500, 2001)),
    "squad_v1": Study("qa", 1, ("exact_match", "f1"), Rows(2000, 500, 1000)),
    "squad_v2": Study("qa", 1, ("exact_match", "f1"), Rows(2000, 500, 1000)),
}
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
    study = STUDIES[run.dataset]
    peer = PEERS[study.task](data_folder, output, study.epochs, run.lr or 0.0, run.seed)
    trainer = peer.trainer
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    settings = {
        "batch_size": 32,
        "max_length": peer.max_length,
        "precision": str(trainer.model.dtype),
        "optimizer": str(trainer.args.optim),
        "schedule": str(trainer.args.lr_scheduler_type),
        "weight_decay": trainer.args.weight_decay,
    }
    return {
        "scores": peer.score(),
        "train_seconds": seconds,
        "settings": settings,
        "machine": machine(),
    }


def prepare_classification(
    data_folder: Path, output: Path, epochs: int, lr: float, seed: int, **options: Any
) -> Peer:
    """Texts with one label or several, cut at the positions that the checkpoint has."""
    from transformers import AutoTokenizer

    data = tokenize_folder(data_folder, AutoTokenizer.from_pretrained(minilm_folder()))
    trainer = build_trainer(data, output, epochs, lr, seed, **options)

    def score() -> dict[str, dict[str, float]]:
        splits = ("validation", "test")
        outputs = {split: predict_by_length(trainer, data.splits[split]) for split in splits}
        if data.is_multi_label:
            threshold = best_threshold(*outputs["validation"])
            return {split: multi_label_scores(*outputs[split], threshold) for split in outputs}
        return {split: single_label_scores(*outputs[split]) for split in outputs}

    return Peer(trainer, MAX_LENGTH, score)


PEERS = {"classification": prepare_classification, "ner": prepare_ner, "qa": prepare_qa}


def predict_by_length(trainer: Any, rows: Any) -> tuple[Any, Any]:
    """Labels and logits of a split, in order of length."""
    prediction = trainer.predict(by_length(rows))
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
    """`ftkit train TASK` with its defaults; the scores are those it writes itself."""
    shutil.rmtree(output, ignore_errors=True)
    study = STUDIES[run.dataset]
    options = {
        "--data": data_folder,
        "--checkpoint": "minilm",
        "--epochs": study.epochs,
        "--output": output,
        "--seed": run.seed,
    }
    words = [str(word) for option in options.items() for word in option]
    program = str(Path(sys.executable).with_name("ftkit"))
    subprocess.run([program, "train", study.task, *words], check=True)
    metrics = json.loads((output / "metrics.json").read_text())
    settings = (output / "run.toml").read_text() if (output / "run.toml").exists() else ""
    return {
        "scores": {split: metrics[split] for split in ("validation", "test")},
        "train_seconds": metrics.get("seconds"),
        "settings": {"run.toml": settings},
        "machine": machine(),
    }


CONTENDERS = {"trainer": train_with_trainer, "ftkit": train_with_ftkit}


def planned_runs(
    datasets: list[str], contenders: list[str], seeds: list[int], rates: list[float]
) -> Iterator[Run]:
    """Every run, in the order that completes a data set at a time."""
    for seed in seeds:
        for dataset in datasets:
            for contender in contenders:
                chosen = rates if contender == "trainer" else [FTKIT_DEFAULT]
                yield from (Run(dataset, contender, lr, seed) for lr in chosen)


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
        "epochs": STUDIES[run.dataset].epochs,
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


def table(lines: list[dict[str, Any]], rows: Rows | None) -> str:
    """Markdown: test scores in per cent, means over seeds (min to max where there are several).

    The difference is of ftkit to the best Trainer with the same seed.
    """
    rates = sorted(LEARNING_RATES)
    head = ["data", "epochs", "score on test", *(f"Trainer {lr:.0e}" for lr in rates)]
    head += ["best Trainer", "ftkit", "difference ± sd", "p", "seeds"]
    out = [table_row(head), "|---|---:|---|" + "---:|" * (len(head) - 3)]
    for dataset, study in STUDIES.items():
        wanted = asdict(rows or study.rows)
        chosen = [line for line in lines if line["dataset"] == dataset and line["rows"] == wanted]
        for name in study.scores:
            scores: dict[float | None, dict[int, float]] = {}
            for line in chosen:
                if name in line["scores"]["test"]:
                    by_seed = scores.setdefault(line["lr"], {})
                    by_seed[line["seed"]] = 100 * line["scores"]["test"][name]
            if not scores:
                continue
            ours = scores.pop(FTKIT_DEFAULT, {})
            best = max(scores.values(), key=lambda by_seed: mean(by_seed.values()), default={})
            shown = (*(scores.get(lr, {}) for lr in rates), best, ours)
            cells = [cell(list(by_seed.values())) for by_seed in shown]
            pairs = [ours[seed] - best[seed] for seed in sorted(ours.keys() & best.keys())]
            cells += [*paired_test(pairs), str(len(pairs))]
            out.append(table_row([dataset, str(study.epochs), name, *cells]))
    made = {describe_versions(line["machine"], line["versions"]) for line in lines}
    return "\n".join([*out, "", *sorted(made)])


def paired_test(differences: list[float]) -> tuple[str, str]:
    """Mean and standard deviation of the differences, and p of the paired t-test, two-sided."""
    if len(differences) < 2:
        return (f"{differences[0]:+.2f}" if differences else "", "")
    from scipy.stats import ttest_1samp

    test = f"{mean(differences):+.2f} ± {stdev(differences):.2f}"
    if not any(differences):
        return test, "1"
    return test, f"{ttest_1samp(differences, 0).pvalue:.3f}"


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
    parser.add_argument("--datasets", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument(
        "--rates", nargs="+", type=float, default=list(LEARNING_RATES), help="of the Trainer"
    )
    parser.add_argument("--rows", nargs=3, type=int, metavar=("TRAIN", "VALIDATION", "TEST"))
    parser.add_argument("--table", action="store_true", help="print the results and stop")
    parser.add_argument("--into", type=Path, help="with --table: write it into this file too")
    options = parser.parse_args()
    given = Rows(*options.rows) if options.rows else None
    results = options.results or options.work / "quality.jsonl"
    if options.table:
        lines = read_lines(results)
        found = table(lines, given)
        print(found)
        if options.into and lines:
            write_section(options.into, "quality", found)
        return
    results.parent.mkdir(parents=True, exist_ok=True)
    for run in planned_runs(options.datasets, options.contenders, options.seeds, options.rates):
        rows = given or STUDIES[run.dataset].rows
        if run.key(rows) in map(key_of, read_lines(results)):
            continue
        say(f"{run}")
        line = measure(run, rows, options.work)
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        say(f"{line['scores']['test']} in {line['seconds']:.0f} s")


if __name__ == "__main__":
    main()
