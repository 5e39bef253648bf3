"""Fused AdamW under fastai: one learning rate a layer group, no decay on biases and norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ftkit._fastai import OptimWrapper, detuplify_pg, set_item_pg

_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


class GroupedAdamW(OptimWrapper):
    """torch's AdamW (Loshchilov and Hutter 2019) as a fastai optimizer.

    fastai sees one group of parameters a layer group; torch sees two, because vectors (biases
    and norms) get no weight decay, which fastai's OptimWrapper cannot tell it.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], lr: float | slice = 1e-3) -> None:
        """`groups` are lists of parameters, the first layers first; none is empty.

        `lr` is one rate for all, or a slice spread over the groups.
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
    def hypers(self) -> list[dict[str, Any]]:
        """Hyper-parameters of each layer group, under fastai's names."""
        kept = [detuplify_pg(self.opt.param_groups[i]) for i in self._first]
        return [
            {self.fwd_map.get(key, key): value for key, value in group.items() if key != "params"}
            for group in kept
        ]

    def _set_hyper(self, k: str, v: Sequence[Any]) -> None:
        for half in self.opt.param_groups:
            value = v[half["layer_group"]]
            set_item_pg(half, self.bwd_map[k], 0.0 if k == "wd" and not half["decays"] else value)
