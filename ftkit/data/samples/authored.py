"""The authored material of the sample data, read from the TOML files in `authored/` and checked.

Used by the generator and by the tests; nothing else in ftkit imports it. Standard library only.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUTHORED = Path(__file__).parent / "authored"
SPLITS = ("train", "validation", "test")

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Queue:
    """A class of tickets: its share of the rows and the flags that make sense with it."""

    name: str
    weight: int
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """What all splits share: the labels and which entity label each slot carries."""

    queues: tuple[Queue, ...]
    flags: Mapping[str, float]  # flag -> the chance that a ticket has it
    slots: Mapping[str, str]  # slot -> entity label


@dataclass(frozen=True)
class Situation:
    """One thing to write about: templates for its text, its question and its summary."""

    queue: str
    text: str
    more: tuple[str, ...]  # sentences that a ticket may leave out
    question: str  # answered by the words between < and > in `text` or in one of `more`
    summary: str
    flags: tuple[str, ...]  # flags that the text itself carries


@dataclass(frozen=True)
class Phrases:
    """What stands around a situation; every entry is a template."""

    subjects: tuple[str, ...]
    greetings: tuple[str, ...]
    openings: tuple[str, ...]
    requests: tuple[str, ...]
    signoffs: tuple[str, ...]
    backgrounds: tuple[str, ...]
    flags: Mapping[str, tuple[str, ...]]
    calm: Mapping[str, tuple[str, ...]]  # flag -> sentences that deny it
    asides: Mapping[str, tuple[str, ...]]  # queue -> sentences that touch on its business
    questions: Mapping[str, tuple[str, ...]]  # slot -> questions that ask for its value
    tails: Mapping[str, tuple[str, ...]]  # flag -> its mention in a summary


@dataclass(frozen=True)
class Material:
    """Everything authored for one split."""

    split: str
    names: Mapping[str, tuple[str, ...]]  # kind of name -> the names
    situations: tuple[Situation, ...]
    phrases: Phrases


def slots_of(template: str) -> set[str]:
    """Name the slots that a template fills."""
    return set(_SLOT.findall(template))


def load_vocabulary() -> Vocabulary:
    """Read the labels that all splits share."""
    found = _read(AUTHORED / "vocabulary.toml")
    return Vocabulary(
        queues=tuple(
            Queue(name, queue["weight"], tuple(queue["flags"]))
            for name, queue in found["queues"].items()
        ),
        flags={name: flag["chance"] for name, flag in found["flags"].items()},
        slots=found["slots"],
    )


def load_material(split: str) -> Material:
    """Read what was written for one split, and refuse a situation that cannot be rendered."""
    folder = AUTHORED / split
    phrases: dict[str, Any] = {
        key: _tuples(value) if isinstance(value, dict) else tuple(value)
        for key, value in _read(folder / "phrases.toml").items()
    }
    situations = tuple(
        Situation(
            queue=queue,
            text=entry["text"],
            more=tuple(entry["more"]),
            question=entry["ask"],
            summary=entry["sum"],
            flags=tuple(entry.get("flags", ())),
        )
        for queue, entries in _read(folder / "situations.toml").items()
        for entry in entries
    )
    for situation in situations:
        _check(situation)
    return Material(split, _tuples(_read(folder / "names.toml")), situations, Phrases(**phrases))


def _check(situation: Situation) -> None:
    templates = (situation.text, *situation.more)
    if [sum(t.count(mark) for t in templates) for mark in "<>"] != [1, 1]:
        raise ValueError(f"not exactly one marked answer: {situation.text}")
    if missing := slots_of(situation.summary) - slots_of(situation.text):
        raise ValueError(f"the summary uses {missing}, which the text lacks: {situation.text}")
    if slots_of(situation.question):
        raise ValueError(f"a question has no slots: {situation.question}")


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _tuples(table: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(values) for key, values in table.items()}
