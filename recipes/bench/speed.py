"""Speed: ftkit against what people use today, as ratios, the contenders taking turns.

Its parts are functions: a training step against a bare PyTorch loop, of classification and of a
masked language model, and a watched one against one that is not; a whole AG News fine-tune against
Hugging Face's Trainer; the loader against torch's DataLoader; prediction, by torch and by ONNX
Runtime, against transformers' pipelines or a bare loop. rounds.py says how the turns are taken.
Medians are quoted, with the smallest and the largest.

    python recipes/bench/speed.py --work /tmp/bench --only loader,predict
"""

import argparse
import inspect
import json
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from answering import compare_answers
from common import (
    WORK,
    Rows,
    build_trainer,
    machine,
    minilm_folder,
    package_versions,
    prepare_folder,
    tokenize_folder,
)
from rounds import Comparison, Measure, table, take_turns
from watched import STEPS as WATCHED_STEPS
from watched import Passes, watching

BATCH = 32
STEPS = 8  # steps of a round in the part "step"
LEARNING_RATE = 1e-4
ALONE, WATCHED = "Learner with none of it", "Learner, watched"


@dataclass(frozen=True)
class Settings:
    """What every part is given."""

    work: Path
    rounds: int
    rows: int  # training rows of the part "fit"
    clock: Measure  # seconds of wall time, or of this process's CPU time


def compare_steps(settings: Settings) -> list[Comparison]:
    """A training step: ftkit's Learner against a bare loop over the same batches, same order.

    The bare loop has the Hugging Face model, fused AdamW and the loss, and nothing else; the
    Learner's side is all of `fit_one_cycle`, its loader too, except validation. A round is an epoch
    of STEPS batches; each side keeps its model from round to round.
    """
    from transformers import AutoModelForSequenceClassification

    folder = prepare_folder("ag_news", Rows(STEPS * BATCH, BATCH, BATCH), settings.work)
    comparisons = []
    for precision, goal in (("fp32", "≤ 1.02"), ("bf16", "")):
        learn = new_learner(folder, precision)
        if learn is None:
            continue
        batches = list(learn.dls.train)
        learn.add_cb(replay(batches))
        labels = int(max(y.max() for _, y in batches)) + 1
        architecture = AutoModelForSequenceClassification
        model = architecture.from_pretrained(minilm_folder(), num_labels=labels)
        bare = bare_loop(model, batches, precision, settings.clock)
        comparisons.append(turns_of_steps("step", precision, bare, learn, settings, goal))
    return comparisons


