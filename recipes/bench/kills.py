"""Kills: `ftkit train`, killed at random moments and resumed, ends as a run that never was.

Real processes, real SIGKILLs: MiniLM learns a few of the bundled support tickets, the head first,
then all layers, its state written every second step. A kill waits for a milestone of the run, then
for a random part of the time to the next one, so that some fall into starting up, most into
training, some into evaluating and saving. After each, `ftkit train --output DIR --resume` goes on;
a run that reaches its end is compared with one that was left alone: every file in its folder, bit
for bit, but for seconds, the folder's own name and the page of the report. Exits with 1 where one
differs.

    python recipes/bench/kills.py --kills 50 --work /tmp/kills
"""

import argparse
import csv
import hashlib
import json
import random
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from common import WORK, machine, package_versions

TRAIN = [sys.executable, "-m", "ftkit.cli", "train"]
OPTIONS = shlex.split(
    "classification --data sample:tickets --columns label=queue --checkpoint minilm --limit 48 "
    "--batch-size 8 --max-length 64 --epochs 2 --freeze-epochs 1 --accumulate 2 "
    "--keep-best macro_f1 --save-steps 2"
)
START = "start"
MILESTONES = {START: 1, "run.toml": 6, "history.csv": 2, ".model-*": 1}
"""What a kill may wait for, with its share of the kills: the process, or what it writes when the
data and model are ready, when training is done, and when it begins to save."""
PLACES = {
    "metrics.json": "after the end",
    ".model-*": "in saving the bundle",
    "history.csv": "in evaluation",
    "checkpoints/.writing-*": "in a checkpoint write",
    "run.toml": "in a fit",
    START: "before training",
}
"""Where a process was, by the latest of these that it had written when it was killed."""


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after a milestone."""

    milestone: str
    seconds: float


class Watch:
    """Tells what a process wrote into its folder from what earlier ones left there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = {pattern: self._found(pattern) for pattern in PLACES}

    def has(self, pattern: str) -> bool:
        """Whether something of that name is new; START always is."""
        return pattern == START or bool(self._found(pattern) - self._before[pattern])

    def _found(self, pattern: str) -> set[tuple[str, int]]:
        found = set()
        for path in self.folder.glob(pattern):
            try:
                # A folder's time also moves where it is being removed.
                found.add((path.name, 0 if path.is_dir() else path.stat().st_mtime_ns))
            except FileNotFoundError:
                continue
        return found


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Begin the run in a folder, or go on with it; its output goes to a file beside."""
    is_begun = (folder / "run.toml").exists()
    options = ["--output", str(folder), "--resume"]
    with folder.with_suffix(".log").open("ab") as log:
        command = TRAIN + options if is_begun else TRAIN + OPTIONS + options
        return subprocess.Popen(command, stdout=log, stderr=log)


def run_alone(folder: Path) -> dict[str, float]:
    """Run to the end; seconds from each milestone to the next."""
    watch, reached = Watch(folder), dict[str, float]()
    process = start(folder)
    while process.poll() is None:
        for milestone in MILESTONES:
            if milestone not in reached and watch.has(milestone):
                reached[milestone] = time.monotonic()
        time.sleep(0.01)
    check_ended(process, folder)
    times = [reached[milestone] for milestone in MILESTONES] + [time.monotonic()]
    spans = [after - before for before, after in pairwise(times)]
    return dict(zip(MILESTONES, spans, strict=True))


def run_until(folder: Path, moment: Moment) -> str | None:
    """Run until that moment; where it was killed, None where it ended before."""
    watch, kill_at = Watch(folder), float("inf")
    process = start(folder)
    while process.poll() is None and time.monotonic() < kill_at:
        if kill_at == float("inf") and watch.has(moment.milestone):
            kill_at = time.monotonic() + moment.seconds
        time.sleep(0.002)
    process.kill()
    process.wait()
    if process.returncode != -9:
        check_ended(process, folder)
        return None
    return next(place for pattern, place in PLACES.items() if watch.has(pattern))


def check_ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End this script where a process ended by a fault of its own."""
    if process.returncode:
        log = folder.with_suffix(".log")
        said = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        sys.exit(f"exit code {process.returncode}, see {log}:\n{said}")


def draw(number: int, seed: int, spans: dict[str, float]) -> Moment:
    """The moment of a kill."""
    chance = random.Random(f"{seed} {number}")
    (milestone,) = chance.choices(list(MILESTONES), list(MILESTONES.values()))
    return Moment(milestone, chance.uniform(0, spans[milestone]))


def outcome(folder: Path) -> dict[str, str]:
    """Each file that a run left, by its path: what it holds, as a SHA-256."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = without_seconds(path)
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def without_seconds(path: Path) -> bytes:
    """A file's content but for what differs between any two runs."""
    text: Any
    if path.name == "report.html":
        # It shows seconds, and explains mistakes as long as its own last: that it is there counts.
        return b""
    if path.name == "history.csv":
        with path.open(newline="", encoding="utf-8") as opened:
            text = [{**row, "seconds": None} for row in csv.DictReader(opened)]
    elif path.name == "metrics.json":
        text = {**json.loads(path.read_text("utf-8")), "seconds": None}
    elif path.name == "run.toml":
        text = tomllib.loads(path.read_text("utf-8"))
        text["run"].pop("output")
    else:
        return path.read_bytes()
    return json.dumps(text).encode()


def differences(folder: Path, wanted: dict[str, str]) -> list[str]:
    """The files that are not as in the run left alone; a run that is the same is removed."""
    found = outcome(folder)
    differing = sorted(
        name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
    )
    if not differing:
        shutil.rmtree(folder)
    return differing


def newest_state(folder: Path) -> str:
    states = sorted(folder.glob("checkpoints/step-*"))
    return states[-1].name if states else "no state"


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill `ftkit train` again and again; compare.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=WORK / "kills", help="the runs; a new folder")
    options = parser.parse_args()
    options.work.mkdir(parents=True)

    alone = options.work / "alone"
    spans = run_alone(alone)
    wanted = outcome(alone)
    said = ", ".join(f"{seconds:.1f} s from {name}" for name, seconds in spans.items())
    print(f"left alone: {len(wanted)} files; {said}", flush=True)

    places: Counter[str] = Counter()
    killed, whole, differing = 0, 0, 0
    for number in count(1):
        folder, kills = options.work / f"run-{number}", 0
        while killed < options.kills:
            moment = draw(killed, options.seed, spans)
            place = run_until(folder, moment)
            if place is None:
                break
            killed, kills = killed + 1, kills + 1
            places[place] += 1
            when = f"{moment.seconds:.2f} s after {moment.milestone}"
            print(f"kill {killed}, run {number}: {place} ({newest_state(folder)}), {when}")
        else:
            run_alone(folder)
        found = differences(folder, wanted)
        whole, differing = whole + 1, differing + bool(found)
        verdict = f"DIFFERS in {', '.join(found)}" if found else "the same"
        print(f"run {number}, killed {kills} times: {verdict}", flush=True)
        if killed == options.kills:
            break
    shares = ", ".join(f"{number} {place}" for place, number in places.most_common())
    print(f"\n{machine()}, {package_versions()}, seed {options.seed}")
    print(f"{killed} kills ({shares}); {whole} runs ended, {differing} differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
