"""Find people, products, dates and places in support tickets: fine-tune a checkpoint, then use it.

python recipes/tag_entities.py
python recipes/tag_entities.py --checkpoint distilbert-base-uncased --epochs 4
"""

from __future__ import annotations

import argparse
import time

import ftkit
from ftkit.inference.predictor import Evaluation

NEW_TICKETS = [
    "My Harbour armchair was meant to come on 4th May and nobody rang at the door in Ludgate.",
    "This is Fiona Novak. Please send the refund for order 48213 to my new address in Birchley.",
    "Is the Cinema Nest still on offer?\n\nTomas Reyes",
]


def main(
    checkpoint: str = "minilm",
    output: str = "runs/entities",
    epochs: int = 5,
    lr: float | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Train on at most `limit` tickets, save to `output`, and score on the test tickets.

    `lr` is the head's learning rate.
    """
    started = time.perf_counter()

    # Rows: text, and entities as [{"start": 5, "end": 16, "label": "person"}, ...], in characters.
    # Rows of words would do too: tokens and their tags.
    data = ftkit.load_data("sample:tickets", "ner", limit=limit)
    learn = ftkit.ner_learner(data, checkpoint)
    learn.show_batch(max_n=4)

    # One cycle with discriminative learning rates: the new head learns at lr and the pretrained
    # layers at a tenth of it. Scores are of whole entities: all words and the label are right.
    learn.fit_one_cycle(epochs, slice(lr) if lr else learn.lr)
    learn.show_results(max_n=4)

    # The saved folder opens with ftkit.load_model and with transformers.pipeline alike.
    model = ftkit.load_model(ftkit.save(learn, output))
    evaluation = model.evaluate(data["test"])
    print(f"\nOn {evaluation.rows} test tickets:\n{evaluation}\n")

    for text, found in zip(NEW_TICKETS, model.predict(NEW_TICKETS), strict=True):
        print(text)
        for each in found.entities:
            print(f"{each.label:>16} {each.score:4.0%}  {each.text!r} at {each.start}-{each.end}")

    print(
        f"\nDone in {time.perf_counter() - started:.0f} s; the model is in {output}. Try next:\n"
        f"  echo 'Ann Lee moved to Oslo' | ftkit predict {output} -\n"
        f"  ftkit train ner --data YOUR.jsonl --columns tokens=...,tags=... "
        f"--checkpoint {checkpoint} --output runs/mine"
    )
    return evaluation


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="minilm")
    parser.add_argument("--output", default="runs/entities")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--limit", type=int)
    main(**vars(parser.parse_args()))
