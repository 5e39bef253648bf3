"""GroupedAdamW: torch's fused AdamW behind fastai's optimizer, decay on matrices alone."""

import copy
import math

import pytest
import torch
from fastai.callback.tracker import ReduceLROnPlateau
from fastai.optimizer import Adam, Optimizer
from torch import nn

from ftkit.errors import SettingError
from ftkit.learner.optimizer import GroupedAdamW, LayerDecay


def decays(opt):
    """Each parameter's number of dimensions and weight decay, as torch has them."""
    return {
        (p.ndim > 1, half["weight_decay"]) for half in opt.opt.param_groups for p in half["params"]
    }


@pytest.fixture
def groups():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    return [list(layers[0].parameters()), [*layers[1].parameters(), *layers[2].parameters()]]


def test_vectors_have_no_decay(groups):
    opt = GroupedAdamW(groups)
    opt.set_hyper("wd", 0.1)
    assert decays(opt) == {(True, 0.1), (False, 0.0)}
    opt.set_hyper("wd", [0.2, 0.3])
    assert decays(opt) == {(True, 0.2), (True, 0.3), (False, 0.0)}
    assert [h["wd"] for h in opt.hypers] == [0.2, 0.3]


def test_fastai_and_torch_see_the_same_rates(groups):
    opt = GroupedAdamW(groups, lr=1e-2)
    assert [h["lr"] for h in opt.hypers] == [1e-2, 1e-2]
    opt.set_hyper("lr", slice(1e-4, 1e-2))
    assert [h["lr"] for h in opt.hypers] == [1e-4, 1e-2]
    assert [(half["layer_group"], half["lr"]) for half in opt.opt.param_groups] == [
        *((0, 1e-4), (0, 1e-4), (1, 1e-2), (1, 1e-2))
    ]


@pytest.mark.parametrize(
    ("decay", "n_groups", "rates"),
    [
        (LayerDecay(1e-3, 0.5), 4, [1.25e-4, 2.5e-4, 5e-4, 1e-3]),
        (LayerDecay(1e-3), 2, [9e-4, 1e-3]),
        (LayerDecay(2e-4, 1), 3, [2e-4, 2e-4, 2e-4]),
        (LayerDecay(2e-4, 0.5), 1, [2e-4]),
    ],
)
def test_layer_decay(decay, n_groups, rates):
    assert decay.rates(n_groups) == pytest.approx(rates)


@pytest.mark.parametrize("values", [(0, 0.9), (-1e-3, 0.9), (float("nan"), 0.9), (1e-3, 0)])
def test_layer_decay_that_cannot_be(values):
    with pytest.raises(SettingError, match=r"(lr|decay) is"):
        LayerDecay(*values)


def test_layer_decay_as_a_rate_leaves_vectors_without_decay(groups):
    opt = GroupedAdamW(groups, lr=LayerDecay(1e-2, 0.1))
    opt.set_hyper("wd", 0.1)
    assert [h["lr"] for h in opt.hypers] == pytest.approx([1e-3, 1e-2])
    assert decays(opt) == {(True, 0.1), (False, 0.0)}


@pytest.mark.parametrize("values", [[1e-3] * 3, (1e-3, 1e-3, 1e-2), torch.ones(3)])
def test_a_list_of_another_length_than_the_groups(groups, values):
    opt = GroupedAdamW(groups, lr=1e-2)
    with pytest.raises(SettingError, match="lr has 3 values, and there are 2 groups"):
        opt.set_hyper("lr", values)
    assert [h["lr"] for h in opt.hypers] == [1e-2, 1e-2]


def test_the_first_step_is_bias_corrected():
    """With a gradient of any size it is the rate; BERT's own Adam would have made 3.2 of it."""
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    opt = GroupedAdamW([[weight]], lr=1e-3)
    opt.set_hypers(mom=0.9, sqr_mom=0.999, wd=0.0)
    weight.grad = torch.tensor([[1e-2, -1e-2], [3.0, -3.0]])
    opt.step()
    assert torch.allclose(weight, -1e-3 * weight.grad.sign(), rtol=1e-4)


def test_momentum_goes_by_its_fastai_name(groups):
    opt = GroupedAdamW(groups)
    opt.set_hypers(mom=0.8, sqr_mom=0.97, eps=1e-6)
    assert {half["betas"] for half in opt.opt.param_groups} == {(0.8, 0.97)}
    assert {half["eps"] for half in opt.opt.param_groups} == {1e-6}
    assert {h["mom"] for h in opt.hypers} == {0.8}


def test_a_group_of_vectors_alone(groups):
    norm = nn.LayerNorm(3)
    opt = GroupedAdamW([groups[0], list(norm.parameters())])
    opt.set_hyper("wd", 0.1)
    assert [len(each) for each in opt.param_lists] == [2, 2]
    assert decays(opt) == {(True, 0.1), (False, 0.0)}
    assert len(opt.hypers) == 2


