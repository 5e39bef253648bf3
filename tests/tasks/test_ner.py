"""NER: every answer of the protocol, and the whole way through learner, bundle and pipeline."""

import itertools
import json
import random
import re
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from batches import as_tensors, merged
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from ftkit.data.sources import load_data
from ftkit.errors import DataError, FtkitWarning, SettingError
from ftkit.features import IGNORED, Padding, prepare_rows
from ftkit.spans import entities_of_tags, join_words, split_words
from ftkit.tasks.ner import NER, EntitiesPrediction, Entity

LABELS = ("O", "B-city", "I-city", "B-name", "I-name")
TASK = NER(labels=LABELS, sub_tokens="all")
FIRST = replace(TASK, sub_tokens="first")
ARCHITECTURES = ["bert", "roberta", "gpt2", "t5"]


def entity(start, end, label):
    return {"start": start, "end": end, "label": label}


def tagged(tokens, tags, **splits) -> DatasetDict:
    splits = {"train": (tokens, tags), **splits}
    return DatasetDict(
        {name: Dataset.from_dict({"tokens": a, "tags": b}) for name, (a, b) in splits.items()}
    )


def spanned(text, entities, **splits) -> DatasetDict:
    splits = {"train": (text, entities), **splits}
    return DatasetDict(
        {name: Dataset.from_dict({"text": a, "entities": b}) for name, (a, b) in splits.items()}
    )


def one_row(tags) -> DatasetDict:
    return tagged([["w"] * len(tags)], [tags])


def numbered(tags) -> DatasetDict:
    """Rows of two words with the numbers of tags; -1 is none."""
    names = ClassLabel(names=["O", "B-goods", "I-goods"])
    features = Features({"tokens": List(Value("string")), "tags": List(names)})
    rows = {"tokens": [["my", "refund"]] * len(tags), "tags": tags}
    return DatasetDict(train=Dataset.from_dict(rows, features=features))


