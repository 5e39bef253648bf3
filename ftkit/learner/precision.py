"""Mixed precision that also works on a CPU: fastai's callback is hard-wired to CUDA."""

from __future__ import annotations

import torch
from torch.amp.grad_scaler import GradScaler

from ftkit._fastai import L, MixedPrecision
from ftkit.model.device import Precision, autocast_dtype


class ChosenPrecision(MixedPrecision):
    """Compute in fp32, fp16 (with a GradScaler) or bf16, on the device that the model is on.

    The model enters autocast around its own forward, so that an exception in a batch cannot
    leave it switched on, and losses are computed in fp32. The scaler's part is fastai's.
    """

    def __init__(self, precision: Precision = "auto") -> None:
        """`precision` as in `ftkit.model.device.autocast_dtype`."""
        super().__init__()
        self.precision = precision

    @property
    def name(self) -> str:
        """The name that fastai knows it by, `learn.mixed_precision`."""
        return "mixed_precision"

    def before_fit(self) -> None:
        """Choose for the model's device; raises SettingError where it cannot."""
        device = next(self.learn.model.parameters()).device
        dtype = autocast_dtype(self.precision, device)
        self.learn.model.autocast_dtype = dtype
        if self.learn.lock.locked():
            return  # a validation, perhaps within a fit, which keeps its scaler
        self.learn.scaler = GradScaler(device.type, enabled=dtype == torch.float16)
        self.scales = L()

    def before_batch(self) -> None:
        """The model itself enters autocast."""

    def after_pred(self) -> None:
        """The model's logits are float32 already."""

    def after_loss(self) -> None:
        """The model itself left autocast."""

    def after_fit(self) -> None:
        """Drop the scaler; the model keeps computing in the precision it was trained in."""
        if not self.learn.lock.locked():
            self.learn.scaler, self.scales = None, None