def compare_masked(settings: Settings) -> list[Comparison]:
    """The same of masked language modelling on blocks of 128 tokens of AG News, in bf16.

    The bare loop scores the vocabulary at every token, and its labels say which of them count, as
    those of transformers' DataCollatorForLanguageModeling do.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    import ftkit

    folder = prepare_folder("ag_news", Rows(600, BATCH, BATCH), settings.work)
    precision = "bf16"
    learn = new_learner(folder, precision, ftkit.LanguageModeling(block=128), bs=16)
    if learn is None:
        return []
    batches = list(learn.dls.train)
    learn.add_cb(replay(batches))
    labelled = []
    for inputs, targets in batches:
        labels = torch.full_like(inputs["input_ids"], -100)
        labelled.append((inputs, labels.scatter_(1, inputs["places"], targets)))
    model = AutoModelForMaskedLM.from_pretrained(minilm_folder())
    bare = bare_loop(model, labelled, precision, settings.clock)
    return [turns_of_steps("masked step", precision, bare, learn, settings)]


def turns_of_steps(
    name: str, precision: str, bare: Measure, learn: Any, settings: Settings, goal: str = ""
) -> Comparison:
    """Milliseconds of a step, the bare loop and the Learner in turns."""
    contenders: dict[str, Measure] = {
        "bare PyTorch loop": bare,
        "ftkit Learner": partial(fit_seconds, learn, settings.clock),
    }
    seconds, count = take_turns(contenders, settings.rounds), len(learn.dls.train)
    steps = {side: [1000 * one / count for one in seconds[side]] for side in seconds}
    return Comparison(f"{name}, {precision}", "ms", steps, {"ftkit Learner": goal})


def new_learner(folder: Path, precision: str, task: Any = "classification", **options: Any) -> Any:
    """A Learner on MiniLM; None, and said, where the machine lacks the precision."""
    import ftkit
    from ftkit.errors import SettingError

    data = ftkit.load_data(folder, task)
    options = {"bs": BATCH, "precision": precision, "seed": 42, **options}
    try:
        return ftkit.finetune_learner(data, "minilm", task=task, **options)
    except SettingError as error:
        print(f"  {precision} left out: {error}")
        return None


def compare_watched(settings: Settings) -> list[Comparison]:
    """A training step with W&B (offline), checkpoints and progress lines, against one with none.

    A round is a training pass over the same batches of SST-2. CPU time and wall time are both
    quoted, whatever clock was asked for.
    """
    folder = prepare_folder("sst2", Rows(WATCHED_STEPS * BATCH, BATCH, BATCH), settings.work)
    comparisons = []
    for precision in ("fp32", "bf16"):
        learn = new_learner(folder, precision)
        if learn is None:
            continue
        written = settings.work / f"watched-{time.time_ns()}"
        written.mkdir()
        alone = Passes(learn, is_watched=False)
        watched = Passes(new_learner(folder, precision, **watching(written)), is_watched=True)
        take_turns({ALONE: alone, WATCHED: watched}, settings.rounds)
        watched.learn.wandb_tracker.finish()
        shutil.rmtree(written / "checkpoints")
        for clock in ("CPU", "wall"):
            figures = {
                ALONE: [step[clock] for step in alone.steps[1:]],
                WATCHED: [step[clock] for step in watched.steps[1:]],
                "of that, writing the state": [step[clock] for step in watched.writing[1:]],
            }
            if clock == "CPU":
                figures["besides, W&B's own process"] = [
                    step["children"] for step in watched.steps[1:]
                ]
            name = f"watched step, {precision}, {clock}"
            comparisons.append(Comparison(name, "ms", figures, {WATCHED: "≤ 1.03"}))
    return comparisons


def replay(batches: list[Any]) -> Any:
    """A fastai callback that puts the given batches, in their order, in place of the loader's."""
    from fastai.callback.core import Callback

    def before_batch(self: Any) -> None:
        if self.training:
            inputs, labels = batches[self.iter]
            self.learn.xb, self.learn.yb = (inputs,), (labels,)

    callback = Callback(before_batch=before_batch)
    callback.order = -200  # before every other callback sees the batch
    return callback


def fit_seconds(learn: Any, clock: Measure, epochs: int = 1, lr: Any = LEARNING_RATE) -> float:
    """Seconds of these epochs, counting all that `fit_one_cycle` does except validation."""
    from fastai.callback.core import Callback

    marks: list[float] = []

    def mark(self: Any) -> None:
        marks.append(clock())

    learn.create_mbar = False
    with learn.no_bar(), learn.no_logging():
        started = clock()
        timer = Callback(before_validate=mark, after_validate=mark)
        learn.fit_one_cycle(epochs, lr, cbs=timer)
        finished = clock()
    return finished - started - (sum(marks[1::2]) - sum(marks[::2]))


