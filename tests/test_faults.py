"""Broken data, bundles and training states end in a right result or in one FtkitError.

A few variants of each kind that recipes/bench/faults.py makes by the thousand, and by name those
that once ended in another library's error.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.errors import CheckpointError, DataError, FtkitWarning
from ftkit.learner.resume import newest_state
from ftkit.learner.state import read_state, write_state

ROOT = Path(__file__).parents[1]
VARIANTS = 14  # of each kind

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def bench() -> Any:
    """recipes/bench/faults.py, which imports its neighbours by their bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes" / "bench"))
        import faults

        yield faults
        for name in ("faults", "mutations", "common"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def work(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of each task and training states; what is broken is a copy."""
    folder = tmp_path_factory.mktemp("faults")
    bench.prepare(folder)
    return folder


def test_variants_end_well(bench: Any, work: Path) -> None:
    ends = [
        (kind, number, *bench.run_variant(kind, number, 1, work))
        for kind in bench.KINDS
        for number in range(VARIANTS)
    ]
    assert [end for end in ends if end[2] == "fault"] == []
    assert len(ends) == 16 * VARIANTS
    for what in bench.RUN:
        found = {how for kind, _, how, *_ in ends if kind.startswith(what)}
        # Of the two states, the older one is always whole.
        assert found == {"right", "refused"} if what != "state" else "right" in found


def test_a_fault_is_seen(bench: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any) -> None:
        raise KeyError("of another library")

    monkeypatch.setattr(ftkit, "load_data", stop)
    how, _, words = bench.run_variant("data/qa", 0, 1, work)
    assert how == "fault"
    assert words.startswith("KeyError: \"'of another library'\"")


def nested(levels: int) -> str:
    return '{"text": "a", "label": ' + "[" * levels + "]" * levels + "}\n"


BROKEN_DATA = {
    "a list far too deep for a label": (
        "x.jsonl",
        ('{"text": "a", "label": "b"}\n' * 9 + nested(900)).encode(),
        'row 10, column "label": a list',
    ),
    "null in place of the first row": ("x.jsonl", b'null\n{"text": "a"}\n', "row 1: .* is null"),
    "a header that ends within a quote": (
        "x.csv",
        b'"text","label',
        "cannot be read as csv|header",
    ),
    "a bad byte below two columns of one name": (
        "x.csv",
        b"text,label,text\na,b,\xff\n",
        'two columns are called "text"|byte 0xff',
    ),
}


@pytest.mark.parametrize("name", BROKEN_DATA)
def test_broken_data(name: str, tmp_path: Path) -> None:
    file, content, said = BROKEN_DATA[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        ftkit.load_data(tmp_path / file)
    assert file in str(caught.value)
    assert ftkit.check(tmp_path / file).to_dict()["findings"]


BROKEN_SETTINGS = {
    "a dropout that is no probability": ("summarization", "config.json", "dropout", 2**60),
    "a start token that is an object": (
        *("translation", "generation_config.json", "decoder_start_token_id", {"x": 0}),
    ),
    "a penalty that is a text": ("translation", "generation_config.json", "length_penalty", "\0"),
}


@pytest.mark.parametrize("name", BROKEN_SETTINGS)
def test_broken_bundle(name: str, work: Path, tmp_path: Path) -> None:
    task, file, key, value = BROKEN_SETTINGS[name]
    folder = shutil.copytree(work / "bundles" / task, tmp_path / "model")
    settings = json.loads((folder / file).read_text("utf-8"))
    (folder / file).write_text(json.dumps({**settings, key: value}), "utf-8")
    with pytest.raises(CheckpointError):
        ftkit.load_model(folder).predict(["The parcel is late."])


def damage(newest: Path, change: Any) -> None:
    """Write a state again, whole, with something else in it."""
    model, state = read_state(newest)
    change(state)
    write_state(newest, model, state)


BROKEN_STATES = {
    "no step": lambda state: state.pop("step"),
    "no number of a fit": lambda state: state.pop("fit"),
    "an epoch that is a text": lambda state: state.update(epoch="x"),
    "a negative batch": lambda state: state.update(batch=-1),
}


@pytest.mark.parametrize("name", BROKEN_STATES)
def test_broken_state_is_passed_over(name: str, work: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(work / "states", tmp_path / "states")
    damage(max(folder.iterdir()), BROKEN_STATES[name])
    with pytest.warns(FtkitWarning, match="passed over: .* holds no usable"):
        found = newest_state(folder)
    assert found is not None
    assert found[1]["step"] < int(max(folder.iterdir()).name.rpartition("-")[2])


def test_state_nested_too_deep(work: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(work / "states", tmp_path / "states")
    newest = max(folder.iterdir())
    (newest / "training.json").write_text("[" * 900 + "]" * 900, "utf-8")
    sums = json.loads((newest / "checksums.json").read_text("utf-8"))
    content = (newest / "training.json").read_bytes()
    sums["training.json"] = hashlib.sha256(content).hexdigest()
    (newest / "checksums.json").write_text(json.dumps(sums), "utf-8")
    with pytest.warns(FtkitWarning, match="passed over: .* is no whole training state"):
        assert newest_state(folder) is not None


UNFITTING_STATES = {
    "a generator of another kind": lambda state: state.update(
        random=[[state["random"][0][0], {"bit_generator": "x"}]], is_done=False, epoch=0, batch=1
    ),
    "no fits": lambda state: state.update(fits=[]),
    "an optimizer's that is empty": lambda state: state.update(optimizer={}),
    "random numbers of nothing": lambda state: state.update(random=[]),
}


@pytest.mark.parametrize("name", UNFITTING_STATES)
def test_state_that_does_not_fit(name: str, bench: Any, work: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(work / "states", tmp_path / "states")
    damage(max(folder.iterdir()), UNFITTING_STATES[name])
    learn = bench._learner(work, folder, resume=True)
    with pytest.raises(CheckpointError, match="cannot be gone on from"):
        learn.fit_one_cycle(1)
