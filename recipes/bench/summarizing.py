"""Hugging Face's Trainer for summaries, by an encoder-decoder made of MiniLM twice.

As transformers' own `run_summarization.py`, and as Rothe et al. 2020 make the model. Its texts are
written greedily. It uses nothing of ftkit, its scores included.
"""

from pathlib import Path
from statistics import mean
from typing import Any

from common import EVAL_BATCH, by_length, load_splits, minilm_folder, training_arguments
from peers import Peer

MAX_LENGTH = 256
MAX_SUMMARY = 64
TEXT, SUMMARY = "dialogue", "summary"
SCORES = ("rouge1", "rougeL")


def prepare_summarization(
    data_folder: Path, output: Path, epochs: int, lr: float, seed: int, **options: Any
) -> Peer:
    """A summary of each dialogue; the attention between the two halves is new."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, set_seed

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    splits = load_splits(data_folder)

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = dict(tokenizer(batch[TEXT], truncation=True, max_length=MAX_LENGTH))
        targets = tokenizer(text_target=batch[SUMMARY], truncation=True, max_length=MAX_SUMMARY)
        return {**encoded, "labels": targets["input_ids"]}

    tokenized = splits.map(encode, batched=True)
    set_seed(seed)  # before the model: it draws what is new
    model = warm_start(tokenizer)
    trainer = Trainer(
        model=model,
        args=training_arguments(output, epochs, lr, seed, **options),
        train_dataset=tokenized["train"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    )

    def score() -> dict[str, dict[str, float]]:
        return {"test": summary_scores(model, tokenizer, tokenized["test"])}

    return Peer(trainer, MAX_LENGTH, score)


def warm_start(tokenizer: Any) -> Any:
    """Two halves with the checkpoint's weights, set up so that `generate` works."""
    from transformers import EncoderDecoderModel

    model = EncoderDecoderModel.from_encoder_decoder_pretrained(minilm_folder(), minilm_folder())
    for settings in (model.config, model.generation_config):
        settings.decoder_start_token_id = settings.bos_token_id = tokenizer.cls_token_id
        settings.eos_token_id = tokenizer.sep_token_id
        settings.pad_token_id = tokenizer.pad_token_id
    return model


def summary_scores(model: Any, tokenizer: Any, rows: Any) -> dict[str, float]:
    """F-measures of ROUGE, without stemming; the best of several references."""
    import torch
    from rouge_score.rouge_scorer import RougeScorer

    model.eval()
    ordered, texts = by_length(rows), []
    for first in range(0, len(ordered), EVAL_BATCH):
        part = ordered[first : first + EVAL_BATCH]
        inputs = {name: part[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            ids = model.generate(
                **tokenizer.pad(inputs, return_tensors="pt"),
                max_new_tokens=MAX_SUMMARY,
                num_beams=1,
                do_sample=False,
                no_repeat_ngram_size=3,
            )
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    scorer = RougeScorer(list(SCORES))
    wanted = [
        row.get("references") or [row[SUMMARY]]
        for row in ordered.select_columns([*({"references"} & {*ordered.column_names}), SUMMARY])
    ]
    found = [scorer.score_multi(*pair) for pair in zip(wanted, texts, strict=True)]
    return {name: mean(each[name].fmeasure for each in found) for name in SCORES}
