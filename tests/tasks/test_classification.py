"""Classification: every answer of the protocol against scikit-learn, scipy and torch."""

import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batches import as_tensors, merged
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from scipy.stats import spearmanr
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight

from ftkit.errors import DataError, SettingError
from ftkit.tasks import TASKS, Classification, get_task

pytestmark = pytest.mark.unit
SINGLE = Classification(kind="single", labels=("a", "b", "c"))
MULTI = Classification(kind="multi", labels=("a", "b", "c"))
VALUE = Classification(kind="regression", labels=("value",))
LONG_TEXTS = ("head", "tail", "head+tail", "windows")


def rows_of(labels, feature=None) -> Dataset:
    features = None if feature is None else Features({"text": Value("string"), "label": feature})
    return Dataset.from_dict(
        {"text": [f"text {i}" for i in range(len(labels))], "label": labels}, features=features
    )


def data_of(train, feature=None, **splits) -> DatasetDict:
    splits = {"train": train, **splits}
    return DatasetDict({name: rows_of(labels, feature) for name, labels in splits.items()})


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "binary"}, 'kind is \'binary\'.*"single", "multi"'),
        ({"long_texts": "middle"}, "long_texts is 'middle'.*\"windows\""),
        ({"max_length": 7}, "max_length is 7 tokens"),
        ({"stride": -1}, "stride is -1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"kind": "regression", "class_weights": "balanced"}, "no meaning for regression"),
        ({"kind": "regression", "label_smoothing": 0.1}, "no meaning for regression"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": -0.1}, "threshold is -0.1"),
        ({"threshold": 0.0}, "threshold is 0.0"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        Classification(**options)


@pytest.mark.parametrize(
    "task",
    [
        Classification(),
        Classification(kind="single", labels=("b", "a"), class_weights=(0.5, 2.0), max_length=8),
        Classification(kind="multi", labels=("a",), threshold=0.3, label_smoothing=0.1, stride=0),
        Classification(class_weights={"a": 2.0}, long_texts="head+tail"),
        VALUE,
    ],
)
def test_options_survive_json(task):
    assert Classification(**json.loads(json.dumps(asdict(task)))) == task


def test_the_registry_knows_it():
    assert TASKS["classification"] is Classification
    assert get_task("classification") == Classification()
    assert get_task(SINGLE) is SINGLE
    with pytest.raises(SettingError, match=r'no task is called "nerr".*classification'):
        get_task("nerr")


def test_columns():
    assert [(c.name, c.kind, c.is_required, c.aliases) for c in SINGLE.columns()] == [
        ("text", "text", True, ()),
        ("text_pair", "text", False, ()),
        ("label", "label", True, ("labels",)),
    ]


# Labels


@pytest.mark.parametrize(
    ("labels", "feature", "kind", "names"),
    [
        (["b", "a", "b"], None, "single", ("a", "b")),
        ([10, 2, 10], None, "single", ("2", "10")),
        ([True, False, True], None, "single", ("False", "True")),
        ([0, 1, 0], ClassLabel(names=["z", "y"]), "single", ("z", "y")),
        ([0, 1, 0], ClassLabel(names=["z", "y", "x"]), "single", ("z", "y", "x")),
        ([1.5, 2.0, 3.0], None, "regression", ("value",)),
        ([["b", "a"], [], ["c"]], None, "multi", ("a", "b", "c")),
        ([["a"], ["a"]], None, "multi", ("a",)),
        ([[1, 0], [], [0]], List(ClassLabel(names=["z", "y"])), "multi", ("z", "y")),
        ([[3, 20], [20]], None, "multi", ("3", "20")),
        ([[0, 1, 2], [1, 0, 2]], None, "multi", ("0", "1", "2")),
        ([[0, 1], [1], []], None, "multi", ("0", "1")),
        ([[0, 1], [1, 0]], None, "multi", ("0", "1")),
        ([[1, 0], [0, 1]], List(ClassLabel(names=["z", "y"])), "multi", ("z", "y")),
    ],
)
def test_kind_and_names_are_read_off_the_labels(labels, feature, kind, names):
    task = Classification().with_labels(data_of(labels, feature))
    assert (task.kind, task.labels) == (kind, names)


def test_integers_can_be_regression_when_asked():
    task = Classification(kind="regression").with_labels(data_of([1, 2, 3]))
    assert (task.kind, task.labels) == ("regression", ("value",))


def test_names_given_keep_their_order_and_may_be_more_than_the_data_has():
    task = Classification(labels=("c", "b", "a")).with_labels(data_of(["a", "b", "a"]))
    assert task.labels == ("c", "b", "a")


def test_labels_that_the_task_lacks_are_refused():
    with pytest.raises(SettingError, match='no label "b", "c"; it has "a", "d"'):
        Classification(labels=("a", "d")).with_labels(data_of(["a", "b", "c"]))


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        (data_of(["a", "a"]), ("train", None), 'all 2 rows have only the label "a"'),
        (
            data_of([0, 0], ClassLabel(names=["x", "y"])),
            ("train", None),
            'all 2 rows have only the label "x"',
        ),
        (data_of([["a"], []][1:], List(Value("string"))), ("train", None), "1 rows have no label"),
        (
            data_of(["a", "b"], test=["b", "a", "c"]),
            ("test", 3),
            'the label "c" occurs here and never in train',
        ),
        (
            data_of([["a"], ["b"]], validation=[["a"], ["b", "c"]]),
            ("validation", 2),
            'the label "c" occurs here and never in train',
        ),
        (
            data_of([0, 1], ClassLabel(names=["x", "y", "z"]), test=[0, 1, 2]),
            ("test", 3),
            'the label "z" occurs here and never in train',
        ),
        (data_of(["a", None, "b", None]), ("train", 2), "missing here and in 2 row"),
        (data_of(["a", "b"], test=["a", None]), ("test", 2), "missing here and in 1 row"),
        (data_of([["a"], None, ["b"]]), ("train", 2), "missing here"),
        (data_of([["a", None], ["b"]]), ("train", None), "holds something that is no label"),
        (data_of([[["a"]], [["b"]]]), ("train", None), "holds something that is no label"),
        (data_of([[1.5, float("nan")], [2.5]]), ("train", None), "holds something that is no"),
        (data_of([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]), ("train", 1), "found a 0 or 1 for each"),
        (data_of([[0, 1, 0], [1, 0, 0]]), ("train", 1), "found a 0 or 1 for each"),
        (data_of([[True, False], [True, True]]), ("train", 1), "found a 0 or 1 for each"),
        (
            data_of([[0, 1], [1]], validation=[[0, 0], [0, 1]]),
            ("validation", 1),
            r'found a 0 or 1 .*columns=\{"label": \["billing", "urgent"\]\}',
        ),
        (data_of([1.0, None, 2.0]), ("train", 2), "missing here and in 1 row"),
        (data_of([1.0, 2.0, float("nan")]), ("train", 3), "the label is nan"),
        (data_of([1.0, 2.0], test=[float("inf")]), ("test", 1), "the label is inf"),
        (
            data_of([0, -1, 1], ClassLabel(names=["x", "y"])),
            ("train", 2),
            "missing here and in 1 row",
        ),
        (
            data_of([[0], [1, -1]], List(ClassLabel(names=["x", "y"]))),
            ("train", None),
            "holds something that is no label",
        ),
    ],
)
def test_labels_that_cannot_work_are_named_with_split_and_row(data, place, message):
    with pytest.raises(DataError, match=message) as caught:
        Classification().with_labels(data)
    assert (caught.value.split, caught.value.row) == place
    assert caught.value.column == "label"


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("single", [["a"], ["b"]], 'a list of labels for a task of kind "single"'),
        ("multi", ["a", "b"], 'one label a row for a task of kind "multi"'),
        ("regression", ["a", "b"], "regression needs numbers, found string"),
        ("regression", [True, False], "regression needs numbers, found bool"),
    ],
)
def test_labels_of_another_kind_are_refused(kind, labels, message):
    with pytest.raises(DataError, match=message):
        Classification(kind=kind).with_labels(data_of(labels))


