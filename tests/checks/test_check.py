"""Each planted fault is found, with its rows; clean rows give no warning."""

import json
import warnings

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

import ftkit
from ftkit.checks.result import DataCheck
from ftkit.model.module import TextModel
from ftkit.tasks import NER, Classification, QuestionAnswering

_SUBJECTS = ["card", "parcel", "router", "invoice", "courier", "password", "screen", "refund"]
_VERBS = ["arrived", "vanished", "stopped", "doubled", "failed", "returned", "moved", "broke"]
_PLACES = ["Oslo", "Lima", "Cairo", "Quito", "Delhi", "Turin", "Osaka", "Lagos", "Perth"]


def text(number: int) -> str:
    """A sentence that shares no three words in a row with most others."""
    a, b, c = number % 8, number // 8 % 8, number // 64 % 9
    return (
        f"The {_SUBJECTS[a]} {_VERBS[b]} in {_PLACES[c]} on day {number} while clerk {number * 7} "
        f"wrote note {number * 13} about {_SUBJECTS[b]} {number * 3}"
    )


def classified(first: int, count: int) -> list[dict]:
    return [{"text": text(n), "label": "ab"[n % 2]} for n in range(first, first + count)]


def tagged(first: int, count: int) -> list[dict]:
    rows = []
    for n in range(first, first + count):
        tokens = text(n).split()
        tags = ["B-place" if word in _PLACES else "O" for word in tokens]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def asked(first: int, count: int) -> list[dict]:
    return [
        {
            "question": f"Where was number {n}?",
            "context": text(n),
            "answers": {"text": [place], "answer_start": [text(n).index(place)]},
        }
        for n in range(first, first + count)
        for place in [_PLACES[n // 64 % 9]]
    ]


def summed_up(first: int, count: int) -> list[dict]:
    return [{"text": text(n), "summary": f"Note {n} is short"} for n in range(first, first + count)]


def translated(first: int, count: int) -> list[dict]:
    return [
        {"source": text(n), "target": f"{text(n)[::-1]} nein {n}"}
        for n in range(first, first + count)
    ]


CLEAN = {
    "classification": classified,
    "ner": tagged,
    "qa": asked,
    "summarization": summed_up,
    "translation": translated,
    "language_modeling": lambda first, count: [
        {"text": row["text"]} for row in classified(first, count)
    ],
}


def splits(task: str) -> dict[str, list[dict]]:
    make = CLEAN[task]
    return {"train": make(0, 120), "validation": make(120, 30), "test": make(150, 30)}


def found(check: DataCheck, name: str) -> list[tuple]:
    """(level, split, count, rows of the examples) of each finding of that name."""
    return [
        (each.level, each.split, each.count, [example.row for example in each.examples])
        for each in check.findings
        if each.name == name
    ]


@pytest.mark.parametrize("task", CLEAN)
def test_clean_rows_give_no_warning(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check = ftkit.check(splits(task), task)
    assert [(each.level, each.message) for each in check.findings if each.level != "note"] == []
    assert check.ok
    assert [(split.name, split.rows, split.unreadable) for split in check.splits] == [
        *(("train", 120, 0), ("validation", 30, 0), ("test", 30, 0))
    ]


# A fault: the task, what is done to the splits, and the finding that must come of it.


def put(split: str, **rows) -> object:
    """Changes rows of a split: put("train", r4={"text": None}) that of number 4."""

    def change(data):
        for name, new in rows.items():
            data[split][int(name[1:]) - 1].update(new)

    return change


def copy(from_split: str, row: int, to_split: str, to_row: int, **changes) -> object:
    def change(data):
        source = dict(data[from_split][row - 1])
        data[to_split][to_row - 1] = {**source, **changes}

    return change


def relabel(label: str, *numbers: int) -> object:
    def change(data):
        for number in numbers:
            data["train"][number - 1]["label"] = label

    return change


SENTENCE = text(4)
NEARLY = SENTENCE.replace("The ", "the ") + "!"
NEAR = f"{SENTENCE} indeed"

FAULTS = [
    # Of every task
    ("classification", put("train", r4={"text": None}), "missing_text", "error", "train", 1, [4]),
    ("ner", put("test", r3={"tokens": ["a", None]}), "missing_text", "error", "test", 1, [3]),
    (
        "classification",
        put("train", r2={"text": " \n"}, r9={"text": ""}),
        *("blank_text", "warning", "train", 2, [2, 9]),
    ),
    ("ner", put("train", r5={"tokens": [], "tags": []}), "blank_text", "warning", "train", 1, [5]),
    (
        "classification",
        copy("train", 3, "train", 9),
        *("duplicate_rows", "warning", "train", 1, [9]),
    ),
    (
        "classification",
        copy("train", 3, "train", 9, label="b"),
        *("conflicting_rows", "warning", "train", 2, [3, 9]),
    ),
    (
        "classification",
        copy("train", 5, "test", 2),
        *("same_text_in_train", "error", "test", 1, [2]),
    ),
    (
        "classification",
        copy("train", 5, "validation", 2, text=SENTENCE.upper() + " "),
        *("same_text_in_train", "error", "validation", 1, [2]),
    ),
    (
        "classification",
        copy("train", 5, "test", 7, text=NEARLY),
        *("near_text_in_train", "warning", "test", 1, [7]),
    ),
    (
        "summarization",
        copy("train", 5, "test", 7, text=NEAR),
        *("near_text_in_train", "warning", "test", 1, [7]),
    ),
    # Labels
    (
        "classification",
        put("validation", r6={"label": None}),
        *("missing_label", "error", "validation", 1, [6]),
    ),
    (
        "classification",
        put("test", r6={"label": "c"}, r8={"label": "c"}),
        *("label_not_in_train", "error", "test", 2, [6, 8]),
    ),
    ("classification", relabel("c", 1, 2), "rare_labels", "warning", "train", 1, []),
    ("classification", relabel("c", *range(1, 30)), "absent_labels", "warning", "test", 1, []),
    ("classification", relabel("A", 1), "label_spelling", "warning", "train", 2, []),
    ("classification", relabel("c", 1), "uneven_labels", "warning", "train", None, []),
    (
        "classification",
        relabel("a", *range(1, 121)),
        "label_not_in_train",
        "error",
        "test",
        15,
        None,
    ),
    # Entities
    ("ner", put("train", r7={"tags": ["O"]}), "unusable_tags", "error", "train", 1, [7]),
    (
        "ner",
        put("train", r7={"tags": ["O", "I-place", *["O"] * (len(text(6).split()) - 2)]}),
        *("illegal_tags", "warning", "train", 1, [7]),
    ),
    (
        "ner",
        put("test", r7={"tags": ["B-name", *["O"] * (len(text(156).split()) - 1)]}),
        *("type_not_in_train", "error", "test", 1, [7]),
    ),
    # Answers
    (
        "qa",
        put("train", r8={"answers": {"text": ["Oslo"], "answer_start": [3]}}),
        *("misplaced_answers", "error", "train", 1, [8]),
    ),
    (
        "qa",
        put("train", r8={"answers": {"text": [], "answer_start": []}}),
        *("unanswerable", "note", "train", 1, [8]),
    ),
    (
        "qa",
        put("test", r8={"answers": {"text": [], "answer_start": []}}),
        *("unanswerable_unlearnt", "warning", "test", None, []),
    ),
    (
        "qa",
        put(
            "train", r2={"answers": {"text": ["in"] * 2, "answer_start": [text(1).index("in")] * 2}}
        ),
        *("repeated_answers", "note", "train", 1, [2]),
    ),
    (
        "qa",
        put("train", r2={"answers": {"text": [" in"], "answer_start": [text(1).index(" in")]}}),
        *("blank_edges", "warning", "train", 1, [2]),
    ),
    (
        "qa",
        copy("train", 5, "test", 9, question="And who wrote it?"),
        *("context_in_train", "warning", "test", 1, [9]),
    ),
    # Texts to write
    (
        "summarization",
        put("train", r3={"summary": None}),
        *("missing_target", "error", "train", 1, [3]),
    ),
    (
        "summarization",
        put("train", r3={"summary": " "}),
        *("empty_summary", "warning", "train", 1, [3]),
    ),
    (
        "summarization",
        put("train", r3={"summary": text(2)}),
        *("copied_summary", "warning", "train", 1, [3]),
    ),
    (
        "summarization",
        put("train", r3={"summary": text(2) * 2}),
        *("long_summary", "warning", "train", 1, [3]),
    ),
    (
        "summarization",
        put("train", r3={"summary": text(2)[10:60]}),
        *("part_as_summary", "note", "train", 1, [3]),
    ),
    (
        "summarization",
        put("train", r3={"summary": "要約"}),
        *("unscored_summary", "warning", "train", 1, [3]),
    ),
    ("translation", put("test", r3={"target": ""}), "empty_target", "warning", "test", 1, [3]),
    ("translation", put("test", r3={"target": "Ja"}), "odd_length", "warning", "test", 1, [3]),
    (
        "translation",
        put("test", r3={"target": text(152)}),
        *("copied_target", "warning", "test", 1, [3]),
    ),
]


@pytest.mark.parametrize(
    ("task", "change", "name", "level", "split", "count", "rows"),
    FAULTS,
    ids=[f"{fault[0]}-{fault[2]}-{i}" for i, fault in enumerate(FAULTS)],
)
def test_a_planted_fault_is_found(task, change, name, level, split, count, rows):
    data = splits(task)
    change(data)
    check = ftkit.check(data, task)
    told = [each for each in found(check, name) if each[1] == split]
    assert len(told) == 1, check
    assert told[0][:3] == (level, split, count)
    if rows is not None:
        assert told[0][3] == rows
    assert check.ok == (not any(each.level == "error" for each in check.findings))
    assert all(each.remedy.endswith((".", "?")) for each in check.findings)


def test_all_faults_are_found_at_once_and_the_rest_is_looked_at():
    data = splits("classification")
    for change in (
        put("train", r1={"text": None}, r2={"label": None}, r3={"text": " "}),
        put("test", r4={"label": "never"}),
        copy("train", 5, "test", 9),
    ):
        change(data)
    check = ftkit.check(data, "classification")
    names = {each.name for each in check.findings}
    assert {
        *("missing_text", "missing_label", "blank_text", "label_not_in_train"),
        "same_text_in_train",
    } <= names
    assert [(each.name, each.rows, each.unreadable) for each in check.splits] == [
        *(("train", 118, 2), ("validation", 30, 0), ("test", 29, 1))
    ]
    # What stands in a row keeps its number though rows before it were left out.
    assert found(check, "same_text_in_train") == [("error", "test", 1, [9])]


def test_what_load_data_refuses_is_a_finding_and_not_told_twice():
    one_class = [{"text": text(n), "label": "a"} for n in range(40)]
    check = ftkit.check(one_class)
    assert [(each.level, each.name) for each in check.findings] == [("error", "unusable_data")]
    assert 'all 40 rows have only the label "a"' in check.findings[0].message
    data = splits("classification")
    put("train", r4={"text": None})(data)
    assert len(ftkit.check(data).of_level("error")) == 1


def test_few_copies_in_test_are_a_warning_and_many_an_error():
    data = splits("classification")
    data["test"] = classified(150, 200)
    copy("train", 5, "test", 2)(data)
    assert found(ftkit.check(data), "same_text_in_train") == [("warning", "test", 1, [2])]
    for row in range(3, 6):
        copy("train", row, "test", row)(data)
    ((level, _, count, _),) = found(ftkit.check(data), "same_text_in_train")
    assert (level, count) == ("error", 4)


def test_rows_that_were_held_out_keep_the_number_that_they_have_in_train():
    rows = classified(0, 100)
    rows[60] = dict(rows[20])
    check = ftkit.check(rows, seed=3)
    shared = [each for each in check.findings if each.name.endswith("text_in_train")]
    repeated = found(check, "duplicate_rows")
    assert [split.rows for split in check.splits] == [90, 10]
    assert repeated == [("warning", "train", 1, [61])] or [
        (example.split, example.row) for each in shared for example in each.examples
    ] in ([("train", 21)], [("train", 61)])


def test_lengths_languages_and_labels_are_counted(tiny_checkpoint, tiny_data):
    check = ftkit.check(tiny_data, Classification(max_length=16), tiny_checkpoint, batch_size=8)
    train = check.splits[0]
    assert train.labels == {"billing": 32, "delivery": 32, "technical": 32}
    lengths = train.lengths
    whole = [len(each.split()) + 2 for each in tiny_data["train"]["text"]]
    assert (lengths["unit"], lengths["max"], lengths["limit"]) == ("tokens", max(whole), 16)
    assert lengths["cut_rows"] == sum(each > 16 for each in whole)
    assert sum(lengths["counts"]) == 96
    assert len(lengths["edges"]) == len(lengths["counts"]) + 1
    assert sum(train.languages.values()) == 96
    cut = [each for each in found(check, "cut_texts") if each[1] == "train"]
    assert cut[0][2] == lengths["cut_rows"]
    size = check.estimate
    assert (size["rows"], size["steps"], size["batch_size"]) == (96, 12, 8)
    assert size["state_bytes"] == 16 * size["parameters"]
    assert size["seconds"] > 0
    assert size["device"] == "cpu"


def test_a_device_without_the_memory_gives_no_time(tiny_checkpoint, tiny_data, monkeypatch):
    monkeypatch.setattr(TextModel, "forward", lambda *args: torch.empty(1 << 60))
    check = ftkit.check(tiny_data, Classification(), tiny_checkpoint)
    assert (check.estimate["seconds"], check.estimate["device"]) == (None, "cpu")
    assert check.estimate["parameters"] > 0


def test_windows_are_counted_whole(tiny_checkpoint, tiny_data):
    task = Classification(max_length=16, long_texts="windows", stride=4)
    check = ftkit.check(tiny_data, task, tiny_checkpoint)
    lengths = check.splits[0].lengths
    assert lengths["cut_rows"] == 0
    assert lengths["windows"] > 96
    assert lengths["max"] == max(len(each.split()) + 2 for each in tiny_data["train"]["text"])
    assert "cut_texts" not in {each.name for each in check.findings}


def test_characters_that_the_tokenizer_does_not_know(tiny_checkpoint, tiny_data):
    data = {split: rows.to_list() for split, rows in tiny_data.items()}
    data["train"][3]["text"] += " 漢 漢 ☃"
    data["train"][7]["text"] += " ☃漢"
    check = ftkit.check(data, "classification", tiny_checkpoint)
    (finding,) = [each for each in check.findings if each.name == "unknown_characters"]
    assert (finding.count, [each.row for each in finding.examples]) == (2, [4, 8])
    assert '"漢", "☃"' in finding.message
    assert "unknown_characters" not in {
        each.name for each in ftkit.check(tiny_data, "classification", tiny_checkpoint).findings
    }


def test_an_entity_that_two_windows_share(tiny_checkpoint):
    words = ["hello"] * 30
    tags = ["O"] * 30
    rows = [{"tokens": words, "tags": ["B-x", *tags[1:]]} for _ in range(4)]
    rows[2] = {"tokens": words, "tags": ["O", *["B-x", *["I-x"] * 27], "O"]}
    check = ftkit.check({"train": rows, "validation": rows}, NER(max_length=16), tiny_checkpoint)
    split = [each for each in found(check, "split_entities") if each[1] == "train"]
    assert split == [("warning", "train", 1, [3])]


def test_answers_that_no_window_holds(tiny_checkpoint):
    context = "hello " * 60
    rows = [
        {"question": "who?", "context": context, "answer": "hello", "answer_start": 0}
        for _ in range(4)
    ]
    rows[1] |= {"answer": context.strip()}
    task = QuestionAnswering(max_length=24, stride=4, max_answer_length=3)
    check = ftkit.check({"train": rows, "validation": rows}, task, tiny_checkpoint)
    for name in ("answers_in_no_window", "long_answers"):
        told = [each for each in found(check, name) if each[1] == "train"]
        assert told == [("warning", "train", 1, [2])]


def test_other_languages_are_a_note():
    data = splits("classification")
    german = "Das Paket ist heute nicht angekommen und niemand weiß, wo es geblieben ist"
    for place in range(10):
        data["train"][place]["text"] = f"{german}, sagt Kundin Nummer {place}"
    check = ftkit.check(data)
    (told,) = found(check, "other_languages")
    assert told == ("note", "train", 10, [1, 2, 3])
    assert check.splits[0].languages["de"] == 10


def test_class_numbers_are_told_by_their_names():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = [{"text": text(n), "label": n % 2} for n in range(60)]
    rows[5]["label"] = -1
    check = ftkit.check(Dataset.from_list(rows, features=features))
    assert set(check.splits[0].labels) == {"no", "yes"}
    assert found(check, "missing_label") == [("error", "train", 1, [6])]


def test_numbers_to_predict_have_no_labels():
    rows = [{"text": text(n), "label": n / 7} for n in range(60)]
    rows[3]["label"] = float("nan")
    check = ftkit.check(rows)
    assert check.splits[0].labels == {}
    assert found(check, "missing_label") == [("error", "train", 1, [4])]


def test_several_labels_a_row():
    rows = [{"text": text(n), "label": ["a", "b"] if n % 3 else ["a"]} for n in range(60)]
    rows[3]["label"] = []
    check = ftkit.check({"train": rows, "validation": rows[:0] + classified_lists(200, 20)})
    assert check.splits[0].labels == {"a": 59, "b": 40}
    assert found(check, "no_label") == [("note", "train", 1, [4])]


@pytest.mark.parametrize("kind", [float, int, bool])
def test_flags_are_no_names_of_labels(kind):
    rows = [{"text": text(n), "label": [kind(n % 2), kind(n % 3 == 0)]} for n in range(60)]
    check = ftkit.check(rows)
    (finding,) = check.of_level("error")
    assert found(check, "flags") == [("error", "train", 60, [1, 2, 3])]
    assert 'columns={"label": ["billing", "urgent"]}' in finding.remedy


def classified_lists(first: int, count: int) -> list[dict]:
    return [{"text": text(n), "label": ["a", "b"]} for n in range(first, first + count)]


def test_the_same_twice():
    data = splits("qa")
    copy("train", 5, "test", 9)(data)
    first, second = (ftkit.check(data, "qa").to_dict() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert DataCheck.from_dict(json.loads(json.dumps(first))).to_dict() == first


def test_limit_draws_rows_that_keep_their_numbers():
    data = splits("classification")
    data["train"][100]["text"] = " "
    check = ftkit.check(data, limit=25)
    assert [split.rows for split in check.splits] == [25, 25, 25]
    assert [split.unreadable for split in check.splits] == [0, 0, 0]
    assert all(rows == [101] for *_, rows in found(check, "blank_text"))
