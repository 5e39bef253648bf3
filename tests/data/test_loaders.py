"""The loader: every row once an epoch, batches of like length, the same for the same seed."""

import random
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets

from ftkit.data.loaders import RowList, TextLoaders, text_loaders
from ftkit.errors import DataError, FtkitWarning, SettingError
from ftkit.tasks import Classification

TASK = Classification(kind="single", labels=("even", "odd"))
WINDOWS = replace(TASK, long_texts="windows", stride=4)
LIMIT = 32


def numbered_rows(count: int, longest: int = 29, seed: int = 0) -> Dataset:
    """Rows of 1 to `longest` words, a token each; row i has the label of i's parity."""
    rng, letters = random.Random(seed), "abcdefghijklmnopqrstuvwxyz"
    texts = [
        " ".join(["hello", *rng.choices(letters, k=rng.randrange(longest))]) for _ in range(count)
    ]
    labels = [("even", "odd")[i % 2] for i in range(count)]
    return Dataset.from_dict({"text": texts, "label": labels, "number": list(range(count))})


@pytest.fixture
def load(tiny_tokenizer):
    """A function that makes loaders of 203 training and 61 validation rows."""

    def make(task=TASK, longest=29, train=203, limit=LIMIT, **options) -> TextLoaders:
        data = DatasetDict(
            {
                "train": numbered_rows(train, longest),
                "validation": numbered_rows(61, longest, seed=1),
            }
        )
        return text_loaders(data, task, tiny_tokenizer(), limit, **{"bs": 8, **options})

    return make


SETTINGS = {
    "rows": {},
    "one batch": {"bs": 500},
    "tokens": {"max_tokens": 200},
    "windows": {"task": WINDOWS, "longest": 150, "bs": 4},
    "windows and tokens": {"task": WINDOWS, "longest": 150, "max_tokens": 100},
}
settings = pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS.keys())