def test_numbers_that_are_classes_are_finite():
    task, odd = Classification(kind="single"), float("nan")
    assert task.with_labels(data_of([1.0, 2.5, 1.0])).labels == ("1.0", "2.5")
    with pytest.raises(DataError, match="the label is nan") as caught:
        task.with_labels(data_of([1.0, 2.0], test=[1.0, odd, odd]))
    assert (caught.value.split, caught.value.row) == ("test", 2)


# Class weights


def test_balanced_weights_are_scikit_learns():
    labels = random.Random(0).choices(["a", "b", "c"], weights=[5, 1, 3], k=200)
    task = Classification(class_weights="balanced").with_labels(data_of(labels))
    expected = compute_class_weight("balanced", classes=np.array(task.labels), y=np.array(labels))
    assert task.class_weights == pytest.approx(tuple(expected))


def test_balanced_weights_of_several_labels_are_absent_by_present():
    labels = [["a"], ["a", "b"], ["a", "b"], ["c"], []]
    task = Classification(class_weights="balanced").with_labels(data_of(labels))
    assert task.class_weights == pytest.approx((2 / 3, 3 / 2, 4 / 1))


def test_a_label_that_every_row_has_keeps_a_weight():
    task = Classification(class_weights="balanced").with_labels(data_of([["a"], ["a", "b"]]))
    assert task.class_weights == pytest.approx((1 / 2, 1.0))


def test_a_label_named_twice_in_a_row_counts_once():
    twice = data_of([["a", "a"], ["b"], ["b"]])
    once = data_of([["a"], ["b"], ["b"]])
    task = Classification(class_weights="balanced")
    assert task.with_labels(twice).class_weights == task.with_labels(once).class_weights


def test_weights_by_name_leave_others_at_1():
    task = Classification(class_weights={"b": 3}).with_labels(data_of(["a", "b", "c"]))
    assert task.class_weights == (1.0, 3.0, 1.0)


