"""What Blurr computes or writes wrongly, made right; each is said once. `answers` has the rest.

Each function mends one result; `RESULTS` is all of them, for `ftkit.blurr` to call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import blurr.text.data.language_modeling as language_data
import blurr.text.data.token_classification as tagging_data
import blurr.text.modeling.core as core
import blurr.text.modeling.seq2seq.core as seq2seq
import blurr.text.modeling.token_classification as tagging
import torch
from torch import nn

from ftkit._fastai import L
from ftkit.blurr.patch import replace, replace_method, say_once

_IGNORED = "[xIGNx]"


def precision_is_precision() -> None:
    """The NER metrics are given predictions as truth: precision and recall change places."""

    def after_validate(self: Any) -> None:
        if not self.results:
            return
        say_once("precision and recall of NER are the right way round; Blurr swaps them")
        found, wanted = (list(each) for each in zip(*self.results, strict=True))
        compute = tagging.calculate_token_class_metrics
        for name in self.custom_metrics_dict:
            self.custom_metrics_dict[name] = compute(found, wanted, name)
        report = compute(found, wanted, "classification_report")
        self.learn.token_classification_report = report

    replace_method(tagging.TokenClassMetricsCallback, "after_validate", after_validate)


def each_parameter_has_one_group() -> None:
    """Tied weights stand in several groups, and are stepped several times at several rates."""
    splitter, seq2seq_splitter = core.blurr_splitter, seq2seq.blurr_seq2seq_splitter
    replace(splitter, lambda m: _once(m, splitter(m)))
    replace(seq2seq_splitter, lambda m, arch: _once(m, seq2seq_splitter(m, arch)))


def _once(model: nn.Module, groups: Sequence[Sequence[nn.Parameter]]) -> Any:
    """The groups with each parameter in the first that has it; those of none go into the last."""
    seen: set[int] = set()
    kept: list[list[nn.Parameter]] = []
    for group in groups:
        kept.append([p for p in group if id(p) not in seen])
        seen.update(map(id, group))
    left = [p for p in model.parameters() if id(p) not in seen]
    kept[-1].extend(left)
    if left or sum(map(len, groups)) > len(seen):
        say_once("each parameter is in one group of layers; Blurr has tied ones in several")
    return L([L(group) for group in kept if group])


def saved_labels_have_names() -> None:
    """A saved model answers LABEL_0: Blurr never tells its config what the labels are called."""

    def before_fit(self: Any) -> None:
        transform = core.first_blurr_tfm(self.learn.dls)
        names = transform.kwargs.get("labels") or getattr(self.learn.dls, "vocab", None)
        config = self.learn.model.hf_model.config
        found = [str(config.id2label.get(i)) for i in range(config.num_labels)]
        if names is None or len(names) != config.num_labels or isinstance(names[0], (list, L)):
            return
        if found == [f"LABEL_{i}" for i in range(config.num_labels)]:
            config.id2label = {i: str(name) for i, name in enumerate(names)}
            config.label2id = {name: i for i, name in config.id2label.items()}
            say_once("the model's config has the names of the labels; Blurr leaves LABEL_0")

    core.BaseModelCallback.before_fit = before_fit


def words_are_the_users() -> None:
    """Tags are shown beside other words: words are guessed from the decoded text."""
    old = tagging_data.get_word_labels_from_token_labels

    def get_word_labels_from_token_labels(hf_arch: str, hf_tokenizer: Any, tok_labels: Any) -> Any:
        if _IGNORED not in [label for _, label in tok_labels]:
            return old(hf_arch, hf_tokenizer, tok_labels)
        say_once("tags are shown beside the words that they are of; Blurr shifts them")
        words: list[tuple[list[str], str]] = []
        for token, label in tok_labels:
            if label != _IGNORED or not words:
                words.append(([], label))
            words[-1][0].append(token)
        to_text = hf_tokenizer.convert_tokens_to_string
        # A word has no space in it, though some tokenizers put one before a full stop.
        return [("".join(to_text(tokens).split()), label) for tokens, label in words]

    replace(old, get_word_labels_from_token_labels)


def padding_is_not_predicted() -> None:
    """The accuracy of a causal language model counts the padding, which is easy to predict."""
    old = language_data.CausalLMStrategy.build_inputs_targets

    def build_inputs_targets(self: Any, *args: Any, **kwargs: Any) -> Any:
        samples = old(self, *args, **kwargs)
        for inputs, targets in samples:
            mask = inputs["attention_mask"]
            # A target is the token behind, and behind the last one there is the end.
            is_padding = (mask == 0) | (torch.cat([mask[1:], mask[-1:]]) == 0)
            targets[is_padding] = self.ignore_token_id
            if is_padding.any():
                say_once("lm_accuracy leaves out the padding; Blurr counts it")
        return samples

    replace_method(language_data.CausalLMStrategy, "build_inputs_targets", build_inputs_targets)


def entities_end_before_special_tokens() -> None:
    """An entity goes on into the special tokens behind the text, and ends where they do: at 0."""
    old = tagging.TokenAggregationStrategies.by_word_strategy

    def by_word_strategy(
        self: Any,
        strategy_name: str,
        text: str,
        input_ids: Any,
        offsets: Any,
        preds: Any,
        *rest: Any,
    ) -> Any:
        outside = list(self.labels).index(self.non_entity_label)
        is_special = torch.isin(input_ids, torch.tensor(self.hf_tokenizer.all_special_ids))
        chosen = [
            outside if special else pred
            for pred, special in zip(preds, is_special.tolist(), strict=True)
        ]
        if any(a != b for a, b in zip(preds, chosen, strict=True)):
            say_once(
                "entities end where their text does; Blurr lets them go on into special tokens"
            )
        return old(self, strategy_name, text, input_ids, offsets, chosen, *rest)

    replace_method(tagging.TokenAggregationStrategies, "by_word_strategy", by_word_strategy)


RESULTS = (
    each_parameter_has_one_group,
    entities_end_before_special_tokens,
    padding_is_not_predicted,
    precision_is_precision,
    saved_labels_have_names,
    words_are_the_users,
)
