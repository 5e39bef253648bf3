"""What computes a model's outputs: torch, from a bundle, or ONNX Runtime, from an exported one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ftkit.arrays import as_array
from ftkit.errors import CheckpointError, FtkitError, SettingError, first_line
from ftkit.task import Arrays, Inputs, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ftkit.model.module import TextModel


class Engine(Protocol):
    """A model that answers batches of arrays; threads may share it."""

    def answer(self, inputs: Arrays, task: Task) -> np.ndarray:
        """Outputs of the rows, or generated token ids (rows, tokens), on the CPU.

        `task` is the model's own, perhaps with other settings.
        """
        ...


class TorchEngine:
    """A model of transformers on a device."""

    def __init__(self, model: TextModel, device: torch.device) -> None:
        self.model, self.device = model.to(device).eval(), device

    def answer(self, inputs: Arrays, task: Task) -> np.ndarray:
        """As `Engine.answer`.

        Raises SettingError where the batch does not fit into memory, CheckpointError where the
        model opens and its settings let it answer nothing.
        """
        import torch

        from ftkit.model.device import is_out_of_memory

        try:
            with torch.inference_mode():
                return as_array(self.model.answer(as_tensors(inputs, self.device), task))
        except FtkitError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                windows, tokens = inputs["input_ids"].shape
                raise SettingError(
                    f"{windows:,} windows of {tokens:,} tokens do not fit into the memory of the "
                    f"{self.device.type} device ({first_line(error)})",
                    remedy="Give a smaller batch_size, or a shorter max_length.",
                ) from error
            raise CheckpointError(
                f"the model cannot answer ({type(error).__name__}: {first_line(error)})",
                remedy="Take its config.json and generation_config.json from the model's origin "
                "again.",
            ) from error


def as_tensors(inputs: Arrays, device: torch.device) -> Inputs:
    """A batch of arrays on a device."""
    import torch

    return {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}
