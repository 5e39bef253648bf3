"""Labels that a trained model doubts: those that were planted come first."""

import csv
import json
import shutil

import numpy as np
import pytest
import tomli_w
from datasets import Dataset, DatasetDict

import ftkit
from ftkit.checks.opening import open_data
from ftkit.checks.suspects import Suspects, find_suspects
from ftkit.cli import main
from ftkit.errors import DataError, FtkitWarning, SettingError
from ftkit.inference.predictor import Predictor
from ftkit.tasks import NER, Classification, LanguageModeling

LABELS = ("billing", "delivery", "technical")


class Knows:
    """An engine that answers by the words of a row, as a trained model would."""

    def __init__(self, words: dict[int, int], n_outputs: int, each_word: bool = False) -> None:
        self.words, self.n_outputs, self.each_word = words, n_outputs, each_word

    def answer(self, inputs, task):
        ids = inputs["input_ids"]
        kinds = np.vectorize(lambda each: self.words.get(each, -1))(ids)
        hot = np.stack([kinds == kind for kind in range(self.n_outputs)], -1).astype(np.float32)
        if not self.each_word:
            return task.merge(4 * hot.max(1) - 2, inputs)
        hot[..., 0] += (kinds < 0) * 1.0
        return task.merge(4 * hot, inputs)


@pytest.fixture(scope="module")
def telling(tiny_data, tiny_tokenizer):
    """The token of each word that stands in the texts of one label alone, and that label."""
    met: dict[str, set[int]] = {}
    for row in tiny_data["train"]:
        for word in row["text"].split():
            met.setdefault(word, set()).add(LABELS.index(row["label"]))
    tokenizer = tiny_tokenizer("bert")
    return {
        tokenizer.convert_tokens_to_ids(word): kinds.pop()
        for word, kinds in met.items()
        if len(kinds) == 1
    }


def test_wrong_labels(tiny_data, tiny_tokenizer, telling):
    data = {split: rows.to_list() for split, rows in tiny_data.items()}
    planted = {("validation", 3), ("validation", 17), ("test", 8)}
    for split, row in planted:
        old = data[split][row - 1]["label"]
        data[split][row - 1]["label"] = LABELS[(LABELS.index(old) + 1) % 3]
    task = Classification(kind="single", labels=LABELS)
    model = Predictor(Knows(telling, 3), tiny_tokenizer("bert"), task, 64)
    found = find_suspects(model, open_data(data, Classification()).splits)
    assert found.rows == 48
    assert {(each.split, each.row) for each in found.found} == planted
    assert [each.score for each in found.found] == sorted(each.score for each in found.found)
    for each in found.found:
        assert each.suggested == tiny_data[each.split][each.row - 1]["label"] != each.given
        assert each.score < 0.1
    assert "3 of 48 rows to look at again" in str(found)


def test_several_labels(tiny_data, tiny_tokenizer, telling):
    data = {
        split: [{"text": row["text"], "label": [row["label"]]} for row in rows]
        for split, rows in tiny_data.items()
    }
    data["test"][4]["label"] = []
    task = Classification(kind="multi", labels=LABELS, threshold=0.5)
    model = Predictor(Knows(telling, 3), tiny_tokenizer("bert"), task, 64)
    found = find_suspects(model, open_data(data, Classification()).splits)
    assert ("test", 5, "none") in {(each.split, each.row, each.given) for each in found.found}
    assert found.found[0].suggested == tiny_data["test"][4]["label"]


@pytest.mark.parametrize("labels", [LABELS, LABELS[:1]])
@pytest.mark.parametrize("given", [[], ["billing"]])
def test_a_label_that_all_rows_have_or_none(tiny_data, tiny_tokenizer, telling, labels, given):
    train = [
        {"text": r["text"], "label": [x for x in labels if x == r["label"]]}
        for r in tiny_data["train"]
    ]
    rows = [{"text": row["text"], "label": given} for row in tiny_data["test"]]
    task = Classification(kind="multi", labels=labels, threshold=0.5)
    model = Predictor(Knows(telling, len(labels)), tiny_tokenizer("bert"), task, 64)
    data = {"train": train, "validation": rows, "test": rows}
    found = find_suspects(model, open_data(data, Classification()).splits)
    assert (found.rows, found.found) == (48, ())


def test_words(tiny_data, tiny_tokenizer):
    tokenizer = tiny_tokenizer("bert")
    parcel = tokenizer.convert_tokens_to_ids("parcel")
    rows = []
    for row in [*tiny_data["train"], *tiny_data["test"]]:
        tokens = row["text"].split()
        rows.append({"tokens": tokens, "tags": ["B-x" if w == "parcel" else "O" for w in tokens]})
    place = next(i for i, row in enumerate(rows) if "parcel" in row["tokens"])
    wrong = [dict(row) for row in rows]
    wrong[place] = {**rows[place], "tags": ["O"] * len(rows[place]["tokens"])}
    task = NER(labels=("O", "B-x", "I-x"))
    model = Predictor(Knows({parcel: 1}, 3, each_word=True), tokenizer, task, 64)
    found = find_suspects(model, open_data({"train": rows, "test": wrong}, NER()).splits)
    assert {(e.split, e.row, e.word) for e in found.found} == {("test", place + 1, "parcel")}
    assert (found.found[0].given, found.found[0].suggested) == ("O", "B-x")


