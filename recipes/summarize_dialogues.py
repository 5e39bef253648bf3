"""Summarize: fine-tune an encoder-decoder, made of MiniLM twice, and let it write.

python recipes/summarize_dialogues.py
python recipes/summarize_dialogues.py --data ../shared/data/dialogsum --epochs 5
python recipes/summarize_dialogues.py --data ../shared/data/dialogsum --checkpoint t5-small

MiniLM never learned to write. Warm-started, it becomes an encoder and a decoder whose attention to
each other is new, and the 320 bundled rows are far too few to teach it that: they show the steps,
and little is to be expected of what it writes. For work take a checkpoint that was pretrained to
write, such as t5-small or facebook/bart-base, where the hub can be reached; nothing else changes.
"""

from __future__ import annotations

import argparse
import time

import ftkit
from ftkit.inference.predictor import Evaluation
from ftkit.tasks import Summarization


def main(
    data: str = "sample:summaries",
    checkpoint: str = "minilm",
    output: str = "runs/summaries",
    epochs: int = 8,
    limit: int | None = None,
) -> Evaluation:
    """Train on at most `limit` rows of each split, save to `output`, and score on the test rows."""
    started = time.perf_counter()

    # Beams search for the likeliest text; 3 tokens in a row are never said twice.
    task = Summarization(
        max_length=256, max_target_length=64, num_beams=4, no_repeat_ngram_size=3, validate_rows=50
    )
    # Rows: text (or document, dialogue, article), summary and, for scoring, maybe references.
    rows = ftkit.load_data(data, task, limit=limit)
    learn = ftkit.summarization_learner(rows, checkpoint, task=task, bs=16)
    learn.show_batch(max_n=2)

    # Training reads the right beginning of every summary, validation writes its own. One rate for
    # all layers: the new attention stands between layers that must learn to follow it.
    learn.fit_one_cycle(epochs, learn.lr.stop / 2)
    learn.show_results(max_n=3)

    # The saved folder opens with AutoModelForSeq2SeqLM, whose generate() writes the same texts.
    model = ftkit.load_model(ftkit.save(learn, output))
    evaluation = model.evaluate(rows["test"])
    print(f"\nOn {evaluation.rows} test rows:\n{evaluation}\n")

    for row in rows["test"].select(range(3)):
        (found,) = model.predict([row["text"]])
        print(f"{row['text']}\n  wanted: {row['summary']}\n  found:  {found.summary}\n")

    print(
        f"Done in {time.perf_counter() - started:.0f} s; the model is in {output}. Try next:\n"
        f"  echo 'A long text' | ftkit predict {output} -\n"
        f"  python recipes/summarize_dialogues.py --checkpoint t5-small --data YOUR_FOLDER"
    )
    return evaluation


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="sample:summaries")
    parser.add_argument("--checkpoint", default="minilm")
    parser.add_argument("--output", default="runs/summaries")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int)
    main(**vars(parser.parse_args()))