def test_names_given_may_be_numbers():
    task = Classification(labels=(1, 0), class_weights={0: 3.0, 1: 2.0})
    assert task == Classification(labels=("1", "0"), class_weights={"0": 3.0, "1": 2.0})
    task = task.with_labels(data_of([0, 1, 0]))
    assert (task.labels, task.class_weights) == (("1", "0"), (2.0, 3.0))


def test_weights_follow_the_order_of_the_labels():
    task = Classification(labels=("c", "a", "b"), class_weights={"b": 3, "c": 2})
    assert task.with_labels(data_of(["a", "b", "c"])).class_weights == (2.0, 1.0, 3.0)
    balanced = Classification(labels=("b", "a"), class_weights="balanced")
    assert balanced.with_labels(data_of(["a", "a", "a", "b"])).class_weights == pytest.approx(
        (2, 2 / 3)
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"z": 1.0}, 'class_weights names "z", which the data does not have'),
        ((1.0, 2.0), "class_weights has 2 numbers for 3 labels"),
        ("inverse", "class_weights is 'inverse'.*\"balanced\""),
        ({"a": -1.0}, "class_weights"),
        ((1.0, float("nan"), 1.0), "class_weights"),
    ],
)
def test_weights_that_cannot_work_are_refused(weights, message):
    with pytest.raises(SettingError, match=message):
        Classification(class_weights=weights).with_labels(data_of(["a", "b", "c"]))


# Head


@pytest.mark.parametrize(
    ("task", "problem", "names"),
    [
        (SINGLE, "single_label_classification", ("a", "b", "c")),
        (MULTI, "multi_label_classification", ("a", "b", "c")),
        (VALUE, "regression", ()),
    ],
)
def test_head(task, problem, names):
    head = task.head()
    assert head.auto_class == "AutoModelForSequenceClassification"
    assert head.labels == names
    assert head.config == {
        "num_labels": len(task.labels),
        "id2label": dict(enumerate(task.labels)),
        "label2id": {name: i for i, name in enumerate(task.labels)},
        "problem_type": problem,
    }


def test_a_task_without_labels_has_no_head():
    with pytest.raises(SettingError, match="does not know its labels yet"):
        Classification().head()


# Prepare


def plain(tokenizer, text, pair=None):
    return tokenizer(text, pair, add_special_tokens=False)["input_ids"]


def words(count: int, seed: int = 0) -> str:
    known = ["hello", "my", "refund", "is", "late", "the", "courier", "error", "again", "today"]
    return " ".join(random.Random(seed).choices(known, k=count))


