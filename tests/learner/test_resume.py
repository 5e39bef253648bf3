"""Exact resume: a run that was stopped anywhere ends bit-equal to one that never was."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_run
import pytest
import torch
from fastai.callback.all import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.core import Callback
from killed_run import end_of, script

import ftkit
from ftkit.errors import FtkitWarning, SettingError
from ftkit.learner import resume, state
from ftkit.learner.best import KeepBest
from ftkit.learner.resume import Checkpoints, TrainingStopped


class SignalAt(Callback):
    """Sends this process a signal in the n-th call of an event."""

    def __init__(self, event, n, signum=signal.SIGTERM):
        self.left, self.signum = n, signum
        setattr(self, event, self.count)

    def count(self):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.signum)


@pytest.fixture(autouse=True)
def heeds_ctrl_c():
    """As in a terminal, though the tests may run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def build(tiny_data, tiny_checkpoint, tmp_path_factory):
    """A function that builds the Learner of killed_run.py, with further callbacks."""

    def make(folder, *cbs, **options):
        learn = killed_run.build(
            tiny_data, tiny_checkpoint, folder, path=tmp_path_factory.mktemp("run"), **options
        )
        learn.add_cbs(cbs)
        return learn

    return make


@pytest.fixture(scope="module")
def never_stopped(build, tmp_path_factory):
    return end_of(script(build(tmp_path_factory.mktemp("states"))))


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert one["tensors"].keys() == other["tensors"].keys()
    for name, tensor in one["tensors"].items():
        assert torch.equal(tensor, other["tensors"][name]), name
    for name in one.keys() - {"tensors"}:
        assert one[name] == other[name], name


@pytest.mark.parametrize(
    ("event", "n", "signum"),
    [
        ("after_step", 1, signal.SIGTERM),
        ("after_step", 4, signal.SIGINT),  # the last of the head's epoch
        ("before_validate", 1, signal.SIGTERM),
        ("after_fit", 1, signal.SIGTERM),  # between the fits
        ("before_batch", 16, signal.SIGTERM),  # with gradients gathered, but no step yet
        ("after_epoch", 2, signal.SIGINT),
        ("after_fit", 3, signal.SIGTERM),  # all done
    ],
)
def test_a_signal_anywhere_changes_nothing(build, never_stopped, tmp_path, event, n, signum):
    before = signal.getsignal(signum)
    with pytest.raises(TrainingStopped, match="steps; its state is in"):
        script(build(tmp_path, SignalAt(event, n, signum)))
    assert signal.getsignal(signum) is before
    assert_same(never_stopped, end_of(script(build(tmp_path))))


def test_stopped_again_and_again(build, never_stopped, tmp_path):
    for _ in range(4):
        with pytest.raises(TrainingStopped):
            script(build(tmp_path, SignalAt("after_step", 3)))
    assert_same(never_stopped, end_of(script(build(tmp_path))))