def test_what_cannot_be_doubted(tiny_data, tiny_tokenizer):
    splits = open_data(tiny_data, Classification()).splits
    model = Predictor(Knows({}, 3), tiny_tokenizer("bert"), LanguageModeling(), 64)
    with pytest.raises(SettingError, match="has no labels to doubt"):
        find_suspects(model, splits)
    model = Predictor(Knows({}, 3), tiny_tokenizer("bert"), Classification(), 64)
    with pytest.raises(DataError, match="no split that the model was not trained on"):
        find_suspects(model, {"train": splits["train"]})


@pytest.fixture(scope="module")
def bundle(tiny_data, tiny_checkpoint, tmp_path_factory):
    learn = ftkit.classification_learner(tiny_data, tiny_checkpoint, bs=8)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(5, 1e-2)
    return ftkit.save(learn, tmp_path_factory.mktemp("doubting") / "model")


def test_the_command(tiny_data, bundle, tmp_path, capsys):
    data = {split: rows.to_list() for split, rows in tiny_data.items()}
    data["test"][7]["label"] = LABELS[(LABELS.index(data["test"][7]["label"]) + 1) % 3]
    DatasetDict({s: Dataset.from_list(r) for s, r in data.items()}).save_to_disk(tmp_path / "rows")
    file = tmp_path / "suspects.csv"
    command = ["check", "classification", "--data", str(tmp_path / "rows"), "--model", str(bundle)]
    assert main([*command, "--suspects", str(file), "--json", str(tmp_path / "check.json")]) == 0
    assert "rows to look at again, by confident learning" in capsys.readouterr().out
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert ("test", "8") in {(row["split"], row["row"]) for row in rows}
    content = json.loads((tmp_path / "check.json").read_text())["suspects"]
    assert len(content["found"]) == len(rows)
    assert content["rows"] == 48
    assert main(["check", "ner", "--data", str(tmp_path / "rows"), "--model", str(bundle)]) == 2


def test_the_command_judges_what_the_run_held_out(tiny_data, bundle, tmp_path, monkeypatch, capsys):
    file, judged = tmp_path / "rows.jsonl", []
    rows = [{**row, "customer": i // 4} for i, row in enumerate(tiny_data["train"])]
    Dataset.from_list(rows).to_json(file)
    same = {"seed": 7, "limit": 20, "group": "customer"}
    run = {"run": {"data": "elsewhere/rows.jsonl", **same}}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(run))
    shutil.copytree(bundle, tmp_path / "model")

    def find(model, splits):
        judged.append([splits[name].rows["text"][:] for name in ("train", "validation")])
        return Suspects(0, "", ())

    monkeypatch.setattr("ftkit.checks.suspects.find_suspects", find)
    command = ["check", "classification", "--data", str(file), "--model", str(tmp_path / "model")]
    for given in ([], ["--seed", "7", "--limit", "20"], ["--limit", "90"]):
        main([*command, *given])
        assert "trained" not in capsys.readouterr().err
    with pytest.warns(FtkitWarning, match="held out"):
        data = ftkit.load_data(file, "classification", **same)
    train, held_out = ([*data[split]["text"]] for split in ("train", "validation"))
    assert judged[0] == judged[1] == [train, held_out]
    assert not set(judged[2][1]) & set(train)
    main([*command, "--seed", "8"])
    said = "the model's run had another seed, and held out other rows"
    assert capsys.readouterr().err.count(said) == 1
    (tmp_path / "run.toml").write_text("[other]")  # somebody else's
    assert main(command) in (0, 1)
    (tmp_path / "run.toml").write_text("[run")
    assert main(command) == 2
    assert "cannot be read as the settings of a run" in capsys.readouterr().err


def test_numbers_by_their_loss(tiny_data, tiny_checkpoint, tmp_path):
    rows = {
        split: [{"text": r["text"], "label": float(LABELS.index(r["label"]))} for r in part]
        for split, part in tiny_data.items()
    }
    rows["validation"][5]["label"] = 40.0
    learn = ftkit.classification_learner(rows, tiny_checkpoint, bs=8)
    model = ftkit.load_model(ftkit.save(learn, tmp_path / "model"))
    found = find_suspects(model, open_data(rows, Classification()).splits)
    assert (found.found[0].split, found.found[0].row) == ("validation", 6)
    assert "loss" in found.method
