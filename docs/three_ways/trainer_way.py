"""Sort tickets into queues, with Hugging Face's Trainer."""

from typing import Any

import numpy as np
from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)


def main(folder: str, checkpoint: str, output: str, epochs: int = 3) -> dict[str, float]:
    """Fine-tune on a folder of tickets, save, score on its test rows, answer a new one."""
    splits = ("train", "validation", "test")
    data = load_dataset("json", data_files={name: f"{folder}/{name}.jsonl" for name in splits})
    names = sorted(set(data["train"]["queue"]))
    numbers = {name: number for number, name in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def encode(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(rows["text"], truncation=True, max_length=512)
        return {**encoded, "labels": [numbers[name] for name in rows["queue"]]}

    data = data.map(encode, batched=True, remove_columns=data["train"].column_names)

    def scores(found: Any) -> dict[str, float]:
        best = np.argmax(found.predictions, axis=-1)
        return {
            "accuracy": float(accuracy_score(found.label_ids, best)),
            "macro_f1": float(f1_score(found.label_ids, best, average="macro")),
        }

    set_seed(42)
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=len(names), id2label=dict(enumerate(names)), label2id=numbers
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=output,
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            seed=42,
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=scores,
    )
    trainer.train()

    trainer.save_model(output)
    answer = pipeline("text-classification", model=output)
    print(answer("My card was charged twice"))
    found = trainer.evaluate(data["test"], metric_key_prefix="test")
    return {name: found[f"test_{name}"] for name in ("accuracy", "macro_f1")}
