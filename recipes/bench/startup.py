"""Start-up: from a command to what a person waits for, ftkit against transformers.

Every run is a process of its own, from the start of Python to its end, and the contenders take
turns: importing, `--help`, the first training step, the first prediction. The files are in the
page cache after a round that is not counted, and tokenised rows in each side's own cache.

    python recipes/bench/startup.py --clock cpu
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common import WORK, Rows, conditions, minilm_folder, prepare_folder, write_section
from rounds import Comparison, Measure, table, take_turns

BATCH = 32
IMPORTS = {
    "from transformers import Trainer": "from transformers import Trainer",
    "import ftkit": "import ftkit",
    "from ftkit import classification_learner": "from ftkit import classification_learner",
    "from ftkit import load_model": "from ftkit import load_model",
}
# One batch each, in the precision that each side chooses. ftkit validates too, on two rows.
FIRST_STEPS = {
    "Trainer": """
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

rows = load_dataset("parquet", data_files="{folder}/train.parquet", split="train")
tokenizer = AutoTokenizer.from_pretrained("{checkpoint}")
rows = rows.map(lambda part: tokenizer(part["text"], truncation=True), batched=True)
model = AutoModelForSequenceClassification.from_pretrained("{checkpoint}", num_labels=2)
options = TrainingArguments(
    output_dir="{output}",
    max_steps=1,
    per_device_train_batch_size={batch},
    save_strategy="no",
    report_to="none",
)
collator = DataCollatorWithPadding(tokenizer)
Trainer(model, options, train_dataset=rows, data_collator=collator).train()
""",
    "ftkit": """
import ftkit

learn = ftkit.classification_learner("{folder}", "{checkpoint}", bs={batch})
learn.fit_one_cycle(1, learn.lr)
assert learn.train_iter == 1
""",
}
FIRST_PREDICTIONS = {
    "pipeline": """
from transformers import pipeline

print(pipeline("text-classification", model="{bundle}")("a fine film"))
""",
    "ftkit": """
import ftkit

print(ftkit.load_model("{bundle}").predict(["a fine film"]))
""",
}


def milliseconds_of(command: Sequence[str], clock: str, cache: Path) -> float:
    """A process from its start to its end: time on the wall, or its CPU time."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache)}
    # As people have it: modules are compiled once, in the round that is not counted.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started, before = time.perf_counter(), _cpu_seconds()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started if clock == "wall" else _cpu_seconds() - before
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return 1000 * seconds


def _cpu_seconds() -> float:
    """CPU time of the children that have ended, all threads together."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def save_bundle(folder: Path, bundle: Path) -> None:
    """A model whose head has seen nothing: how fast it answers does not depend on that."""
    import ftkit

    ftkit.save(ftkit.classification_learner(folder, "minilm"), bundle)


def commands(work: Path) -> dict[str, dict[str, list[str]]]:
    """What is measured -> contender -> its command; the first contender is the yardstick."""
    folder = prepare_folder("sst2", Rows(BATCH, 2, BATCH), work)
    bundle = work / "startup-bundle"
    if not bundle.exists():
        save_bundle(folder, bundle)
    names = {
        "folder": folder,
        "bundle": bundle,
        "checkpoint": minilm_folder(),
        "output": work / "startup-trainer",
        "batch": BATCH,
    }

    def run(codes: dict[str, str]) -> dict[str, list[str]]:
        return {name: [sys.executable, "-c", code.format(**names)] for name, code in codes.items()}

    def program(name: str) -> list[str]:
        return [str(Path(sys.executable).with_name(name)), "--help"]

    return {
        "import": run(IMPORTS),
        "help": {f"{name} --help": program(name) for name in ("transformers", "ftkit")},
        "first training step": run(FIRST_STEPS),
        "first prediction": run(FIRST_PREDICTIONS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of start-up, contenders in turns.")
    parser.add_argument("--work", type=Path, default=WORK, help="rows drawn, a bundle, caches")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--into", type=Path, help="write the table into this file, between markers")
    options = parser.parse_args()
    comparisons = []
    for measure, contenders in commands(options.work).items():
        print(f"{measure}, {time.strftime('%H:%M:%S')}", flush=True)
        turns: dict[str, Measure] = {
            name: partial(milliseconds_of, command, options.clock, options.work / "startup-cache")
            for name, command in contenders.items()
        }
        figures = take_turns(turns, options.rounds)
        comparisons.append(Comparison(measure, "ms", figures, {}))
    found = f"{table(comparisons)}\n\n{conditions(options.rounds, options.clock)}"
    print(f"\n{found}")
    if options.into:
        write_section(options.into, "startup", found)


if __name__ == "__main__":
    main()
