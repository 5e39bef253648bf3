"""Flat arrays and the batches filled from them, against transformers' own padding."""

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from ftkit.errors import DataError
from ftkit.features import (
    ColumnRows,
    Padding,
    from_arrays,
    input_columns,
    model_arrays,
    named_labels,
    prepare_rows,
    slice_arrays,
    stack_arrays,
)
from ftkit.tasks import NER, Classification

pytestmark = pytest.mark.unit
PADDING = Padding({"input_ids": 9, "token_type_ids": 3}, "right")


def features_of(rows: list[list[list[int]]], **columns):
    """Features of rows given as rows[row][window][token]."""
    return from_arrays(stack_arrays([slice_arrays({"input_ids": rows, **columns})]))


THREE = [[[1, 2, 3]], [[4], [5, 6]], [[7, 8]]]


def test_offsets_lengths_and_windows():
    features = features_of(THREE, n_cut=[3, 30, 2])
    assert len(features) == 3
    assert features.row_offsets.tolist() == [0, 1, 3, 4]
    assert features.window_offsets.tolist() == [0, 3, 4, 6, 8]
    assert features.tokens["input_ids"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert features.lengths.tolist() == [3, 2, 2]
    assert features.windows.tolist() == [1, 2, 1]


def test_no_rows_have_no_lengths():
    features = features_of(THREE)
    none = np.zeros(1, dtype=np.int64)
    empty = type(features)({}, {}, none, none)
    assert len(empty) == 0
    assert empty.lengths.tolist() == []


def test_fill_pads_to_the_longest_and_keeps_the_order_asked_for():
    features = features_of(THREE, target=[10, 11, 12])
    batch = features.fill(np.array([2, 0]), PADDING)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["target"].tolist() == [12, 10]
    assert batch["row"].tolist() == [2, 0]
    assert batch["windows"].tolist() == [1, 1]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == np.int64


def test_fill_keeps_the_windows_of_a_row_together():
    batch = features_of(THREE).fill(np.array([1, 2, 0]), PADDING)
    assert batch["input_ids"].tolist() == [[4, 9, 9], [5, 6, 9], [7, 8, 9], [1, 2, 3]]
    assert batch["windows"].tolist() == [2, 1, 1]


def test_a_model_is_given_the_places_of_the_windows_of_each_row():
    features = features_of(THREE, target=[10, 11, 12])
    batch = features.fill(np.array([2, 1, 0]), PADDING)
    arrays = model_arrays(batch)
    assert set(arrays) == {"input_ids", "attention_mask", "row", "windows"}
    assert arrays["windows"].tolist() == [[0, -1], [1, 2], [3, -1]]
    assert arrays["row"].tolist() == [2, 1, 0]
    assert "windows" not in model_arrays(features.fill(np.array([2, 0]), PADDING))


def test_fill_on_the_left():
    batch = features_of(THREE).fill(np.array([0, 2]), Padding({"input_ids": 9}, "left"))
    assert batch["input_ids"].tolist() == [[1, 2, 3], [9, 7, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_window_without_tokens_is_all_padding(side):
    features, padding = features_of([[[]], [[5, 6]]]), Padding({"input_ids": 9}, side)
    batch = features.fill(np.array([0, 1]), padding)
    assert batch["input_ids"].tolist() == [[9, 9], [5, 6]]
    assert batch["attention_mask"].tolist() == [[0, 0], [1, 1]]
    assert features.fill(np.array([0]), padding)["input_ids"].tolist() == [[9]]


def test_no_window_has_a_token():
    batch = features_of([[[]], [[]]]).fill(np.array([0, 1]), PADDING)
    assert batch["input_ids"].tolist() == [[9], [9]]
    assert batch["attention_mask"].tolist() == [[0], [0]]


def test_an_array_whose_padding_nobody_named_is_padded_with_0():
    features = features_of(THREE, other_ids=[[[5, 5, 5]], [[5], [5, 5]], [[5, 5]]])
    assert features.fill(np.array([0, 2]), PADDING)["other_ids"].tolist() == [[5, 5, 5], [5, 5, 0]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
def test_fill_equals_the_tokenizers_own_padding(tiny_tokenizer, tiny_data, architecture, side):
    tokenizer = tiny_tokenizer(architecture)
    tokenizer.padding_side = side
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer._pad_token_type_id = 1  # as XLNet's, which pads with a type of its own
    texts = tiny_data["train"]["text"][:20]
    pairs = tiny_data["train"]["text"][20:40]
    task = Classification(kind="single", labels=("a", "b"))
    features = prepare_rows({"text": texts, "text_pair": pairs}, task, tokenizer, 512)
    rows = np.random.default_rng(3).permutation(20)[:7]
    filled = features.fill(rows, Padding.of(tokenizer))
    wanted = tokenizer(
        [texts[row] for row in rows],
        [pairs[row] for row in rows],
        padding=True,
        return_tensors="np",
    )
    assert {*wanted} <= {*filled}
    assert ("token_type_ids" in wanted) == (architecture == "bert")
    for name, expected in wanted.items():
        np.testing.assert_array_equal(filled[name], expected)


def test_sequences_of_rows_are_padded_with_what_no_loss_counts():
    features = features_of(THREE, target=[np.array([4, 5]), np.array([], int), np.array([6])])
    batch = features.fill(np.array([2, 0, 1]), PADDING)
    assert batch["target"].tolist() == [[6, -100], [4, 5], [-100, -100]]
    assert features.fill(np.array([1]), PADDING)["target"].tolist() == [[-100]]


def many_windows():
    """Row 0 has 40 windows of one token each (100, 101, ...), row 1 one window, row 2 has 10."""
    return features_of(
        [
            [[100 + i] for i in range(40)],
            [[1]],
            [[200 + i] for i in range(10)],
        ]
    )


def test_drawn_windows_are_few_distinct_and_in_order():
    rows = np.array([2, 0, 1])
    batch = many_windows().fill(rows, PADDING, np.random.default_rng(0), 15)
    assert batch["windows"].tolist() == [5, 5, 1]
    drawn = batch["input_ids"][:, 0].tolist()
    for part, low, high in ((drawn[:5], 200, 210), (drawn[5:10], 100, 140)):
        assert part == sorted(set(part))
        assert all(low <= token < high for token in part)
    assert drawn[10:] == [1]


def test_every_window_is_drawn_sometimes():
    rng, features = np.random.default_rng(0), many_windows()
    seen = {
        int(token)
        for _ in range(60)
        for token in features.fill(np.array([0]), PADDING, rng, 8)["input_ids"][:, 0]
    }
    assert seen == set(range(100, 140))


@pytest.mark.parametrize(
    ("draws", "most"), [(False, 15), (True, None), (True, 51), (True, 60), (False, None)]
)
def test_all_windows_stay_where_nothing_is_to_be_drawn(draws, most):
    rng = np.random.default_rng(0) if draws else None
    batch = many_windows().fill(np.array([0, 1, 2]), PADDING, rng, most)
    assert batch["windows"].tolist() == [40, 1, 10]


def test_each_row_keeps_a_window_however_small_the_bound():
    batch = many_windows().fill(np.array([0, 1, 2]), PADDING, np.random.default_rng(0), 2)
    assert batch["windows"].tolist() == [1, 1, 1]


def test_slices_stack_to_what_one_slice_gives():
    prepared = {
        "input_ids": [*THREE, [[1]], [[2, 3], [4]]],
        "n_cut": [3, 3, 2, 1, 3],
        "target": [[0.5, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]],
    }
    whole = from_arrays(stack_arrays([slice_arrays(prepared)]))
    halves = [
        slice_arrays({name: values[cut] for name, values in prepared.items()})
        for cut in (slice(0, 2), slice(2, 5))
    ]
    stacked = from_arrays(stack_arrays(halves))
    np.testing.assert_array_equal(stacked.window_offsets, whole.window_offsets)
    np.testing.assert_array_equal(stacked.row_offsets, whole.row_offsets)
    for name in ("n_cut", "target"):
        np.testing.assert_array_equal(stacked.rows[name], whole.rows[name])
    np.testing.assert_array_equal(stacked.tokens["input_ids"], whole.tokens["input_ids"])
    assert stacked.rows["target"].shape == (5, 2)
    assert stacked.rows["target"].dtype == np.float32


def test_token_types_go_only_where_all_slices_have_none():
    def part(types):
        return slice_arrays({"input_ids": [[[1, 2]]], "token_type_ids": [[types]]})

    assert "token_type_ids" not in from_arrays(stack_arrays([part([0, 0]), part([0, 0])])).tokens
    kept = from_arrays(stack_arrays([part([0, 0]), part([0, 1])])).tokens["token_type_ids"]
    assert kept.tolist() == [0, 0, 0, 1]


def test_named_labels():
    names = ClassLabel(names=["no", "yes"])
    rows = Dataset.from_dict(
        {"text": ["a", "b"], "label": [1, 0], "tags": [[0, 1], []]},
        features=Features({"text": Value("string"), "label": names, "tags": List(names)}),
    )
    assert named_labels(rows[:], rows.features) == {
        "text": ["a", "b"],
        "label": ["yes", "no"],
        "tags": [["no", "yes"], []],
    }


def test_a_missing_label_stays_missing():
    names = ClassLabel(names=["a", "b"])
    found = named_labels(
        {"label": [None, 1, -1], "tags": [[0, -1], [None], []]},
        {"label": names, "tags": List(names)},
    )
    assert found == {"label": [None, "b", None], "tags": [["a", None], [None], []]}


def test_rows_of_columns_are_made_when_asked_for():
    rows = ColumnRows({"text": ["a", "b", "c"], "label": [1, 2, 3]}, [2, 0])
    assert len(rows) == 2
    assert list(rows) == [{"text": "c", "label": 3}, {"text": "a", "label": 1}]
    assert list(rows[1:]) == [{"text": "a", "label": 1}]


def test_a_row_may_lack_an_optional_text():
    task, nan = Classification(), float("nan")
    rows = [("a", "b"), "c", {"text": "d", "text_pair": nan}, {"text": "e", "text_pair": pd.NA}]
    expected = {"text": list("acde"), "text_pair": ["b", None, None, None]}
    assert input_columns(rows, task) == expected
    assert input_columns(rows[1:], task) == {"text": list("cde")}
    with pytest.raises(DataError, match='row 2, column "text_pair": found 3 where a text should'):
        input_columns([rows[0], ("a", 3)], task)
    with pytest.raises(DataError, match='row 2, column "tokens": found nothing where a list'):
        input_columns([{"tokens": ["a"]}, {"tokens": None}], NER())


def test_words_are_taken_where_a_task_reads_them():
    task = NER(labels=("O", "B-x", "I-x"))
    assert input_columns([{"tokens": ["a", "b"]}], task) == {"tokens": [["a", "b"]]}
    assert input_columns(["a b"], task) == {"text": ["a b"]}
    with pytest.raises(DataError, match=r"row 3.*found \['a', 5\] where a list of words") as caught:
        input_columns([{"tokens": ["a"]}, {"tokens": ["a", 5]}], task, first=1)
    assert caught.value.column == "tokens"
    with pytest.raises(DataError, match="found nothing where a text should be"):
        input_columns([{"words": "a"}], task)
