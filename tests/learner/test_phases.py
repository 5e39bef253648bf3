"""Phases: each a freeze_to and a one-cycle fit, checked before anything is trained."""

import pytest

from ftkit import LayerDecay, Phase
from ftkit._fastai import Callback, Learner
from ftkit.errors import SettingError


def weights(learn):
    return {name: each.clone() for name, each in learn.model.state_dict().items()}


def changed(before, learn):
    return {name for name, each in learn.model.state_dict().items() if (each != before[name]).any()}


class Spy(Callback):
    """What each fit trains: its epochs, the trainable groups, the highest rate of each group."""

    def __init__(self):
        self.fits = []

    def before_fit(self):
        groups = self.learn.opt.param_lists
        trains = [any(p.requires_grad for p in group) for group in groups]
        self.fits.append((self.learn.n_epoch, trains, [0.0] * len(groups)))

    def before_step(self):
        highest = self.fits[-1][2]
        highest[:] = map(max, highest, (hyper["lr"] for hyper in self.learn.opt.hypers))


def test_phases_unfreeze_from_the_head_down(make_learner):
    learn, spy = make_learner(), Spy()
    learn.add_cb(spy)
    phases = [Phase(1, 1e-3, groups=1), Phase(2, groups=2), Phase(1, LayerDecay(1e-3, 0.5))]
    learn.fine_tune(phases=phases)
    assert [fit[:2] for fit in spy.fits] == [
        (1, [False, False, False, True]),
        (2, [False, False, True, True]),
        (1, [True, True, True, True]),
    ]
    head = learn.lr.stop  # of the second phase: the Learner's own rates
    expected = [[1e-3] * 4, [head / 10] * 3 + [head], [1.25e-4, 2.5e-4, 5e-4, 1e-3]]
    for (_, _, highest), rates in zip(spy.fits, expected, strict=True):
        assert highest == pytest.approx(rates, rel=0.02)
    assert len(learn.history.rows) == 4
    assert all(p.requires_grad for p in learn.model.parameters())


def test_frozen_groups_stay_as_they_are_whatever_trained_them_before(make_learner):
    learn = make_learner(wd=0.1)
    learn.fit_one_cycle(1, 1e-3)
    before = weights(learn)
    learn.fine_tune(phases=[Phase(1, 1e-3, groups=2)])
    moved = changed(before, learn)
    assert any(".layer.1." in name for name in moved)
    assert not [name for name in moved if "embeddings" in name or ".layer.0." in name]
    frozen = [name for name, p in learn.model.named_parameters() if not p.requires_grad]
    assert frozen
    assert not moved & set(frozen)


def test_phases_are_freeze_to_and_fit_one_cycle_bit_for_bit(make_learner):
    ours, by_hand = make_learner(), make_learner()
    ours.fine_tune(phases=[Phase(1, 1e-3, groups=1), Phase(1, slice(1e-3))], pct_start=0.5)
    by_hand.freeze_to(3)
    by_hand.fit_one_cycle(1, 1e-3, pct_start=0.5)
    by_hand.freeze_to(0)
    by_hand.fit_one_cycle(1, slice(1e-3), pct_start=0.5)
    assert not changed(weights(ours), by_hand)


def test_without_phases_it_is_fastais_own(make_learner):
    ours, theirs = make_learner(), make_learner()
    ours.fine_tune(1, 1e-2, freeze_epochs=1, lr_mult=10)
    Learner.fine_tune(theirs, 1, 1e-2, freeze_epochs=1, lr_mult=10)
    assert not changed(weights(ours), theirs)
    assert len(ours.history.rows) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "wants epochs or phases"),
        ({"epochs": 1, "phases": [Phase(1)]}, "wants epochs or phases"),
        ({"phases": []}, "there is no phase"),
        ({"phases": [Phase(1), Phase(1, groups=5)]}, "the last 5 groups, and there are 4"),
    ],
)
def test_phases_that_cannot_be(make_learner, arguments, message):
    learn = make_learner()
    before = weights(learn)
    with pytest.raises(SettingError, match=message):
        learn.fine_tune(**arguments)
    assert not changed(before, learn)
    assert learn.history.rows == []


@pytest.mark.parametrize("arguments", [{"epochs": 0}, {"epochs": 1, "groups": 0}])
def test_a_phase_that_cannot_be(arguments):
    with pytest.raises(SettingError, match="of a phase is 0"):
        Phase(**arguments)


def test_a_phase_is_a_value():
    assert Phase(1, 1e-3, 2) == Phase(epochs=1, lr=1e-3, groups=2)
    with pytest.raises(AttributeError):
        Phase(1).epochs = 2