def row_numbers(loader) -> list[list[int]]:
    return [batch[0]["row"].tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def assert_same_batches(found, wanted):
    assert len(found) == len(wanted)
    for (inputs, targets), (expected, expected_targets) in zip(found, wanted, strict=True):
        assert inputs.keys() == expected.keys()
        for name, values in expected.items():
            assert torch.equal(inputs[name], values), name
        assert torch.equal(targets, expected_targets)


# Rows


def test_a_fingerprint_is_that_of_the_content(load, tmp_path):
    rows = numbered_rows(61, seed=1)
    wanted = load().valid_ds.fingerprint
    rows.to_parquet(tmp_path / "rows.parquet")
    alike = {
        "file": Dataset.from_parquet(str(tmp_path / "rows.parquet")),
        "chunks": concatenate_datasets([rows.select(range(20)), rows.select(range(20, 61))]),
        "order of columns": rows.select_columns(["label", "text"]),
        "labels as numbers with names": rows.class_encode_column("label"),
        "other columns": rows.add_column("more", list(range(61))),
    }
    for name, found in alike.items():
        assert RowList(found).fingerprint(["text", "label"]) == wanted, name
    changed = [
        {**row, "text": row["text"] + ("." if i == 40 else "")} for i, row in enumerate(rows)
    ]
    other = {
        "a letter": Dataset.from_list(changed),
        "a row less": rows.select(range(60)),
        "order": rows.select(range(60, -1, -1)),
        "labels": rows.map(lambda row: {"label": "odd"}),
    }
    found = {name: RowList(each).fingerprint(["text", "label"]) for name, each in other.items()}
    assert len({wanted, *found.values()}) == 5


# An epoch


@settings
def test_every_row_comes_once_an_epoch(load, options):
    dls = load(**options)
    for _ in range(3):
        assert sorted(flat(row_numbers(dls.train))) == list(range(203))
        assert sorted(flat(row_numbers(dls.valid))) == list(range(61))


@settings
def test_a_batch_is_what_its_rows_say(load, options, tiny_tokenizer):
    dls, tokenizer = load(**options), tiny_tokenizer()
    for loader in dls:
        for inputs, targets in loader:
            numbers = inputs["row"].tolist()
            rows = loader.dataset.items[numbers]
            assert [row["number"] for row in rows] == numbers
            assert targets.tolist() == [number % 2 for number in numbers]
            if options.get("task") is WINDOWS:
                continue
            expected = tokenizer([row["text"] for row in rows], padding=True)
            assert inputs["input_ids"].tolist() == expected["input_ids"]
            assert inputs["attention_mask"].tolist() == expected["attention_mask"]


def test_items_take_every_kind_of_number(load):
    items = load().valid.dataset.items
    for index in (60, -1, np.int64(60), np.int32(-1)):
        assert (items[index]["number"], items[index].number) == (60, 60)
    assert [row.number for row in items[-2:]] == [row.number for row in items[[-2, 60]]] == [59, 60]
    for index in (61, -62):
        with pytest.raises(IndexError):
            items[index]


@settings
def test_the_same_seed_gives_the_same_batches(load, options):
    first, second = load(**options), load(**options)
    torch.manual_seed(1)
    random.seed(1)
    for _ in range(3):
        assert_same_batches(list(first.train), list(second.train))
        random.random()


@settings
def test_epochs_and_seeds_differ(load, options):
    dls = load(**options)
    orders = [flat(row_numbers(dls.train)) for _ in range(3)]
    orders.append(flat(row_numbers(load(**options, seed=43).train)))
    assert len({tuple(order) for order in orders}) == 4


@settings
def test_an_epoch_can_be_taken_up_anew(load, options):
    dls, later = load(**options), load(**options)
    for _ in range(2):
        list(dls.train)
    later.train.epoch = 2
    assert_same_batches(list(later.train), list(dls.train))


@settings
def test_validation_is_the_same_every_time(load, options):
    dls = load(**options)
    assert_same_batches(list(dls.valid), list(dls.valid))
    assert dls.valid.epoch == 0


@settings
def test_looking_at_batches_changes_nothing(load, options, capsys):
    looked, other = load(**options), load(**options)
    for _ in range(2):
        looked.train.one_batch()
        looked.one_batch()
        looked.show_batch()
        next(iter(looked.train))
        assert len(looked.train) > 0
        assert looked.train.padding_share > 0
        assert_same_batches(list(looked.train), list(other.train))
    assert "hello" in capsys.readouterr().out


@settings
def test_the_number_of_batches_is_that_of_len_in_every_epoch(load, options):
    dls = load(**options)
    for loader in dls:
        n_batches = len(loader)
        assert [len(list(loader)) for _ in range(4)] == [n_batches] * 4
        assert len(loader) == n_batches


def test_batches_have_bs_rows_and_the_odd_one_comes_last(load):
    dls = load()
    assert [len(batch) for batch in row_numbers(dls.train)] == [8] * 25 + [3]
    assert [len(batch) for batch in row_numbers(dls.valid)] == [16] * 3 + [13]
    assert (dls.train.bs, dls.valid.bs) == (8, 16)


@pytest.mark.parametrize("shuffle", [True, False])
def test_drop_last_drops_the_odd_batch(load, shuffle):
    loader = load().train.new(drop_last=True, shuffle=shuffle)
    batches = row_numbers(loader)
    assert [len(batch) for batch in batches] == [8] * 25
    assert len(loader) == 25
    assert len(set(flat(batches))) == 200


def test_drop_last_where_nothing_is_odd(load):
    assert len(flat(row_numbers(load(train=200).train.new(drop_last=True)))) == 200


# Lengths and budgets


def share_of_padding(loader) -> float:
    real = padded = 0
    for inputs, _ in loader:
        real += int(inputs["attention_mask"].sum())
        padded += inputs["attention_mask"].numel()
    return 1 - real / padded


@pytest.mark.parametrize("name", ["rows", "one batch", "tokens"])
def test_padding_share_is_what_the_batches_say(load, name):
    dls = load(**SETTINGS[name])
    for loader in dls:
        for _ in range(2):
            expected = loader.padding_share
            assert share_of_padding(loader) == pytest.approx(expected)


def test_padding_share_of_windows(load):
    loader = load(**SETTINGS["windows"]).valid
    assert loader.padding_share == pytest.approx(share_of_padding(loader))


def test_batches_are_of_like_length(load):
    loader = load(train=2000, bs=16).train
    shuffled = np.random.default_rng(0).permutation(2000).reshape(-1, 16)
    lengths = loader.dataset.features.lengths[shuffled]
    at_random = 1 - lengths.sum() / (lengths.max(1) * 16).sum()
    assert at_random > 0.3
    assert share_of_padding(loader) < 0.05
    widths = [inputs["input_ids"].shape[1] for inputs, _ in loader]
    # Like lengths stand together in a batch; the batches themselves come in any order.
    assert widths != sorted(widths)
    assert widths != sorted(widths, reverse=True)


def test_rows_meet_different_rows_in_another_epoch(load):
    loader = load(train=2000).train
    first, second = ({frozenset(batch) for batch in row_numbers(loader)} for _ in range(2))
    assert not first & second


@pytest.mark.parametrize("max_tokens", [40, 100, 333, 5000])
def test_the_token_budget_is_kept(load, max_tokens):
    dls = load(max_tokens=max_tokens)
    for loader in dls:
        sizes = [inputs["input_ids"].numel() for inputs, _ in loader]
        assert max(sizes) <= max_tokens
        # Not by being timid: all but one batch could not take one row more.
        assert sorted(sizes)[1:] == [
            size for size in sorted(sizes)[1:] if size + LIMIT > max_tokens * 0.5
        ]
    assert len(dls.train) == max(1, len(dls.train))


def test_a_row_longer_than_the_budget_stands_alone(load):
    dls = load(max_tokens=20)
    for inputs, _ in dls.train:
        assert inputs["input_ids"].numel() <= 20 or len(inputs["row"]) == 1
    assert max(inputs["input_ids"].shape[1] for inputs, _ in dls.train) > 20


def test_windows_are_bound_by_what_bs_full_rows_would_take(load):
    dls = load(WINDOWS, longest=150, bs=4)
    features = dls.train.dataset.features
    assert features.windows.max() > 4
    sampled = 0
    for inputs, _ in dls.train:
        assert inputs["input_ids"].numel() <= 4 * LIMIT
        assert len(inputs["row"]) <= 4
        windows = inputs.get("windows", torch.arange(len(inputs["row"]))[:, None])
        counts = (windows >= 0).sum(1)
        assert len(inputs["input_ids"]) == counts.sum()
        wanted = features.windows[inputs["row"].numpy()]
        assert (counts.numpy() == np.minimum(wanted, 4)).all()
        sampled += int((wanted > 4).sum())
    assert sampled > 10
    everything = sum(len(inputs["input_ids"]) for inputs, _ in dls.valid)
    assert everything == dls.valid.dataset.features.windows.sum()


def test_other_windows_of_a_long_row_come_in_another_epoch(load, tiny_tokenizer):
    tokenizer, word = tiny_tokenizer(), list("abcdefghijklmnopqrstuvwxyz")
    text = " ".join(random.Random(0).choices(word, k=600))
    rows = Dataset.from_dict({"text": [text, "hello", "parcel"], "label": ["odd", "even", "even"]})
    data = DatasetDict({"train": rows, "validation": rows})
    dls = text_loaders(data, WINDOWS, tokenizer, LIMIT, bs=4)
    seen = [
        {tuple(ids.tolist()) for inputs, _ in dls.train for ids in inputs["input_ids"]}
        for _ in range(3)
    ]
    assert len(set.union(*seen)) > max(map(len, seen)) + 2


# New loaders, fastai's way


def test_new_keeps_what_it_is_not_told(load):
    loader = load(max_tokens=100, seed=7).train
    again = loader.new()
    assert (again.bs, again.max_tokens, again.seed, again.shuffle) == (8, 100, 7, True)
    assert again.n_inp == loader.n_inp == 1
    assert_same_batches(list(again), list(loader))
    changed = loader.new(bs=3, max_tokens=None, shuffle=False, seed=1)
    assert (changed.bs, changed.max_tokens, changed.seed, changed.shuffle) == (3, None, 1, False)
    assert {len(batch) for batch in row_numbers(changed)} == {3, 2}


@settings
def test_predictions_can_be_put_back_in_order(load, options):
    """As `Learner.get_preds` does it: the order is asked for once, and given to a new loader."""
    source = load(**options).train.new(shuffle=False, drop_last=False)
    order = source.get_idxs()
    loader = source.new(get_idxs=lambda: order)
    assert flat(row_numbers(loader)) == order
    assert sorted(order) == list(range(203))
    assert_same_batches(list(loader), list(source))
    limit = source._budget
    if limit is not None:
        alone = [len(inputs["row"]) == 1 for inputs, _ in loader]
        sizes = [inputs["input_ids"].numel() for inputs, _ in loader]
        assert all(one or size <= limit for one, size in zip(alone, sizes, strict=True))


def test_new_empty_keeps_what_is_needed_to_take_new_rows(load):
    dls = load()
    empty = dls.new_empty()
    assert [len(loader.dataset) for loader in empty.loaders] == [0, 0]
    assert [len(loader) for loader in empty.loaders] == [0, 0]
    assert list(empty.train) == []
    assert empty.train.padding_share == 0
    loader = empty.test_dl(["hello hello", "parcel"])
    assert_same_batches(list(loader), list(dls.test_dl(["hello hello", "parcel"])))


PAIRS = [("hello", "refund"), ("hello hello hello", "parcel"), ("late", "error error")]


def as_columns(pairs):
    return [{"text": first, "text_pair": second} for first, second in pairs]


@pytest.mark.parametrize(
    "items",
    [
        PAIRS,
        as_columns(PAIRS),
        pd.DataFrame(as_columns(PAIRS)),
        [row for _, row in pd.DataFrame(as_columns(PAIRS)).iterrows()],
        tuple(PAIRS),
    ],
    ids=["tuples", "dicts", "frame", "rows of a frame", "tuple of tuples"],
)
def test_test_dl_takes_pairs_in_any_form(load, tiny_tokenizer, items):
    loader = load().test_dl(items)
    assert loader.shuffle is False
    ((inputs, _),) = loader
    numbers = inputs["row"].tolist()
    assert numbers == [1, 2, 0]  # the longest first
    first, second = zip(*(PAIRS[number] for number in numbers), strict=True)
    expected = tiny_tokenizer()(list(first), list(second), padding=True, return_tensors="pt")
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert torch.equal(inputs[name], expected[name])


def test_test_dl_takes_texts_and_options(load):
    loader = load().test_dl(["hello"] * 5, bs=2)
    assert [len(batch) for batch in row_numbers(loader)] == [2, 2, 1]
    ((inputs, targets),) = load().test_dl(["hello", "parcel"])
    assert "token_type_ids" not in inputs
    assert targets.tolist() == [0, 0]


def test_test_dl_reads_labels_where_asked(load):
    rows = [{"text": "hello", "label": "odd"}, {"text": "hello parcel", "label": "even"}]
    ((inputs, targets),) = load().test_dl(rows, with_labels=True)
    assert inputs["row"].tolist() == [1, 0]
    assert targets.tolist() == [0, 1]
    ((_, targets),) = load().test_dl(rows)
    assert targets.tolist() == [0, 0]


def test_test_dl_reads_class_numbers_as_names(tiny_tokenizer):
    names = ["1", "2", "3"]
    rows = Dataset.from_dict({"text": ["hello"] * 6, "label": [0, 1, 2] * 2})
    rows = rows.cast_column("label", ClassLabel(names=names))
    data = DatasetDict({"train": rows, "validation": rows})
    task = Classification(kind="single", labels=tuple(names))
    dls = text_loaders(data, task, tiny_tokenizer(), LIMIT)
    for part in (rows.select([1, 2, 1]), rows.select([1, 2, 1]).with_format("numpy")):
        ((inputs, targets),) = dls.test_dl(part, with_labels=True)
        assert targets.tolist() == [[1, 2, 1][row] for row in inputs["row"]]


def test_test_dl_passes_over_columns_that_the_task_does_not_read(load):
    frame = pd.DataFrame({"text": ["hello", "parcel"], "label": ["odd"] * 2, "more": ["pos", 3]})
    ((_, targets),) = load().test_dl(frame, with_labels=True)
    assert targets.tolist() == [1, 1]


@settings
def test_rows_of_items_go_by_their_own_numbers(load, options):
    """As fastai's Interpretation asks for them: by number, order kept."""
    dls = load(**options)
    wanted = [17, 3, 60, 4, 5, 41, 0, 22, 18]
    loader = dls.test_dl(dls.valid.dataset.items[wanted], with_labels=True)
    assert flat(row_numbers(loader)) == wanted
    targets = [target for _, batch in loader for target in batch.tolist()]
    assert targets == [number % 2 for number in wanted]
    shown = loader.decode_batch(loader.one_batch(), max_n=2)
    assert [row["number"] for row, _ in shown] == [17, 3][: len(shown)]


@pytest.mark.parametrize(
    ("items", "row", "message"),
    [
        (["hello", 3], 2, "found 3 where a text should be"),
        (["hello", None], 2, "found nothing where a text should be"),
        ([{"body": "hello"}], 1, "found nothing where a text should be"),
        ([{"text": "hello"}, {"label": "odd"}], 2, "found nothing where a text should be"),
        ([("hello", "hello"), ("hello", 3)], 2, "found 3 where a text should be"),
        ([("hello", "hello", "hello")], 1, "found 3 texts where 2 at most can be read"),
    ],
)
def test_rows_that_are_no_texts_are_named(load, items, row, message):
    with pytest.raises(DataError, match=message) as caught:
        load().test_dl(items)
    assert caught.value.row == row


def test_a_label_that_is_unknown_is_named(load):
    with pytest.raises(DataError, match='"neither" is none that the model knows') as caught:
        load().test_dl(
            [{"text": "a", "label": "odd"}, {"text": "b", "label": "neither"}], with_labels=True
        )
    assert caught.value.row == 2


def test_rows_without_labels_are_refused_where_these_are_asked_for(load):
    for rows in (["hello"], [{"text": "hello"}]):
        with pytest.raises(DataError, match="no labels to read"):
            load().test_dl(rows, with_labels=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 2}, "num_workers is 2"),
        ({"n": 3}, "n is 3"),
        ({"after_item": str.lower}, 'item_tfms has "str.lower"'),
        ({"before_batch": str.lower}, 'before_batch has "str.lower"'),
    ],
)
def test_options_that_would_not_be_heeded_are_refused(load, options, message):
    with pytest.raises(SettingError, match=message):
        load().train.new(**options)


