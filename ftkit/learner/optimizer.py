"""Fused AdamW under fastai: one learning rate a layer group, no decay on biases and norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from ftkit._fastai import OptimWrapper, detuplify_pg, set_item_pg
from ftkit.errors import SettingError

_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class LayerDecay:
    """Rates that fall from the head down: `lr` for the last group, `decay` times it for the next.

    Wherever fastai takes a learning rate: `learn.fit_one_cycle(3, LayerDecay(2e-4))`. A group is
    a layer where the Learner was built with `body_groups=None`. Howard and Ruder 2018 (ULMFiT)
    decay by 1 / 2.6, Clark et al. 2020 (ELECTRA) by 0.65 to 0.9.

    Raises SettingError where `lr` is not above 0, or `decay` not above 0 and at most 1.
    """

    lr: float
    decay: float = 0.9

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise SettingError(f"lr is {self.lr}", remedy="Give a number such as 2e-4.")
        if not 0 < self.decay <= 1:
            raise SettingError(f"decay is {self.decay}", remedy="Give a number such as 0.9.")

    def rates(self, n_groups: int) -> list[float]:
        """A rate for each of `n_groups` groups, that of the embeddings first."""
        return [self.lr * self.decay**above for above in reversed(range(n_groups))]


Rates: TypeAlias = "float | slice | Sequence[float] | LayerDecay"
"""What fastai's verbs take as a learning rate."""


class _Hypers(dict[str, Any]):
    """Hyper-parameters of a layer group; what is set here is set for the group."""

    def __init__(self, values: Mapping[str, Any], put: Callable[[str, Any], None]) -> None:
        super().__init__(values)
        self._put = put

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self._put(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are plain: they set nothing."""
        return dict, (dict(self),)


class GroupedAdamW(OptimWrapper):
    """torch's AdamW (Loshchilov and Hutter 2019) as a fastai optimizer.

    fastai sees one group of parameters a layer group; torch sees two, because vectors (biases
    and norms) get no weight decay, which fastai's OptimWrapper cannot tell it. The means of the
    gradients are corrected for their start at 0, the lack of which made fine-tuning of BERT fail
    on few rows (Zhang et al. 2021); `fit_one_cycle` warms up for the first `pct_start` steps.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], lr: Rates = 1e-3) -> None:
        """`groups` are lists of parameters, the first layers first; none is empty.

        `lr` is one rate for all, a slice spread over the groups, a list of a rate for each, or
        a LayerDecay.
        """
        self._layers: list[list[nn.Parameter]] = [list(group) for group in groups]
        halves = [
            {"params": members, "layer_group": i, "decays": decays}
            for i, group in enumerate(self._layers)
            for decays in (True, False)
            if (members := [p for p in group if (p.ndim > 1) == decays])
        ]
        is_fused = all(p.device.type in _FUSED_DEVICES for group in self._layers for p in group)
        super().__init__(opt=torch.optim.AdamW(halves, lr=1e-3, fused=is_fused or None))
        for half in self.opt.param_groups:
            if not half["decays"]:
                half["weight_decay"] = 0.0
        self._first = [
            next(i for i, half in enumerate(halves) if half["layer_group"] == layer)
            for layer in range(len(self._layers))
        ]
        self.set_hyper("lr", lr)

    @property
    def param_lists(self) -> list[list[nn.Parameter]]:
        """Parameters of each layer group."""
        return self._layers

    @property
    def hypers(self) -> Sequence[dict[str, Any]]:
        """Hyper-parameters of each layer group, under fastai's names; they can be set here."""
        kept = [detuplify_pg(self.opt.param_groups[i]) for i in self._first]
        named = [
            {self.fwd_map.get(key, key): value for key, value in group.items() if key != "params"}
            for group in kept
        ]
        return [_Hypers(values, partial(self._put, i)) for i, values in enumerate(named)]

    def set_hyper(self, k: str, v: Any) -> None:
        """Set a hyper-parameter of every group, as fastai does, or by a LayerDecay.

        Raises SettingError for a list that has not one value a group.
        """
        count = len(self._layers)
        try:
            super().set_hyper(k, v.rates(count) if isinstance(v, LayerDecay) else v)
        except AssertionError:
            raise SettingError(
                f"{k} has {len(v)} values, and there are {count} groups of layers",
                remedy=f"Give one number, a slice, or {count} numbers, that of the embeddings "
                "first; learn.show_groups() shows the groups.",
            ) from None

    def _set_hyper(self, k: str, v: Sequence[Any]) -> None:
        for layer, value in enumerate(v):
            self._put(layer, k, value)

    def _put(self, layer: int, k: str, value: Any) -> None:
        for half in self.opt.param_groups:
            if half["layer_group"] == layer and (half["decays"] or k != "wd"):
                set_item_pg(half, self.bwd_map[k], value)
