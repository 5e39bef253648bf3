"""Graphs in which one token is picked early: the same outputs, from fewer tokens."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ftkit.inference.onnx_graph import pick_early

WIDTH = 4
RNG = np.random.default_rng(0)


def weight(name, *shape):
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)


def graph_of(nodes, *, outputs=("logits",), more=()):
    """A graph over hidden states (windows, tokens, width), each value's shape noted."""
    weights = [
        weight("w", WIDTH, WIDTH),
        weight("b", WIDTH),
        weight("head", WIDTH, 2),
        weight("by_token", 6, WIDTH),
        numpy_helper.from_array(np.array(0), "first"),
        numpy_helper.from_array(np.array(1), "second"),
        *more,
    ]
    hidden = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", 6, WIDTH])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", [hidden], ends, initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    hidden = np.random.default_rng(1).normal(size=(3, 6, WIDTH)).astype(np.float32)
    return session.run(None, {"hidden": hidden})


def node(operator, *values, **attributes):
    return helper.make_node(operator, values[:-1], [values[-1]], name=values[-1], **attributes)


PICK = node("Gather", "normed", "first", "picked", axis=1)
HEAD = node("MatMul", "picked", "head", "logits")
# A residual around a product, as behind a layer's attention.
LAYER = [
    node("Softmax", "hidden", "mixed", axis=1),
    node("MatMul", "mixed", "w", "product"),
    node("Add", "product", "b", "biased"),
    node("Add", "biased", "mixed", "sum"),
    node("LayerNormalization", "sum", "b", "b", "normed", axis=-1),
]
CASES = {
    "up to where tokens mix": ([*LAYER, PICK, HEAD], ("logits",), 4),
    "the last token": (
        [*LAYER, node("Gather", "normed", "last", "picked", axis=1), HEAD],
        ("logits",),
        4,
    ),
    "another token": (
        [*LAYER, node("Gather", "normed", "second", "picked", axis=1), HEAD],
        None,
        0,
    ),
    "what is read elsewhere too": ([*LAYER, PICK, HEAD], ("logits", "biased"), 2),
    "all tokens are read": ([*LAYER, PICK, HEAD], ("logits", "normed"), 0),
    "another axis": ([*LAYER, node("Gather", "normed", "first", "picked", axis=2)], ("picked",), 0),
    "what differs from token to token": (
        [node("Mul", "hidden", "by_token", "normed"), PICK, HEAD],
        ("logits",),
        0,
    ),
}


@pytest.mark.unit
@pytest.mark.parametrize(("nodes", "outputs", "moved"), CASES.values(), ids=CASES)
def test_outputs_stay_and_steps_shrink(nodes, outputs, moved):
    last = numpy_helper.from_array(np.array(-1), "last")
    model = graph_of(nodes, outputs=outputs or ("logits",), more=[last])
    before = run(model)
    assert pick_early(model.graph) == moved
    onnx.checker.check_model(model)
    for one, other in zip(run(model), before, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    order = [each.op_type for each in model.graph.node]
    if moved == 4:
        assert order.index("Gather") < order.index("MatMul")
        assert order.count("Gather") == 1