# Options


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sub_tokens": "last"}, 'sub_tokens is \'last\'.*"first", "all"'),
        ({"max_length": 7}, "max_length is 7 tokens"),
        ({"stride": -1}, "stride is -1"),
        ({"labels": ("O", "B-a")}, 'the labels "O", "B-a" are no set of BIO tags.*new_head'),
        ({"labels": ("B-a", "I-a")}, "no set of BIO tags"),
        ({"labels": ("O", "O", "B-a", "I-a")}, "no set of BIO tags"),
        ({"labels": ("O", "B-a", "I-a", "X")}, "no set of BIO tags"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        NER(**options)


@pytest.mark.unit
@pytest.mark.parametrize(
    "task", [NER(), TASK, NER(labels=LABELS, tag_share=(0.5, 0.1, 0.2, 0.1, 0.1), constrained=True)]
)
def test_options_survive_json(task):
    assert NER(**json.loads(json.dumps(asdict(task)))) == task


@pytest.mark.unit
def test_columns():
    assert [(c.name, c.kind, c.is_required, c.aliases) for c in NER().columns()] == [
        ("text", "text", False, ()),
        ("tokens", "tokens", False, ("words",)),
        ("tags", "label", False, ("ner_tags", "labels")),
        ("entities", "label", False, ("spans",)),
    ]


# Labels


@pytest.mark.unit
@pytest.mark.parametrize(
    "tags",
    [
        ["O", "B-name", "I-name", "B-city"],
        ["O", "I-name", "I-name", "I-city"],
        ["O", "B-name", "L-name", "U-city"],
        ["O", "B-name", "E-name", "S-city"],
    ],
)
def test_every_scheme_gives_the_same_labels_and_targets(tags, tiny_tokenizer, recwarn):
    data = one_row(tags)
    task = NER().with_labels(data)
    assert task.labels == LABELS
    assert task.tag_share == (0.25, 0.25, 0.0, 0.25, 0.25)
    assert task.with_labels(data) == task
    prepared = task.prepare(data["train"][:], tiny_tokenizer(), 16)
    assert [LABELS[i] for i in prepared["target"][0]] == ["O", "B-name", "I-name", "B-city"]
    assert not recwarn.list


@pytest.mark.unit
def test_tags_may_be_numbers_with_names():
    names = ["I-city", "O", "B-city", "B-name", "I-name"]
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    rows = Dataset.from_dict(
        {"tokens": [["in", "Oslo", "Ann"]], "tags": [[1, 2, 3]]}, features=features
    )
    assert NER().with_labels(DatasetDict(train=rows)).labels == LABELS


@pytest.mark.unit
def test_labels_given_keep_their_order_and_may_be_more():
    given = ("B-name", "I-name", "B-firm", "I-firm", "O")
    task = NER(labels=given).with_labels(one_row(["B-name", "O", "O", "O"]))
    assert task.labels == given
    assert task.tag_share == (0.25, 0, 0, 0, 0.75)
    with pytest.raises(SettingError, match='no labels for the type "city"'):
        NER(labels=given).with_labels(one_row(["B-city"]))


GOOD = [["Ann", "in", "Oslo"]], [["B-name", "O", "B-city"]]
TEXT = ["Ann in Oslo"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        (tagged(*GOOD, test=([["a", "b"]] * 2, [["O", "O"], ["O"]])), ("test", 2, "tags"),
         "there are 1 tags for 2 tokens"),
        (tagged([["a"]], [["B"]]), ("train", 1, "tags"), 'the tag "B" has no type'),
        (tagged([["a"]] * 2, [["O"], ["W-x"]]), ("train", 2, "tags"), "is of no scheme known"),
        (tagged([["a"]] * 2, [["O"], None]), ("train", 2, "tags"), "found nothing where a list"),
        (tagged([["a"]], [[3]]), ("train", 1, "tags"), r"found \[3\] where a list of tags"),
        (numbered([[0, 1], [1, -1]]), ("train", 2, "tags"), r"found \['B-goods', None\] where"),
        (tagged([["a"]], [["O"]]), ("train", None, "tags"), "all 1 rows have no entity"),
        (tagged(*GOOD, test=([["a"]], [["B-firm"]])), ("test", 1, "tags"),
         'type "firm" occur here and never in train'),
        (tagged([["a"], None], [["B-x"], ["O"]]), ("train", 2, "tokens"),
         "found nothing where a list of words"),
        (spanned(TEXT, [[entity(0, 3, "x"), entity(2, 6, "y")]]), ("train", 1, "entities"),
         r'the entities 0 to 3 \("x"\) and 2 to 6 \("y"\) overlap'),
        (spanned(TEXT, [[entity(7, 12, "x")]]), ("train", 1, "entities"),
         r"not inside its text \(11 characters\)"),
        (spanned(TEXT, [[entity(4, 4, "x")]]), ("train", 1, "entities"), "has no words"),
        (spanned(TEXT, [[]]), ("train", None, "entities"), "all 1 rows have no entity"),
        (spanned(TEXT, [[entity(0, 3, "x")]], test=(TEXT, [[entity(0, 3, "y")]])),
         ("test", 1, "entities"), 'type "y" occur here'),
        (DatasetDict(train=Dataset.from_dict({"text": TEXT})), ("train", None, None),
         'there is no column "entities" among "text"'),
        (DatasetDict(train=Dataset.from_dict({"tokens": [["a"]], "entities": [[]]})),
         ("train", None, None), 'there is no column "tags" among'),
        (DatasetDict(train=Dataset.from_dict({"id": [1]})), ("train", None, None),
         'there is no column "text".*Bring tokens and their tags'),
    ],
)  # fmt: skip
def test_rows_that_cannot_work_are_named_with_split_and_row(data, place, message):
    with pytest.raises(DataError, match=message) as caught:
        NER().with_labels(data)
    assert (caught.value.split, caught.value.row, caught.value.column) == place


