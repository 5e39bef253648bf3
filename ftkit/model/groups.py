"""Layer groups of any architecture, found from its module tree. Imports torch only."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def layer_groups(
    model: nn.Module,
    only: frozenset[str] | None = None,
    *,
    new: frozenset[str] = frozenset(),
    n_body: int = 3,
) -> list[list[nn.Parameter]]:
    """The parameters as embeddings, `n_body` groups of layers, and the head.

    `only` names the parameters that take part; None is all of them. Those in `new` were not
    pretrained, and belong to the head wherever they stand, such as a decoder's cross-attention.

    Layers are the elements of the big ModuleLists: those with at least a fifth of the largest
    one's parameters, so that an encoder and a decoder are found together and are cut by depth.
    Embeddings are what stands before the last such list, and every nn.Embedding; the head is
    what stands after it. Each parameter is in one group, tied ones too; no group is empty.
    """
    stacks = _layer_stacks(model)
    n_body = min(n_body, max((len(stack) for stack in stacks), default=0))
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
    groups: list[list[nn.Parameter]] = [[] for _ in range(n_body + 2)]
    named = dict(model.named_parameters())
    order = [p for name, p in named.items() if only is None or name in only]
    fresh = {id(named[name]) for name in new & named.keys()}
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


def _layer_stacks(model: nn.Module) -> list[nn.ModuleList]:
    found = list(_outermost_lists(model))
    sizes = [sum(p.numel() for p in stack.parameters()) for stack in found]
    most = max(sizes, default=0)
    return [stack for stack, size in zip(found, sizes, strict=True) if size * 5 >= most > 0]


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child):
            yield child
        else:
            yield from _outermost_lists(child)
