"""An ONNX graph that computes less: what a head does not read is not made.

A classifier reads one token of the last layer, usually the first. Every step after that layer's
attention works token by token, so the token can be picked before these steps instead of after.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

# Operators that do the same to each token, whatever the others are.
_BY_TOKEN = {"Add", "Sub", "Mul", "Div", "Gelu", "Erf", "Tanh", "Relu", "Sigmoid", "Pow", "Sqrt"}


def pick_early(graph: onnx.GraphProto) -> int:
    """Move each picking of one token, of hidden states (windows, tokens, width), as far up as it
    may go, in place; how many steps then work on that token alone.
    """
    ranks, moved = _ranks(graph), 0
    for pick in [node for node in graph.node if _is_pick(node, graph, ranks)]:
        steps = _steps_before(pick, graph, ranks)
        if steps:
            _move(pick, steps, graph, ranks)
        moved += len(steps)
    # Shapes that were noted are no longer true; whoever runs the graph infers them anew.
    del graph.value_info[:]
    return moved


def _steps_before(
    pick: onnx.NodeProto, graph: onnx.GraphProto, ranks: dict[str, int]
) -> list[onnx.NodeProto]:
    """The steps whose result nothing but the pick reads, in the order of the graph."""
    readers: dict[str, list[str]] = defaultdict(list)
    for output in graph.output:
        readers[output.name].append("")  # whoever runs the graph
    for node in graph.node:
        for each in node.input:
            readers[each].append(node.output[0])
    read_late = {pick.output[0]}
    steps = []
    for node in reversed(graph.node):
        read_by = readers[node.output[0]]
        if read_by and read_late.issuperset(read_by) and _is_by_token(node, ranks):
            read_late.add(node.output[0])
            steps.append(node)
    return steps[::-1]


def _move(
    pick: onnx.NodeProto,
    steps: list[onnx.NodeProto],
    graph: onnx.GraphProto,
    ranks: dict[str, int],
) -> None:
    """Pick from what the steps read, and let them work on that."""
    import onnx

    made = {step.output[0] for step in steps}
    picked: set[str] = set()
    for step in steps:
        for i, each in enumerate(step.input):
            if ranks.get(each) != 3 or each in made:
                continue
            step.input[i] = f"{each}_picked"
            if each not in picked:
                picked.add(each)
                early = onnx.NodeProto()
                early.CopyFrom(pick)
                early.name, early.input[0], early.output[0] = (
                    f"{pick.name}_{each}",
                    each,
                    f"{each}_picked",
                )
                graph.node.insert(list(graph.node).index(step), early)
    for node in graph.node:
        for i, each in enumerate(node.input):
            if each == pick.output[0]:
                node.input[i] = pick.input[0]
    graph.node.remove(pick)


def _is_pick(node: onnx.NodeProto, graph: onnx.GraphProto, ranks: dict[str, int]) -> bool:
    """Whether it takes the first or the last token of hidden states."""
    from onnx import numpy_helper

    if node.op_type != "Gather" or _attribute(node, "axis") != 1 or ranks.get(node.input[0]) != 3:
        return False
    index = [each for each in graph.initializer if each.name == node.input[1] and not each.dims]
    return bool(index) and int(numpy_helper.to_array(index[0])) in (0, -1)


def _is_by_token(node: onnx.NodeProto, ranks: dict[str, int]) -> bool:
    given = [ranks.get(each) for each in node.input]
    if len(node.output) != 1 or ranks.get(node.output[0]) != 3:
        return False
    if node.op_type == "LayerNormalization":
        return _attribute(node, "axis") in (None, -1)
    if node.op_type == "MatMul":
        return given == [3, 2]
    # What has two dimensions might be (tokens, width).
    return node.op_type in _BY_TOKEN and all(rank in (0, 1, 3) for rank in given)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def _ranks(graph: onnx.GraphProto) -> dict[str, int]:
    """How many dimensions each value has, where the exporter noted it."""
    ranks = {each.name: len(each.dims) for each in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    return ranks
