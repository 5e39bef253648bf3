"""Answering: ftkit's predictor, by torch and exported, against what people use for each task.

A leaf, imported by speed.py only. Every contender answers the same texts with the same model, which
is fine-tuned afresh on a few rows: enough for scores that differ from text to text.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common import Rows, prepare_folder
from peers import best_span, context_offsets
from rounds import Comparison, Measure, take_turns

BATCH = 32
COUNTS = {"classification": 500, "ner": 500, "qa": 64}  # rows asked
SEEN = {"banking77": 2000}  # training rows: each of its 77 labels must be among them
FEW = 320  # elsewhere
GOALS = ("≤ 0.435", "≤ 0.25", "≤ 0.222", "≤ 0.111")


def compare_answers(
    task: str, dataset: str, work: Path, rounds: int, clock: Measure
) -> list[Comparison]:
    """Milliseconds to answer 500 texts, or 64 questions, in fp32, bf16, ONNX fp32 and ONNX int8."""
    import ftkit
    from ftkit.inference.onnx import export_onnx

    rows_each = Rows(SEEN.get(dataset, FEW), BATCH, COUNTS[task])
    folder = prepare_folder(dataset, rows_each, work)
    bundle = train_briefly(task, folder, work / f"bundle-{time.time_ns()}")
    exports = {name: bundle.with_name(f"{bundle.name}-{name}") for name in ("fp32", "int8")}
    for name, export in exports.items():
        export_onnx(bundle, export, int8=name == "int8")
    models = {
        "ftkit, fp32": ftkit.load_model(bundle, device="cpu"),
        "ftkit, bf16": ftkit.load_model(bundle, device="cpu", precision="auto"),
        "ftkit, ONNX fp32": ftkit.load_model(exports["fp32"], device="cpu"),
        "ftkit, ONNX int8": ftkit.load_model(exports["int8"], device="cpu"),
    }
    rows = ftkit.load_data(folder, task)["test"].to_list()
    yardstick, name, told = YARDSTICKS[task](bundle, rows)
    asked = [{key: row[key] for key in row if key in READ[task]} for row in rows]
    for ours, model in models.items():
        same = sum(
            told_by_ours(one) == told(other)
            for one, other in zip(model.predict(asked), yardstick(), strict=True)
        )
        print(f"  {ours}: the same answers for {same} of {len(asked)}")

    def milliseconds(answer: Callable[[], Any]) -> float:
        started = clock()
        answer()
        return 1000 * (clock() - started)

    contenders: dict[str, Measure] = {
        name: partial(milliseconds, yardstick),
        **{
            ours: partial(milliseconds, partial(model.predict, asked))
            for ours, model in models.items()
        },
    }
    goals = dict(zip(models, GOALS, strict=True)) if task == "classification" else {}
    figures = take_turns(contenders, rounds)
    return [Comparison(f"{task}, {len(asked)} rows of {dataset}", "ms", figures, goals)]


READ = {"classification": ("text",), "ner": ("text",), "qa": ("question", "context")}


def train_briefly(task: str, folder: Path, bundle: Path) -> Path:
    """A bundle that has seen the training rows once; of NER five times, to find entities at all."""
    import ftkit

    data = ftkit.load_data(folder, task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn = ftkit.finetune_learner(data, "minilm", task=task, bs=BATCH, precision="fp32")
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(5 if task == "ner" else 1, slice(1e-3))
    return ftkit.save(learn, bundle)


def told_by_ours(prediction: Any) -> Any:
    """What a prediction of ftkit's says, in the yardsticks' words."""
    if hasattr(prediction, "entities"):
        return [(each.label, each.start, each.end) for each in prediction.entities]
    return prediction.answer if hasattr(prediction, "answer") else prediction.label


def classify(bundle: Path, rows: Sequence[Any]) -> Any:
    """Transformers' pipeline, in batches of 32."""
    from transformers import pipeline

    theirs = pipeline("text-classification", model=str(bundle), batch_size=BATCH, device="cpu")
    texts = [row["text"] for row in rows]
    return partial(theirs, texts), f"pipeline, batch_size={BATCH}", lambda found: found["label"]


def tag(bundle: Path, rows: list[Any]) -> Any:
    """Transformers' pipeline over the words joined by spaces, which ftkit is then asked too."""
    from transformers import pipeline

    for row in rows:
        row["text"] = " ".join(row["tokens"])
    theirs: Any = pipeline(
        "token-classification",
        model=str(bundle),
        batch_size=BATCH,
        aggregation_strategy="first",
        device="cpu",
    )
    texts = [row["text"] for row in rows]

    def told(found: Any) -> Any:
        return [(each["entity_group"], each["start"], each["end"]) for each in found]

    return partial(theirs, texts), f"pipeline, batch_size={BATCH}, first", told


def answer(bundle: Path, rows: Sequence[Any]) -> Any:
    """A bare loop over AutoModelForQuestionAnswering, in run_qa.py's windows of 384 tokens."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(bundle).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle)

    def answers() -> list[str]:
        encoded = tokenizer(
            [row["question"] for row in rows],
            [row["context"] for row in rows],
            max_length=384,
            stride=128,
            truncation="only_second",
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        best = [(float("-inf"), 0, 0)] * len(rows)
        names = ("input_ids", "attention_mask", "token_type_ids")
        for first in range(0, len(encoded["input_ids"]), BATCH):
            places = range(first, min(first + BATCH, len(encoded["input_ids"])))
            batch = tokenizer.pad(
                {name: [encoded[name][i] for i in places] for name in names}, return_tensors="pt"
            )
            with torch.inference_mode():
                found = model(**batch)
            for i, starts, ends in zip(
                places, found.start_logits.numpy(), found.end_logits.numpy(), strict=True
            ):
                row = encoded["overflow_to_sample_mapping"][i]
                offsets = context_offsets(encoded.sequence_ids(i), encoded["offset_mapping"][i])
                best[row] = max(best[row], best_span(starts, ends, offsets))
        return [row["context"][start:end] for row, (_, start, end) in zip(rows, best, strict=True)]

    return answers, "bare loop, batches of 32 windows", lambda found: found


YARDSTICKS: dict[str, Callable[[Path, Any], Any]] = {
    "classification": classify,
    "ner": tag,
    "qa": answer,
}
