"""GroupedAdamW: torch's fused AdamW behind fastai's optimizer, decay on matrices alone."""

import pytest
import torch
from torch import nn

from ftkit.learner.optimizer import GroupedAdamW


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
