"""Layers: what discriminative rates, unfreezing, re-initialisation and more epochs buy on few rows.

500 training rows of each data set, one checkpoint, several seeds. With the first seed a variant
trains at each of its two learning rates, and the one with the better score on VALIDATION rows is
its rate for all seeds; the report has TEST scores. Every run is one line of JSON in --results; a
run that is already there is skipped, so the work can be stopped and continued. `--report` prints
what is there.

    python recipes/bench/layers.py --work /tmp/bench
    python recipes/bench/layers.py --work /tmp/bench --report
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common import WORK, Rows, machine, package_versions, prepare_folder
from quality import read_lines, say, table_row

import ftkit
from ftkit import LayerDecay, Phase
from ftkit.learner.learner import TextLearner
from ftkit.learner.save import predictor

ROWS = Rows(500, 300, 1000)
EPOCHS = 4
SEEDS = (42, 43, 44, 45, 46)
SCORES = {"wnut17": ("ner", "f1"), "sst2": ("classification", "accuracy")}  # task, score
DEFAULT = "discriminative"
ONE_RATE = (3e-4, 1e-3)
"""Where the layers learn at the head's rate, or nearly."""


@dataclass(frozen=True)
class Variant:
    """A way to fine-tune."""

    train: Callable[[TextLearner, float], object]
    """Trains a Learner at a rate, that of its head."""
    rates: tuple[float, ...] = (1e-3, 3e-3)
    """To choose from; none means the rate of the default."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `finetune_learner`."""


def one_cycle(learn: TextLearner, rate: float, epochs: int = EPOCHS) -> None:
    """What `ftkit train` does: the head at ten times the rate of what is below it."""
    learn.fit_one_cycle(epochs, slice(rate))


def gradually(learn: TextLearner, rate: float) -> None:
    """A group more in each epoch, as ULMFiT, and all five in the last."""
    phases = [Phase(1, slice(rate), groups=groups) for groups in (1, 2, 3)]
    learn.fine_tune(phases=[*phases, Phase(EPOCHS - len(phases), slice(rate))])


def decaying(decay: float) -> Variant:
    """One group a layer, each at `decay` times the rate of the one above it."""
    return Variant(
        lambda learn, rate: learn.fit_one_cycle(EPOCHS, LayerDecay(rate, decay)),
        ONE_RATE,
        {"body_groups": None},
    )


VARIANTS = {
    DEFAULT: Variant(one_cycle),
    "one rate": Variant(lambda learn, rate: learn.fit_one_cycle(EPOCHS, rate), ONE_RATE),
    "gradual unfreezing": Variant(gradually),
    "decay 0.9 a layer": decaying(0.9),
    "top layer anew": Variant(one_cycle, options={"reinit_layers": 1}),
    "3 times the epochs": Variant(lambda learn, rate: one_cycle(learn, rate, 3 * EPOCHS), ()),
}


@dataclass(frozen=True)
class Run:
    """One training run: what makes it different from every other line of the results."""

    dataset: str
    variant: str
    rate: float
    seed: int


def planned_runs(datasets: list[str], seeds: list[int], results: Path) -> Iterator[Run]:
    """Every run, a seed at a time: with the first all rates, then the one that it chose."""
    for seed in seeds:
        for dataset in datasets:
            for name, variant in VARIANTS.items():
                rates = variant.rates
                if seed != seeds[0] or not rates:
                    chosen_by = name if rates else DEFAULT
                    rates = (best_rate(read_lines(results), dataset, chosen_by),)
                yield from (Run(dataset, name, rate, seed) for rate in rates)


def best_rate(lines: list[dict[str, Any]], dataset: str, variant: str) -> float:
    """The rate with the best score on validation rows, with the first seed that has a line."""
    mine = [each for each in lines if (each["dataset"], each["variant"]) == (dataset, variant)]
    first = [line for line in mine if line["seed"] == mine[0]["seed"]]
    best: float = max(first, key=lambda line: line["validation"])["rate"]
    return best


def measure(run: Run, work: Path) -> dict[str, Any]:
    """Train once and score; a line of the results."""
    task, score = SCORES[run.dataset]
    variant = VARIANTS[run.variant]
    data = ftkit.load_data(prepare_folder(run.dataset, ROWS, work), task)
    learn = ftkit.finetune_learner(data, "minilm", task=task, seed=run.seed, **variant.options)
    started = time.perf_counter()
    with learn.no_logging():
        variant.train(learn, run.rate)
    seconds = time.perf_counter() - started
    model = predictor(learn)
    return {
        **asdict(run),
        **{split: model.evaluate(data[split]).scores[score] for split in ("validation", "test")},
        "rows": asdict(ROWS),
        "epochs": len(learn.history.rows),
        "train_seconds": seconds,
        "machine": machine(),
        "versions": package_versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def report(lines: list[dict[str, Any]]) -> str:
    """Markdown: test scores in per cent at the rate that validation chose for each variant."""
    head = ["data", "variant", "rate", "validation", "test", "against the default", "seeds"]
    out = [table_row(head), "|---|---|---:|---:|---:|---:|---:|"]
    for dataset in sorted({line["dataset"] for line in lines}):
        base: dict[int, float] = {}
        for name in VARIANTS:
            mine = [line for line in lines if (line["dataset"], line["variant"]) == (dataset, name)]
            if not mine:
                continue
            rate = best_rate(lines, dataset, name)
            runs = [line for line in mine if line["rate"] == rate]
            if name == DEFAULT:
                base = {line["seed"]: line["test"] for line in runs}
            gains = [line["test"] - base[line["seed"]] for line in runs if line["seed"] in base]
            cells = [spread([line[split] for line in runs]) for split in ("validation", "test")]
            gain = "" if name == DEFAULT else spread(gains, "+")
            out.append(
                table_row([f"`{dataset}`", name, f"{rate:.0e}", *cells, gain, str(len(runs))])
            )
    return "\n".join(out)


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds, in per cent."""
    percent = [100 * value for value in values]
    if len(percent) < 2:
        return "".join(f"{value:{sign}.2f}" for value in percent)
    return f"{mean(percent):{sign}.2f} ± {stdev(percent):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What tricks with layers buy on few rows.")
    parser.add_argument("--work", type=Path, default=WORK, help="rows drawn, results")
    parser.add_argument("--results", type=Path, help="default: WORK/layers.jsonl")
    parser.add_argument("--datasets", nargs="+", choices=SCORES, default=list(SCORES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--report", action="store_true", help="print the results and stop")
    options = parser.parse_args()
    results = options.results or options.work / "layers.jsonl"
    if options.report:
        print(report(read_lines(results)))
        return
    results.parent.mkdir(parents=True, exist_ok=True)
    names = ("dataset", "variant", "rate", "seed")
    done = {tuple(line[name] for name in names) for line in read_lines(results)}
    for run in planned_runs(options.datasets, options.seeds, results):
        if tuple(asdict(run).values()) in done:
            continue
        gc.collect()  # a Learner holds itself by its callbacks
        line = measure(run, options.work)
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        say(f"{run} {line['test']:.4f} in {line['train_seconds']:.0f} s")


if __name__ == "__main__":
    main()
