"""DataBlocks: items of any make read through getters, and what cannot be is refused by name."""

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.all import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    FuncSplitter,
    GrandparentSplitter,
    IndexSplitter,
    ItemTransform,
    MultiCategoryBlock,
    Pipeline,
    RandomSplitter,
    RegressionBlock,
    Transform,
    TransformBlock,
    get_text_files,
    parent_label,
)

import ftkit
from ftkit.errors import DataError, SettingError

LABELS = ("billing", "delivery", "technical")


def rows(count=20):
    """Every fourth row is for validation; the last word of a text is its label."""
    filler = ["hello", "my", "the", "a", "is", "was", "and", "it", "please"]
    return [
        {
            "body": " ".join([*filler[: 1 + i % 9], LABELS[i % 3]]),
            "queue": LABELS[i % 3],
            "is_valid": i % 4 == 3,
        }
        for i in range(count)
    ]


def as_tags(row):
    words = row["body"].split()
    return {"body": words, "queue": ["O"] * (len(words) - 1) + ["B-x"]}


def a_block(checkpoint, target=CategoryBlock, task=None, **options):
    blocks = (ftkit.HFTextBlock(checkpoint, task), *([target] if target else []))
    given = {"get_x": ColReader("body"), "get_y": ColReader("queue"), **options}
    given.setdefault("splitter", FuncSplitter(lambda row: row["is_valid"]))
    return DataBlock(blocks=blocks, **given)


def texts_and_targets(dls):
    """What train and validation hold, in the order of the rows."""
    return [[(row["text"], row["label"]) for row in loader.dataset] for loader in dls]


@pytest.fixture
def wanted():
    return [[(r["body"], r["queue"]) for r in rows() if r["is_valid"] is v] for v in (False, True)]


# Items


def test_items_may_be_of_any_make(tiny_checkpoint, tmp_path, wanted):
    assert texts_and_targets(a_block(tiny_checkpoint).dataloaders(rows())) == wanted
    by_column = a_block(tiny_checkpoint, splitter=ColSplitter())
    assert texts_and_targets(by_column.dataloaders(pd.DataFrame(rows()))) == wanted
    getters = {"get_x": lambda row: row.body, "get_y": lambda row: row["queue"]}
    by_function = a_block(tiny_checkpoint, splitter=ColSplitter(), **getters)
    assert texts_and_targets(by_function.dataloaders(pd.DataFrame(rows()))) == wanted
    zipped = DataBlock.from_columns(
        (ftkit.HFTextBlock(tiny_checkpoint), CategoryBlock),
        splitter=IndexSplitter([i for i, row in enumerate(rows()) if row["is_valid"]]),
    )
    columns = [[row[name] for row in rows()] for name in ("body", "queue")]
    assert texts_and_targets(zipped.dataloaders(columns)) == wanted


