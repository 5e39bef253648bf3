"""How large a training is, and about how long an epoch takes on this machine.

Imports `features`, `model` and torch; `check` calls it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.features import Features, Padding
from ftkit.task import Task

if TYPE_CHECKING:
    from ftkit.model.module import TextModel

_BYTES = 16  # a parameter in fp32: its weight, its gradient, and AdamW's two moments
LARGEST = 1 << 30
"""Bytes of weights above which no step is tried."""

_STEPS = 2
_TRIED = 8  # rows of the batch that is tried


@dataclass(frozen=True)
class Estimate:
    """What a training takes; None for what was not looked at."""

    rows: int
    """Of train."""
    batch_size: int
    steps: int
    """Of an epoch."""
    tokens: int
    """Of an epoch, padding left out."""
    token_bytes: int
    """What the tokenised rows of train hold in memory."""
    parameters: int | None = None
    trainable: int | None = None
    state_bytes: int | None = None
    """Weights, gradients and AdamW's moments in fp32; what a batch holds comes on top."""
    seconds: float | None = None
    """About, of an epoch in fp32."""
    device: str | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return asdict(self)


def estimate_size(features: Features, batch_size: int, **known: Any) -> Estimate:
    """The size of a training on these rows; `known` are further fields, which go first."""
    arrays = [*features.tokens.values(), *features.rows.values()]
    counted = {
        "rows": len(features),
        "steps": -(-len(features) // batch_size),
        "tokens": int(features.window_offsets[-1]),
        "token_bytes": sum(array.nbytes for array in arrays),
    }
    return Estimate(batch_size=batch_size, **{**counted, **known})


def count_parameters(model: Any) -> dict[str, int]:
    """Parameters of a torch module, those that are trained, and the bytes that training keeps."""
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fixed = total - trainable
    return {
        "parameters": total,
        "trainable": trainable,
        "state_bytes": trainable * _BYTES + fixed * 4,
    }


def time_training(
    features: Features, model: TextModel, task: Task, padding: Padding
) -> tuple[float | None, str]:
    """Seconds of an epoch, from steps on a batch of rows of middle length, and the device.

    Its weights stay as they are, and so does what is drawn after it. None where the device has
    not the memory for it.
    """
    import torch

    from ftkit.inference.engine import as_tensors
    from ftkit.model.device import default_device, is_out_of_memory

    device = default_device()
    order = np.argsort(features.lengths, kind="stable")
    middle = max(0, len(order) // 2 - _TRIED // 2)
    rows = order[middle : middle + _TRIED]
    inputs, targets = task.collate(features.fill(rows, padding), np.random.default_rng(0))
    seconds = []
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model = model.to(device).train()
            batch = as_tensors(inputs, device)
            wanted = torch.from_numpy(targets).to(device)
            for _ in range(1 + _STEPS):
                start = time.perf_counter()
                torch.autograd.backward(task.loss(model(batch), wanted))
                model.zero_grad()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None, str(device)
    # The first step also makes what others find made.
    a_token = min(seconds[1:]) / max(1, int(inputs["attention_mask"].sum()))
    return a_token * int(features.window_offsets[-1]), str(device)


def weigh(name: str) -> int | None:
    """Bytes of a checkpoint's weights on this machine; None where they are not here."""
    from huggingface_hub import try_to_load_from_cache

    from ftkit.model.checkpoint import MINILM, packaged_minilm

    folder = packaged_minilm() if name == "minilm" else str(Path(name).expanduser())
    if folder is not None and Path(folder).is_dir():
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    hub_id = MINILM if name == "minilm" else name
    found = try_to_load_from_cache(hub_id, "model.safetensors")
    return Path(found).stat().st_size if isinstance(found, str) else None
