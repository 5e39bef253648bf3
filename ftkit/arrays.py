"""Arrays and tensors: one as the other, and the few functions of logits that tasks share.

Imports numpy, and torch where it is handed a tensor; everything may import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

ArrayLike: TypeAlias = "np.ndarray | Tensor"
"""An array, or a tensor on any device."""


def as_array(values: ArrayLike) -> np.ndarray:
    """A tensor, wherever it is, as an array; bfloat16 and float16 become float32."""
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    array: np.ndarray = (values.float() if values.is_floating_point() else values).numpy()
    return array


def namespace(values: ArrayLike) -> Any:
    """Numpy for an array, torch for a tensor: where `where`, `stack` and their like are found."""
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(-1, keepdims=True)
    return probabilities


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """A probability for each logit."""
    small = np.exp(-np.abs(logits))
    probabilities: np.ndarray = np.where(logits >= 0, 1, small) / (1 + small)
    return probabilities