def test_a_step_is_that_of_torch(groups):
    """Against AdamW with the groups written out by hand."""
    ours = [[p.detach().clone().requires_grad_() for p in group] for group in groups]
    theirs = [p for group in groups for p in group]
    opt = GroupedAdamW(ours, lr=1e-2)
    opt.set_hypers(wd=0.1, mom=0.9, sqr_mom=0.999, eps=1e-8)
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in theirs if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in theirs if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    mine = [p for group in ours for p in group]
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = b.grad = torch.randn_like(b)
        opt.step()
        reference.step()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_it_is_fused(groups):
    assert GroupedAdamW(groups).opt.defaults["fused"] is True


def test_in_a_learner(make_learner):
    learn = make_learner(wd=0.05)
    learn.fit_one_cycle(1, 1e-3)
    assert decays(learn.opt) == {(True, 0.05), (False, 0.0)}
    learn.fit_one_cycle(1, 1e-3, wd=0.2)
    assert decays(learn.opt) == {(True, 0.2), (False, 0.0)}
    counted = sum(len(half["params"]) for half in learn.opt.opt.param_groups)
    assert counted == len(list(learn.model.parameters()))
    is_vector = {id(p): p.ndim == 1 for p in learn.model.parameters()}
    assert all(
        is_vector[id(p)] == (half["weight_decay"] == 0)
        for half in learn.opt.opt.param_groups
        for p in half["params"]
    )
    assert learn.opt.opt.defaults["fused"] is True


def test_rates_a_learner_takes(make_learner):
    learn = make_learner(lr=LayerDecay(1e-3, 0.1), body_groups=None)
    learn.fit(1)
    assert [h["lr"] for h in learn.opt.hypers] == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3])
    learn.fit_one_cycle(1, LayerDecay(1e-3, 0.5), div_final=1)
    assert [h["lr"] for h in learn.opt.hypers] == pytest.approx([1.25e-4, 2.5e-4, 5e-4, 1e-3])
    for verb in (learn.fit, learn.fit_one_cycle, learn.fit_flat_cos):
        with pytest.raises(SettingError, match="there are 4 groups"):
            verb(1, [1e-4, 1e-3])


def test_hyper_parameters_can_be_set_a_group(groups):
    opt = GroupedAdamW(groups, lr=1e-2)
    opt.set_hyper("wd", 0.1)
    for hypers, rate in zip(opt.hypers, (1e-4, 1e-3), strict=True):
        hypers["lr"], hypers["wd"], hypers["mom"] = rate, 0.5, 0.8
    assert [half["lr"] for half in opt.opt.param_groups] == [1e-4, 1e-4, 1e-3, 1e-3]
    assert [half["betas"][0] for half in opt.opt.param_groups] == [0.8] * 4
    assert decays(opt) == {(True, 0.5), (False, 0.0)}
    (plain, *_) = copy.deepcopy(opt.hypers)
    plain["lr"] = 1.0
    assert type(plain) is dict
    assert opt.hypers[0]["lr"] == 1e-4


def test_fastai_lowers_the_rate_on_a_plateau(make_learner):
    learn = make_learner()
    plateau = ReduceLROnPlateau("accuracy", min_delta=2, patience=1, factor=10)
    learn.fit(3, 1e-6, cbs=plateau)
    assert [h["lr"] for h in learn.opt.hypers] == pytest.approx([1e-8] * len(learn.opt.hypers))


def test_vectors_have_no_decay_where_none_is_asked_for(make_learner):
    learn = make_learner(wd=None)
    learn.fit(1, 1e-3)
    assert decays(learn.opt) == {(True, 0.01), (False, 0.0)}


def test_another_optimizer(make_learner):
    learn = make_learner(opt_func=Adam)
    learn.fit_one_cycle(1, 1e-3)
    assert isinstance(learn.opt, Optimizer)
    assert math.isfinite(learn.history.rows[0]["valid_loss"])
    with pytest.raises(SettingError, match='"loss_func" cannot be given'):
        make_learner(loss_func=nn.CrossEntropyLoss())


def test_state_goes_round(make_learner):
    learn = make_learner()
    learn.fit_one_cycle(1, slice(1e-4, 1e-3))
    learn.save("state", with_opt=True)
    saved = learn.opt.opt.state_dict()["state"].values()
    states = [{key: value.clone() for key, value in each.items()} for each in saved]
    other = make_learner()
    other.load("state", with_opt=True)
    again = list(other.opt.opt.state_dict()["state"].values())
    assert len(again) == len(states) > 0
    for a, b in zip(states, again, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
