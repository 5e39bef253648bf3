"""Make a ticket sorter half as deep: fine-tune a teacher, then let a student learn from it.

python recipes/distill_tickets.py
python recipes/distill_tickets.py --layers 2 --epochs 8
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import ftkit
from ftkit.inference.predictor import Evaluation
from ftkit.model.students import shallow


def main(
    checkpoint: str = "minilm",
    output: str = "runs/distilled",
    layers: int = 3,
    epochs: int = 3,
    limit: int | None = None,
) -> dict[str, Evaluation]:
    """Train a teacher and a student of `layers` layers, with and without the teacher's help.

    Returns how each does on the test tickets; the folders of all are in `output`.
    """
    data = ftkit.load_data("sample:tickets", columns={"label": "queue"}, limit=limit)
    folder = Path(output)

    # Every second layer of the same checkpoint, as DistilBERT began.
    start = shallow(checkpoint, folder / "start", layers=layers)

    learn = ftkit.classification_learner(data, checkpoint)
    learn.fit_one_cycle(epochs, learn.lr)
    teacher = ftkit.save(learn, folder / "teacher")

    learn = ftkit.classification_learner(data, start)
    learn.fit_one_cycle(epochs, learn.lr)
    ftkit.save(learn, folder / "plain")

    # alpha of the loss comes from the teacher's softened answers, the rest from the labels;
    # hidden pulls the student's last states towards the teacher's.
    help_of_teacher = ftkit.Distill(teacher, alpha=0.5, temperature=2.0, hidden=1.0)
    learn = ftkit.classification_learner(data, start, cbs=help_of_teacher)
    learn.fit_one_cycle(epochs, learn.lr)
    ftkit.save(learn, folder / "distilled")

    found = {}
    print(f"\n{'':>10}  accuracy  macro F1      size  tickets a second")
    for name in ("teacher", "plain", "distilled"):
        model = ftkit.load_model(folder / name)
        started = time.perf_counter()
        found[name] = model.evaluate(data["test"])
        speed = found[name].rows / (time.perf_counter() - started)
        size = (folder / name / "model.safetensors").stat().st_size / 1e6
        scores = found[name].scores
        print(
            f"{name:>10}  {scores['accuracy']:8.4f}  {scores['macro_f1']:8.4f}  "
            f"{size:5.0f} MB  {speed:16.0f}"
        )
    kept = found["distilled"].scores["macro_f1"] / found["teacher"].scores["macro_f1"]
    print(
        f"\nThe distilled student keeps {kept:.1%} of the teacher's macro F1 with {layers} layers. "
        f"Try next:\n  ftkit predict {folder / 'distilled'} YOUR.csv --output answers.jsonl"
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="minilm")
    parser.add_argument("--output", default="runs/distilled")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int)
    main(**vars(parser.parse_args()))
