"""Batches as tensors, as a loader hands them to the model."""

import torch


def as_tensors(batch):
    """The inputs and the targets that a task's `collate` gave."""
    inputs, targets = batch
    return {name: torch.from_numpy(values) for name, values in inputs.items()}, torch.from_numpy(
        targets
    )
