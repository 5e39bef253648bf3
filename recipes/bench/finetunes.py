"""Whole fine-tunes of four tasks: time beside score, ftkit among what people use today.

Every contender reads the same files, starts from MiniLM, and passes over the same rows as often,
32 a batch. The time is from the files to the trained model: reading, tokenising, opening the
checkpoint and training, with no cache from before; neither imports nor validation. Then the model's
weights are put into one Trainer that scores the same test rows for all, in fp32. Contenders take
turns in one process; the number of the round is the seed.

    python recipes/bench/finetunes.py --clock cpu
    python recipes/bench/finetunes.py --tasks ner --rows 64 --rounds 1    # a trial
"""

import argparse
import inspect
import json
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from common import (
    WORK,
    Rows,
    conditions,
    load_splits,
    minilm_folder,
    new_figure,
    prepare_folder,
    write_section,
)
from quality import PEERS
from rounds import Measure, spread, take_turns
from speed import fit_seconds
from summarizing import MAX_LENGTH, MAX_SUMMARY, prepare_summarization

BATCH = 32
HELD_OUT = 32  # validation rows, which nobody needs
FIRST_SEED = 42
PREPARE = {**PEERS, "summarization": prepare_summarization}


@dataclass(frozen=True, eq=False)  # a key, and a slice has no hash
class Job:
    """A task, its rows, and how long it trains."""

    task: str
    dataset: str
    epochs: int
    train: int
    test: int
    score: str
    rate: float = 1e-4  # of the Trainer and the bare loop; the best of quality.py's three
    own_rate: float | None = None  # of ftkit; None is its default

    def folder(self, work: Path, test: int = HELD_OUT) -> Path:
        return prepare_folder(self.dataset, Rows(self.train, HELD_OUT, test), work)


JOBS = (
    Job("classification", "sst2", 2, 1000, 500, "accuracy"),
    Job("ner", "wnut17", 2, 1000, 500, "f1"),
    Job("qa", "squad_v1", 1, 256, 100, "f1"),
    # One rate for all layers: the new attention stands between them.
    Job("summarization", "dialogsum", 1, 256, 50, "rougeL", 5e-4, 5e-4),
)


@dataclass(frozen=True)
class Fit:
    """What a fine-tune took, and the Hugging Face model that it left."""

    prepare: float  # seconds, from the files to the first batch
    train: float  # seconds
    model: Any


@dataclass(frozen=True)
class Scored:
    """The same, once it has been scored."""

    prepare: float
    train: float
    score: float
    seed: int

    @property
    def whole(self) -> float:
        return self.prepare + self.train


# The contenders


def with_trainer(job: Job, work: Path, seed: int, clock: Measure, **options: Any) -> Fit:
    """Hugging Face's Trainer with these of its options."""
    started = clock()
    peer = PREPARE[job.task](
        job.folder(work), work / "trainer", job.epochs, job.rate, seed, **options
    )
    prepared = clock()
    peer.trainer.train()
    return Fit(prepared - started, clock() - prepared, peer.trainer.model)


def with_tuned_trainer(job: Job, work: Path, seed: int, clock: Measure) -> Fit:
    """The Trainer tuned by hand: batches of like length, bf16, fused AdamW."""
    import torch

    return with_trainer(
        job,
        work,
        seed,
        clock,
        train_sampling_strategy="group_by_length",
        bf16=True,
        use_cpu=not torch.cuda.is_available(),  # on a CPU it refuses bf16 without
        optim="adamw_torch_fused",
    )


def with_loop(job: Job, work: Path, seed: int, clock: Measure) -> Fit:
    """A loop in PyTorch over the rows that the Trainer gets: fused AdamW, a linear schedule."""
    import torch
    from torch.utils.data import DataLoader

    started = clock()
    peer = PREPARE[job.task](job.folder(work), work / "trainer", job.epochs, job.rate, seed)
    rows, model = peer.trainer.train_dataset, peer.trainer.model.train()
    read = [*inspect.signature(model.forward).parameters, "label", "label_ids"]
    rows = rows.select_columns([name for name in rows.column_names if name in read])
    loader = DataLoader(rows, BATCH, shuffle=True, collate_fn=peer.trainer.data_collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.rate, fused=True)
    steps = job.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, steps)
    prepared = clock()
    for _ in range(job.epochs):
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return Fit(prepared - started, clock() - prepared, model)


