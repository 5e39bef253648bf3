"""Blurr's wrong results, made right: each check passes with the mend and fails without it."""

import numpy as np
import pytest
import torch
from blurr.text.data.all import (
    CausalLMStrategy,
    OnlyFirstTokenLabelingStrategy,
    get_token_labels_from_input_ids,
    get_word_labels_from_token_labels,
)
from blurr.text.modeling.all import (
    BaseModelCallback,
    BaseModelWrapper,
    BlearnerForSequenceClassification,
    TokenClassMetricsCallback,
    blurr_splitter,
)
from blurr.text.modeling.token_classification import TokenAggregationStrategies
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from ftkit.errors import FtkitWarning

WANTED = [["B-a", "I-a", "O", "B-b"], ["O", "B-a", "O", "O"]]
FOUND = [["B-a", "I-a", "O", "O"], ["B-b", "O", "B-b", "B-b"]]


class Holder:
    """What a callback writes into."""


def without(name, owner):
    """What Blurr itself has in the place of a mended function or method."""
    return getattr(owner, name).__wrapped__


def ner_scores(after_validate):
    metrics = TokenClassMetricsCallback()
    metrics.results, metrics.learn = list(zip(FOUND, WANTED, strict=True)), Holder()
    after_validate(metrics)
    return metrics


def test_precision_is_precision(said):
    def check(after_validate):
        metrics = ner_scores(after_validate)
        scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
        for name, score in scores.items():
            assert metrics.custom_metrics_dict[name] == score(WANTED, FOUND), name
        report = classification_report(WANTED, FOUND)
        assert metrics.learn.token_classification_report == report

    assert precision_score(WANTED, FOUND) != recall_score(WANTED, FOUND)
    mended = TokenClassMetricsCallback.after_validate
    with pytest.warns(FtkitWarning, match="precision and recall"):
        check(mended)
    with pytest.raises(AssertionError):
        check(mended.__wrapped__)


def test_it_is_said_once(recwarn):
    for _ in range(3):
        ner_scores(TokenClassMetricsCallback.after_validate)
    assert len([each for each in recwarn if each.category is FtkitWarning]) == 1


@pytest.mark.parametrize(
    ("architecture", "auto", "splitter", "options"),
    [
        ("bert", AutoModelForMaskedLM, "blurr_splitter", {}),
        ("albert", AutoModelForMaskedLM, "blurr_splitter", {}),
        ("bart", AutoModelForSeq2SeqLM, "blurr_seq2seq_splitter", {"arch": "bart"}),
        ("t5", AutoModelForSeq2SeqLM, "blurr_seq2seq_splitter", {"arch": "t5"}),
    ],
)
@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_each_parameter_has_one_group(checkpoint, architecture, auto, splitter, options):
    import blurr.text.modeling.all as modeling

    model = BaseModelWrapper(auto.from_pretrained(checkpoint(architecture)))

    def check(split):
        groups = split(model, **options)
        numbers = [id(parameter) for group in groups for parameter in group]
        assert sorted(numbers) == sorted(id(parameter) for parameter in model.parameters())
        assert all(len(group) for group in groups)

    check(getattr(modeling, splitter))
    with pytest.raises(AssertionError):
        check(without(splitter, modeling))


def test_untied_groups_stay_as_they_are(checkpoint, recwarn):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint("bert"))
    groups, before = blurr_splitter(model), blurr_splitter.__wrapped__(model)
    assert [list(map(id, group)) for group in groups] == [list(map(id, each)) for each in before]
    assert not [each for each in recwarn if each.category is FtkitWarning]


def test_saved_labels_have_names(tickets, checkpoint, tmp_path, monkeypatch):
    def check(learn):
        learn.fit_one_cycle(1, 1e-4)
        learn.model.hf_model.save_pretrained(tmp_path)
        config = AutoConfig.from_pretrained(tmp_path)
        names = sorted(set(tickets["queue"]))
        assert config.id2label == dict(enumerate(names))
        assert config.label2id == {name: i for i, name in enumerate(names)}

    def build():
        return BlearnerForSequenceClassification.from_data(
            tickets, checkpoint("bert"), label_attr="queue", dl_kwargs={"bs": 16}
        )

    with pytest.warns(FtkitWarning, match="LABEL_0"):
        check(build())
    monkeypatch.delattr(BaseModelCallback, "before_fit")
    with pytest.raises(AssertionError):
        check(build())


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_words_are_the_users(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("bert"))
    words = ["re:", "order", "#12,", "from", "truro"]
    labels = [0, 0, 1, 0, 2]
    vocab = ["O", "B-order", "B-place"]
    encoded = tokenizer(words, is_split_into_words=True)
    strategy = OnlyFirstTokenLabelingStrategy(tokenizer, vocab)
    aligned = strategy.align_labels_with_tokens(encoded.word_ids(), labels)
    pairs = get_token_labels_from_input_ids(tokenizer, encoded["input_ids"], aligned, vocab)

    def check(get_words):
        found = get_words("bert", tokenizer, pairs)
        assert found == [(word, vocab[label]) for word, label in zip(words, labels, strict=True)]

    check(get_word_labels_from_token_labels)
    with pytest.raises(AssertionError):
        check(get_word_labels_from_token_labels.__wrapped__)


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
@pytest.mark.parametrize("strategy", ["simple", "first", "max", "average"])
def test_entities_end_before_special_tokens(checkpoint, said, strategy):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("bert"))
    text, labels = "my parcel is late", ["O", "B-thing", "I-thing"]
    encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
    first = int((offsets[:, 0] == text.index("late")).nonzero()[-1])
    preds = [0] * first + [1] + [2] * (len(ids) - first - 1)

    def check(by_word_strategy):
        aggregate = TokenAggregationStrategies(tokenizer, labels, "O")
        probs = torch.eye(3)[preds]
        given = (strategy, text, ids, offsets, preds, probs, encoded.word_ids())
        (found,) = by_word_strategy(aggregate, *given)
        assert (found["word"], found["start"], found["end"]) == ("late", 13, 17)

    check(TokenAggregationStrategies.by_word_strategy)
    assert any("special tokens" in each for each in said)
    with pytest.raises(AssertionError):
        check(without("by_word_strategy", TokenAggregationStrategies))


def test_padding_is_not_predicted(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("gpt2"))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})

    def check(build_inputs_targets):
        batch = tokenizer(
            ["a parcel", "my parcel is late today"], padding=True, return_tensors="pt"
        )
        samples = [({name: batch[name][i] for name in batch},) for i in range(2)]
        found = build_inputs_targets(CausalLMStrategy(tokenizer), samples)
        ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
        for i, (_, targets) in enumerate(found):
            length = mask[i].sum()
            assert targets[: length - 1].tolist() == ids[i, 1:length].tolist()
            is_whole = length == len(targets)
            assert targets[length - 1] == (tokenizer.eos_token_id if is_whole else -100)
            assert np.all(targets[length:].numpy() == -100)

    check(CausalLMStrategy.build_inputs_targets)
    with pytest.raises(AssertionError):
        check(CausalLMStrategy.build_inputs_targets.__wrapped__)


def test_samples_are_tensors_still(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("gpt2"))
    ids = torch.tensor([5, 6, 7])
    inputs = {"input_ids": ids, "attention_mask": torch.ones(3, dtype=torch.long)}
    ((_, targets),) = CausalLMStrategy(tokenizer).build_inputs_targets([(inputs,)])
    assert targets.tolist() == [6, 7, tokenizer.eos_token_id]