@pytest.mark.unit
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tagged([["a", "b"]] * 2, [["B-x", "O"], ["O", "I-x"]]),
         r'1 tags that cannot stand where they do in BIO \(in "train"; first: train, row 2\)'),
        (tagged([["a", "b"]] * 2, [["O", "O"], ["place", "O"]]),
         r"1 rows of tags without B- or I-.*first: train, row 2"),
        (spanned(["Annie"], [[entity(0, 3, "x")]]), "1 entities that begin or end inside a word"),
        (spanned(["20kg"], [[entity(0, 2, "x"), entity(2, 4, "y")]]),
         "1 entities left out: another has their word"),
    ],
)  # fmt: skip
def test_what_is_mended_is_counted_in_a_warning(data, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        NER().with_labels(data)
    assert {each.category for each in caught} == {FtkitWarning}
    assert any(re.match(message, str(each.message)) for each in caught)


# Head


@pytest.mark.unit
def test_head():
    head = replace(TASK, tag_share=(0.9, 0.1, 0.0, 0.0, 0.0)).head()
    assert head.auto_class == "AutoModelForTokenClassification"
    assert head.labels == LABELS
    assert head.config == {
        "num_labels": 5,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: i for i, name in enumerate(LABELS)},
    }
    assert head.bias == pytest.approx(tuple(np.log([0.9, 0.1, 1e-3, 1e-3, 1e-3])))
    assert TASK.head().bias == ()
    with pytest.raises(SettingError, match="does not know its labels yet"):
        NER().head()


# Prepare, collate, merge


VOCABULARY = ["hello", "my", "refund", "courier", "oslo", "anna's", "x-ray", "u.s.", "99"]


def drawn_words(count, seed=0):
    return random.Random(seed).choices(VOCABULARY, k=count)


def batch_of(task, tokenizer, limit, rng=None, most=None, **columns):
    features = prepare_rows(columns, task, tokenizer, limit)
    numbers = np.arange(len(features))
    filled = features.fill(numbers, Padding.of(tokenizer), rng, most)
    return filled, as_tensors(task.collate(filled, rng))


def tokens_as_logits(inputs):
    """Logits (windows, tokens, tags) that say which window and place they stand at."""
    windows, length = inputs["input_ids"].shape
    return torch.stack(
        [
            torch.arange(windows)[:, None].expand(windows, length),
            torch.arange(length).expand(windows, length),
            inputs["input_ids"],
            torch.zeros(windows, length),
            torch.zeros(windows, length),
        ],
        dim=-1,
    ).float()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("limit", [10, 64, 1000])