def test_an_ignored_signal_stays_ignored(build, never_stopped, tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    learn = script(build(tmp_path, SignalAt("before_batch", 2, signal.SIGINT)))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert_same(never_stopped, end_of(learn))


def test_a_second_signal_stops_at_once(build, tmp_path):
    with pytest.raises(KeyboardInterrupt) as stopped:
        script(
            build(
                tmp_path,
                SignalAt("before_batch", 2, signal.SIGINT),
                SignalAt("after_pred", 2, signal.SIGINT),
            )
        )
    assert not isinstance(stopped.value, TrainingStopped)


def test_a_validation_or_a_search_for_a_rate_is_no_fit(build, never_stopped, tmp_path):
    learn = build(tmp_path)
    learn.validate()
    learn.lr_find(show_plot=False, num_it=6)
    assert not list(tmp_path.iterdir())
    assert_same(never_stopped, end_of(script(learn)))
    written = sorted(tmp_path.iterdir())
    learn.validate()
    learn.get_preds()
    assert sorted(tmp_path.iterdir()) == written


def test_fastai_callbacks_go_on_too(make_learner, tmp_path):
    def run(*cbs, folder):
        kept = Checkpoints(folder, every=1, minutes=None, resume=True)
        early = EarlyStoppingCallback("accuracy", patience=2)
        learn = make_learner(cbs=[kept, early, SaveModelCallback("accuracy"), *cbs])
        learn.fit(6, 3e-3)
        return len(learn.history.rows), early.best, list(learn.model.state_dict().values())

    epochs, best, weights = run(folder=tmp_path / "a")
    with pytest.raises(TrainingStopped):
        run(SignalAt("before_epoch", epochs), folder=tmp_path / "b")
    again = run(folder=tmp_path / "b")
    assert again[:2] == (epochs, best)
    assert all(map(torch.equal, weights, again[2]))


# What stands between fits


def test_what_stands_between_fits_finds_the_weights_of_then(make_learner, tmp_path):
    def run(folder, *cbs):
        kept = Checkpoints(folder / "states", every=1, minutes=None, resume=True)
        learn = make_learner(cbs=[kept, *cbs], path=folder)
        learn.freeze()
        learn.fit_one_cycle(1, 1e-2)
        first = learn.save("first")
        saved = ftkit.save(learn, folder / "bundle")
        learn.lr_find(show_plot=False, num_it=6)
        losses = list(map(float, learn.recorder.losses))
        learn.unfreeze()
        learn.fit_one_cycle(1, 1e-2)
        learn.load("first")
        learn.fit(1, 1e-2)
        files = (
            torch.load(first, weights_only=False)["model"],
            (saved / "model.safetensors").read_bytes(),
        )
        return [*files[0].values(), *learn.model.parameters()], files[1], losses

    whole = run(tmp_path / "a")
    for stopped_in in (22, 34):  # the search takes steps 13 to 18
        folder = tmp_path / f"b{stopped_in}"
        with pytest.raises(TrainingStopped):
            run(folder, SignalAt("after_step", stopped_in))
        again = run(folder)
        assert all(map(torch.equal, whole[0], again[0]))
        assert whole[1:] == again[1:]


def test_a_fit_that_never_began_is_not_counted(make_learner, tmp_path):
    def run(metric, *cbs):
        learn = make_learner(cbs=[Checkpoints(tmp_path / "states", resume=True), *cbs])
        if metric != "accuracy":
            with pytest.raises(SettingError, match="no metric"):
                learn.fit(2, 1e-2, cbs=KeepBest(metric))
        learn.fit(2, 1e-2, cbs=KeepBest("accuracy"))
        return learn

    with pytest.raises(TrainingStopped):
        run("acuracy", SignalAt("after_step", 15))
    # The call with the typo is gone from the script.
    learn = run("accuracy")
    assert [row["epoch"] for row in learn.history.rows] == [1, 2]
    assert learn.opt.state_dict()["state"][0]["step"] == 24


def test_a_fit_that_had_not_ended_is_told(make_learner, tmp_path):
    class FailAt(Callback):
        left = 5

        def after_step(self):
            self.left -= 1
            if not self.left:
                raise RuntimeError("no memory")

    def run(*cbs):
        return make_learner(cbs=[Checkpoints(tmp_path / "states", resume=True), *cbs])

    learn = run(FailAt())
    with pytest.raises(RuntimeError, match="no memory"):
        learn.fit(1, 1e-2)
    with pytest.raises(TrainingStopped):
        learn.fit(1, 1e-2, cbs=SignalAt("after_step", 3))
    again = run()
    with pytest.warns(FtkitWarning, match="fit 1 is passed over .*had not ended"):
        again.fit(1, 1e-2)
    again.fit(1, 1e-2)
    assert len(again.history.rows) == 1


def test_the_states_of_one_fit(make_learner, tmp_path):
    def run(*cbs):
        learn = make_learner()
        learn.fit(1, 1e-2)
        kept = Checkpoints(tmp_path / "states", every=1, minutes=None, resume=True)
        learn.fit(2, 1e-2, cbs=[kept, *cbs])
        assert not any(isinstance(cb, Checkpoints) for cb in learn.cbs)
        return list(learn.model.parameters())

    with pytest.raises(TrainingStopped):
        run(SignalAt("after_step", 15))
    assert int(sorted((tmp_path / "states").iterdir())[-1].name[-8:]) == 15
    found = run()
    learn = make_learner()
    learn.fit(1, 1e-2)
    learn.fit(2, 1e-2)
    assert all(map(torch.equal, found, learn.model.parameters()))
    learn.add_cb(Checkpoints(tmp_path / "one"))
    with pytest.raises(SettingError, match="two Checkpoints"):
        learn.fit(1, cbs=Checkpoints(tmp_path / "two"))


def test_a_fit_without_epochs(make_learner, tmp_path):
    learn = make_learner(cbs=Checkpoints(tmp_path / "states"))
    learn.fine_tune(1, 1e-2, freeze_epochs=0)
    assert len(learn.history.rows) == 1


def test_a_validation_within_a_fit_is_not_its_end(make_learner, look_within, tmp_path):
    states = Checkpoints(tmp_path / "states", minutes=None)
    with pytest.raises(TrainingStopped):
        make_learner(cbs=[states, look_within, SignalAt("after_step", 15)]).fit(2, 1e-3)
    assert [each.name for each in (tmp_path / "states").iterdir()] == ["step-00000015"]


# States that cannot be used


def stop(build, folder, n=5):
    with pytest.raises(TrainingStopped):
        script(build(folder, SignalAt("after_step", n)))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("file", ["model", "training.safe", "training.json", "checksums"])
@pytest.mark.parametrize("damage", ["torn", "altered", "missing"])
def test_a_damaged_state_is_passed_over(build, never_stopped, tmp_path, file, damage):
    older, newest = stop(build, tmp_path)
    (path,) = [each for each in newest.iterdir() if each.name.startswith(file)]
    content = bytearray(path.read_bytes())
    if damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        content[-9] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.warns(FtkitWarning, match=f"passed over: .*{newest.name}"):
        learn = build(tmp_path)
    if (file, damage) == ("model", "torn"):
        assert_same(never_stopped, end_of(script(learn)))
    else:
        assert learn.checkpoints._pending[1]["step"] == int(older.name[-8:])


def test_where_no_state_is_whole_it_begins_anew(build, tmp_path):
    for found in stop(build, tmp_path, n=1):
        (found / "model.safetensors").unlink()
    with pytest.warns(FtkitWarning, match="model.safetensors is missing"):
        assert build(tmp_path).checkpoints._pending is None


def test_another_script_is_refused(build, tmp_path):
    stop(build, tmp_path)
    with pytest.raises(SettingError, match=r"fit 1 has 2 epochs, and had 1"):
        build(tmp_path).fit(2)


def test_other_rows_are_refused(tiny_data, tiny_checkpoint, build, tmp_path):
    stop(build, tmp_path)
    train = tiny_data["train"].map(lambda row: {"text": row["text"].replace("hello", "the")})
    learn = killed_run.build({**tiny_data, "train": train}, tiny_checkpoint, tmp_path)
    with pytest.raises(SettingError, match="the rows are not those of the run"):
        script(learn)


def test_states_of_another_run_are_not_overwritten(build, tmp_path):
    stop(build, tmp_path)
    with pytest.raises(SettingError, match="resume=True"):
        Checkpoints(tmp_path)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"keep": 0}, {"minutes": -1}])
