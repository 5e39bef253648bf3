"""Every architecture the field knows, with every task it has a head for, through the verb."""

import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelValidException
from tiny_checkpoints import ARCHITECTURES, LENGTH, save_checkpoint

import ftkit
from ftkit.errors import CheckpointError, FtkitWarning
from ftkit.learner.build import finetune_learner
from ftkit.tasks import TASKS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

_MATRIX = Path(__file__).parents[1] / "recipes" / "bench" / "ARCHITECTURES.md"
_PLACES = ["Paris", "Rome", "Oslo", "Lima", "Cairo"]
_PEOPLE = ["Ann", "Bob", "Eva", "Tom", "Ida"]
_THINGS = ["parcel", "invoice", "refund", "charger", "update"]
_VERBS = ["wants", "loves", "lost", "broke"]
_LONG = " ".join(f"the {thing} is late again today" for thing in _THINGS * 8)


def sentence(i):
    """A person, what happened to which thing, and where; and the words themselves."""
    pick = np.random.RandomState(i)
    words = [pick.choice(each) for each in (_PEOPLE, _VERBS, _THINGS, _PLACES)]
    words[1] = _VERBS[i % len(_VERBS)]
    return f"{words[0]} {words[1]} the {words[2]} in {words[3]} today", words


def rows_of(task):
    """Sixteen rows for a task, and one longer than the model."""
    rows = []
    for i in range(16):
        text, (person, verb, _, place) = sentence(i)
        spans = [
            {"start": text.index(name), "end": text.index(name) + len(name), "label": label}
            for name, label in ((person, "person"), (place, "place"))
        ]
        answer = {"text": [place], "answer_start": [text.index(place)]}
        rows.append(
            {
                "classification": {"text": text, "label": "bad" if verb in _VERBS[2:] else "good"},
                "ner": {"text": text, "entities": spans},
                "qa": {"question": "where is it?", "context": text, "answers": answer},
                "summarization": {"text": text, "summary": f"{person} {verb}"},
                "translation": {"source": text, "target": f"{person} {verb}"},
                "language_modeling": {"text": text},
            }[task]
        )
    return rows


def long_row_of(task):
    if task == "qa":
        return {"question": "where is it?", "context": _LONG}
    return {"source" if task == "translation" else "text": _LONG}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function from an architecture's name to the folder of its tiny checkpoint."""
    texts = [sentence(i)[0] for i in range(200)] + [_LONG, "where is it?"]
    made = {}

    def make(name):
        if name not in made:
            made[name] = save_checkpoint(name, texts, tmp_path_factory.mktemp(name))
        return made[name]

    return make


class _TrainAlone(Callback):
    """No validation after an epoch: nobody reads it, and writing summaries takes the most time."""

    def before_validate(self):
        raise CancelValidException


@pytest.fixture(scope="session")
def matrix():
    """What was found of each architecture and task; compared with the notes at the end."""
    return {}


def learner(task, folder, tmp_path):
    rows, kind = rows_of(task), TASKS[task]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FtkitWarning)
        return finetune_learner(
            {"train": rows, "validation": rows[:8]},
            folder,
            # So small a model seldom ends a text by itself.
            task=kind(max_target_length=16) if kind.generates else kind(),
            bs=4,
            precision="fp32",
            path=tmp_path,
        )


def check_groups(learn):
    """Every trainable parameter stands in one group, tied ones once, and no group is empty."""
    groups = learn.splitter(learn.model)
    assert all(groups)
    assert len(groups) >= 2
    counts = {id(p): 0 for p in learn.model.parameters()}
    for p in itertools.chain(*groups):
        counts[id(p)] += 1
    assert set(counts.values()) == {1}
    learn.freeze()
    frozen = {id(p) for p in learn.model.parameters() if not p.requires_grad}
    assert frozen == {id(p) for group in groups[:-1] for p in group}
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())


def check_answers(task, learn, folder):
    """The bundle answers as the Learner's model does, long rows too."""
    model = ftkit.load_model(folder, device="cpu")
    rows = [*rows_of(task)[:5], long_row_of(task)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FtkitWarning)
        answers = model.predict(rows)
    assert len(answers) == 6
    ours = dict(learn.model.hf_model.state_dict())
    for name, tensor in model.model.hf_model.state_dict().items():
        assert torch.equal(tensor, ours[name]), name
    alone = [model.predict([row])[0] for row in rows[:3]]
    assert [each.to_dict().keys() for each in alone] == [a.to_dict().keys() for a in answers[:3]]


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_architecture(name, task, checkpoint, matrix, tmp_path):
    try:
        learn = learner(task, checkpoint(name), tmp_path)
    except CheckpointError:
        matrix[name, task] = "-"
        return
    assert learn.dls.train.dataset.limit <= max(LENGTH, 512)
    check_groups(learn)
    before = learn.validate()[0]
    # At 1e-2 an XLM-RoBERTa so small hardly learns to classify, whatever its random tokenizer.
    epochs, lr = (6, 5e-3) if task == "classification" else (4, 1e-2)
    learn.fit_one_cycle(epochs, lr, cbs=_TrainAlone())
    assert learn.validate()[0] < before
    folder = ftkit.save(learn, tmp_path / "model")
    if not TASKS[task].packs:
        check_answers(task, learn, folder)
    matrix[name, task] = "yes"


def test_the_matrix_is_in_the_notes(matrix):
    """Runs last. FTKIT_WRITE=1 writes the notes anew."""
    if len(matrix) < len(ARCHITECTURES) * len(TASKS):
        pytest.skip("only some of the architectures were run")
    tasks = list(TASKS)
    lines = ["| architecture | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(matrix[name, task] for task in tasks) + " |"
        for name in ARCHITECTURES
    ]
    text = _HEADER + "\n".join(lines) + "\n"
    if os.environ.get("FTKIT_WRITE"):
        _MATRIX.write_text(text, encoding="utf-8")
    assert _MATRIX.read_text(encoding="utf-8") == text


_HEADER = """# Architectures

What `tests/test_architectures.py` runs, and found: a tiny random checkpoint of each architecture is
trained through the learner verb (the loss falls), frozen and unfrozen, saved, loaded and asked.
"-": transformers has no such head for it, and ftkit says so. Written by that test with
`FTKIT_WRITE=1`, and compared by it on every run. An encoder without a decoder of its own becomes
both halves of an encoder-decoder for summarization and translation.

"""