def test_every_word_is_answered_by_its_first_token(tiny_tokenizer, architecture, limit):
    tokenizer = tiny_tokenizer(architecture)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    task = replace(FIRST, stride=4)
    rows = [drawn_words(count, seed=count) for count in (40, 1, 0, 7)]
    _, (inputs, targets) = batch_of(task, tokenizer, limit, tokens=rows)
    assert inputs["input_ids"].shape[1] <= limit
    assert targets.tolist() == [[IGNORED] * 40] * 4
    # logits are floats; "going on" never applies here, because no token covers two words.
    outputs = merged(task, tokens_as_logits(inputs), inputs)
    assert outputs.shape == (4, 40, 5)
    for row, words in zip(outputs, rows, strict=True):
        text, spans = join_words(words)
        encoded = tokenizer(text, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        for place, (start, end) in enumerate(spans):
            first = next(i for i, (s, e) in enumerate(offsets) if s < end and e > start and s < e)
            assert row[place, 2] == encoded["input_ids"][first]
        assert all(row[place].tolist() == [20, 0, 0, 0, 0] for place in range(len(words), 40))


def test_words_are_read_where_a_window_has_most_context(tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    words = ["hello"] * 30
    task = replace(FIRST, stride=4)
    _, (inputs, _) = batch_of(task, tokenizer, 12, tokens=[words])
    outputs = merged(task, tokens_as_logits(inputs), inputs)[0]
    assert inputs["windows"].tolist() == [[0, 1, 2, 3, 4]]
    # Windows of 10 words share 4: each reads 2 of them with the next.
    assert outputs[:, 0].tolist() == [0.0] * 8 + [1.0] * 6 + [2.0] * 6 + [3.0] * 4 + [4.0] * 6
    assert outputs[:9, 1].tolist() == [*range(1, 9), 3]


def test_a_word_without_a_token_is_outside_and_counted(tiny_tokenizer):
    rows = [["hello", "\u200e", "my"]]
    filled, (inputs, targets) = batch_of(
        TASK, tiny_tokenizer(), 16, tokens=rows, tags=[["O", "B-city", "O"]]
    )
    assert targets.tolist() == [[0, 1, 0]]
    assert inputs["place"].tolist() == [[1, -1, 2]]
    outputs = merged(TASK, torch.ones(1, 4, 5), inputs)
    assert TASK.decide(TASK.scores(outputs))[0, 1] == 0
    said = TASK.lost(filled, 16)
    assert said.startswith("1 of 3 words leave no token")
    assert TASK.loss(outputs, targets).isfinite()
    _, (_, targets) = batch_of(
        TASK,
        tiny_tokenizer(),
        16,
        np.random.default_rng(0),
        tokens=rows,
        tags=[["O", "B-city", "O"]],
    )
    assert targets.tolist() == [[0, IGNORED, 0]]
    assert TASK.lost({"unseen": np.zeros(2), "words": np.ones(2)}, 16) is None


def test_words_that_share_a_token_go_on_with_what_it_begins():
    # Two windows of one row: the first token of each stands for two words.
    columns = {
        "input_ids": np.zeros((2, 2), dtype=np.int64),
        "row": np.array([0]),
        "windows": np.array([2]),
        "words": np.array([7]),
        "word": np.array([[1, 3], [4, 6]]),
        "covers": np.array([[2, 1], [2, 1]]),
    }
    inputs, _ = as_tensors(TASK.collate(columns))
    assert inputs["place"].tolist() == [[0, 0, 1, 2, 2, 3, -1]]
    assert inputs["shared"].nonzero()[:, 1].tolist() == [1, 4]
    logits = torch.tensor(
        [
            [[0.0, 5, 1, 0, 0], [9.0, 0, 0, 0, 0]],
            [[0.0, 0, 1, 3, 4], [0.0, 0, 0, 4, 3]],
        ],
        requires_grad=True,
    )
    outputs = merged(TASK, logits, inputs)
    tags = [LABELS[i] for i in TASK.decide(TASK.scores(outputs))[0]]
    assert tags == ["B-city", "I-city", "O", "B-name", "I-name", "B-name", "O"]
    outputs.sum().backward()
    assert logits.grad[:, :, 0].tolist() == [[2.0, 1.0], [2.0, 1.0]]
    columns["word"], columns["covers"] = np.array([[1, 2], [3, 4]]), np.ones((2, 2), dtype=np.int64)
    assert "shared" not in TASK.collate(columns)[0]


def test_further_tokens_are_trained_behind_the_words(tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    columns = {"tokens": [["anna", "my"], ["by"]], "tags": [["B-name", "O"], ["I-city"]]}
    rng = np.random.default_rng(0)
    _, (inputs, targets) = batch_of(TASK, tokenizer, 16, rng, **columns)
    assert inputs["place"].tolist() == [[1, 5, 2, 3, 4], [8, -1, 9, -1, -1]]
    assert targets.tolist() == [[3, 0, 4, 4, 4], [1, IGNORED, 2, IGNORED, IGNORED]]
    _, (inputs, targets) = batch_of(TASK, tokenizer, 16, **columns)
    assert targets.tolist() == [[3, 0], [1, IGNORED]]
    _, (inputs, targets) = batch_of(FIRST, tokenizer, 16, rng, **columns)
    assert targets.tolist() == [[3, 0], [1, IGNORED]]


@pytest.mark.parametrize("sub_tokens", ["first", "all"])
def test_words_of_windows_that_were_not_drawn_are_not_trained(tiny_tokenizer, sub_tokens):
    tokenizer, words = tiny_tokenizer(), drawn_words(80)
    task = replace(TASK, sub_tokens=sub_tokens, stride=2)
    rows = {"tokens": [words], "tags": [["B-city"] * 80]}
    _, (inputs, targets) = batch_of(task, tokenizer, 16, np.random.default_rng(1), 3, **rows)
    assert len(inputs["input_ids"]) == 3
    is_trained = targets[:, :80] != IGNORED
    assert 0 < is_trained.sum() < 80
    assert torch.equal(is_trained, inputs["place"][:, :80] >= 0)
    first = tokenizer.convert_ids_to_tokens(
        inputs["input_ids"].flatten()[inputs["place"][:, :80][is_trained]].tolist()
    )
    texts = [words[place] for place in is_trained[0].nonzero()[:, 0].tolist()]
    assert all(text.startswith(token) for text, token in zip(texts, first, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_entities_of_a_text_become_tags_of_its_words(tiny_tokenizer, architecture):
    text = "Hi  Ann-Lee,\nfrom (Old Oslo)!"
    entities = [entity(19, 27, "city"), entity(4, 11, "name")]
    prepared = TASK.prepare(
        {"text": [text], "entities": [entities]}, tiny_tokenizer(architecture), 64
    )
    words = [text[start:end] for start, end in split_words(text)]
    tags = [LABELS[i] for i in prepared["target"][0]]
    pairs = [(word, tag) for word, tag in zip(words, tags, strict=True) if tag != "O"]
    assert pairs == [
        ("Ann", "B-name"),
        ("-", "I-name"),
        ("Lee", "I-name"),
        ("Old", "B-city"),
        ("Oslo", "I-city"),
    ]
    assert prepared["words"] == [len(words)]
    assert prepared["n_cut"] == [0]


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [
        ({"tokens": [["a"]] * 2, "tags": [["O"], ["O", "O"]]}, "tags", "2 tags for 1 tokens"),
        ({"tokens": [["a"]] * 2, "tags": [["O"], ["B-firm"]]}, "tags",
         'the type "firm" is none that the model knows. Its types are "city", "name"'),
        ({"text": ["a"] * 2, "entities": [[], [entity(0, 2, "city")]]}, "entities", "not inside"),
        ({"text": ["a"] * 2, "entities": [[], [entity(0, 1, "firm")]]}, "entities", "is none"),
        ({"text": ["a", None]}, "text", "found nothing where a text should be"),
        ({"tokens": [["a"], ["b", 3]]}, "tokens", r"found \['b', 3\] where a list of words"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_read_are_named(tiny_tokenizer, rows, column, message):
    with pytest.raises(DataError, match=message) as caught:
        TASK.prepare(rows, tiny_tokenizer(), 16)
    assert (caught.value.row, caught.value.column) == (2, column)


# Loss


def test_loss_is_that_of_transformers_with_first_sub_tokens(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    model = tiny_model("bert", "ForTokenClassification", num_labels=5)
    rows = [drawn_words(count, seed=count) for count in (9, 4, 6)]
    tags = [random.Random(i).choices(LABELS, k=len(words)) for i, words in enumerate(rows)]
    tags = [["B" + tag[1:] if tag != "O" else "O" for tag in row] for row in tags]

    # What transformers' example script run_ner.py does.
    encoded = tokenizer(rows, is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full(encoded["input_ids"].shape, IGNORED)
    for i, row in enumerate(tags):
        ids = encoded.word_ids(i)
        for place, word in enumerate(ids):
            if word is not None and word != ids[place - 1]:
                labels[i, place] = LABELS.index(row[word])
    with torch.no_grad():
        expected = model(**encoded, labels=labels).loss
        rng = np.random.default_rng(0)
        _, (inputs, targets) = batch_of(FIRST, tokenizer, 64, rng, tokens=rows, tags=tags)
        logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
    outputs = merged(FIRST, logits, inputs)
    torch.testing.assert_close(FIRST.loss(outputs, targets), expected)
    each = FIRST.loss(outputs, targets, "none")
    counts = torch.tensor([9, 4, 6])
    torch.testing.assert_close((each * counts).sum() / counts.sum(), expected)
    assert FIRST.loss(outputs, torch.full_like(targets, IGNORED)) == 0


# Decode and show


def outputs_of(tags, labels=LABELS):
    """Outputs (1, words, tags) that are sure of the tags."""
    return torch.nn.functional.one_hot(
        torch.tensor([[labels.index(tag) for tag in tags]]), len(labels)
    ).float().mul(10)  # fmt: skip


@pytest.mark.unit
def test_entities_are_the_users_own_text():
    text = "Hi\tAnn  Lee,\u00a0from (Oslo)!"
    tags = ["O", "B-name", "I-name", "O", "O", "O", "I-city", "O", "O"]
    (found,) = TASK.decode(outputs_of(tags), [{"text": text}], None, top_k=1)
    score = pytest.approx(float(torch.tensor([10.0, 0, 0, 0, 0]).softmax(0)[0]))
    assert found.entities == (
        Entity("Ann  Lee", "name", 3, 11, score),
        Entity("Oslo", "city", 19, 23, score),
    )
    assert all(text[each.start : each.end] == each.text for each in found.entities)
    assert found.tags == ("O", "B-name", "I-name", "O", "O", "O", "B-city", "O", "O")
    assert found.words == ("Hi", "Ann", "Lee", ",", "from", "(", "Oslo", ")", "!")
    assert json.loads(json.dumps(found.to_dict()))["entities"][1]["start"] == 19


@pytest.mark.unit
def test_entities_of_tokens_count_characters_with_a_space_between():
    rows = [{"tokens": ["Ann", "Lee", "."]}, {"tokens": []}]
    outputs = outputs_of(["B-name", "I-name", "O"]).expand(2, 3, 5)
    found = TASK.decode(outputs, rows, None)
    assert [(e.text, e.start, e.end) for e in found[0].entities] == [("Ann Lee", 0, 7)]
    assert found[1] == EntitiesPrediction((), (), ())


@pytest.mark.unit
def test_constrained_answers_are_the_likeliest_legal_ones():
    # An I- without its B-: repaired to a name, but "O" is likelier once B- must come first.
    probabilities = torch.tensor([[[0.4, 0.05, 0.05, 0.01, 0.49], [0.9, 0.02, 0.02, 0.03, 0.03]]])
    assert TASK.decide(probabilities).tolist() == [[3, 0]]
    assert replace(TASK, constrained=True).decide(probabilities).tolist() == [[0, 0]]


def pairs_of(marked):
    """(word, label) pairs of a text of words with a space between them."""
    pairs = []
    for inside, label, outside in re.findall(r"\[(.*?)\|(\w+)\]|([^\[\]]+)", marked):
        pairs += [(word, label) for word in (inside or outside).split()]
    return pairs


@pytest.mark.unit
def test_shown_words_and_labels_are_those_of_the_input():
    rng = random.Random(4)
    rows, wanted = [], []
    for _ in range(300):
        count = rng.randint(0, 12)
        words = rng.choices(
            ["Äpfel,", "don't", "e\u0301t\u00e9", "U.S.", "#x", "北京", "a"], k=count
        )
        tags = rng.choices(LABELS, k=count)
        rows.append({"tokens": words, "tags": tags})
        kinds = ["" if tag == "O" else tag[2:] for tag in tags]
        wanted.append(list(zip(words, kinds, strict=True)))
    assert [pairs_of(row["text"]) for row in TASK.show(rows, None)] == wanted
    decided = np.zeros((300, 12), dtype=np.int64)
    for i, row in enumerate(rows):
        decided[i, : len(row["tags"])] = [LABELS.index(tag) for tag in row["tags"]]
    inputs = [{"tokens": row["tokens"]} for row in rows]
    shown = TASK.show(inputs, None, TASK._tags.mended(decided))
    assert [pairs_of(row["predicted"]) for row in shown] == wanted
    assert [row["text"] for row in shown] == [" ".join(row["tokens"]) for row in rows]


@pytest.mark.unit
def test_a_text_is_shown_with_its_own_spacing():
    row = {"text": "Hi  Ann,\nLee", "entities": [entity(4, 7, "name")]}
    assert TASK.show([row], None) == [{"text": "Hi  [Ann|name],\nLee"}]


@pytest.mark.unit
def test_what_is_shown_says_what_was_missed_and_what_is_wrong():
    kinds = [label[2:] for label in LABELS if label.startswith("B-")][:2]
    tags = [f"B-{kinds[0]}", "O", f"B-{kinds[1]}"]
    row = {"tokens": ["Oslo", "and", "Rome"], "tags": tags}
    decided = np.array([[LABELS.index(f"B-{kinds[0]}"), 0, LABELS.index(f"B-{kinds[0]}")]])
    (bare,), (shown,) = TASK.show([row], None), TASK.show([row], None, decided)
    places = [(0, 4, kinds[0]), (9, 13, kinds[1])]
    assert bare["text"].marks == tuple((*place, "") for place in places)
    assert [mark.note for mark in shown["text"].marks] == ["", "missed"]
    assert shown["predicted"].text == "Oslo and Rome"
    assert shown["predicted"].marks == ((*places[0], ""), (9, 13, kinds[0], "wrong"))
    (alone,) = TASK.show([{"tokens": row["tokens"]}], None, decided)
    assert [mark.note for mark in alone["predicted"].marks] == ["", ""]


# The whole way


# The words that begin an entity and the word that may go on with it; some are of two tokens.
ENTITIES = {
    "fault": (["crash", "error", "updates", "logins"], "freezes"),
    "goods": (["parcel", "invoice7", "refund7", "courier"], "shipment"),
}
FILLER = "hello my the is was and it please have again today".split()  # noqa: SIM905


def sentences(count, seed):
    """Texts in which faults and goods, of one word or two, are entities."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        text, entities = "", []
        for _ in range(rng.randint(1, 4)):
            text += " ".join(rng.choices(FILLER, k=rng.randint(1, 3))) + " "
            label, (heads, tail) = rng.choice(list(ENTITIES.items()))
            part = rng.choice(heads) + rng.choice(["", f" {tail}"])
            entities.append(entity(len(text), len(text) + len(part), label))
            text += part + rng.choice([" ", ", ", ". "])
        rows.append({"text": text, "entities": entities})
    return rows


@pytest.fixture(scope="module")
def data():
    return DatasetDict(
        {
            "train": Dataset.from_list(sentences(160, 1)),
            "validation": Dataset.from_list(sentences(40, 2)),
            "test": Dataset.from_list(sentences(40, 3)),
        }
    )


@pytest.fixture(scope="module")
def trained(data, make_checkpoint, tmp_path_factory):
    """A learner that learned the sentences, and the folder of its bundle."""
    import ftkit

    learn = ftkit.finetune_learner(data, make_checkpoint("bert"), task=NER(), bs=8)
    with learn.no_bar():
        learn.fit_one_cycle(5, 1e-2)
    return learn, ftkit.save(learn, tmp_path_factory.mktemp("ner") / "bundle")


def test_a_learner_trains_validates_and_shows(trained, capsys):
    learn, _ = trained
    names = learn.recorder.metric_names
    last = dict(zip(names[1:], learn.recorder.values[-1], strict=False))
    assert last["f1"] > 0.95
    learn.show_batch(max_n=3)
    learn.show_results(max_n=3)
    printed = capsys.readouterr().out
    assert "|fault]" in printed
    assert "predicted" in printed


def test_a_bundle_scores_and_predicts_as_the_learner(trained, data):
    import ftkit

    learn, folder = trained
    model = ftkit.load_model(folder)
    evaluation = model.evaluate(data["validation"])
    last = learn.recorder.values[-1]
    assert evaluation.scores["f1"] == pytest.approx(last[2], abs=1e-6)
    assert set(evaluation.per_label) == {"fault", "goods"}
    test = data["test"]
    right = 0
    for row, found in zip(test, model.predict(test["text"]), strict=True):
        spans = [{"start": e.start, "end": e.end, "label": e.label} for e in found.entities]
        right += spans == row["entities"]
        assert all(row["text"][e.start : e.end] == e.text for e in found.entities)
    assert right > 0.8 * len(test)
    assert model.predict([""])[0].entities == ()
    (by_token,) = model.predict([{"tokens": ["hello", "error", "freezes"]}])
    assert [(e.text, e.label) for e in by_token.entities] == [("error freezes", "fault")]
    rows = numbered([[0, 1], [0, 1]])["train"]
    assert model.evaluate(rows.with_format("numpy")) == model.evaluate(rows)
    with pytest.raises(DataError, match=r"row 2, column \"tags\": found \['O', None\] where"):
        model.evaluate(numbered([[0, 1], [0, -1]])["train"])


@pytest.mark.parametrize(("sub_tokens", "strategy"), [("first", "first"), ("all", "simple")])
def test_transformers_pipeline_finds_the_same_entities(
    trained, data, make_checkpoint, tmp_path, sub_tokens, strategy
):
    import transformers

    import ftkit

    _, folder = trained
    if sub_tokens == "all":
        learn = ftkit.ner_learner(data, make_checkpoint("bert"), task=NER(sub_tokens="all"), bs=8)
        with learn.no_bar():
            learn.fit_one_cycle(5, 1e-2)
        folder = ftkit.save(learn, tmp_path / "bundle")
    texts = list(data["test"]["text"])
    pipe = transformers.pipeline(
        "token-classification", model=str(folder), aggregation_strategy=strategy, device=-1
    )
    for found, theirs in zip(ftkit.load_model(folder).predict(texts), pipe(texts), strict=True):
        ours = [(e.label, e.start, e.end) for e in found.entities]
        assert ours == [(e["entity_group"], e["start"], e["end"]) for e in theirs]


def test_the_very_end_of_20000_tokens_is_found_and_scored(trained):
    import ftkit

    _, folder = trained
    model = ftkit.load_model(folder)
    head = " ".join(random.Random(0).choices(FILLER, k=20_000))
    text = f"{head} error refund7"
    entities = [
        entity(len(head) + 1, len(head) + 6, "fault"),
        entity(len(head) + 7, len(text), "goods"),
    ]
    (found,) = model.predict([text])
    spans = [{"start": e.start, "end": e.end, "label": e.label} for e in found.entities]
    assert spans[-2:] == entities
    assert len(found.tags) == 20_002
    scores = model.evaluate({"text": [text], "entities": [entities]}).scores
    assert scores["recall"] == 1.0


def test_a_trained_head_goes_on_with_its_labels_in_its_order(make_checkpoint, data):
    import ftkit

    labels = ("B-goods", "I-goods", "O", "I-fault", "B-fault", "B-firm", "I-firm")
    names = {"id2label": dict(enumerate(labels)), "num_labels": len(labels)}
    folder = make_checkpoint("bert", "ForTokenClassification", **names)
    learn = ftkit.finetune_learner(data, folder, task="ner", bs=8)
    assert learn.task_scores.task.labels == labels


@pytest.mark.parametrize("architecture", ["roberta", "gpt2", "t5"])
def test_long_texts_of_other_tokenizers_train(make_checkpoint, data, architecture, tmp_path):
    import ftkit

    task = NER(max_length=24, stride=6)
    learn = ftkit.finetune_learner(data, make_checkpoint(architecture), task=task, bs=8)
    with learn.no_bar():
        learn.fit(1, 1e-3)
    assert np.isfinite(learn.recorder.values[-1][:2]).all()
    text = data["test"][0]["text"]
    (found,) = ftkit.load_model(ftkit.save(learn, tmp_path / "model")).predict([text])
    assert len(found.tags) == len(split_words(text))


@pytest.mark.data
def test_every_word_of_a_public_set_has_its_tag(data_dir, tiny_tokenizer):
    import pyarrow.parquet as pq

    rows = pq.read_table(data_dir / "wnut17" / "validation.parquet").to_pydict()
    data = tagged(rows["tokens"], rows["ner_tags"])
    task = NER().with_labels(data)
    prepared = task.prepare(data["train"][:], tiny_tokenizer(), 64)
    tags = [[task.labels[i] for i in row] for row in prepared["target"]]
    assert tags == rows["ner_tags"]
    found = sum(len(entities_of_tags(row)) for row in tags)
    assert found == sum(tag.startswith("B-") for tag in itertools.chain(*rows["ner_tags"]))


@pytest.mark.unit
@pytest.mark.parametrize("by", ["tags", "entities"])
def test_a_validation_split_takes_no_type_away_from_train(by):
    rows = []
    for i in range(40):
        kind = "rare" if i == 7 else "usual"
        if by == "tags":
            rows.append({"tokens": ["Ann", "ran"], "tags": [f"B-{kind}", "O"]})
        else:
            rows.append({"text": "Ann ran", "entities": [entity(0, 3, kind)]})
    for seed in range(8):
        with pytest.warns(FtkitWarning, match="stratified by label"):
            data = load_data(rows, "ner", valid=0.5, seed=seed)
        assert len(data["validation"]) >= 10
        assert "rare" in str(data["train"][:])
