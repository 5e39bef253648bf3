"""The nn.Module that a Learner trains: a batch dict in, logits out. Imports torch and task only."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ftkit.task import Inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WINDOWS_AT_ONCE = 32


class TextModel(nn.Module):
    """A Hugging Face model that takes a batch as one dict and gives its logits in float32."""

    def __init__(self, hf_model: PreTrainedModel) -> None:
        """`hf_model` has a head whose output has `logits`."""
        super().__init__()
        self.hf_model = hf_model
        self.autocast_dtype: torch.dtype | None = None
        self._arguments = frozenset(inspect.signature(hf_model.forward).parameters)

    def forward(self, batch: Inputs) -> Tensor:
        """Logits: (rows, ...) where "windows" counts the windows of each row, else (windows, ...).

        Keys that the model does not know, such as "row", are left out.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name in self._arguments}
        if "windows" not in batch:
            return self._logits(inputs)
        if torch.is_grad_enabled():
            return mean_of_windows(self._logits(inputs), batch["windows"])
        # A long row may have hundreds of windows: without gradients, a few at a time do.
        parts = range(0, len(batch["input_ids"]), _WINDOWS_AT_ONCE)
        logits = [
            self._logits({name: each[i : i + _WINDOWS_AT_ONCE] for name, each in inputs.items()})
            for i in parts
        ]
        return mean_of_windows(torch.cat(logits), batch["windows"])

    def _logits(self, inputs: Inputs) -> Tensor:
        with self._autocast(inputs["input_ids"].device):
            # The logits are taken out here: autocast cannot convert every ModelOutput.
            logits: Tensor = self.hf_model(**inputs).logits
        return logits.float()

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast_dtype)


def mean_of_windows(logits: Tensor, windows: Tensor) -> Tensor:
    """Logits (rows, ...) from logits (windows, ...), where `windows` (rows,) counts each row's."""
    row = torch.repeat_interleave(torch.arange(len(windows), device=logits.device), windows)
    total = logits.new_zeros(len(windows), *logits.shape[1:]).index_add(0, row, logits)
    return total / windows.view(-1, *[1] * (logits.ndim - 1)).to(total.dtype)
