"""The registry: every task answers the protocol's questions, and its options are named."""

import json
from dataclasses import asdict

import pytest

from ftkit.cli import _TASKS, parse_options
from ftkit.errors import SettingError
from ftkit.tasks import NER, TASKS, Classification, get_task, with_options


def test_the_command_line_names_every_task():
    assert tuple(TASKS) == _TASKS


@pytest.mark.parametrize("name", TASKS)
def test_a_task_stands_under_its_name_and_survives_json(name):
    task = get_task(name)
    assert task.name == name
    assert TASKS[name](**json.loads(json.dumps(asdict(task)))) == task
    assert any(column.is_input for column in task.columns())
    assert all(sentence.endswith(".") for sentence in task.limits(64))


def test_options_are_set_by_name():
    assert with_options(NER(), {"stride": 8}) == NER(stride=8)
    assert with_options(Classification(), {}) == Classification()
    with pytest.raises(SettingError, match=r'task "ner" has no option "strid".*"stride"'):
        with_options(NER(), {"strid": 8})


def test_options_of_the_command_line_are_json_or_text():
    given = ["stride=64", "repair=true", "sub-tokens=all", "prefix=say: a=b", 'labels=["a"]']
    assert parse_options(given) == {
        "stride": 64,
        "repair": True,
        "sub_tokens": "all",
        "prefix": "say: a=b",
        "labels": ["a"],
    }
    for wrong in ("stride", "=5"):
        with pytest.raises(SettingError, match="Write it as --option stride=64"):
            parse_options([wrong])


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        (NER(), {"stride": "abc"}, "stride is 'abc'. Give a whole number"),
        (NER(), {"stride": 1.5}, "whole number"),
        (NER(), {"stride": True}, "whole number"),
        (NER(), {"constrained": "maybe"}, "true or false"),
        (NER(), {"max_length": "x"}, "a whole number or nothing"),
        (NER(), {"labels": 3}, "a list, each of them a text"),
        (NER(), {"labels": ["O", 3]}, "a list"),
        (Classification(), {"threshold": "x"}, "a number or nothing"),
        (Classification(), {"class_weights": {"a": "b"}}, "names and values"),
        (Classification(), {"long_texts": 5}, '"head" or "tail"'),
    ],
)
def test_options_of_another_type(task, options, said):
    with pytest.raises(SettingError, match=said):
        with_options(task, options)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1 - 1e-9},
        {"max_length": None},
        {"class_weights": {"a": 2}},
        {"class_weights": [1, 2.5]},
        {"class_weights": "balanced"},
        {"labels": ("a", "b")},
        {"label_smoothing": 0},
    ],
)
def test_options_of_the_right_type(options):
    with_options(Classification(), options)
