"""A model that was exported to ONNX -> its outputs. Needs onnxruntime and numpy, and no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.errors import CheckpointError, SettingError, first_line, quoted
from ftkit.model.trust import EXPORTED
from ftkit.task import Arrays, Task

if TYPE_CHECKING:
    import onnxruntime

MODEL_FILE, DATA_FILE, EXPORT_FILE = EXPORTED
"""The graph; the weights where they are too many to stand in it; what the export is and scores."""
_WINDOWS_AT_ONCE = 32
# On CPUs the fused step is slower than its two parts: 76 and 68 µs a token of MiniLM in int8.
_DISABLED = ["SkipLayerNormFusion"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxEngine:
    """An ONNX Runtime session over `model.onnx`: logits (windows, ...) from arrays of tokens."""

    def __init__(self, file: Path, device: str | None = None) -> None:
        """`device` is "cpu", or "cuda" where onnxruntime-gpu is installed; None takes the best.

        Raises CheckpointError for a file that ONNX Runtime does not open, SettingError for a
        device that it does not have.
        """
        self._session = _open(file, device)
        self._inputs = [each.name for each in self._session.get_inputs()]

    def answer(self, inputs: Arrays, task: Task) -> np.ndarray:
        """As `Engine.answer`."""
        ids = inputs["input_ids"]
        # A long row may have hundreds of windows: a few at a time do.
        step = _WINDOWS_AT_ONCE if "windows" in inputs else len(ids)
        logits = [
            self.logits({name: values[i : i + step] for name, values in inputs.items()})
            for i in range(0, len(ids), step)
        ]
        outputs: np.ndarray = task.merge(np.concatenate(logits), inputs)
        return outputs

    def logits(self, inputs: Arrays) -> np.ndarray:
        """Logits (windows, ...) of arrays (windows, tokens)."""
        # Rows without a second text come without token types.
        given = {
            name: inputs.get(name, np.zeros_like(inputs["input_ids"])) for name in self._inputs
        }
        logits: np.ndarray = self._session.run(None, given)[0]
        return logits


def _open(file: Path, device: str | None) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError:
        raise SettingError(
            f'"{file.parent}" is an exported model, and onnxruntime is not installed',
            remedy='Install it: pip install "ftkit[onnx]".',
        ) from None
    have = onnxruntime.get_available_providers()
    wanted = "cuda" if device is None and _PROVIDERS["cuda"] in have else (device or "cpu")
    kind = str(wanted).partition(":")[0]
    if _PROVIDERS.get(kind) not in have:
        known = [name for name, provider in _PROVIDERS.items() if provider in have]
        raise SettingError(
            f'this ONNX Runtime has no device "{wanted}"', remedy=f"It has {quoted(known)}."
        )
    options: Any = onnxruntime.SessionOptions()
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        options.intra_op_num_threads = int(threads)
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            file, options, providers=[_PROVIDERS[kind]], disabled_optimizers=_DISABLED
        )
    except Exception as error:
        raise CheckpointError(
            f'the {file.name} of "{file.parent}" cannot be opened ({first_line(error)})',
            remedy="Export the model again.",
        ) from None