def test_items_may_be_files(tiny_checkpoint, tmp_path, wanted):
    for i, row in enumerate(rows()):
        folder = tmp_path / ("valid" if row["is_valid"] else "train") / row["queue"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.txt").write_text(row["body"])
    block = a_block(
        tiny_checkpoint,
        get_items=get_text_files,
        get_x=lambda file: file.read_text(),
        get_y=parent_label,
        splitter=GrandparentSplitter(),
    )
    dls = block.dataloaders(tmp_path)
    assert [sorted(part) for part in texts_and_targets(dls)] == [sorted(part) for part in wanted]


def test_a_splitter_may_draw_rows(tiny_checkpoint):
    dls = a_block(tiny_checkpoint, splitter=RandomSplitter(0.25, seed=1)).dataloaders(rows())
    found = texts_and_targets(dls)
    assert [len(part) for part in found] == [15, 5]
    assert sorted(found[0] + found[1]) == sorted((row["body"], row["queue"]) for row in rows())


def test_getters_may_be_pipelines(tiny_checkpoint, wanted):
    shout = a_block(tiny_checkpoint, get_x=Pipeline([ColReader("body"), str.upper]))
    assert texts_and_targets(shout.dataloaders(rows())) == [
        [(text.upper(), label) for text, label in part] for part in wanted
    ]


# Targets


@pytest.mark.parametrize(
    ("target", "value", "kind", "vocab", "targets"),
    [
        (CategoryBlock, lambda i: "ba"[i % 2], "single", ["a", "b"], [1, 0]),
        (
            CategoryBlock(["b", "a", "c"], sort=False),
            lambda i: "ba"[i % 2],
            "single",
            [*"bac"],
            [0],
        ),
        (CategoryBlock, lambda i: 10 - i % 2, "single", ["9", "10"], [1, 0]),
        (MultiCategoryBlock, lambda i: ["b", "a"][i % 2 :], "multi", ["a", "b"], [[1, 1], [1, 0]]),
        (
            MultiCategoryBlock(encoded=True, vocab=["b", "a"]),
            lambda i: [1, i % 2],
            "multi",
            ["b", "a"],
            [[1, 0], [1, 1]],
        ),
        (RegressionBlock, lambda i: i % 2, "regression", [], [0, 1]),
        (RegressionBlock, lambda i: i / 2, "regression", [], [0, 0.5]),
    ],
)
def test_fastais_blocks_say_kind_and_labels(
    tiny_checkpoint, target, value, kind, vocab, targets, capsys
):
    items = [{**row, "queue": value(i)} for i, row in enumerate(rows())]
    dls = a_block(tiny_checkpoint, target).dataloaders(items, shuffle=False)
    assert dls.train.dataset.task.kind == kind
    assert list(dls.vocab) == vocab
    assert dls.c == (len(vocab) or 1)
    of_row = {int(n): t for inputs, ts in dls.train for n, t in zip(inputs["row"], ts, strict=True)}
    assert [of_row[i].tolist() for i in range(len(targets))] == targets
    a_block(tiny_checkpoint, target).summary(items)
    dls.show_batch(max_n=2)
    assert "Could not" not in capsys.readouterr().out


def test_tags_or_entities(tiny_checkpoint):
    found = []
    for get_x, get_y in (
        (lambda n: ["ann", "in", "oslo"], lambda n: ["B-name", "O", "B-city"]),
        (
            lambda n: "ann in oslo",
            lambda n: [
                {"start": 0, "end": 3, "label": "name"},
                {"start": 7, "end": 11, "label": "city"},
            ],
        ),
    ):
        block = a_block(
            tiny_checkpoint,
            ftkit.TokenTagsBlock,
            get_x=get_x,
            get_y=get_y,
            splitter=RandomSplitter(0.5, seed=0),
        )
        found.append(block.dataloaders(list(range(4)), shuffle=False).one_batch())
    assert torch.equal(found[0][0]["input_ids"], found[1][0]["input_ids"])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("said", "span"),
    [
        ({"text": ["oslo"], "answer_start": [7]}, [7, 11]),
        ({"text": [], "answer_start": []}, [-1, -1]),
        (("oslo", 7), [7, 11]),
        ("oslo", [7, 11]),
        ("", [-1, -1]),
        (pd.NA, [-1, -1]),
    ],
)
def test_answers_in_every_form(tiny_checkpoint, said, span):
    known = {"text": ["ann"], "answer_start": [0]} if isinstance(said, dict) else "ann"
    block = a_block(
        tiny_checkpoint,
        ftkit.AnswerBlock,
        get_x=lambda n: ("where", "ann in oslo"),
        get_y=lambda n: said if n else known,
        splitter=IndexSplitter([1]),
    )
    dls = block.dataloaders([0, 1])
    assert dls.train.one_batch()[1].tolist() == [[0, 3]]
    assert dls.valid.one_batch()[1].tolist() == [span]


# Steps between


def test_summary_shows_every_step(tiny_checkpoint, capsys):
    a_block(tiny_checkpoint).summary(rows(), bs=2, show_batch=True, max_n=2)
    out = capsys.readouterr().out
    for step in ("2 datasets of sizes 15,5", "Final sample: ('hello billing', TensorCategory(0))"):
        assert step in out
    assert out.splitlines()[-3].split() == ["text", "label"]


def test_an_array_of_words_stands_for_itself(tiny_checkpoint):
    # What a DataFrame that was read from Parquet has in its cells.
    items = pd.DataFrame([{**row, **as_tags(row)} for row in rows()])
    words = np.array(items["body"][0])
    splitter = RandomSplitter(0.5, seed=0)
    block = a_block(tiny_checkpoint, ftkit.TokenTagsBlock, splitter=splitter)
    dls = ftkit.ner_learner(block.dataloaders(items, bs=4), tiny_checkpoint).dls
    found, wanted = (dls.test_dl([each]).one_batch()[0] for each in (words, list(words)))
    assert torch.equal(found["input_ids"], wanted["input_ids"])


@pytest.mark.parametrize("target", [ftkit.TokenTagsBlock, ftkit.SummaryBlock, None])
def test_summary_of_other_tasks(make_checkpoint, target, capsys):
    head = {ftkit.SummaryBlock: ("t5", "ForConditionalGeneration"), None: ("bert", "ForMaskedLM")}
    items = [{**row, **as_tags(row)} for row in rows()]
    options = {} if target else {"get_y": None}
    block = a_block(make_checkpoint(*head.get(target, ("bert",))), target, **options)
    block.summary(items if target is ftkit.TokenTagsBlock else rows(), show_batch=True)
    assert "Collating items in a batch" in capsys.readouterr().out