def bare_loop(model: Any, batches: list[Any], precision: str, clock: Measure) -> Measure:
    """The yardstick of a step: forward, loss, backward and fused AdamW on Hugging Face's model."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    in_bf16 = precision == "bf16"
    read = set(inspect.signature(model.forward).parameters)  # ftkit's batches also number the rows
    inputs = [({key: x[key] for key in x if key in read}, y) for x, y in batches]

    def run() -> float:
        started = clock()
        for x, y in inputs:
            with torch.autocast("cpu", torch.bfloat16) if in_bf16 else nullcontext():
                logits = model(**x).logits
            scores = logits.float().flatten(0, -2)
            loss: Any = torch.nn.functional.cross_entropy(scores, y.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return clock() - started

    return run


def compare_fits(settings: Settings) -> list[Comparison]:
    """Training time of an AG News fine-tune of one epoch: ftkit against HF's Trainer in fp32.

    The Trainer is as it comes. Every round starts from the checkpoint; loading, tokenising and
    validation are outside on both sides.
    """
    from transformers import AutoTokenizer

    folder = prepare_folder("ag_news", Rows(settings.rows, BATCH, BATCH), settings.work)
    data = tokenize_folder(folder, AutoTokenizer.from_pretrained(minilm_folder()))

    def trainer() -> float:
        trainer = build_trainer(data, settings.work / "trainer", 1, LEARNING_RATE, 42)
        started = settings.clock()
        trainer.train()
        return settings.clock() - started

    contenders: dict[str, Measure] = {
        "HF Trainer, fp32": trainer,
        "ftkit, fp32": lambda: fit_seconds(new_learner(folder, "fp32"), settings.clock),
        "ftkit, auto": lambda: fit_seconds(new_learner(folder, "auto"), settings.clock),
    }
    goals = {"ftkit, fp32": "≤ 0.6", "ftkit, auto": "≤ 0.4 where the CPU has bf16"}
    seconds = take_turns(contenders, settings.rounds, warm_up=False)
    return [Comparison(f"fine-tune, {settings.rows:,} rows", "s", seconds, goals)]


def compare_loaders(settings: Settings) -> list[Comparison]:
    """Microseconds a batch of 32, over 8,000 tokenised rows of AG News; a round is an epoch."""
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, DataCollatorWithPadding

    folder = prepare_folder("ag_news", Rows(8000, BATCH, BATCH), settings.work)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    rows = tokenize_folder(folder, tokenizer).splits["train"]
    pad = DataCollatorWithPadding(tokenizer)
    theirs = DataLoader(rows, BATCH, shuffle=True, collate_fn=pad)
    ours = new_learner(folder, "fp32").dls.train

    def epoch_of(loader: Any) -> float:
        started = settings.clock()
        batches = sum(1 for _ in loader)
        return 1e6 * (settings.clock() - started) / batches

    contenders: dict[str, Measure] = {
        "torch DataLoader + DataCollatorWithPadding": partial(epoch_of, theirs),
        "ftkit": partial(epoch_of, ours),
    }
    figures = take_turns(contenders, settings.rounds)
    return [Comparison("loader, a batch", "µs", figures, {"ftkit": "≤ 60 µs"})]


def compare_predictions(task: str, dataset: str, settings: Settings) -> list[Comparison]:
    """Prediction, by torch and exported to ONNX; answering.py says against what."""
    return compare_answers(task, dataset, settings.work, settings.rounds, settings.clock)


PARTS: dict[str, Callable[[Settings], list[Comparison]]] = {
    "step": compare_steps,
    "masked": compare_masked,
    "watched": compare_watched,
    "fit": compare_fits,
    "loader": compare_loaders,
    "predict": partial(compare_predictions, "classification", "sst2"),
    "predict_banking77": partial(compare_predictions, "classification", "banking77"),
    "predict_ner": partial(compare_predictions, "ner", "broad_twitter"),
    "predict_qa": partial(compare_predictions, "qa", "squad_v1"),
}


def main() -> None:
    import torch
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description="Speed of ftkit as ratios, contenders in turns.")
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(PARTS))
    parser.add_argument("--work", type=Path, default=WORK, help="rows drawn, bundles")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--rows", type=int, default=1000, help="training rows of the part 'fit'")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    if options.clock == "cpu" and torch.get_num_threads() > 1:
        parser.error("--clock cpu adds up the time of all threads: set OMP_NUM_THREADS=1")
    unknown = set(options.only) - set(PARTS)
    if unknown:
        parser.error(f"--only {','.join(sorted(unknown))}: the parts are {','.join(PARTS)}")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    settings = Settings(options.work, options.rounds, options.rows, clock)
    comparisons = []
    for part in options.only:
        print(f"{part}, {time.strftime('%H:%M:%S')}", flush=True)
        comparisons += PARTS[part](settings)
    print(f"\n{options.rounds} rounds, {options.clock} time, {machine()}, {package_versions()}\n")
    print(table(comparisons))
    if options.json:
        record = {
            "machine": machine(),
            "versions": package_versions(),
            "clock": options.clock,
            "rows": options.rows,
            "comparisons": [asdict(comparison) for comparison in comparisons],
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
