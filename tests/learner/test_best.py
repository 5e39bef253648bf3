"""KeepBest: the best epoch's weights at the end, by any metric, and an early end."""

import math

import pytest
import torch
from fastai.callback.core import Callback

from ftkit.errors import SettingError
from ftkit.learner.best import KeepBest


class Watch(Callback):
    """The weights and the score after each epoch; `given` scores stand in for real ones."""

    order = 60

    def __init__(self, monitor, given=()):
        self.monitor, self.given, self.weights, self.seen = monitor, list(given), [], []

    def after_epoch(self):
        if self.learn.lock.locked():
            return
        place = list(self.recorder.metric_names).index(self.monitor) - 1
        if self.given:
            self.learn.final_record[place] = self.given[self.epoch]
        self.seen.append(float(self.learn.final_record[place]))
        self.weights.append([p.detach().clone() for p in self.learn.model.parameters()])


@pytest.mark.parametrize(
    ("monitor", "scores", "best"),
    [
        ("accuracy", [0.1, 0.8, 0.3], 1),
        ("valid_loss", [3.0, 5.0, 4.0], 0),
        ("macro_f1", [math.nan, 0.2, math.nan], 1),
        ("mcc", [0.5, 0.5, 0.5], 0),
    ],
)
def test_the_best_epoch_stays(make_learner, monitor, scores, best):
    learn, watch = make_learner(), Watch(monitor, scores)
    learn.fit(3, 1e-3, cbs=[KeepBest(monitor), watch])
    now = list(learn.model.parameters())
    assert [all(map(torch.equal, now, then)) for then in watch.weights] == [
        i == best for i in range(3)
    ]


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 5), (3, 6), (None, 6)])
def test_patience(make_learner, patience, epochs):
    watch = Watch("accuracy", [0.1, 0.5, 0.4, 0.51, 0.5, 0.45])
    learn = make_learner()
    learn.fit(6, 1e-3, cbs=[KeepBest("accuracy", patience=patience, min_delta=0.02), watch])
    # 0.51 is no better than 0.5 by more than 0.02.
    assert len(watch.seen) == (4 if patience == 2 else min(epochs, 5) if patience else 6)


def test_direction_can_be_given(make_learner):
    watch, kept = Watch("accuracy", [0.9, 0.1, 0.5]), KeepBest("accuracy", lower_is_better=True)
    make_learner().fit(3, 1e-3, cbs=[kept, watch])
    assert (kept.best, kept.best_epoch) == (0.1, 1)


def test_what_validation_chose_comes_back_too(make_learner, multi_data):
    learn = make_learner(multi_data)
    thresholds = []

    class Choices(Callback):
        order = 60

        def after_epoch(self):
            thresholds.append(self.learn.task_scores.trained_task.threshold)
            self.learn.task_scores.choose({"threshold": 0.1 * (self.epoch + 1)})

    learn.fit(3, 1e-3, cbs=[Choices(), Watch("micro_f1", [0.1, 0.9, 0.2]), KeepBest("micro_f1")])
    assert thresholds
    assert learn.task_scores.trained_task.threshold == 0.2


def test_each_fit_has_its_own_best(make_learner):
    learn, kept = make_learner(), KeepBest("accuracy")
    learn.fit(1, 1e-3, cbs=[kept, Watch("accuracy", [0.9])])
    watch = Watch("accuracy", [0.2])
    learn.fit(1, 1e-3, cbs=[kept, watch])
    assert kept.best == 0.2
    assert all(map(torch.equal, learn.model.parameters(), watch.weights[0]))


def test_validate_alone_changes_nothing(make_learner):
    learn = make_learner(cbs=KeepBest())
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.validate()
    assert all(map(torch.equal, learn.model.parameters(), before))


def test_mistakes(make_learner):
    with pytest.raises(SettingError, match="patience is 0"):
        KeepBest(patience=0)
    with pytest.raises(SettingError, match=r'^there is no metric "f1" .*"accuracy"'):
        make_learner(cbs=KeepBest("f1")).fit(1)


def test_a_validation_within_a_fit_forgets_nothing(make_learner, look_within):
    kept, watch = KeepBest("accuracy"), Watch("accuracy", [0.1, 0.9, 0.2])
    learn = make_learner()
    learn.fit(3, 1e-2, cbs=[kept, watch, look_within])
    assert kept.best_epoch == 1
    assert all(map(torch.equal, learn.model.parameters(), watch.weights[1]))
    learn.add_cb(kept)
    learn.validate()
    assert kept.best == 0.9


def test_the_scores_are_those_of_the_weights(make_learner):
    learn = make_learner()
    learn.fit(3, 1e-2, cbs=[KeepBest("accuracy"), Watch("accuracy", [0.1, 0.9, 0.2])])
    losses = [row["valid_loss"] for row in learn.history.rows]
    assert learn.history.scores["valid_loss"] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("monitor", "scores", "epochs"),
    [
        ("accuracy", [math.nan, math.nan, 0.5, math.nan, math.nan, 0.4, 0.3, 0.2], 7),
        ("accuracy", [math.nan] * 4, 4),
        ("valid_loss", [1.0, math.nan, math.nan, 0.5], 3),
    ],
)
def test_epochs_that_were_not_scored_are_not_waited_for(make_learner, monitor, scores, epochs):
    watch = Watch(monitor, scores)
    make_learner().fit(len(scores), 1e-3, cbs=[KeepBest(monitor, patience=2), watch])
    assert len(watch.seen) == epochs
