"""The device to compute on, and the precision it computes in. Imports torch and errors only."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal, get_args

import torch

from ftkit.errors import SettingError, first_line

Precision = Literal["auto", "fp32", "fp16", "bf16"]


def default_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    if torch.accelerator.is_available():
        return torch.device(torch.accelerator.current_accelerator() or "cpu")
    return torch.device("cpu")


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; of None the default one.

    Raises SettingError for one that torch does not know, or that this machine does not have.
    """
    if device is None:
        return default_device()
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:
        raise SettingError(
            f'the device "{device}" cannot be used ({first_line(error)})',
            remedy="Leave it out for the best there is, or give another one, such as cpu.",
        ) from None
    return found


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, rather than imitating it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    flags = set(cpuinfo.read_text(errors="replace").split())
    is_arm = platform.machine() in ("aarch64", "arm64")
    return bool(flags & ({"bf16"} if is_arm else {"avx512_bf16", "amx_bf16"}))


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type that matrix products are computed in; None is float32 throughout.

    "auto" is bf16 where the device computes in it, fp16 on an older CUDA GPU, else fp32.
    Raises SettingError where the device cannot do what is asked for.
    """
    if precision not in get_args(Precision):
        raise SettingError(
            f"precision is {precision!r}", remedy=f"Use one of {', '.join(get_args(Precision))}."
        )
    if precision == "auto":
        precision = "bf16" if computes_in_bf16(device) else "fp32"
        if precision == "fp32" and device.type == "cuda":
            precision = "fp16"
    if precision == "bf16" and not computes_in_bf16(device):
        raise SettingError(
            f"this {device.type} device has no bf16 instructions",
            remedy='Use precision="fp32", or "auto" for the best that it can do.',
        )
    if precision == "fp16" and device.type != "cuda":
        raise SettingError(
            f"fp16 needs a CUDA GPU, and the model is on the {device.type} device",
            remedy='Use precision="auto", which takes bf16 or fp32 there.',
        )
    return {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def precision_name(dtype: torch.dtype | None) -> str:
    """The name of what `autocast_dtype` gives."""
    names = {None: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    return names[dtype]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had no memory left; a CPU and a Mac's GPU say so in words alone."""
    words = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(each in str(error) for each in words)
    )