def with_ftkit(job: Job, work: Path, seed: int, clock: Measure) -> Fit:
    """A verb of ftkit with its defaults."""
    import datasets

    from ftkit import finetune_learner
    from ftkit.tasks import Summarization, get_task

    task = get_task(job.task)
    if job.task == "summarization":
        task = Summarization(max_length=MAX_LENGTH, max_target_length=MAX_SUMMARY, validate_rows=1)
    cache = work / f"cache-{time.time_ns()}"
    datasets.config.HF_DATASETS_CACHE = cache
    started = clock()
    learn = finetune_learner(job.folder(work), "minilm", task=task, bs=BATCH, seed=seed)
    prepare = clock() - started
    train = fit_seconds(learn, clock, job.epochs, job.own_rate or learn.lr)
    shutil.rmtree(cache)
    return Fit(prepare, train, learn.model.hf_model)


def with_blurr(job: Job, work: Path, seed: int, clock: Measure) -> Fit:
    """Blurr 1.0.5 through ftkit's bridge, by its highest level; it reads DataFrames."""
    import ftkit.blurr  # noqa: F401, I001 - first: it gives back what Blurr expects

    import blurr.text.modeling.all  # noqa: F401 - before the clock starts
    import pandas as pd
    from fastai.torch_core import set_seed

    started = clock()
    splits = load_splits(job.folder(work))
    parts = [
        splits[split].to_pandas().assign(is_valid=split == "validation")
        for split in ("train", "validation")
    ]
    set_seed(seed)
    learn = BLEARNERS[job.task](pd.concat(parts, ignore_index=True), splits["train"].features)
    learn.unfreeze()
    prepare = clock() - started
    train = fit_seconds(learn, clock, job.epochs, slice(1e-4, 1e-3))
    return Fit(prepare, train, learn.model.hf_model)


def blurr_classification(rows: Any, features: Any) -> Any:
    from blurr.text.modeling.all import BlearnerForSequenceClassification

    rows = rows.assign(label=rows["label"].map(features["label"].int2str))
    return BlearnerForSequenceClassification.from_data(
        rows, minilm_folder(), text_attr="text", label_attr="label", dl_kwargs={"bs": BATCH}
    )


def blurr_ner(rows: Any, features: Any) -> Any:
    from blurr.text.modeling.all import BlearnerForTokenClassification

    rows = rows.assign(tokens=rows["tokens"].map(list), ner_tags=rows["ner_tags"].map(list))
    return BlearnerForTokenClassification.from_data(
        rows, minilm_folder(), token_labels_attr="ner_tags", dl_kwargs={"bs": BATCH}
    )


BLEARNERS: dict[str, Callable[[Any, Any], Any]] = {
    "classification": blurr_classification,
    "ner": blurr_ner,
}
CONTENDERS: dict[str, Callable[..., Fit]] = {
    "Trainer": with_trainer,
    "Trainer: by length, bf16, fused AdamW": with_tuned_trainer,
    "ftkit": with_ftkit,
    "Blurr, through the bridge": with_blurr,
    "bare PyTorch loop": with_loop,
}


def compete(job: Job, work: Path, rounds: int, clock: Measure) -> dict[str, list[Scored]]:
    """Contenders in turns over one task; what each took, and its score."""
    judge = PREPARE[job.task](job.folder(work, job.test), work / "judge", 1, job.rate, FIRST_SEED)
    scored: dict[str, list[Scored]] = {}

    def once(name: str) -> float:
        kept = scored.setdefault(name, [])
        seed = FIRST_SEED + len(kept)
        fit = CONTENDERS[name](job, work, seed, clock)
        kept.append(Scored(fit.prepare, fit.train, judge_model(job, judge, fit.model), seed))
        return kept[-1].whole

    names = [name for name in CONTENDERS if name[:5] != "Blurr" or job.task in BLEARNERS]
    take_turns({name: partial(once, name) for name in names}, rounds, warm_up=False)
    return {name: scored[name] for name in names}


def judge_model(job: Job, judge: Any, model: Any) -> float:
    """The score on the test rows of these weights, in the judge's own model."""
    own, weights = judge.trainer.model, model.state_dict()
    wanted, found = own.config.id2label, model.config.label2id
    if set(wanted.values()) != set(found):
        raise SystemExit(f"other labels: {wanted}, {found}")
    order = [found[wanted[i]] for i in range(len(wanted))]
    if order != sorted(order):
        # The same labels in another order.
        for name in ("classifier.weight", "classifier.bias"):
            weights[name] = weights[name][order]
    own.load_state_dict(weights)
    return float(judge.score()["test"][job.score])


