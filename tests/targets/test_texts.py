"""What tasks that write share: ids and what is cut, languages, prefixes, checks."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import BartConfig, BertConfig, LEDConfig, RobertaConfig, T5Config, XLNetConfig

from ftkit.errors import DataError, FtkitWarning, SettingError
from ftkit.targets.texts import (
    check_references,
    check_targets,
    collate_texts,
    decode_ids,
    describe_cut,
    encode_targets,
    encode_texts,
    generation_settings,
    prefixes_of,
    set_languages,
    target_limit,
)

pytestmark = pytest.mark.unit


# Ids


def test_texts_keep_their_head_behind_the_prefix(tiny_tokenizer):
    tokenizer = tiny_tokenizer("t5")
    texts = ["order", "parcel late refund login error", ""]
    whole = encode_texts(texts, "text", "help: ", tokenizer, 100)
    assert whole["n_cut"] == [0, 0, 0]
    ids = [tokenizer(f"help: {text}")["input_ids"] for text in texts]
    assert whole["input_ids"] == [[each] for each in ids]
    cut = encode_texts(texts, "text", "help: ", tokenizer, 5)
    assert cut["input_ids"][1] == [[*ids[1][:4], tokenizer.eos_token_id]]
    assert cut["n_cut"] == [0, len(ids[1]) - 5, 0]


@pytest.mark.parametrize("architecture", ["bert", "t5", "bart", "roberta"])
def test_targets_keep_what_marks_their_ends(tiny_tokenizer, architecture):
    tokenizer = tiny_tokenizer(architecture)
    found = encode_targets(["refund late", "parcel " * 20], "summary", tokenizer, 8)
    short, long = (each.tolist() for each in found["target"])
    whole = tokenizer(["refund late", "parcel " * 20])["input_ids"]
    assert found["target_cut"] == [max(0, len(each) - 8) for each in whole]
    assert len(long) == 8
    assert long[-1] == whole[1][-1]
    assert long[:-1] == whole[1][:7]
    if architecture in ("bert", "t5"):
        assert decode_ids(torch.tensor([short]), tokenizer) == ["refund late"]


@pytest.mark.parametrize(("value", "found"), [(None, "nothing"), (3, "3")])
def test_a_target_that_is_no_text_is_refused(tiny_tokenizer, value, found):
    with pytest.raises(DataError, match=f'row 2, column "summary": found {found} where a text'):
        encode_targets(["fine", value], "summary", tiny_tokenizer("t5"), 8)


@pytest.mark.parametrize(("value", "found"), [(None, "nothing"), (3, "3")])
def test_a_text_that_is_none_is_refused(tiny_tokenizer, value, found):
    with pytest.raises(DataError, match=f'row 2, column "source": found {found} where a text'):
        encode_texts(["fine", value], "source", "help: ", tiny_tokenizer("t5"), 8)


def test_ids_that_pad_are_no_text(tiny_tokenizer):
    tokenizer = tiny_tokenizer("t5")
    ids = tokenizer(["refund", "late parcel"])["input_ids"]
    padded = torch.tensor([[*ids[0], -100], ids[1]])
    assert decode_ids(padded, tokenizer) == ["refund", "late parcel"]
    assert decode_ids(torch.full((1, 3), -100), tokenizer) == [""]


def test_a_batch_has_its_labels_as_inputs_and_targets():
    columns = {
        "input_ids": np.array([[5, 6], [7, 0]]),
        "attention_mask": np.array([[1, 1], [1, 0]]),
        "row": np.array([3, 8]),
        "n_cut": np.array([0, 0]),
    }
    inputs, targets = collate_texts({**columns, "target": np.array([[1, 2, 3], [4, -100, -100]])})
    assert set(inputs) == {
        *("input_ids", "attention_mask", "global_attention_mask", "row", "labels")
    }
    assert inputs["global_attention_mask"].tolist() == [[1, 0], [1, 0]]
    assert targets.tolist() == inputs["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    inputs, targets = collate_texts(columns)
    assert "labels" not in inputs
    assert targets.tolist() == [[-100], [-100]]


# Settings


def test_settings_of_an_old_task_are_set_back():
    settings = generation_settings(4, 64, {"forced_bos_token_id": 9}, no_repeat_ngram_size=3)
    assert settings["num_beams"] == 4
    assert settings["max_new_tokens"] == 64
    assert settings["max_length"] is None
    assert settings["min_length"] == 0
    assert settings["no_repeat_ngram_size"] == 3
    assert settings["forced_bos_token_id"] == 9
    assert settings["early_stopping"] is False


def test_prefixes_are_read_off_the_config():
    settings = {"summarization": {"prefix": "summarize: ", "num_beams": 4}, "other": {"x": 1}}
    assert prefixes_of(T5Config(task_specific_params=settings)) == {"summarization": "summarize: "}
    assert prefixes_of(BartConfig()) == {}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (T5Config(), 100),
        (XLNetConfig(), 100),
        (BartConfig(max_position_embeddings=40), 40),
        (LEDConfig(max_encoder_position_embeddings=99, max_decoder_position_embeddings=33), 33),
        (BertConfig(max_position_embeddings=64), 64),
        (RobertaConfig(max_position_embeddings=66, pad_token_id=1), 64),
    ],
)
def test_targets_are_no_longer_than_the_decoder_takes(config, limit):
    assert target_limit(config, 100) == limit
    assert target_limit(config, 30) == 30


# Languages


@pytest.fixture
def multilingual():
    """A function that builds mBART's tokenizer, or that of its successor."""
    from transformers import MBart50Tokenizer, MBartTokenizer
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES as CODES

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁hello", "▁hallo", *CODES, "<mask>"]
    classes = {"mbart": MBartTokenizer, "mbart50": MBart50Tokenizer}
    return lambda name: classes[name](vocab=[(piece, -1.0) for piece in pieces])


