"""An ONNX model -> one with int8 weights, as far as the validation score allows.

ONNX Runtime's dynamic quantisation: weights with a scale for each column, activations quantised as
they come, by one scale for all of a batch (ONNX's DynamicQuantizeLinear). Where that costs too much
of the score, the products that disturb the outputs most are left in float32, twice as many each
time. `onnx` calls it.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ftkit.errors import SettingError
from ftkit.features import prepare_rows
from ftkit.inference.predictor import Evaluation, Predictor, slice_columns
from ftkit.task import falls

if TYPE_CHECKING:
    import onnx

MODEL_SCOPE = "hf_model."
"""What the paths of an exported model's modules begin with."""
_PROBED_ROWS = 64  # rows whose outputs say how much a product disturbs
_QUANTISED = ("MatMul", "Gemm", "Gather")


def quantise(
    full: Path,
    small: Path,
    open_small: Callable[[], Predictor],
    original: Predictor,
    wanted: Evaluation | None,
    rows: Any,
    tolerance: float,
) -> tuple[str, ...]:
    """Write the model `full` to `small` in int8; the names of the products left in float32.

    `open_small` gives the predictor that answers from `small`. On the `rows`, where there are any,
    its main score is at most `tolerance` worse than what the `original` scores there (`wanted`),
    of an error such as MAE that share of it.

    Raises SettingError where that cannot be had.
    """
    products = _read_products(full)
    _write(full, small)
    if wanted is None:
        return ()
    if _cost(original, wanted, open_small().evaluate(rows)) <= tolerance:
        return ()
    ranked = _rank(full, small, open_small, original, rows, products)
    for kept in _doubling(len(ranked)):
        left = ranked[:kept]
        _write(full, small, nodes_to_exclude=[products[name] for name in left])
        if _cost(original, wanted, open_small().evaluate(rows)) <= tolerance:
            return tuple(left)
    raise SettingError(
        f"int8 costs more than {tolerance:g} of {original.task.metric_names[0]}, whatever is left "
        "in fp32",
        remedy="Export without int8, or raise the tolerance.",
    )


def _doubling(most: int) -> Iterator[int]:
    kept = 1
    while kept < most:
        yield kept
        kept *= 2


def _cost(original: Predictor, wanted: Evaluation, found: Evaluation) -> float:
    """How much worse the main score is."""
    name = original.task.metric_names[0]
    if falls(name):
        return found.scores[name] / max(wanted.scores[name], 1e-12) - 1
    return wanted.scores[name] - found.scores[name]


def _read_products(full: Path) -> dict[str, str]:
    """Nodes by the names of their modules, of all that can be quantised."""
    import onnx

    graph = onnx.load(full, load_external_data=False).graph
    weights = {each.name for each in graph.initializer if len(each.dims) == 2}
    nodes = [
        node
        for node in graph.node
        if node.op_type in _QUANTISED and weights.intersection(node.input)
    ]
    return {_module_of(node): node.name for node in nodes}


def _module_of(node: onnx.NodeProto) -> str:
    """The path of the torch module that a node comes from."""
    notes = {each.key: each.value for each in node.metadata_props}
    scopes = notes.get("pkg.torch.onnx.name_scopes", "").strip("[]").split(", ")
    paths = [scope.strip("'\"") for scope in scopes]
    inner = [path.removeprefix(MODEL_SCOPE) for path in paths if path.startswith(MODEL_SCOPE)]
    return inner[-1] if inner else str(node.name)


def _write(full: Path, small: Path, **options: Any) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            full,
            small,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            **options,
        )


def _rank(
    full: Path,
    small: Path,
    open_small: Callable[[], Predictor],
    original: Predictor,
    rows: Any,
    products: dict[str, str],
) -> list[str]:
    """Names of the products, first the one that alone in int8 moves the outputs furthest."""
    wanted = _outputs(original, rows)
    moved = {}
    for name, node in tqdm(products.items(), "what int8 disturbs", disable=None, leave=False):
        _write(full, small, nodes_to_quantize=[node])
        found = _outputs(open_small(), rows)
        moved[name] = sum(float(np.abs(a - b).mean()) for a, b in zip(found, wanted, strict=True))
    return sorted(products, key=lambda name: -moved[name])


def _outputs(predictor: Predictor, rows: Any) -> list[np.ndarray]:
    """Outputs of the first rows, batch by batch."""
    columns = slice_columns(rows, 0, _PROBED_ROWS)
    features = prepare_rows(columns, predictor.task, predictor.tokenizer, predictor.limit)
    return [outputs for _, outputs, _ in predictor.run(features, batch_size=32)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporter and quantiser print."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