def test_no_rows_are_refused(load):
    with pytest.raises(DataError, match="no rows"):
        load().test_dl([])


# Rows and tables


def test_items_are_the_rows_as_they_were_given(load):
    items = load().train.dataset.items
    assert len(items) == 203
    row = items[5]
    assert (row["number"], row.number, row["label"]) == (5, 5, "odd")
    assert [each.number for each in items[2:5]] == [2, 3, 4]
    assert [each.number for each in items.iloc[[7, 1]]] == [7, 1]


def test_show_batch_prints_texts_and_labels(load, capsys):
    dls = load()
    dls.show_batch(max_n=3)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].split() == ["text", "label"]
    assert len(lines) == 4
    assert all(line.split()[-1] in ("even", "odd") for line in lines[1:])


def test_show_results_names_what_was_decided(load, capsys):
    loader = load().valid
    batch = loader.one_batch()
    loader.show_results(batch, torch.ones(16, dtype=torch.long), max_n=4)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].split() == ["text", "label", "predicted"]
    assert [line.split()[-1] for line in lines[1:]] == ["odd"] * 4
    expected = [("even", "odd")[number % 2] for number in batch[0]["row"][:4]]
    assert [line.split()[-2] for line in lines[1:]] == expected


def test_vocab_is_the_labels(load):
    vocab = load().train.dataset.vocab
    assert list(vocab) == ["even", "odd"]
    assert vocab.o2i["odd"] == 1
    assert load().c == 2