class AddLength(ItemTransform):
    """A transform of whole batches that says what it was given."""

    split_idx = 0

    def setups(self, loader):
        self.seen = len(loader.dataset)

    def encodes(self, batch):
        inputs, targets = batch
        return {**inputs, "length": torch.tensor(self.seen)}, targets


def test_transforms_of_batches_are_applied(tiny_checkpoint):
    dls = a_block(tiny_checkpoint, batch_tfms=AddLength()).dataloaders(rows(), bs=4)
    for loaders in (dls, ftkit.classification_learner(dls, tiny_checkpoint).dls):
        assert [int(inputs["length"]) for inputs, _ in loaders.train] == [15] * 4
        assert all("length" not in inputs for inputs, _ in loaders.valid)


def lower(text: str):
    return text.lower()


@pytest.mark.parametrize(
    ("block", "options", "message"),
    [
        ({"item_tfms": Transform(lower)}, {}, 'item_tfms has "lower"'),
        ({}, {"before_batch": Transform(lower)}, 'before_batch has "lower"'),
        ({}, {"num_workers": 2}, "num_workers is 2"),
        ({}, {"n": 5}, "n is 5"),
        ({"task": "qa"}, {}, 'HFTextBlock has the task "qa", and the block of the target is for'),
        ({"task": "no such"}, {}, 'no task is called "no such"'),
        ({"task": ftkit.Classification(kind="multi")}, {}, "the task has kind 'multi'"),
        ({"task": ftkit.Classification(labels=("x", "y"))}, {}, "the task has labels"),
        ({"target": CategoryBlock(add_na=True)}, {}, "add_na=True"),
        ({"target": TransformBlock(type_tfms=[lower])}, {}, 'does "ColReader", "lower", which'),
        (
            {"n_inp": 2, "get_x": [ColReader("body"), ColReader("queue")], "get_y": None},
            {},
            "2 blocks, 2 of them inputs",
        ),
    ],
)
def test_what_has_no_place_is_refused(tiny_checkpoint, block, options, message):
    with pytest.raises(SettingError, match=message):
        a_block(tiny_checkpoint, **block).dataloaders(rows(), **options)


def test_new_items_wait_for_a_learner(tiny_checkpoint):
    dls = a_block(tiny_checkpoint).dataloaders(rows())
    with pytest.raises(SettingError, match=r"learn\.dls\.test_dl"):
        dls.test_dl(rows())


# Bad items


def with_item(number, made=dict, **changes):
    """Rows, one of them changed; `number` counts from 1."""
    items = [{**row, **made(row)} for row in rows()]
    items[number - 1] |= changes
    return items


def without(number, name):
    return [
        {key: value for key, value in row.items() if i != number or key != name}
        for i, row in enumerate(rows(), start=1)
    ]


@pytest.mark.parametrize(
    ("items", "options", "row", "message"),
    [
        (with_item(6, body=None), {}, 6, "the text is missing"),
        (with_item(8, body=float("nan")), {}, 8, "the text is missing"),
        (with_item(7, body=3), {}, 7, "a number"),
        (with_item(7, body=("a", "b", "c")), {}, 7, "get_x gives 3 values where 2 at most"),
        (with_item(7, body=("a", None)), {}, 1, 'column "text_pair": the text is missing'),
        (with_item(8, queue=float("nan")), {}, 8, "the label is missing"),
        (with_item(8, queue="other"), {}, 8, 'the label "other" occurs here and never in train'),
        (
            with_item(9, lambda row: {"queue": 1.5}, queue=None),
            {"target": RegressionBlock},
            9,
            "the label is missing",
        ),
        (with_item(8, as_tags, queue=["O"]), {"target": ftkit.TokenTagsBlock}, 8, "1 tag"),
        (with_item(7, as_tags, queue=None), {"target": ftkit.TokenTagsBlock}, 7, "tags"),
        (with_item(7, queue=None), {"target": ftkit.SummaryBlock}, 7, "the text is missing"),
        (
            with_item(7, lambda row: {"body": ("who", row["body"])}, queue="nobody"),
            {"target": ftkit.AnswerBlock},
            7,
            'the answer "nobody" does not occur',
        ),
        (without(7, "body"), {}, 7, "a getter fails with KeyError: 'body'"),
    ],
)
def test_a_bad_item_is_named(tiny_checkpoint, items, options, row, message):
    with pytest.raises(DataError, match=message) as caught:
        a_block(tiny_checkpoint, **options).dataloaders(items)
    assert caught.value.row == row
