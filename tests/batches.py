"""Batches as tensors, as a loader hands them to the model, and as arrays, as ONNX Runtime does."""

import numpy as np
import torch


def as_tensors(batch):
    """The inputs and the targets that a task's `collate` gave."""
    inputs, targets = batch
    tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
    return tensors, torch.from_numpy(targets)


def merged(task, logits, inputs, tolerance=0.0):
    """What a task merges of tensors, which is to be what it merges of arrays."""
    outputs = task.merge(logits, inputs)
    arrays = {name: values.numpy() for name, values in inputs.items()}
    found = task.merge(logits.detach().numpy(), arrays)
    wanted = outputs.detach().numpy()
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)
    return outputs
