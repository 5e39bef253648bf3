"""oneDNN, which torch has inside for CPUs: where it is faster, and what it may keep.

Imports torch only.

- torch computes linear layers in float32 by MKL, which uses half the width of an AMD processor's
  AVX-512 units. oneDNN uses all of it: 0.45 of the time on a Zen 5, for layers that are not tiny.
- It makes code for each shape of a product and keeps it for 1,024 of them, twice. Batches of texts
  have hundreds of shapes, and a fine-tune of some minutes grew by half a gigabyte.

`recipes/bench/RESULTS.md` has the figures of both.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LEAST = 1_500_000  # multiplications from which on oneDNN is the faster one
_KEPT_SHAPES = "64"  # training took no longer with 32
_CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's, and torch's


def keep_few_shapes() -> None:
    """Have oneDNN keep its code for the last 64 shapes, unless the environment says otherwise.

    It reads that when it first computes: a process that has already done so goes on as it was.
    """
    for name in _CAPACITIES:
        os.environ.setdefault(name, _KEPT_SHAPES)


def fast_linear(model: PreTrainedModel) -> AbstractContextManager[object]:
    """Within this context the calling thread computes float32 layers by oneDNN, where it is faster.

    For answers only: it has no gradients. Models whose code is compiled are left alone.
    """
    is_plain = model.device.type == "cpu" and model._compiled_call_impl is None
    return _ByOneDnn() if is_plain and _is_faster() else nullcontext()


class _ByOneDnn(TorchFunctionMode):
    """Takes over what torch is asked for: `nn.functional.linear` of much in float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        is_plain = func is nn.functional.linear and not (kwargs or types)  # types: of subclasses
        if is_plain and _is_for_onednn(*args):
            return _linear(*args)
        return func(*args, **(kwargs or {}))


def _is_for_onednn(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return (
        hidden.numel() * len(weight) >= _LEAST
        and hidden.dtype == weight.dtype == torch.float32
        and hidden.device == weight.device == torch.device("cpu")
        and weight.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return found


@cache
def _is_faster() -> bool:
    """On AMD's processors with AVX-512, if this torch has oneDNN's layer, which is not public."""
    by_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not (by_mkl and torch.backends.cpu.get_cpu_capability() == "AVX512" and _is_amd()):
        return False
    hidden, weight = torch.arange(8.0).view(2, 4), torch.arange(12.0).view(3, 4)
    try:
        with torch.inference_mode():
            return torch.equal(_linear(hidden, weight), hidden @ weight.T)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else platform.processor()
    return "AuthenticAMD" in text
