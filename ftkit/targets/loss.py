"""The loss of targets that stand for tokens or words, some of which count for nothing.

Pure functions over tensors. Imports `features` and `task`; the tasks call it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftkit.features import IGNORED
from ftkit.task import Reduction

if TYPE_CHECKING:
    from torch import Tensor


def token_loss(
    outputs: Tensor, targets: Tensor, reduction: Reduction, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of logits (rows, tokens, classes) over the targets that are not IGNORED."""
    import torch.nn.functional as F

    losses = F.cross_entropy(
        outputs.flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return mean_of_counted(losses.view(targets.shape), targets != IGNORED, reduction)


def count_targets(targets: Tensor) -> Tensor:
    """How many targets are not IGNORED: ()."""
    return (targets != IGNORED).sum()


def mean_of_counted(losses: Tensor, is_counted: Tensor, reduction: Reduction) -> Tensor:
    """The mean over the counted ones of losses (rows, ...): of all, or of each row for "none".

    Where none is counted it is 0, and still has a gradient.
    """
    losses = losses * is_counted
    if reduction == "mean":
        return losses.sum() / is_counted.sum().clamp(min=1)
    return losses.sum(1) / is_counted.sum(1).clamp(min=1)