@pytest.mark.parametrize(
    ("name", "setting"), [("mbart", "decoder_start_token_id"), ("mbart50", "forced_bos_token_id")]
)
def test_languages_are_marked_and_generation_starts_with_the_target(multilingual, name, setting):
    tokenizer = multilingual(name)
    german = tokenizer.convert_tokens_to_ids("de_DE")
    assert set_languages(tokenizer, "en_XX", "de_DE") == {setting: german}
    # Twice, because marking targets changes the tokenizer for a moment.
    for _ in range(2):
        (ids,) = encode_texts(["hello"], "text", "", tokenizer, 9)["input_ids"][0]
        (target,) = encode_targets(["hallo"], "target", tokenizer, 9)["target"]
        assert tokenizer.convert_tokens_to_ids("en_XX") in ids
        assert german in target.tolist()
        assert decode_ids(torch.tensor([target.tolist()]), tokenizer) == ["hallo"]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (("en", "de_DE"), 'no language "en". Use one such as .*"en_XX"'),
        (("en_XX", None), "no language was given. Use one such as"),
        (("en_XX", "</s>"), 'no language "</s>"'),
    ],
)
def test_languages_that_the_tokenizer_does_not_know(multilingual, codes, message):
    with pytest.raises(SettingError, match=message):
        set_languages(multilingual("mbart50"), *codes)


def test_tokenizers_of_one_language_are_left_alone(tiny_tokenizer):
    assert set_languages(tiny_tokenizer("t5"), "en", "de") == {}


# Checks


def data_of(**columns):
    rows = Dataset.from_dict(columns)
    return DatasetDict({"train": rows, "validation": rows})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"summary": ["a", None, None]}, 'row 2, column "summary": the text is missing .* 2 row'),
        ({"summary": [None, None]}, 'row 1, column "summary": the text is missing .* 2 row'),
        ({"summary": [1, 2]}, "found int64 values where texts belong"),
        (
            {"summary": ["a", "b"], "references": [["a"], []]},
            r'row 2, column "references": found \[\] where a list of texts should be',
        ),
        (
            {"summary": ["a", "b"], "references": [["a"], None]},
            'row 2, column "references": found nothing where a list',
        ),
        (
            {"summary": ["a", "b"], "references": [["a", None], ["b"]]},
            "row 1, column \"references\": found .'a', None. where",
        ),
        ({"summary": ["a"], "references": ["a"]}, "found 'a' where a list of texts should be"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        check_targets(data_of(**columns), "summary")


@pytest.mark.parametrize("good", [["a"], ("a", "b"), np.array(["a"])])
@pytest.mark.parametrize(
    ("bad", "found"), [("a", "'a'"), ([], "[]"), (None, "nothing"), (["a", None], "['a', None]")]
)
def test_references_are_lists_of_texts(good, bad, found):
    check_references([good, good])
    with pytest.raises(DataError, match=re.escape(f"found {found} where a list")) as caught:
        check_references([good, bad, bad])
    assert (caught.value.row, caught.value.column) == (2, "references")


def test_empty_targets_are_counted():
    with pytest.warns(FtkitWarning, match=r"2 of 3 texts are empty.*\(row 1, 3\)"):
        check_targets(data_of(summary=[" ", "a", ""]), "summary")


def test_what_is_cut_is_said():
    arrays = {"n_cut": np.array([0, 3, 1]), "target_cut": np.array([0, 0, 2])}
    said = describe_cut(arrays, 64, 32, "texts", "summaries")
    assert said.startswith("2 of 3 texts are longer than 64 tokens and lose their end; ")
    assert "1 of 3 summaries are longer than 32 tokens and lose their end; raise max_tar" in said
    assert describe_cut({"n_cut": np.zeros(3)}, 64, 32, "texts", "summaries") is None
