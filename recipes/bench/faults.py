"""Faults: broken variants of data, bundles and training states end well or in one FtkitError.

Makes `--variants` broken variants of each task's data (csv, jsonl and parquet), of each file of a
bundle, and of each file of a training state, and does with each what a user would: data is loaded,
checked, and for a fifth of them tokenised for a Learner; a bundle is opened, and predicts where it
opens; a training state is read, and a fit goes on from it where it is taken for whole. Each must
end in a right result or in one FtkitError of one line. Anything else is a fault: another error, a
message of several lines, 20 seconds of CPU, 3 GiB more of memory, the death of the process. Prints
each fault with what was changed; exits with 1 where there is one.

    python recipes/bench/faults.py --variants 1000 --seed 0 --work /tmp/faults

A variant is drawn from the seed, its kind and its number, so `--only KIND --first N --variants 1`
makes it again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib
import json
import os
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from common import WORK, machine, package_versions
from mutations import (
    deep_recursion,
    mutate_bytes,
    mutate_json,
    mutate_rows,
    mutate_safetensors,
    write_json,
    write_rows,
)

ROOT = Path(__file__).parents[2]
SECONDS = 20  # of CPU, that a variant may take
SILENCE = 240  # seconds of the clock without a word, after which a child is taken to hang
MEMORY = 3 * 2**30  # bytes of address space, beyond what the imports took
BATCH = 500  # variants a process

_TEXTS = (
    "The parcel arrived late again, please help",
    "I was charged twice for one order",
    "Ann Lee lives in Ludgate with her cat",
    "caf\xe9 in Z\xfcrich: \u20ac5 \U0001f600 fine",
)
_SENTENCES = [f"{_TEXTS[i % 4]}, number {i}." for i in range(12)]
# The rows of each task, in every shape that it takes.
ROWS: dict[str, list[list[dict[str, Any]]]] = {
    "classification": [
        [{"text": text, "label": "abc"[i % 3]} for i, text in enumerate(_SENTENCES)],
        [{"text": text, "label": i % 2} for i, text in enumerate(_SENTENCES)],
        [{"text": text, "label": i / 7} for i, text in enumerate(_SENTENCES)],
        [
            {"text": text, "text_pair": "so", "label": bool(i % 2)}
            for i, text in enumerate(_SENTENCES)
        ],
        [
            {"text": text, "labels": [["a"], ["a", "b"], []][i % 3]}
            for i, text in enumerate(_SENTENCES)
        ],
    ],
    "ner": [
        [
            {"tokens": ["Ann", "Lee", "in", "Ludgate"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]},
            {"tokens": ["nobody", "here"], "tags": ["O", "O"]},
        ]
        * 6,
        [
            {
                "text": "Ann Lee lives in Ludgate",
                "entities": [
                    {"start": 0, "end": 7, "label": "person"},
                    {"start": 17, "end": 24, "label": "place"},
                ],
            },
            {"text": "nobody is here", "entities": []},
        ]
        * 6,
    ],
    "qa": [
        [
            {
                "question": "Where does Ann live?",
                "context": f"{text} Ann lives in Ludgate.",
                "answers": {"text": ["Ludgate"], "answer_start": [len(text) + 14]},
            }
            for text in _SENTENCES
        ],
        [
            {
                "question": "Where does Ann live?",
                "context": f"{text} Ann lives in Ludgate.",
                "answer": "Ludgate",
                "answer_start": len(text) + 14,
            }
            for text in _SENTENCES
        ],
    ],
    "summarization": [
        [{"text": text, "summary": text[:12]} for text in _SENTENCES],
        [{"text": t, "summary": t[:12], "references": [t[:12], t[:20]]} for t in _SENTENCES],
    ],
    "translation": [[{"source": text, "target": text[::-1]} for text in _SENTENCES]],
    "language_modeling": [[{"text": text} for text in _SENTENCES]],
}
CHECKPOINTS = {"summarization": "bart", "translation": "t5", "language_modeling": "gpt2"}
ASKED: dict[str, Any] = {
    "qa": {"question": "Where does Ann live?", "context": "Ann Lee lives in Ludgate."},
}
BUNDLE_FILES = (
    *("config.json", "task.json", "tokenizer.json", "tokenizer_config.json"),
    *("model.safetensors", "generation_config.json"),
)
STATE_FILES = ("model.safetensors", "training.safetensors", "training.json", "checksums.json")
KINDS = (
    *(f"data/{task}" for task in ROWS),
    *(f"bundle/{name}" for name in BUNDLE_FILES),
    *(f"state/{name}" for name in STATE_FILES),
)


class TooLong(BaseException):
    """A variant took more than its seconds; no `except Exception` catches it."""


# What is broken, once


def prepare(work: Path) -> None:
    """Write tiny checkpoints, a bundle of each task and training states into `work`."""
    import ftkit

    save_checkpoint = runpy.run_path(str(ROOT / "tests" / "tiny_checkpoints.py"))["save_checkpoint"]
    for name in ("bert", *CHECKPOINTS.values()):
        save_checkpoint(name, _SENTENCES, work / "checkpoints" / name)
    for task, (rows, *_) in ROWS.items():
        data = ftkit.load_data(_file(work, write_json_lines(rows)), task)
        learn = ftkit.finetune_learner(data, _checkpoint(work, task), task=task, precision="fp32")
        ftkit.save(learn, work / "bundles" / task)
    learn = _learner(work, work / "states", resume=False)
    learn.fit_one_cycle(1)


def write_json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"\n".join(map(write_json, rows))


def _checkpoint(work: Path, task: str) -> Path:
    return work / "checkpoints" / CHECKPOINTS.get(task, "bert")


def _file(work: Path, content: bytes, ending: str = "jsonl") -> Path:
    file = work / f"rows.{ending}"
    file.write_bytes(content)
    return file


def _learner(work: Path, states: Path, *, resume: bool) -> Any:
    """A small learner that writes its state after every second of six steps."""
    import ftkit

    file = _file(states.parent, write_json_lines(ROWS["classification"][0]), "known.jsonl")
    kept = ftkit.Checkpoints(states, every=2, minutes=None, resume=resume)
    return ftkit.classification_learner(
        ftkit.load_data(file),
        _checkpoint(work, "classification"),
        bs=4,
        precision="fp32",
        cbs=[kept, ftkit.KeepBest()],
    )


# One variant


def run_data(task: str, chance: random.Random, work: Path, scratch: Path) -> Iterator[str]:
    import ftkit

    rows = copy.deepcopy(chance.choice(ROWS[task]))
    kind = chance.choice(("csv", "jsonl", "parquet"))
    said = [kind]
    with deep_recursion():
        if chance.random() < 0.8:
            said += [mutate_rows(rows, chance) for _ in range(chance.choice((1, 1, 2)))]
        content, how = write_rows(rows, kind, chance)
    said.append(how)
    if chance.random() < 0.4:
        content, how = mutate_bytes(content, chance)
        said.append(how)
    is_tokenized = chance.random() < 0.2
    yield "; ".join(filter(None, said))
    file = _file(scratch, content, kind)
    refused = None
    try:
        data = ftkit.load_data(file, task)
        if is_tokenized:
            ftkit.finetune_learner(data, _checkpoint(work, task), task=task, precision="fp32", bs=4)
    except ftkit.FtkitError as error:
        refused = error
    # It goes on where loading stops: it counts what is wrong.
    ftkit.check(file, task).to_dict()
    if refused is not None:
        raise refused


def run_bundle(name: str, chance: random.Random, work: Path, scratch: Path) -> Iterator[str]:
    import ftkit

    having = [task for task in ROWS if (work / "bundles" / task / name).exists()]
    task = chance.choice(having)
    folder = scratch / "bundle"
    shutil.copytree(work / "bundles" / task, folder)
    yield f"{task}; {_break_file(folder / name, chance)}"
    model = ftkit.load_model(folder)
    if task != "language_modeling":  # It answers no rows.
        model.predict([ASKED.get(task, _TEXTS[0])])


def run_state(name: str, chance: random.Random, work: Path, scratch: Path) -> Iterator[str]:
    from ftkit.learner.resume import newest_state

    shutil.copytree(work / "states", scratch / "states")
    newest = max((scratch / "states").iterdir())
    said = _break_file(newest / name, chance)
    if name != "checksums.json" and chance.random() < 0.7:
        # As a later version, or a stranger, would have written it.
        sums = {file: _checksum(newest / file) for file in STATE_FILES[:3]}
        (newest / "checksums.json").write_text(json.dumps(sums))
        said += "; checksums mended"
    yield said
    if newest_state(scratch / "states") is not None:
        learn = _learner(work, scratch / "states", resume=True)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1)


def _break_file(file: Path, chance: random.Random) -> str:
    """Change a file of a folder in one place; what was done."""
    content = file.read_bytes()
    if file.suffix == ".safetensors":
        with deep_recursion():
            content, said = mutate_safetensors(content, chance)
    elif chance.random() < 0.2:
        content, said = mutate_bytes(content, chance)
    else:
        with deep_recursion():
            value = json.loads(content)
            said = mutate_json(value, chance)
            content = write_json(value)
    file.write_bytes(content)
    return said


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


RUN: dict[str, Callable[[str, random.Random, Path, Path], Iterator[str]]] = {
    "data": run_data,
    "bundle": run_bundle,
    "state": run_state,
}


def begin_variant(kind: str, number: int, seed: int, work: Path) -> tuple[str, Iterator[str]]:
    """Break the file: what was changed, and the rest, which uses it."""
    what, _, name = kind.partition("/")
    scratch = work / "scratch" / kind.replace("/", "-")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    steps = RUN[what](name, random.Random(f"{kind} {seed} {number}"), work, scratch)
    return next(steps), steps


def run_variant(kind: str, number: int, seed: int, work: Path) -> tuple[str, str, str]:
    """How a variant ended ("right", "refused" or "fault"), what was changed, and what was said."""
    from ftkit import FtkitError

    said, steps = begin_variant(kind, number, seed, work)
    try:
        with warnings.catch_warnings(), _time_limit():
            warnings.simplefilter("ignore")
            next(steps, None)
    except FtkitError as error:
        words = str(error)
        is_line = not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in words)
        is_line = is_line and len(words) < 2000 and bool(error.remedy)
        return "refused" if is_line else "fault", said, f"{type(error).__name__}: {words[:2500]!r}"
    except (Exception, TooLong) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "/ftkit/" in f.filename]
        last = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        words = f"{type(error).__name__}: {str(error)[:300]!r}"
        return "fault", said, f"{words} in {' '.join(ours[-4:])} ... {last}"
    return "right", said, ""


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {SECONDS} s of CPU")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


# Many variants


def run_child(kind: str, first: int, last: int, seed: int, work: Path) -> None:
    """Run variants in this process, and print a line of JSON before and after each."""
    import torch

    # All that ftkit imports late is no growth of memory.
    for name in ("pandas", "ftkit.learner.build", "ftkit.checks.check", "ftkit.inference.bundle"):
        importlib.import_module(name)
    torch.set_num_threads(1)
    with Path("/proc/self/statm").open() as pages:
        taken = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    # Some libraries write to the descriptor itself.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for number in range(first, last):
        print(json.dumps([number]), file=out, flush=True)
        print(json.dumps([number, *run_variant(kind, number, seed, work)]), file=out, flush=True)


def run_kind(kind: str, first: int, last: int, seed: int, work: Path) -> Iterator[list[Any]]:
    """The outcome of each variant of a kind; a child that dies or hangs is one, and is followed."""
    log = work / f"{kind.replace('/', '-')}.log"
    while first < last:
        end = min(first + BATCH, last)
        command = [sys.executable, __file__, "--work", str(work), "--seed", str(seed)]
        command += ["--child", kind, str(first), str(end)]
        with log.open("wb") as out, log.with_suffix(".err").open("wb") as errors:
            child = subprocess.Popen(command, stdout=out, stderr=errors)
            size, heard_at = 0, time.monotonic()
            while child.poll() is None:
                time.sleep(0.5)
                if (now := log.stat().st_size) != size:
                    size, heard_at = now, time.monotonic()
                elif time.monotonic() - heard_at > SILENCE:
                    child.kill()
        lines = [json.loads(line) for line in log.read_bytes().splitlines()]
        yield from (line for line in lines if len(line) > 1)
        if child.returncode == 0:
            first = end
            continue
        if not lines:
            sys.exit(f"the child did not start, see {log.with_suffix('.err')}")
        number = lines[-1][0]
        said, _ = begin_variant(kind, number, seed, work)
        yield [number, "fault", said, f"the process ended with {child.returncode}"]
        first = number + 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Break data, bundles and states; see what ends how."
    )
    parser.add_argument("--variants", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=WORK / "faults")
    parser.add_argument("--only", default="", help="kinds that begin so, such as bundle/")
    parser.add_argument("--first", type=int, default=0, help="number of the first variant")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, first, last = options.child
        run_child(kind, int(first), int(last), options.seed, options.work)
        return
    if not (options.work / "states").exists():
        options.work.mkdir(parents=True, exist_ok=True)
        prepare(options.work)
    found: dict[str, Counter[str]] = {}
    for kind in (each for each in KINDS if each.startswith(options.only)):
        found[kind] = Counter()
        last = options.first + options.variants
        for number, how, said, words in run_kind(
            kind, options.first, last, options.seed, options.work
        ):
            found[kind][how] += 1
            if how == "fault":
                print(f"{kind} {number} (seed {options.seed}): {said}\n    {words}", flush=True)
    print(f"\n{machine()}, {package_versions()}, seed {options.seed}")
    print("| kind | variants | right results | FtkitErrors | faults |\n|---|---:|---:|---:|---:|")
    for kind, counts in found.items():
        shown = " | ".join(f"{counts[how]:,}" for how in ("right", "refused", "fault"))
        print(f"| {kind} | {counts.total():,} | {shown} |")
    sys.exit(1 if any(counts["fault"] for counts in found.values()) else 0)


if __name__ == "__main__":
    main()
