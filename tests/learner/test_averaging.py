"""The average of the weights: by hand, in validation, and never in the way of training."""

import pytest
import torch

import ftkit
from ftkit._fastai import Callback
from ftkit.errors import SettingError


class Note(Callback):
    """The weights after every step, before every validation's end and at the end of epochs."""

    order = 90

    def before_fit(self):
        self.steps, self.validated, self.ended = [], [], []

    def after_step(self):
        self.steps.append(copied(self.learn))

    def after_validate(self):
        self.validated.append(copied(self.learn))

    def after_epoch(self):
        self.ended.append(copied(self.learn))


def copied(learn):
    return {name: p.detach().clone() for name, p in learn.model.named_parameters()}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


EXACT = {"atol": 0, "rtol": 0}
CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def by_hand(steps, decay):
    """The average after the last of these steps, in float64."""
    average = {name: each.double() for name, each in steps[0].items()}
    for n, step in enumerate(steps[1:], 1):
        keep = n / (n + 1) if decay is None else min(decay, (1 + n) / (10 + n))
        average = {n: keep * each + (1 - keep) * step[n] for n, each in average.items()}
    return {name: each.float() for name, each in average.items()}


@pytest.mark.parametrize(("decay", "start"), [(0.6, 0.0), (0.999, 0.5), (None, 0.0), (None, 0.75)])
def test_the_average_by_hand(decay, start, make_learner):
    learn, note = make_learner(cbs=ftkit.AverageWeights(decay, start=start)), Note()
    learn.fit_one_cycle(2, 1e-2, cbs=note)
    a_fit, an_epoch = len(note.steps), len(note.steps) // 2
    first = round(start * a_fit)
    expected = by_hand(note.steps[first:], decay)
    assert_same(copied(learn), expected, **CLOSE)
    assert_same(note.validated[-1], expected, **CLOSE)
    assert_same(note.ended[-1], expected, **CLOSE)  # what SaveModelCallback would save
    assert any((expected[name] != note.steps[-1][name]).any() for name in expected)
    early = by_hand(note.steps[first:an_epoch], decay) if first < an_epoch else None
    assert_same(note.validated[0], early or note.steps[an_epoch - 1], **CLOSE)


def test_an_equal_mean_is_the_mean(make_learner):
    learn, note = make_learner(cbs=ftkit.AverageWeights(None)), Note()
    learn.fit(1, 1e-3, cbs=note)
    mean = {name: torch.stack([s[name] for s in note.steps]).mean(0) for name in note.steps[0]}
    assert_same(copied(learn), mean, **CLOSE)


def test_training_is_not_disturbed(make_learner):
    notes = Note(), Note()
    for note, cbs in zip(notes, (None, ftkit.AverageWeights(0.9)), strict=True):
        make_learner(cbs=cbs).fit_one_cycle(3, 1e-2, cbs=note)
    for plain, averaged in zip(notes[0].steps, notes[1].steps, strict=True):
        assert_same(averaged, plain, **EXACT)


def test_the_history_is_of_the_average(make_learner):
    learn = make_learner(cbs=ftkit.AverageWeights(0.9))
    learn.fit_one_cycle(2, 1e-2)
    assert learn.validate()[0] == pytest.approx(learn.history.rows[-1]["valid_loss"], rel=1e-6)


def test_freezing_and_a_second_fit(make_learner):
    learn, note = make_learner(cbs=ftkit.AverageWeights(0.9)), Note()
    before = copied(learn)
    learn.freeze()
    learn.fit(1, 1e-2, cbs=note)
    head = copied(learn)
    assert_same(head, by_hand(note.steps, 0.9), **CLOSE)
    moved = {name for name in before if (before[name] != head[name]).any()}
    assert moved == {n for n, p in learn.model.named_parameters() if p.requires_grad}
    learn.unfreeze()
    learn.fit(1, 1e-2, cbs=note)  # with an average of its own
    assert_same(copied(learn), by_hand(note.steps, 0.9), **CLOSE)
    assert len(moved) < len(before)


def test_groups_of_batches_count_as_steps(make_learner):
    learn, note = make_learner(cbs=[ftkit.AverageWeights(None), ftkit.Accumulate(3)]), Note()
    learn.fit(1, 1e-3, cbs=note)
    assert learn.average_weights.state_dict()["count"] == len(note.steps) == 4
    assert_same(copied(learn), by_hand(note.steps, None), **CLOSE)


def test_a_search_for_a_rate_changes_nothing(make_learner):
    learn = make_learner(cbs=ftkit.AverageWeights(0.9))
    before = copied(learn)
    learn.lr_find(num_it=4, show_plot=False)
    assert_same(copied(learn), before, **EXACT)


class Mend(Callback):
    """Once, take the state, lose model and average, and put both back."""

    order = 95
    state = None

    def mend(self):
        if self.state is None:
            weights, own = copied(self.learn), self.learn.average_weights.state_dict()
            self.state = {**own, "weights": {n: each.clone() for n, each in own["weights"].items()}}
            for each in (*self.learn.model.parameters(), *own["weights"].values()):
                each.data.fill_(7.0)
            self.learn.model.load_state_dict(weights, strict=False)
            self.learn.average_weights.load_state_dict(self.state)


@pytest.mark.parametrize("when", ["after_step", "after_epoch"])
def test_a_state_goes_on(when, make_learner):
    mend, note = Mend(), Note()
    setattr(mend, when, mend.mend)
    found = []
    for cbs in ([], [mend, note]):
        learn = make_learner(cbs=[ftkit.AverageWeights(0.9), *cbs])
        learn.fit_one_cycle(2, 1e-2)
        found.append(copied(learn))
    assert_same(found[1], found[0], **EXACT)
    is_swapped = when == "after_epoch"
    assert mend.state["has_average"] == is_swapped
    assert mend.state["count"] == (12 if is_swapped else 1)
    assert_same(mend.state["weights"], note.steps[11 if is_swapped else 0], **EXACT)


def test_a_state_before_the_fit(make_learner):
    """Loaded between fits, the next one goes on with it."""
    learn = make_learner(cbs=ftkit.AverageWeights(None))
    weights = {name: torch.zeros_like(p) for name, p in learn.model.named_parameters()}
    state = {"weights": weights, "count": 12, "has_average": False}
    learn.average_weights.load_state_dict(state)
    note = Note()
    learn.fit(1, 1e-3, cbs=note)
    total = {name: sum(s[name] for s in note.steps) / (12 + 12) for name in weights}
    assert len(note.steps) == 12
    assert_same(copied(learn), total, **CLOSE)


def test_a_state_of_a_fit_that_ended(make_learner):
    """Loaded between fits, as a resumed run does, the next one starts an average of its own."""
    first = make_learner(cbs=ftkit.AverageWeights(0.9))
    first.fit(1, 1e-3)
    ended = first.average_weights.state_dict()
    assert not ended["weights"]
    found = []
    for state in (None, ended):
        learn = make_learner(cbs=ftkit.AverageWeights(0.9))
        if state is not None:
            learn.average_weights.load_state_dict(state)
        learn.fit(1, 1e-3)
        found.append(copied(learn))
    assert_same(found[1], found[0], **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"decay of the average is 1\.0"),
        ({"decay": 0}, "decay of the average is 0"),
        ({"start": 1.0}, r"start of the average is 1\.0"),
    ],
)
def test_numbers_that_cannot_work(options, message):
    with pytest.raises(SettingError, match=message):
        ftkit.AverageWeights(**options)