# What is cut


@pytest.mark.parametrize("long_texts", ["head", "tail", "head+tail"])
def test_long_rows_are_counted_and_said(load, long_texts):
    with pytest.warns(FtkitWarning) as caught:
        dls = load(replace(TASK, long_texts=long_texts), longest=60)
    lengths = [[len(row["text"].split()) + 2 for row in loader.dataset.items] for loader in dls]
    counts = [sum(length > LIMIT for length in each) for each in lengths]
    for each, split, count, total in zip(
        caught, ("train", "validation"), counts, (203, 61), strict=True
    ):
        assert str(each.message).startswith(
            f"of {split}, {count} of {total} rows are longer than {LIMIT} tokens; the model sees "
            f"only their {long_texts}. "
        )
        assert 'long_texts="windows"' in str(each.message)
    assert max(counts) > 20


@pytest.mark.parametrize("options", [{}, {"task": WINDOWS, "longest": 150}])
def test_nothing_is_said_where_nothing_is_cut(load, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(**options)


def test_max_length_is_a_limit_too(load):
    with pytest.warns(FtkitWarning, match="longer than 10 tokens"):
        dls = load(replace(TASK, max_length=10))
    assert dls.train.dataset.limit == 10
    assert max(inputs["input_ids"].shape[1] for inputs, _ in dls.train) == 10
    assert load(replace(TASK, max_length=1000)).train.dataset.limit == LIMIT


def test_a_second_text_that_windows_cut_is_said(tiny_tokenizer):
    rows = Dataset.from_dict(
        {"text": ["hello"] * 4, "text_pair": ["parcel " * 50] * 4, "label": ["odd", "even"] * 2}
    )
    data = DatasetDict({"train": rows, "validation": rows})
    with pytest.warns(FtkitWarning, match="of train, 4 of 4 rows"):
        text_loaders(data, WINDOWS, tiny_tokenizer(), LIMIT)
