"""Answer questions from support tickets: fine-tune a checkpoint on the bundled ones, then use it.

python recipes/answer_questions.py
python recipes/answer_questions.py --checkpoint distilbert-base-uncased --epochs 3
"""

from __future__ import annotations

import argparse
import time

import ftkit
from ftkit.inference.predictor import Evaluation

TICKET = (
    "Good morning,\n\nmy Bantam game console was left with the neighbours on Friday, and they are "
    "away until June 3rd. Could the courier have it back and bring it to 7 Mill Lane?\n\nIvan Reyes"
)
QUESTIONS = [
    "Who wrote the message?",
    "Where was the item left?",
    "What does the customer want to know about the invoice?",
]


def main(
    checkpoint: str = "minilm",
    output: str = "runs/answers",
    epochs: int = 8,
    limit: int | None = None,
) -> Evaluation:
    """Train on at most `limit` questions, save to `output`, and score on the test questions."""
    started = time.perf_counter()

    # Rows: question, context, and answers in SQuAD's shape; a quarter of them have no answer.
    # Flat rows would do too: answer, and answer_start where the answer occurs more than once.
    data = ftkit.load_data("sample:questions", "qa", limit=limit)
    learn = ftkit.qa_learner(data, checkpoint)
    learn.show_batch(max_n=4)

    # One cycle with discriminative learning rates: the new head learns at lr and the pretrained
    # layers at a tenth of it. Validation also chooses when to give no answer.
    learn.fit_one_cycle(epochs, learn.lr)
    learn.show_results(max_n=4)

    model = ftkit.load_model(ftkit.save(learn, output))
    evaluation = model.evaluate(data["test"])
    print(f"\nOn {evaluation.rows} test questions:\n{evaluation}\n")

    # Each answer is a part of its context, character for character.
    asked = [(question, TICKET) for question in QUESTIONS]
    for question, found in zip(QUESTIONS, model.predict(asked), strict=True):
        answer = f'"{found.answer}" at {found.start}' if found.answer else "(no answer)"
        print(f"{question:55} {found.score:4.0%}  {answer}")

    print(
        f"\nDone in {time.perf_counter() - started:.0f} s; the model is in {output}. Try next:\n"
        f"  ftkit evaluate {output} --data YOUR.jsonl\n"
        f"  ftkit train qa --data YOUR.jsonl --columns question=...,context=...,answers=... "
        f"--checkpoint {checkpoint} --output runs/mine"
    )
    return evaluation


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="minilm")
    parser.add_argument("--output", default="runs/answers")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int)
    main(**vars(parser.parse_args()))
