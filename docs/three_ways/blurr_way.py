"""Sort tickets into queues, with Blurr 1.0.5, on today's stack through ftkit's bridge."""

import ftkit.blurr  # noqa: F401, I001 - first: it gives back what Blurr expects of its libraries

import pandas as pd
from blurr.text.modeling.all import BlearnerForSequenceClassification
from fastai.text.all import accuracy, set_seed
from sklearn.metrics import accuracy_score, f1_score


def main(folder: str, checkpoint: str, output: str, epochs: int = 3) -> dict[str, float]:
    """Fine-tune on a folder of tickets, save, score on its test rows, answer a new one."""
    read = {
        name: pd.read_json(f"{folder}/{name}.jsonl", lines=True)
        for name in ("train", "validation", "test")
    }
    rows = pd.concat(
        [read["train"].assign(is_valid=False), read["validation"].assign(is_valid=True)],
        ignore_index=True,
    )
    set_seed(42)
    learn = BlearnerForSequenceClassification.from_data(
        rows,
        checkpoint,
        text_attr="text",
        label_attr="queue",
        dl_kwargs={"bs": 32},
        learner_kwargs={"metrics": [accuracy]},
    )
    learn.unfreeze()
    learn.fit_one_cycle(epochs, slice(1e-4, 1e-3))

    learn.model.hf_model.save_pretrained(output)
    learn.dls.before_batch[0].hf_tokenizer.save_pretrained(output)
    print(learn.predict("My card was charged twice"))
    loader = learn.dls.test_dl(read["test"], with_labels=True)
    probabilities, labels = learn.get_preds(dl=loader)
    best = probabilities.argmax(-1)
    return {
        "accuracy": float(accuracy_score(labels, best)),
        "macro_f1": float(f1_score(labels, best, average="macro")),
    }