def test_counts_below_the_least_are_refused(tmp_path, wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Checkpoints(tmp_path, **wrong)


# Writing


def test_the_newest_are_kept(build, tmp_path):
    # And what the first fit ended with.
    found = [int(each.name[-8:]) for each in stop(build, tmp_path, n=7)]
    assert found == [4, 6, 7]


def test_minutes_decide_when_to_write(make_learner, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 30))  # half a minute at each look
    monkeypatch.setattr(resume.time, "monotonic", lambda: float(next(clock)))
    kept = Checkpoints(tmp_path / "states", minutes=2, keep=100)
    learn = make_learner(cbs=kept)
    learn.fit(1)
    assert 2 <= len(list((tmp_path / "states").iterdir())) < 12


@pytest.mark.parametrize("stage", ["save_file", "flush"])
def test_a_full_disk_costs_no_training(build, never_stopped, tmp_path, monkeypatch, stage):
    real, left = getattr(state, stage), [9]

    def full(*args, **kwargs):
        left[0] -= 1
        if left[0] in (0, -1):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(state, stage, full)
    learn = build(tmp_path)
    with pytest.warns(FtkitWarning, match="No space left on device.*older states are kept"):
        script(learn)
    assert_same(never_stopped, end_of(learn))
    assert not list(tmp_path.glob(".writing-*"))
    assert resume.newest_state(tmp_path)[1]["is_done"]


# Killed for good


class Children:
    """The process that forks the children which are killed."""

    def __init__(self, checkpoint, rows):
        command = [sys.executable, killed_run.__file__, str(checkpoint), str(rows)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, folder, *, kill_at=None, kill_after=None):
        """Train in a child, and kill it; what it ended with, None where it was killed."""
        end = folder.with_name("end.pt")
        order = {"folder": str(folder), "end": str(end), "kill_at": kill_at}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        assert self.process.stdout.readline() == "ended\n"
        if not end.exists():
            return None
        found = torch.load(end, weights_only=True)
        end.unlink()
        return found


@pytest.fixture(scope="module")
def children(tiny_data, tiny_checkpoint, tmp_path_factory):
    rows = tmp_path_factory.mktemp("rows") / "rows.json"
    rows.write_text(json.dumps({name: split.to_list() for name, split in tiny_data.items()}))
    made = Children(tiny_checkpoint, rows)
    yield made
    made.process.stdin.close()
    made.process.wait()


@pytest.mark.parametrize("stage", ["save_file", "_save", "_checksum", "flush", "_rename"])
def test_killed_inside_a_write(children, never_stopped, tmp_path, stage):
    folder = tmp_path / "states"
    assert children.run(folder, kill_at=stage) is None
    assert_same(never_stopped, children.run(folder))
    assert not list(folder.glob(".writing-*"))


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(children, never_stopped, tmp_path):
    draw, killed, whole = random.Random(0), 0, 0
    folder = tmp_path / "0" / "states"
    started = time.monotonic()
    children.run(folder)
    usual = time.monotonic() - started
    while killed < 20:
        folder = tmp_path / str(whole + 1) / "states"
        found = children.run(folder, kill_after=draw.uniform(0.2, 0.8) * usual)
        killed += found is None
        if found is not None:
            whole += 1
            assert_same(never_stopped, found)
    assert_same(never_stopped, children.run(folder))
