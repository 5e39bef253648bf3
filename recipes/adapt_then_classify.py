"""Adapt a checkpoint to your unlabelled texts, then fine-tune a classifier from it (ULMFiT's idea).

python recipes/adapt_then_classify.py
python recipes/adapt_then_classify.py --data YOUR.csv --label queue --rows-per-label 20

Measured with MiniLM on banking77 at 10 rows a label, it gained nothing: test accuracy was 0.860 and
0.834 as it is (seeds 42 and 43), 0.858 and 0.835 adapted, though the perplexity of masked words
fell to 10. (A model of masked words has no pooler: from it, the classifier draws a new one, where
the checkpoint as it is brings its own.) Whether your texts gain, the comparison will tell.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from datasets import concatenate_datasets

import ftkit
from ftkit.inference.predictor import Evaluation
from ftkit.tasks import LanguageModeling


def main(
    checkpoint: str = "minilm",
    data: str = "sample:tickets",
    label: str = "queue",
    rows_per_label: int = 10,
    adapt_epochs: int = 3,
    epochs: int = 15,
    output: str = "runs/adapted",
    seed: int = 42,
    limit: int | None = None,
) -> dict[str, Evaluation]:
    """Fine-tune from the checkpoint as it is and as adapted, and score both on the test rows.

    Fine-tuning has `rows_per_label` rows of each label, adapting every text of the training split.
    """
    rows = ftkit.load_data(data, columns={"label": label}, limit=limit, seed=seed)
    few = {
        "train": draw(rows["train"], rows_per_label, seed),
        "validation": draw(rows["validation"], 2, seed),
        "test": rows["test" if "test" in rows else "validation"],
    }

    # Adapting needs no labels, so it may read every text. The head that predicts masked words is
    # new in most checkpoints: one epoch trains it alone, then the body moves with it.
    texts = {split: rows[split].select_columns("text") for split in ("train", "validation")}
    adapting = ftkit.finetune_learner(
        texts, checkpoint, task=LanguageModeling(block=64, whole_words=True), bs=16, seed=seed
    )
    adapting.freeze()
    adapting.fit_one_cycle(1, adapting.lr)
    adapting.unfreeze()
    adapting.fit_one_cycle(adapt_epochs, adapting.lr)
    adapted = ftkit.save(adapting, f"{output}/body")

    found = {
        "as it is": classify(few, checkpoint, f"{output}/as_it_is", epochs, seed),
        "adapted": classify(few, str(adapted), f"{output}/adapted", epochs, seed),
    }
    print(f"\n{len(few['train'])} labelled rows, {len(texts['train']):,} texts to adapt to:")
    for name, evaluation in found.items():
        print(f"  {name:>10}  test accuracy {evaluation.scores['accuracy']:.4f}")
    return found


def draw(rows: Any, count: int, seed: int) -> Any:
    """So many rows of each label, drawn with `seed`."""
    shuffled = rows.shuffle(seed=seed)
    labels = shuffled["label"][:]
    places = {
        name: [i for i, each in enumerate(labels) if each == name] for name in sorted(set(labels))
    }
    return concatenate_datasets([shuffled.select(each[:count]) for each in places.values()])


def classify(
    data: Mapping[str, Any], checkpoint: str, output: str, epochs: int, seed: int
) -> Evaluation:
    """Fine-tune a classifier, save it to `output`, and score it on the test rows."""
    learn = ftkit.classification_learner(dict(data), checkpoint, bs=16, seed=seed)
    learn.fit_one_cycle(epochs, learn.lr)
    return ftkit.load_model(ftkit.save(learn, output)).evaluate(data["test"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="minilm")
    parser.add_argument("--data", default="sample:tickets")
    parser.add_argument("--label", default="queue", help="the column that holds it")
    parser.add_argument("--rows-per-label", type=int, default=10)
    parser.add_argument("--adapt-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--output", default="runs/adapted")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--limit", type=int)
    main(**vars(parser.parse_args()))
