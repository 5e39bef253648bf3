"""The bundled sample data is what its README says, and a fair exercise."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ftkit.data.samples import sample_folder
from ftkit.data.samples.authored import SPLITS, Material, load_material, load_vocabulary
from ftkit.data.samples.generate import QUESTIONS, SUMMARIES, TICKETS, render_files
from ftkit.errors import DataError

pytestmark = pytest.mark.unit

FOLDER = sample_folder("tickets").parent
COUNTS = {"tickets": TICKETS, "questions": QUESTIONS, "summaries": SUMMARIES}
PAIRS = list(itertools.combinations(SPLITS, 2))
# Common nouns that end the names of things ("bookcase", "bank"); a name's first word is never one.
PRODUCTS = ("device", "wear", "home", "seat", "box", "media", "plan")
NAME_KINDS = (*PRODUCTS, "shop", "courier", "bank", "firm", "place")


@cache
def rows(name: str, split: str) -> list[dict[str, Any]]:
    lines = (sample_folder(name) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def material(split: str) -> Material:
    return load_material(split)


def all_names(split: str) -> set[str]:
    """Every name of a split as it can stand in a text, people with first and last name apart."""
    return {name for names in material(split).names.values() for name in names}


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for item in value.values() for text in strings(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in strings(item))


def templates(split: str) -> list[str]:
    """Every authored template of a split, without the answer marks."""
    queues = {queue.name for queue in load_vocabulary().queues}
    labels = queues | set(load_vocabulary().flags)
    authored = strings([astuple(s) for s in material(split).situations])
    around = strings(astuple(material(split).phrases))
    return [re.sub("[<>]", "", t) for t in (*authored, *around) if t not in labels]


def word_runs(template: str, length: int) -> set[str]:
    words = re.findall(r"\{\w+\}|[\w']+", template.lower())
    return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_counts_and_columns() -> None:
    for (name, counts), split in itertools.product(COUNTS.items(), SPLITS):
        assert len(rows(name, split)) == counts[split]
    columns = {
        "tickets": ["id", "text", "queue", "flags", "entities"],
        "questions": ["id", "context", "question", "answers"],
        "summaries": ["id", "text", "summary"],
    }
    for name, split in itertools.product(COUNTS, SPLITS):
        assert all(list(row) == columns[name] for row in rows(name, split))


def test_folder_is_small() -> None:
    files = [f for f in FOLDER.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert len(files) >= 20
    assert sum(f.stat().st_size for f in files) < 2_000_000


def test_generator_writes_the_same_bytes() -> None:
    rendered = render_files()
    assert len(rendered) == 9
    for name, content in rendered.items():
        assert (FOLDER / name).read_bytes() == content, f"{name} differs: run the generator again"


def test_labels_are_those_of_the_vocabulary() -> None:
    vocabulary = load_vocabulary()
    queues = {queue.name for queue in vocabulary.queues}
    for split in SPLITS:
        counts = Counter(row["queue"] for row in rows("tickets", split))
        assert set(counts) == queues
        assert max(counts.values()) < 2.5 * min(counts.values())
        flags = Counter(flag for row in rows("tickets", split) for flag in row["flags"])
        assert set(flags) == set(vocabulary.flags)
        assert any(not row["flags"] for row in rows("tickets", split))
        assert all(len(set(row["flags"])) == len(row["flags"]) for row in rows("tickets", split))


@pytest.mark.parametrize("split", SPLITS)
def test_entities_are_the_authored_names(split: str) -> None:
    names = material(split).names
    products = {n for kind in PRODUCTS for n in names[kind]}
    organisations = {n for kind in ("shop", "courier", "bank", "firm") for n in names[kind]}
    month = "January|February|March|April|May|June|July|August|September|October|November|December"
    holds = {
        "product": lambda s: s in products,
        "organisation": lambda s: s in organisations,
        "place": lambda s: s in names["place"],
        "person": lambda s: tuple(s.split(" ")) in itertools.product(names["first"], names["last"]),
        "date": lambda s: re.fullmatch(rf".*({month}).*|\d\d/\d\d|[A-Z]\w+day", s) is not None,
        "order_number": lambda s: re.fullmatch(r"(#|A-|ORD-|no\. )?\d{5,8}", s) is not None,
        "amount": lambda s: re.fullmatch(r"(£|GBP )?\d+(\.\d\d)?( pounds)?", s) is not None,
    }
    seen = set()
    for row in rows("tickets", split):
        end = 0
        for entity in row["entities"]:
            surface = row["text"][entity["start"] : entity["end"]]
            assert entity["start"] >= end, "sorted and apart"
            assert holds[entity["label"]](surface), (row["id"], entity, surface)
            end = entity["end"]
            seen.add(entity["label"])
    assert seen == set(holds)


@pytest.mark.parametrize("split", SPLITS)
def test_no_name_is_left_unmarked(split: str) -> None:
    """Outside the entities there is no authored name, weekday, month or digit."""
    names = "|".join(re.escape(name) for name in sorted(all_names(split), key=len, reverse=True))
    months = "January|February|April|June|July|August|September|October|November|December"
    pattern = re.compile(rf"\b({names}|{months}|(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)\b|\d|£")
    for row in rows("tickets", split):
        text = row["text"]
        for entity in reversed(row["entities"]):
            text = text[: entity["start"]] + "~" + text[entity["end"] :]
        assert not (found := pattern.search(text)), (row["id"], found)


def test_no_text_comes_twice_and_no_mark_is_left() -> None:
    texts = [row["text"] for split in SPLITS for row in rows("tickets", split)]
    assert len(set(texts)) == len(texts) == 2000
    assert not [text for text in texts if re.search(r"[<>{}\[\]|]", text)]
    ids = [row["id"] for split in SPLITS for row in rows("tickets", split)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("split", SPLITS)
def test_answers_stand_at_their_offsets(split: str) -> None:
    contexts = {row["text"] for row in rows("tickets", split)}
    for row in rows("questions", split):
        assert row["context"] in contexts
        answers = row["answers"]
        assert len(answers["text"]) == len(answers["answer_start"]) <= 1
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            assert text.strip() == text != ""
            assert row["context"][start : start + len(text)] == text
    share = sum(not row["answers"]["text"] for row in rows("questions", split))
    assert 0.2 < share / len(rows("questions", split)) < 0.45


@pytest.mark.parametrize("split", SPLITS)
def test_some_questions_are_asked_with_and_without_an_answer(split: str) -> None:
    asked: dict[str, set[bool]] = {}
    for row in rows("questions", split):
        asked.setdefault(row["question"], set()).add(bool(row["answers"]["text"]))
    assert sum(len(outcomes) == 2 for outcomes in asked.values()) >= 5


@pytest.mark.parametrize("split", SPLITS)
def test_summaries_are_one_line_in_other_words(split: str) -> None:
    by_id = {row["id"]: row["text"] for row in rows("tickets", split)}
    for row in rows("summaries", split):
        assert row["text"] == by_id[row["id"]]
        assert "\n" not in row["summary"]
        assert len(row["summary"]) < len(row["text"])
    for situation in material(split).situations:
        texts = [re.sub("[<>]", "", text) for text in (situation.text, *situation.more)]
        told = set().union(*(word_runs(text, 6) for text in texts))
        assert not word_runs(situation.summary, 6) & told, situation.summary


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_splits_share_no_template(one: str, other: str) -> None:
    """Not only no template: no run of six words of a template."""
    runs = {
        split: set().union(*(word_runs(template, 6) for template in templates(split)))
        for split in (one, other)
    }
    assert all(len(found) > 1000 for found in runs.values())
    assert not runs[one] & runs[other]
    whole = {split: {t.lower() for t in templates(split) if " " in t} for split in (one, other)}
    assert not whole[one] & whole[other]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_splits_share_no_name(one: str, other: str) -> None:
    assert not all_names(one) & all_names(other)
    for kind in NAME_KINDS:
        first_words = [
            {name.removeprefix("The ").split()[0] for name in material(split).names[kind]}
            for split in (one, other)
        ]
        assert not first_words[0] & first_words[1], kind


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_files_share_no_name(one: str, other: str) -> None:
    named = [
        {
            word
            for row in rows("tickets", split)
            for entity in row["entities"]
            if entity["label"] in ("person", "organisation", "product", "place")
            for surface in [row["text"][entity["start"] : entity["end"]]]
            for word in (surface.split() if entity["label"] == "person" else [surface])
        }
        for split in (one, other)
    ]
    assert all(len(names) > 50 for names in named)
    assert not named[0] & named[1]


def test_every_queue_has_many_situations() -> None:
    for split, least in {"train": 30, "validation": 10, "test": 18}.items():
        counts = Counter(situation.queue for situation in material(split).situations)
        assert len(counts) == 8
        assert min(counts.values()) >= least


def test_words_alone_do_not_give_the_queue_away() -> None:
    """TF-IDF with logistic regression stays well below what a person would reach."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = (
        {split: [row[column] for row in rows("tickets", split)] for split in SPLITS}
        for column in ("text", "queue")
    )
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit(texts["train"], labels["train"])
    assert 0.60 < model.score(texts["test"], labels["test"]) < 0.80


def test_unknown_sample_is_refused() -> None:
    with pytest.raises(DataError, match="tickets, questions, summaries"):
        sample_folder("letters")
    assert all(isinstance(sample_folder(name), Path) for name in COUNTS)
