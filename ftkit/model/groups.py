"""Layer groups of any architecture, found from its module tree. Imports torch only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from torch import nn


def layer_groups(
    model: nn.Module,
    only: frozenset[str] | None = None,
    *,
    new: frozenset[str] = frozenset(),
    body_groups: int | None = 3,
) -> list[list[nn.Parameter]]:
    """The parameters as embeddings, `body_groups` groups of layers (None: one a layer), and head.

    `only` names the parameters that take part; None is all of them. Those in `new` were not
    pretrained, and belong to the head wherever they stand, such as a decoder's cross-attention.

    Layers are those of `layer_stacks`; an encoder and a decoder are cut by depth together.
    Embeddings are what stands before the last layer, and every nn.Embedding; the head is what
    stands after it, or before the whole body. Each parameter is in one group, tied ones too; no
    group is empty.
    """
    stacks = layer_stacks(model)
    most = max((len(stack) for stack in stacks), default=0)
    n_body = most if body_groups is None else min(body_groups, most)
    depth_of: dict[int, int] = {}
    for stack in stacks:
        for i, layer in enumerate(stack):
            for parameter in layer.parameters():
                depth_of.setdefault(id(parameter), i * n_body // len(stack))
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    above = _before_the_body(model, embeddings | depth_of.keys())
    groups: list[list[nn.Parameter]] = [[] for _ in range(n_body + 2)]
    named = dict(model.named_parameters())
    order = [p for name, p in named.items() if only is None or name in only]
    fresh = {id(named[name]) for name in new & named.keys()} | above
    last = max((i for i, p in enumerate(order) if id(p) in depth_of), default=-1)
    for i, parameter in enumerate(order):
        if id(parameter) in fresh:
            groups[-1].append(parameter)
        elif id(parameter) in depth_of:
            groups[1 + depth_of[id(parameter)]].append(parameter)
        elif i < last or id(parameter) in embeddings:
            groups[0].append(parameter)
        else:
            groups[-1].append(parameter)
    return [group for group in groups if group]


def layer_stacks(model: nn.Module) -> list[list[nn.ModuleList]]:
    """The stacks of layers, such as an encoder's and a decoder's, each from the input upwards.

    A stack is the ModuleLists of one length under one parent: XLM keeps the attentions of its
    layers in one list and their norms in another. Stacks with less than a fifth of the largest
    one's parameters are none.
    """
    found = list(_stacks(model))
    sizes = [sum(p.numel() for layer in stack for p in layer.parameters()) for stack in found]
    most = max(sizes, default=0)
    return [stack for stack, size in zip(found, sizes, strict=True) if size * 5 >= most > 0]


def describe_groups(model: nn.Module, groups: Sequence[Sequence[nn.Parameter]]) -> list[str]:
    """What each group holds: the largest modules that it has alone, runs of layers as "layer.0-3".

    Names leave out a base model's own, such as "bert". Parameters that are in no group are passed
    over, and tied ones are named once.
    """
    left = {id(p): i for i, group in enumerate(groups) for p in group}
    held: list[list[str]] = [[] for _ in groups]
    for i, name in _owned(model, "", left):
        held[i].append(name)
    return [", ".join(_joined_runs(names)) for names in held]


def _before_the_body(model: nn.Module, body: set[int]) -> set[int]:
    """Parameters of the parts registered before the first with embeddings or layers.

    XLM-RoBERTa's classes list their head first.
    """
    parts = list(model.children())
    while len(parts) == 1:
        parts = list(parts[0].children())
    numbers = [{id(p) for p in part.parameters()} for part in parts]
    return {each for part in takewhile(body.isdisjoint, numbers) for each in part}


def _owned(module: nn.Module, name: str, left: dict[int, int]) -> Iterator[tuple[int, str]]:
    """The group and the name of each largest part that is of one group; empties `left`."""
    mine = [id(p) for p in module.parameters() if id(p) in left]
    if len({left[each] for each in mine}) == 1:
        yield left[mine[0]], name or "model"
        for each in mine:
            del left[each]
        return
    within = f"{name}." if name else ""
    for part, parameter in module.named_parameters(recurse=False):
        if id(parameter) in left:
            yield left.pop(id(parameter)), within + part
    for part, child in module.named_children():
        is_base = child is getattr(module, "base_model", None)
        yield from _owned(child, name if is_base else within + part, left)


def _joined_runs(names: list[str]) -> list[str]:
    """Names that count up, such as "layer.0" and "layer.1", as one: "layer.0-1"."""
    joined: list[str] = []
    for name in names:
        run = re.fullmatch(r"(.*\.)(?:(\d+)-)?(\d+)", joined[-1]) if joined else None
        if run and name == f"{run[1]}{int(run[3]) + 1}":
            joined[-1] = f"{run[1]}{run[2] or run[3]}-{int(run[3]) + 1}"
        else:
            joined.append(name)
    return joined


def _stacks(module: nn.Module) -> Iterator[list[nn.ModuleList]]:
    lists: dict[int, list[nn.ModuleList]] = {}
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child):
            lists.setdefault(len(child), []).append(child)
        else:
            yield from _stacks(child)
    for siblings in lists.values():
        yield [nn.ModuleList(parts) for parts in zip(*siblings, strict=True)]
