"""Integrated gradients (Sundararajan et al. 2017) of a model's embeddings, through captum.

Follows the model from the row with its words hidden to the row as it is, and shares the
difference of its outputs out over the words. Imports torch and captum where it computes;
`explain` calls it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.errors import DataError, FtkitWarning
from ftkit.inference.engine import as_tensors
from ftkit.inference.hiding import HiddenScores, WordedRow

if TYPE_CHECKING:
    from torch import Tensor, nn

# Steps on the way from the hidden row to the row: more of them until the gap is small.
_STEPS = (32, 64, 128, 256)
_SMALL_GAP = 0.02  # of the sum of all attributions, their signs left out
_MOST_WINDOWS = 16  # with gradients at once


def copy_to_hook(model: Any, row: WordedRow) -> Any:
    """A copy of the model to put hooks on, its weights the same in memory, so that other threads
    can go on asking the model; None where the model does not look up all tokens of the row at
    once in one table of embeddings.
    """
    from torch import nn

    weights = {
        id(each): nn.Parameter(each.detach(), requires_grad=False) for each in model.parameters()
    }
    clone = copy.deepcopy(model, weights).eval()
    shapes: list[tuple[int, ...]] = []
    hook = _embeddings(clone).register_forward_hook(
        lambda layer, inputs, found: shapes.append(tuple(found.shape))
    )
    inputs, owners = _inputs(clone, row, 1)
    clone.answer(inputs)
    hook.remove()
    # Some models pad what they are given to a length of their own.
    windows, tokens = owners.shape
    is_plain = len(shapes) == 1 and shapes[0][0] == windows and shapes[0][1] >= tokens
    return clone if is_plain else None


def integrate(
    model: Any,
    row: WordedRow,
    score: Callable[[Any], Any],
    n_steps: int | None,
    batch_size: int,
) -> HiddenScores:
    """Scores of the words, which together are the difference of the outputs, but for the gap.

    `model` is what `copy_to_hook` gave; `score` makes (rows,) of its outputs (rows, ...).
    """
    import torch

    inputs, owners = _inputs(model, row, 1)
    ids = inputs["input_ids"]
    if len(ids) > _MOST_WINDOWS:
        raise DataError(
            f"the row fills {len(ids)} windows, and {_MOST_WINDOWS} at most are explained at once",
            remedy="Give a part of it.",
        )
    hidden = torch.where(torch.from_numpy(owners).to(ids.device) >= 0, row.hidden_id, ids)
    batches = {1: inputs}

    def outputs(ids: Tensor) -> Tensor:
        """(rows,) from (rows * windows, tokens)."""
        count = len(ids) // len(owners)
        if count not in batches:
            batches[count], _ = _inputs(model, row, count)
        found: Tensor = score(model({**batches[count], "input_ids": ids}))
        return found

    with torch.inference_mode(False), torch.enable_grad():
        output, hidden_output = float(outputs(ids)), _output_from(model, outputs, ids, hidden)
        for steps in [n_steps] if n_steps else _STEPS:
            attributions = _attribute(outputs, _embeddings(model), ids, hidden, steps, batch_size)
            gap = float(attributions.sum()) - (output - hidden_output)
            if is_small := abs(gap) <= _SMALL_GAP * np.abs(attributions).sum():
                break
    if not is_small:
        warnings.warn(
            f"after {steps} steps the scores together miss the difference of the outputs by "
            f"{abs(gap):.3g}; more n_steps may come closer",
            FtkitWarning,
            stacklevel=4,
        )
    is_word = owners >= 0
    # What a model pads behind the row has no attributions.
    attributions = attributions[:, : owners.shape[1]]
    scores = np.bincount(owners[is_word], attributions[is_word], len(row.words))
    return HiddenScores(scores, output, hidden_output, gap)


def _output_from(
    model: Any, outputs: Callable[[Tensor], Tensor], ids: Tensor, hidden: Tensor
) -> float:
    """The output of `ids` whose embeddings are those of `hidden`: where the path begins.

    It is not that of `hidden` where a model reads more from the ids, as decoders do that look for
    the last token which is no padding.
    """
    table, kept = _embeddings(model), []
    hook = table.register_forward_hook(lambda layer, inputs, found: kept.append(found))
    outputs(hidden)
    hook.remove()
    hook = table.register_forward_hook(lambda layer, inputs, found: kept[0])
    found = float(outputs(ids))
    hook.remove()
    return found


def _attribute(
    outputs: Callable[[Tensor], Tensor],
    embeddings: nn.Module,
    ids: Tensor,
    hidden: Tensor,
    n_steps: int,
    batch_size: int,
) -> np.ndarray:
    """Integrated gradients of each token, summed over its embedding: (windows, tokens)."""
    from captum.attr import LayerIntegratedGradients

    found: Tensor = LayerIntegratedGradients(outputs, embeddings).attribute(
        ids, hidden, n_steps=n_steps, internal_batch_size=max(batch_size, len(ids))
    )
    summed: np.ndarray = found.detach().cpu().double().sum(-1).numpy()
    return summed


def _embeddings(model: Any) -> nn.Module:
    layer: nn.Module = model.hf_model.get_input_embeddings()
    return layer


def _inputs(model: Any, row: WordedRow, count: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """Inputs of as many copies of the row, and the words of the tokens (windows, tokens)."""
    features = row.copies(count)
    # Padding is filled in as 0, and no word is -1.
    features.tokens["owner"] = np.tile(row.owners + 1, count)
    filled = features.fill(np.arange(count), row.padding)
    owners = filled.pop("owner") - 1
    inputs, _ = row.task.collate(filled)
    return as_tensors(inputs, next(model.parameters()).device), owners