def table(found: dict[Job, dict[str, list[Scored]]]) -> str:
    head = ["task", "contender", "whole, s", "ratio of the whole", "of it preparation, s"]
    head += ["score on test, %: mean ± sd"]
    lines = [f"| {' | '.join(head)} |", "|---|---|---:|---:|---:|---:|"]
    for job, contenders in found.items():
        yardstick = next(iter(contenders.values()))
        for name, runs in contenders.items():
            ratios = [run.whole / other.whole for run, other in zip(runs, yardstick, strict=True)]
            scores = [100 * run.score for run in runs]
            deviation = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
            cells = [job.task, name, spread([run.whole for run in runs], 1)]
            cells += ["1" if runs is yardstick else spread(ratios, 3)]
            cells += [f"{median(run.prepare for run in runs):.1f}"]
            cells += [f"{job.score} {mean(scores):.1f}{deviation}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe(jobs: list[Job]) -> str:
    return "; ".join(
        f"{job.task}: {job.train:,} rows of {job.dataset}, {job.epochs} "
        f"{'epochs' if job.epochs > 1 else 'epoch'}, {job.test:,} test rows"
        for job in jobs
    )


def draw(file: Path, found: dict[Job, dict[str, list[Scored]]]) -> None:
    """Score against time, a panel a task, a point a run."""
    figure, axes = new_figure(1, len(found))
    for panel, (job, contenders) in zip(axes[0], found.items(), strict=True):
        for name, runs in contenders.items():
            color = f"C{list(CONTENDERS).index(name)}"
            scores = [100 * run.score for run in runs]
            panel.plot([run.whole for run in runs], scores, "o", color=color, label=name)
        panel.set(title=job.task, xlabel="seconds", ylabel=f"{job.score}, %")
        panel.set_xlim(left=0)
        panel.locator_params(nbins=4)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    import torch
    from transformers.utils import logging

    tasks = [job.task for job in JOBS]
    parser = argparse.ArgumentParser(description="Time and score of whole fine-tunes.")
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--rows", type=int, help="training rows and test rows, for a trial")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=WORK, help="rows drawn, caches")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--into", type=Path, help="write the table into this file, and a figure")
    parser.add_argument(
        "--json", type=Path, help="keep every figure here, with those of other runs"
    )
    options = parser.parse_args()
    if options.clock == "cpu" and torch.get_num_threads() > 1:
        parser.error("--clock cpu adds up the time of all threads: set OMP_NUM_THREADS=1")
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    warnings.simplefilter("ignore")
    jobs = [job for job in JOBS if job.task in options.tasks]
    if options.rows:
        jobs = [replace(job, train=options.rows, test=options.rows) for job in jobs]
    found: dict[Job, dict[str, list[Scored]]] = {}
    if options.json and options.json.exists():
        kept = read_found(options.json)
        found = {job: runs for job, runs in kept.items() if job.task not in options.tasks}
    for job in jobs:
        print(f"{job.task}, {time.strftime('%H:%M:%S')}", flush=True)
        found[job] = compete(job, options.work, options.rounds, clock)
        found = dict(sorted(found.items(), key=lambda each: tasks.index(each[0].task)))
        text = f"{table(found)}\n\n{describe(list(found))}. "
        text += conditions(options.rounds, options.clock)
        if options.into:
            picture = options.into.with_name("finetunes.svg")
            draw(picture, found)
            shown = f"![Score against time]({picture.name})"
            write_section(options.into, "finetunes", f"{shown}\n\n{text}")
        if options.json:
            write_found(options.json, found)
    print(f"\n{text}")


def write_found(file: Path, found: dict[Job, dict[str, list[Scored]]]) -> None:
    record = {
        job.task: {
            "rows": [job.train, job.test],
            "runs": {name: [asdict(run) for run in runs] for name, runs in contenders.items()},
        }
        for job, contenders in found.items()
    }
    file.write_text(json.dumps(record, indent=2) + "\n")


def read_found(file: Path) -> dict[Job, dict[str, list[Scored]]]:
    """What `write_found` wrote, in the order of the tasks."""
    record = json.loads(file.read_text())
    return {
        replace(job, train=each["rows"][0], test=each["rows"][1]): {
            name: [Scored(**run) for run in runs] for name, runs in each["runs"].items()
        }
        for job in JOBS
        if (each := record.get(job.task))
    }


if __name__ == "__main__":
    main()