def test_short_rows_are_the_tokenizers_own(tiny_tokenizer, tiny_data):
    tokenizer, texts = tiny_tokenizer(), tiny_data["train"]["text"][:10]
    pairs = tiny_data["train"]["text"][10:20]
    prepared = SINGLE.prepare({"text": texts, "text_pair": pairs}, tokenizer, 64)
    expected = tokenizer(texts, pairs)
    assert [row for (row,) in prepared["input_ids"]] == expected["input_ids"]
    assert [row for (row,) in prepared["token_type_ids"]] == expected["token_type_ids"]
    assert not any(prepared["n_cut"])
    assert "target" not in prepared


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "t5"])
@pytest.mark.parametrize("long_texts", LONG_TEXTS)
def test_long_rows_keep_what_was_asked_for(tiny_tokenizer, architecture, long_texts):
    tokenizer, limit = tiny_tokenizer(architecture), 16
    task = replace(SINGLE, long_texts=long_texts, stride=4)
    text = words(40)
    ids, whole = plain(tokenizer, text), tokenizer(text)["input_ids"]
    start = whole.index(ids[0])
    before, after = whole[:start], whole[start + len(ids) :]
    assert before + ids + after == whole
    room = limit - len(before) - len(after)
    prepared = task.prepare({"text": [text]}, tokenizer, limit)
    (windows,) = prepared["input_ids"]
    inner = []
    assert prepared["n_cut"] == [0 if long_texts == "windows" else len(whole) - limit]
    for window in windows:
        assert len(window) == limit
        assert window[: len(before)] == before
        assert window[limit - len(after) :] == after
        inner.append(window[len(before) : limit - len(after)])
    if long_texts == "windows":
        seen = list(inner[0])
        for i, window in enumerate(inner[1:], start=1):
            shared = 4 if i < len(inner) - 1 else len(seen) + room - len(ids)
            assert shared >= 4
            assert seen[-shared:] == window[:shared]
            seen += window[shared:]
        assert seen == ids
    else:
        head = {"head": room, "tail": 0, "head+tail": room // 4}[long_texts]
        assert inner == [ids[:head] + ids[len(ids) - (room - head) :]]


def test_a_row_of_just_the_limit_is_left_alone(tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    prepared = SINGLE.prepare({"text": [words(14), words(15)]}, tokenizer, 16)
    assert prepared["n_cut"] == [0, 1]
    assert prepared["input_ids"][0] == [tokenizer(words(14))["input_ids"]]
    assert len(prepared["input_ids"][1][0]) == 16


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("long_texts", LONG_TEXTS)
def test_pairs_of_any_lengths_fit_and_keep_their_shape(tiny_tokenizer, architecture, long_texts):
    tokenizer, rng = tiny_tokenizer(architecture), random.Random(5)
    task = replace(SINGLE, long_texts=long_texts, stride=3)
    specials = set(tokenizer.all_special_ids)
    texts = [words(rng.randint(1, 40), seed) for seed in range(60)]
    pairs = [words(rng.randint(1, 40), seed + 1000) for seed in range(60)]
    limit = 24
    prepared = task.prepare({"text": texts, "text_pair": pairs}, tokenizer, limit)
    for i, windows in enumerate(prepared["input_ids"]):
        first, second = plain(tokenizer, texts[i]), plain(tokenizer, pairs[i])
        whole = tokenizer(texts[i], pairs[i])["input_ids"]
        shape = [token for token in whole if token in specials]
        room = limit - len(shape)
        if len(whole) <= limit:
            assert windows == [whole]
            continue
        n_second = min(len(second), max(room // 2, room - len(first)))
        n_first = len(first) if long_texts == "windows" else min(len(first), room - n_second)
        assert prepared["n_cut"][i] == len(first) - n_first + len(second) - n_second
        kept_first = []
        for window in windows:
            assert len(window) <= limit
            assert [token for token in window if token in specials] == shape
            cut = [place for place, token in enumerate(window) if token in specials]
            kept = window[cut[0] + 1 : cut[1]]
            assert window[cut[-2] + 1 : cut[-1]] == second[:n_second]
            assert len(kept) == min(len(first), room - n_second)
            kept_first.append(kept)
        if long_texts == "windows":
            places = set()
            for kept in kept_first:
                width = len(kept)
                places |= {
                    start + offset
                    for start in range(len(first) - width + 1)
                    if first[start : start + width] == kept
                    for offset in range(width)
                }
            assert places == set(range(len(first)))
        elif long_texts == "head":
            assert kept_first == [first[: len(kept_first[0])]]
        elif long_texts == "tail":
            assert kept_first == [first[len(first) - len(kept_first[0]) :]]


@pytest.mark.parametrize("long_texts", LONG_TEXTS)
def test_a_second_text_alone_may_fill_the_window(tiny_tokenizer, long_texts):
    tokenizer, task = tiny_tokenizer(), replace(SINGLE, long_texts=long_texts)
    pairs = [words(13), words(40)]
    prepared = task.prepare({"text": ["", ""], "text_pair": pairs}, tokenizer, 16)
    whole = tokenizer(["", ""], pairs)["input_ids"]
    assert prepared["input_ids"] == [[whole[0]], [[*whole[1][:15], tokenizer.sep_token_id]]]
    assert prepared["n_cut"] == [0, 27]


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_row_is_read_as_it_is_alone_whether_others_are_pairs(tiny_tokenizer, architecture):
    tokenizer, task = tiny_tokenizer(architecture), replace(SINGLE, long_texts="windows")
    rows = [(words(3), words(2)), (words(40), None), (words(40), words(9)), ("", None), ("a", "")]
    texts, pairs = map(list, zip(*rows, strict=True))
    together = task.prepare({"text": texts, "text_pair": pairs}, tokenizer, 16)
    for i, (text, pair) in enumerate(rows):
        row = {"text": [text]} if pair is None else {"text": [text], "text_pair": [pair]}
        alone = task.prepare(row, tokenizer, 16)
        assert {name: values[i : i + 1] for name, values in together.items()} == alone


@pytest.mark.parametrize("long_texts", LONG_TEXTS)
def test_token_types_follow_their_tokens(tiny_tokenizer, long_texts):
    tokenizer = tiny_tokenizer()
    task = replace(SINGLE, long_texts=long_texts)
    rows = {"text": [words(30)], "text_pair": ["parcel " * 30]}
    prepared = task.prepare(rows, tokenizer, 20)
    second = tokenizer.convert_tokens_to_ids("parcel")
    assert len(prepared["input_ids"][0]) == len(prepared["token_type_ids"][0])
    for ids, types in zip(prepared["input_ids"][0], prepared["token_type_ids"][0], strict=True):
        assert len(ids) == len(types) == 20
        assert types == sorted(types)
        assert all(kind == 1 for token, kind in zip(ids, types, strict=True) if token == second)
        assert types.count(1) == ids.count(second) + 1 == 9  # room 17, half of it, and [SEP]


def test_a_text_of_100_000_characters(tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    text = words(17_000)
    assert len(text) > 80_000
    text = (text + " courier" * 20_000)[:100_000]
    task = replace(SINGLE, long_texts="windows", stride=16)
    prepared = task.prepare({"text": [text]}, tokenizer, 64)
    (windows,), length = prepared["input_ids"], len(plain(tokenizer, text)) + 2
    assert all(len(window) == 64 for window in windows)
    assert len(windows) == -(-(length - 2 - 62) // 46) + 1
    assert [token for window in windows[:-1] for token in window[1:47]] == plain(tokenizer, text)[
        : 46 * (len(windows) - 1)
    ]


def test_a_stride_wider_than_half_a_window_is_cut_to_half(tiny_tokenizer):
    task = replace(SINGLE, long_texts="windows", stride=1000)
    (windows,) = task.prepare({"text": [words(30)]}, tiny_tokenizer(), 12)["input_ids"]
    assert len(windows) == 5  # 30 tokens in windows of 10 that share 5


@pytest.mark.parametrize(
    ("task", "labels", "targets"),
    [
        (SINGLE, ["c", "a"], [2, 0]),
        (Classification(kind="single", labels=("1", "True")), [True, 1], [1, 0]),
        (MULTI, [["c", "a"], []], [[1, 0, 1], [0, 0, 0]]),
        (VALUE, [3, -0.5], [3.0, -0.5]),
    ],
)
def test_targets(tiny_tokenizer, task, labels, targets):
    rows = {"text": ["hello"] * len(labels), "label": labels}
    assert task.prepare(rows, tiny_tokenizer(), 16)["target"] == targets


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        (SINGLE, "d", 'the label "d" is none that the model knows.*"a", "b", "c"'),
        (SINGLE, None, "found nothing where a label should be"),
        (SINGLE, float("nan"), "found nan where a label should be"),
        (MULTI, ["a", "d"], 'the label "d" is none'),
        (MULTI, "a", "found 'a' where a list of labels should be"),
        (MULTI, None, "found nothing"),
        (VALUE, "high", "found 'high' where a number should be"),
        (VALUE, None, "found nothing"),
        (VALUE, float("nan"), "found nan where a number should be"),
        (VALUE, float("-inf"), "found -inf where a number should be"),
    ],
)
def test_a_label_that_cannot_be_a_target_is_named_with_its_row(
    tiny_tokenizer, task, label, message
):
    good = {"single": "a", "multi": ["a"], "regression": 1.0}[task.kind]
    rows = {"text": ["hello"] * 3, "label": [good, label, good]}
    with pytest.raises(DataError, match=message) as caught:
        task.prepare(rows, tiny_tokenizer(), 16)
    assert (caught.value.row, caught.value.column) == (2, "label")


@pytest.mark.parametrize(
    ("column", "text", "found"), [("text", None, "nothing"), ("text_pair", 3, "3")]
)
def test_what_is_no_text_is_named_with_its_row(tiny_tokenizer, column, text, found):
    rows = {"text": ["hello"] * 2, "text_pair": ["hello"] * 2, column: ["hello", text]}
    with pytest.raises(DataError, match=f"found {found} where a text should be") as caught:
        SINGLE.prepare(rows, tiny_tokenizer(), 16)
    assert (caught.value.row, caught.value.column) == (2, column)


# Collate


def arrays(n_windows=3, n_rows=3, **others):
    return {
        "input_ids": np.arange(n_windows * 4).reshape(n_windows, 4),
        "attention_mask": np.ones((n_windows, 4), dtype=np.int64),
        "row": np.arange(n_rows),
        "windows": np.array([n_windows - n_rows + 1] + [1] * (n_rows - 1)),
        "n_cut": np.zeros(n_rows),
        **others,
    }


@pytest.mark.parametrize(
    ("task", "target", "dtype"),
    [
        (SINGLE, [0, 2, 1], np.int64),
        (MULTI, [[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.float32),
        (VALUE, [0.5, 1.0, -1.0], np.float32),
    ],
)
def test_collate(task, target, dtype):
    inputs, targets = task.collate(arrays(target=np.array(target)))
    assert set(inputs) == {"input_ids", "attention_mask", "row"}
    assert inputs["input_ids"].shape == (3, 4)
    assert targets.dtype == dtype
    assert targets.tolist() == target


def test_collate_places_windows_only_where_there_are_more_than_rows():
    inputs, _ = SINGLE.collate(arrays(n_windows=5))
    assert inputs["windows"].tolist() == [[0, 1, 2], [3, -1, -1], [4, -1, -1]]
    assert "windows" not in SINGLE.collate(arrays())[0]


@pytest.mark.parametrize(("task", "shape"), [(SINGLE, (3,)), (MULTI, (3, 3)), (VALUE, (3,))])
def test_collate_without_labels_gives_targets_that_the_loss_takes(task, shape):
    _, targets = as_tensors(task.collate(arrays()))
    assert targets.shape == shape
    assert task.loss(torch.zeros(3, len(task.labels)), targets).isfinite()


# Loss


def logits_of(rows=64, labels=3, seed=0):
    return torch.randn(rows, labels, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_of_one_label_is_torchs(smoothing):
    logits, targets = logits_of(), torch.arange(64) % 3
    task = replace(SINGLE, label_smoothing=smoothing)
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(task.loss(logits, targets), expected)


def test_smoothing_of_several_labels_pulls_targets_to_the_middle():
    logits, targets = logits_of(), (logits_of(seed=1) > 0).float()
    task = replace(MULTI, label_smoothing=0.2)
    expected = F.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    torch.testing.assert_close(task.loss(logits, targets), expected)
    sure = torch.tensor([[9.0, -9.0, -9.0]])
    assert task.loss(sure, torch.tensor([[1.0, 0.0, 0.0]])) > 0.5


def test_weights_of_one_label():
    logits, targets = logits_of(), torch.arange(64) % 3
    task = replace(SINGLE, class_weights=(1.0, 2.0, 5.0))
    each = F.cross_entropy(logits, targets, reduction="none")
    weighted = each * torch.tensor([1.0, 2.0, 5.0])[targets]
    torch.testing.assert_close(task.loss(logits, targets, "none"), weighted)
    torch.testing.assert_close(task.loss(logits, targets), weighted.mean())


def test_weights_of_several_labels_weigh_what_is_present():
    logits, targets = logits_of(), (logits_of(seed=1) > 0).float()
    task = replace(MULTI, class_weights=(1.0, 2.0, 5.0))
    expected = F.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=torch.tensor([1.0, 2.0, 5.0])
    )
    torch.testing.assert_close(task.loss(logits, targets), expected)


def test_loss_of_a_number():
    outputs, targets = logits_of(labels=1), logits_of(labels=1, seed=1)[:, 0]
    torch.testing.assert_close(
        VALUE.loss(outputs, targets), ((outputs[:, 0] - targets) ** 2).mean()
    )


@pytest.mark.parametrize("task", [SINGLE, replace(SINGLE, class_weights=(1.0, 2.0, 5.0)), MULTI])
def test_mean_is_the_mean_of_a_number_a_row(task):
    logits = logits_of()
    targets = torch.arange(64) % 3 if task.kind == "single" else (logits_of(seed=1) > 0).float()
    each = task.loss(logits, targets, "none")
    assert each.shape == (64,)
    torch.testing.assert_close(task.loss(logits, targets), each.mean())
    for row in (0, 17):
        alone = task.loss(logits[row : row + 1], targets[row : row + 1])
        torch.testing.assert_close(alone, each[row])


# Metrics


def add_in_parts(metrics, outputs, targets):
    for start in range(0, len(outputs), 37):
        metrics.add(outputs[start : start + 37], targets[start : start + 37], [])
    return metrics


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_one_label_are_scikit_learns(seed):
    labels = ("a", "b", "c", "d", "never")
    task = Classification(kind="single", labels=labels)
    outputs = logits_of(300, 5, seed) - torch.tensor([0, 0, 0, 0, 99.0])
    targets = torch.from_numpy(np.random.default_rng(seed).choice(4, 300, p=[0.6, 0.2, 0.15, 0.05]))
    metrics = add_in_parts(task.metrics(None), outputs, targets)
    found, wanted = outputs.argmax(1).numpy(), targets.numpy()
    assert tuple(metrics.compute()) == task.metric_names
    assert metrics.compute() == pytest.approx(
        {
            "accuracy": sk.accuracy_score(wanted, found),
            "macro_f1": sk.f1_score(wanted, found, average="macro"),
            "mcc": sk.matthews_corrcoef(wanted, found),
        }
    )
    report = sk.classification_report(
        wanted, found, labels=range(5), target_names=labels, output_dict=True, zero_division=0
    )
    assert list(metrics.per_label()) == list(labels)
    for label in labels:
        expected = {name.replace("-score", ""): value for name, value in report[label].items()}
        assert metrics.per_label()[label] == pytest.approx(expected)
    assert metrics.chosen() == {}


def test_scores_of_one_label_where_all_rows_have_it(recwarn):
    metrics = SINGLE.metrics(None)
    metrics.add(torch.eye(3)[[1, 1]], torch.tensor([1, 1]), [])
    assert metrics.compute() == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 0.0}
    assert not recwarn.list


def several(seed, rows=300, n_labels=6):
    """Outputs that know something of their targets; the last label never occurs."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, n_labels)) < rng.uniform(0.05, 0.4, n_labels)).astype(np.float32)
    targets[:, -1] = 0
    outputs = rng.normal(-1, 1.5, targets.shape) + 2 * targets
    return torch.from_numpy(outputs).float(), torch.from_numpy(targets)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_chosen_is_that_of_a_search_over_the_grid(seed):
    outputs, targets = several(seed)
    task = Classification(kind="multi", labels=tuple("abcdef"))
    metrics = add_in_parts(task.metrics(None, choose=True), outputs, targets)
    scores = outputs.sigmoid().numpy()
    grid = [i / 100 for i in range(5, 96)]
    micro = [
        sk.f1_score(targets.numpy(), scores >= each, average="micro", zero_division=0)
        for each in grid
    ]
    assert metrics.chosen() == {"threshold": grid[int(np.argmax(micro))]}
    assert metrics.compute()["micro_f1"] == pytest.approx(max(micro))
    assert max(micro) > micro[45]


@pytest.mark.parametrize("threshold", [None, 0.2, 0.29, 0.5, 0.625, 0.123456])
def test_scores_of_several_labels_are_scikit_learns(threshold):
    outputs, targets = several(11)
    task = Classification(kind="multi", labels=tuple("abcdef"), threshold=threshold)
    metrics = add_in_parts(task.metrics(None), outputs, targets)
    found = task.decide(task.scores(outputs))
    np.testing.assert_array_equal(found, outputs.sigmoid().numpy() >= (threshold or 0.5))
    wanted = targets.numpy()
    assert tuple(metrics.compute()) == task.metric_names
    assert metrics.compute() == pytest.approx(
        {
            "micro_f1": sk.f1_score(wanted, found, average="micro"),
            "macro_f1": sk.f1_score(wanted, found, average="macro", zero_division=0),
        }
    )
    expected = sk.precision_recall_fscore_support(wanted, found, zero_division=0)
    table = metrics.per_label()
    assert list(table) == list("abcdef")
    for i, label in enumerate("abcdef"):
        assert table[label] == pytest.approx(
            dict(
                zip(
                    ("precision", "recall", "f1", "support"),
                    (part[i] for part in expected),
                    strict=True,
                )
            )
        )


def test_a_threshold_given_is_kept_where_one_may_be_chosen():
    outputs, targets = several(3)
    task = Classification(kind="multi", labels=tuple("abcdef"), threshold=0.9)
    metrics = add_in_parts(task.metrics(None, choose=True), outputs, targets)
    assert metrics.chosen() == {"threshold": 0.9}
    assert metrics.compute() == add_in_parts(task.metrics(None), outputs, targets).compute()


@pytest.mark.parametrize("score", [0.29, 0.57, 0.58, 0.9, 0.05, 0.95])
def test_a_score_on_the_threshold_counts(score):
    task = Classification(kind="multi", labels=("a",), threshold=score)
    logit = torch.logit(torch.tensor([[score]], dtype=torch.float64)).float()
    metrics = Classification(kind="multi", labels=("a",)).metrics(None, choose=True)
    metrics.add(logit, torch.ones(1, 1), [])
    assert metrics.counts[1, 0, round(score * 100)] == 1
    decided = task.decide(torch.tensor([[score]]))
    assert decided.tolist() == [[1.0]]


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_scores_that_are_no_numbers_count_as_absent(threshold):
    metrics = replace(MULTI, threshold=threshold).metrics(None, choose=True)
    metrics.add(torch.full((2, 3), float("nan")), torch.ones(2, 3), [])
    assert metrics.compute() == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_no_threshold_is_chosen_before_rows_were_seen():
    assert MULTI.metrics(None, choose=True).chosen() == {}
    assert MULTI.metrics(None, choose=True).compute() == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_scores_of_a_number_are_scipys():
    outputs, targets = logits_of(200, 1), logits_of(200, 1, seed=1)[:, 0].round()
    metrics = add_in_parts(VALUE.metrics(None), outputs, targets)
    assert tuple(metrics.compute()) == VALUE.metric_names
    assert metrics.compute() == pytest.approx(
        {
            "mae": sk.mean_absolute_error(targets, outputs[:, 0]),
            "spearman": spearmanr(targets, outputs[:, 0]).statistic,
        }
    )
    assert metrics.per_label() == metrics.chosen() == {}


def test_ranks_of_equal_numbers_have_no_correlation(recwarn):
    metrics = VALUE.metrics(None)
    metrics.add(torch.ones(3, 1), torch.tensor([1.0, 2.0, 3.0]), [])
    assert metrics.compute() == {"mae": 1.0, "spearman": 0.0}
    assert not recwarn.list


@pytest.mark.parametrize("task", [SINGLE, MULTI, VALUE])
def test_half_precision_outputs_are_taken(task):
    outputs = logits_of(8, len(task.labels)).bfloat16()
    targets = torch.zeros(8, 3) if task.kind == "multi" else torch.arange(8) % 3
    metrics = task.metrics(None)
    metrics.add(outputs, targets, [])
    assert tuple(metrics.compute()) == task.metric_names
    assert task.scores(outputs).dtype == np.float32


@pytest.mark.parametrize("task", [SINGLE, MULTI, VALUE])
def test_arrays_are_taken_as_tensors_are(task):
    outputs = logits_of(8, len(task.labels))
    targets = (logits_of(8, 3) > 0).float() if task.kind == "multi" else torch.arange(8) % 3
    scores, decided, found = [], [], []
    for convert in (torch.Tensor.clone, torch.Tensor.numpy):
        metrics = task.metrics(None)
        metrics.add(convert(outputs), convert(targets), [])
        scores.append(metrics.compute())
        decided.append(task.decide(task.scores(convert(outputs))))
        found.append(task.decode(convert(outputs), [], None))
    assert scores[0] == scores[1]
    assert found[0] == found[1]
    assert decided[0].shape == targets.shape
    np.testing.assert_array_equal(*decided)
    np.testing.assert_array_equal(decided[0], task.decide(torch.from_numpy(task.scores(outputs))))


# Decode


def test_decode_one_label():
    outputs = torch.tensor([[0.0, 2.0, 1.0], [5.0, 0.0, 4.0]])
    probabilities = outputs.softmax(1).tolist()
    first, second = SINGLE.decode(outputs, [], None)
    assert (first.label, first.score) == ("b", pytest.approx(probabilities[0][1]))
    assert list(first.scores) == ["b", "c", "a"]
    assert list(second.scores) == ["a", "c", "b"]
    assert second.scores["c"] == pytest.approx(probabilities[1][2])
    assert json.loads(json.dumps(first.to_dict())) == {
        "label": "b",
        "score": first.score,
        "scores": first.scores,
    }
    assert [each.label for each in SINGLE.decode(outputs, [], None)] == [
        SINGLE.labels[place] for place in SINGLE.decide(SINGLE.scores(outputs))
    ]


def test_decode_of_equal_scores_agrees_with_the_decision():
    task = Classification(kind="single", labels=tuple(f"{i}" for i in range(40)))
    (answer,) = task.decode(torch.zeros(1, 40), [], None)
    assert answer.label == task.labels[task.decide(torch.zeros(1, 40)).item()] == "0"


@pytest.mark.parametrize(("top_k", "names"), [(1, ["b"]), (2, ["b", "c"]), (9, ["b", "c", "a"])])
@pytest.mark.parametrize("task", [SINGLE, MULTI])
def test_top_k_cuts_the_scores_only(task, top_k, names):
    outputs = torch.tensor([[0.5, 2.0, 1.0]])
    (cut,), (whole,) = task.decode(outputs, [], None, top_k), task.decode(outputs, [], None)
    assert list(cut.scores) == names
    assert replace(cut, scores=whole.scores) == whole


def test_decode_several_labels_at_the_threshold():
    outputs = torch.logit(torch.tensor([[0.45, 0.7, 0.61], [0.1, 0.2, 0.3]]))
    middle = MULTI.decode(outputs, [], None)
    assert [each.labels for each in middle] == [("b", "c"), ()]
    assert list(middle[0].scores) == ["b", "c", "a"]
    low = replace(MULTI, threshold=0.25).decode(outputs, [], None)
    assert [each.labels for each in low] == [("b", "c", "a"), ("c",)]
    assert low[0].scores["a"] == pytest.approx(0.45)
    assert json.loads(json.dumps(low[1].to_dict()))["labels"] == ["c"]


def test_decode_a_number():
    answers = VALUE.decode(torch.tensor([[1.5], [-2.0]]), [], None)
    assert [each.value for each in answers] == [1.5, -2.0]
    assert answers[0].to_dict() == {"value": 1.5}


# Show


def test_show_one_label():
    rows = [{"text": "hello", "label": "a", "extra": 1}, {"text": "bye", "label": "b", "extra": 2}]
    assert SINGLE.show(rows, None) == [
        {"text": "hello", "label": "a"},
        {"text": "bye", "label": "b"},
    ]
    shown = SINGLE.show(rows, None, torch.tensor([2, 0]))
    assert [row["predicted"] for row in shown] == ["c", "a"]


def test_show_pairs_lists_and_numbers():
    rows = [{"text": "hello", "text_pair": "you", "label": ["a", "c"]}]
    assert MULTI.show(rows, None, torch.tensor([[0.0, 1.0, 1.0]])) == [
        {"text": "hello", "text_pair": "you", "label": "a, c", "predicted": "b, c"}
    ]
    alone = [{"text": "hello", "text_pair": None}]
    assert MULTI.show(alone, None) == [{"text": "hello", "text_pair": ""}]
    assert VALUE.show([{"text": "hello", "label": 1.5}], None, torch.tensor([2.25])) == [
        {"text": "hello", "label": "1.5", "predicted": "2.25"}
    ]


def test_what_is_shown_says_what_was_missed_and_what_is_wrong():
    (right,) = SINGLE.show([{"text": "hello", "label": "c"}], None, torch.tensor([2]))
    assert right["label"].marks == right["predicted"].marks == ()
    (shown,) = SINGLE.show([{"text": "hello", "label": "a"}], None, torch.tensor([2]))
    assert shown["label"].marks == ((0, 1, "", "missed"),)
    assert shown["predicted"].marks == ((0, 1, "", "wrong"),)
    row = {"text": "hello", "label": ["a", "c"]}
    (shown,) = MULTI.show([row], None, torch.tensor([[0.0, 1.0, 1.0]]))
    assert shown["label"].marks == ((0, 1, "", "missed"),)
    assert shown["predicted"].marks == ((0, 1, "", "wrong"),)
    (number,) = VALUE.show([{"text": "hello", "label": 1.5}], None, torch.tensor([2.25]))
    assert number["predicted"].marks == ()


def test_show_nothing():
    assert SINGLE.show([], None) == []


@pytest.mark.parametrize("columns", [3, 1, 4])
def test_merging_averages_the_windows_of_a_row(columns):
    logits = torch.randn(6, columns, generator=torch.Generator().manual_seed(0))
    windows = torch.tensor([[0, -1, -1], [1, 2, 3], [4, 5, -1]])
    outputs = merged(SINGLE, logits, {"windows": windows}, tolerance=1e-6)
    expected = torch.stack([logits[:1].mean(0), logits[1:4].mean(0), logits[4:].mean(0)])
    torch.testing.assert_close(outputs, expected)
    assert SINGLE.merge(logits, {}) is logits


def test_a_row_whose_logits_are_no_numbers_spoils_no_other():
    logits = torch.tensor([[torch.nan, torch.inf], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    windows = torch.tensor([[0, -1], [1, 2], [3, -1]])
    outputs = merged(SINGLE, logits, {"windows": windows})
    assert outputs[1:].tolist() == [[2.0, 3.0], [5.0, 6.0]]
