"""Sort support tickets into queues: fine-tune a checkpoint on the bundled tickets, then use it.

python recipes/classify_tickets.py
python recipes/classify_tickets.py --checkpoint distilbert-base-uncased --epochs 4
wandb sweep recipes/sweep.yaml    searches for its learning rate
"""

from __future__ import annotations

import argparse
import time

import ftkit
from ftkit.inference.predictor import Evaluation

NEW_TICKETS = [
    "You took the money for my plan twice this month, please send one of them back.",
    "The tracking page has said 'out for delivery' since Tuesday and nobody came.",
    "After the last update the app closes itself whenever I open the camera.",
]


def main(
    checkpoint: str = "minilm",
    output: str = "runs/tickets",
    epochs: int = 3,
    lr: float | None = None,
    limit: int | None = None,
    wandb: str | None = None,
) -> Evaluation:
    """Train on at most `limit` tickets, save to `output`, and score on the test tickets.

    `lr` is the head's learning rate, `wandb` the W&B project that follows the run.
    """
    started = time.perf_counter()

    # Rows: text, label. The bundled tickets call their label "queue".
    data = ftkit.load_data("sample:tickets", columns={"label": "queue"}, limit=limit)
    tracker = ftkit.WandbTracker(wandb) if wandb else None
    learn = ftkit.classification_learner(data, checkpoint, tracker=tracker)
    learn.show_batch(max_n=4)

    # One cycle with discriminative learning rates: slice(lr) trains the new head at lr and the
    # pretrained layers at a tenth of it; slice(low, high) would spread them layer by layer.
    learn.fit_one_cycle(epochs, slice(lr) if lr else learn.lr)
    if tracker:
        tracker.finish()

    # How good it is, and where it fails: one page, with the worst mistakes explained.
    report = ftkit.report(learn, {"test": data["test"]})
    evaluation = report.evaluated[0].evaluation
    print(f"\nOn {evaluation.rows} test tickets:\n{evaluation}\n")

    # The saved folder opens with ftkit.load_model and with transformers.pipeline alike.
    model = ftkit.load_model(ftkit.save(learn, output))
    page = report.save(f"{output}.html")

    for text, found in zip(NEW_TICKETS, model.predict(NEW_TICKETS), strict=True):
        print(f"{found.label:>16} {found.score:4.0%}  {text}")

    print(
        f"\nDone in {time.perf_counter() - started:.0f} s; the model is in {output}, "
        f"and a report on it in {page}. Try next:\n"
        f"  echo 'I want my money back' | ftkit predict {output} -\n"
        f"  ftkit train classification --data YOUR.csv --columns text=...,label=... "
        f"--checkpoint {checkpoint} --output runs/mine"
    )
    return evaluation


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="minilm")
    parser.add_argument("--output", default="runs/tickets")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--wandb", metavar="PROJECT")
    main(**vars(parser.parse_args()))
