"""The course of a training: what is kept of it, thinned, over fits, and after a stop."""

from itertools import pairwise

import pytest

from ftkit.learner import curves


def test_points_are_what_the_recorder_and_the_optimizer_had(make_learner):
    learn = make_learner()
    learn.fit_one_cycle(2, slice(1e-3, 1e-2))
    points = learn.curves.points
    assert [each["batch"] for each in points] == list(range(1, len(learn.recorder.losses) + 1))
    losses = [float(loss) for loss in learn.recorder.losses]
    assert [each["loss"] for each in points] == pytest.approx(losses)
    assert [each["rates"][-1] for each in points] == pytest.approx(learn.recorder.lrs)
    assert all(len(each["rates"]) == len(learn.opt.hypers) for each in points)
    assert points[3]["rates"][0] < points[3]["rates"][-1]


def test_fits_follow_each_other_and_searches_leave_nothing(make_learner):
    learn = make_learner()
    learn.fit(1, 1e-3)
    one = len(learn.curves.points)
    learn.lr_find(num_it=5, show_plot=False)
    learn.validate()
    learn.fit(1, 1e-3)
    assert learn.curves.points[-1]["batch"] == 2 * one == len(learn.curves.points)


def test_a_long_training_is_thinned(make_learner, monkeypatch):
    monkeypatch.setattr(curves, "_MOST_POINTS", 8)
    learn = make_learner()
    learn.fit(3, 1e-3)
    batches = [each["batch"] for each in learn.curves.points]
    assert len(batches) <= 8
    assert {later - before for before, later in pairwise(batches)} == {learn.curves.stride}
    assert batches[-1] > learn.curves.batches - learn.curves.stride


def test_what_a_stopped_training_remembers(make_learner):
    learn = make_learner()
    learn.fit(1, 1e-3)
    other = curves.Curves()
    other.load_state_dict(learn.curves.state_dict())
    assert other.points == learn.curves.points
    assert (other.batches, other.stride) == (learn.curves.batches, 1)
