"""A GPU in name only: its tensors say "cuda:0", have their numbers on the CPU, and meet no others.

What a GPU would refuse, it refuses: a tensor of the CPU beside one of its own, `numpy()` without
`cpu()`. So a test without a GPU sees that all of a training, or of an answer, stands where the
model does, and sees that the numbers are those of the CPU, bit for bit.

It is a subclass of tensors with a dispatch mode, as torch's own FakeTensor is, whose place it
takes: else `.to("cuda")` would ask for a driver. Autograd believes its tensors to be the CPU's, so
in a backward pass nothing is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fastai.torch_core
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

_GPU, _CPU = torch.device("cuda:0"), torch.device("cpu")
_aten = torch.ops.aten
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


class OnGpu(Tensor):
    """A tensor of the pretended GPU; `held` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made: OnGpu = Tensor._make_subclass(cls, held.detach(), False)
        made.held = held
        return made

    device = property(lambda self: _GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._leave(None)

    def cuda(self, *args: Any, **kwargs: Any) -> OnGpu:
        return self

    def to(self, *args: Any, copy: bool = False, **kwargs: Any) -> Any:
        if copy:
            return self.clone().to(*args, **kwargs)
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype)
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and device.type != "cuda":
            return self._leave(dtype)
        return self if dtype in (None, self.dtype) else super().to(dtype)

    def _leave(self, dtype: torch.dtype | None) -> Tensor:
        _leaving.append(self)
        try:
            return _aten._to_copy.default(self, device=_CPU, dtype=dtype)
        finally:
            _leaving.pop()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self, nn.Parameter):
            return nn.Parameter, (self.held.detach(), self.requires_grad)
        return self.held.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Any:
        made = OnGpu(copy.deepcopy(self.held.detach(), memo))
        kind = nn.Parameter if isinstance(self, nn.Parameter) else Tensor.requires_grad_
        memo[id(self)] = kind(made, self.requires_grad)
        return memo[id(self)]

    def __repr__(self, **kwargs: Any) -> str:
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


_leaving: list[OnGpu] = []


class _Mode(TorchDispatchMode):
    _mode_key = torch._C._TorchDispatchModeKey.FAKE
    # What others read off FakeTensorMode.
    shape_env, static_shapes, allow_meta = None, True, True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """What torch's operator gives, computed on the CPU, and standing where a GPU would have it."""
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    ours = [each for each in given if isinstance(each, OnGpu)]
    held_args, held_kwargs = tree_map(_held, (args, kwargs))
    goes_to = held_kwargs.get("device")
    if _is_gpu(goes_to):
        held_kwargs["device"] = _CPU
    if func is _aten._to_copy.default:
        # Autograd asks for the CPU when it changes the type of a gradient of ours.
        stays = not _leaving if ours else _is_gpu(goes_to)
        made = func(*held_args, **held_kwargs)
        return OnGpu(made) if stays else made
    if not ours or func in (_aten._local_scalar_dense.default, _aten.equal.default):
        made = func(*held_args, **held_kwargs)
        return tree_map(_on_gpu, made) if _is_gpu(goes_to) else made
    if func is _aten.copy_.default:
        held_args[0].copy_(held_args[1])
        return args[0]
    if torch._C._current_graph_task_id() == -1:
        _refuse_strangers(func, args, given)
    made = tree_map(_on_gpu, func(*held_args, **held_kwargs))
    if func is _aten.detach.default or goes_to is not None:
        return made
    return return_and_correct_aliasing(func, args, kwargs, made)


def _refuse_strangers(func: Any, args: Any, given: list[Tensor]) -> None:
    """Raise as a GPU does where a tensor of the CPU stands among its own; one number may."""
    strangers = [each for each in given if not isinstance(each, OnGpu) and each.dim()]
    if func in _INDEXING and isinstance(args[0], OnGpu):
        # Places may be the CPU's, values may not.
        values = args[2] if len(args) > 2 else None
        strangers = [each for each in strangers if each is values]
    if strangers:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")


def _held(each: Any) -> Any:
    return each.held if isinstance(each, OnGpu) else each


def _on_gpu(each: Any) -> Any:
    return OnGpu(each) if isinstance(each, Tensor) and not isinstance(each, OnGpu) else each


def _moved(each: Tensor) -> Tensor:
    ours = OnGpu(each.detach().clone())
    return nn.Parameter(ours, each.requires_grad) if isinstance(each, nn.Parameter) else ours


@contextmanager
def pretended_gpu(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU that computes in bf16, the default device as long as this lasts."""
    _say_there_is_one(patch)
    _keep_tensors_ours(patch)
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Mode():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _say_there_is_one(patch: pytest.MonkeyPatch) -> None:
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (9, 0),
        "is_bf16_supported": True,
        "_lazy_init": None,
        "synchronize": None,
        "manual_seed_all": None,
        "set_rng_state_all": None,
        "get_rng_state_all": [],
    }
    for name, answer in answers.items():
        patch.setattr(torch.cuda, name, lambda *args, _answer=answer, **kwargs: _answer)
    patch.setattr(torch.accelerator, "is_available", lambda: True)
    patch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda"))


def _keep_tensors_ours(patch: pytest.MonkeyPatch) -> None:
    """Lead torch and fastai past what a subclass of tensors does not get through."""
    attend, move, load = F.scaled_dot_product_attention, nn.Module.to, torch.load
    keep_type, autocast = fastai.torch_core.retain_type, torch.autocast

    def attention(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("is_causal") and isinstance(query, OnGpu):
            mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
            kwargs |= {"attn_mask": mask.to(query.device), "is_causal": False}
        return attend(query, key, *args, **kwargs)

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if not args or isinstance(args[0], torch.dtype) or not _is_gpu(args[0]):
            return move(module, *args, **kwargs)
        # What is shared stays shared, and what is there already is not copied: else optimizers
        # would lose their parameters.
        moved: dict[Tensor, Tensor] = {}
        for part in module.modules():
            for given in (part._parameters, part._buffers):
                for name, each in given.items():
                    if each is not None and not isinstance(each, OnGpu):
                        given[name] = moved.setdefault(each, _moved(each))
        return module

    def retain_type(new: Any, old: Any = None, *args: Any, **kwargs: Any) -> Any:
        is_ours = isinstance(old, OnGpu) or isinstance(new, OnGpu)
        return new if is_ours else keep_type(new, old, *args, **kwargs)

    def load_held(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
        found = load(file, map_location="cpu", **kwargs)
        return tree_map(_on_gpu, found) if _is_gpu(map_location) else found

    class Autocast(autocast):  # type: ignore[misc,valid-type]
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu", *args, **kwargs)

    patch.setattr(F, "scaled_dot_product_attention", attention)
    patch.setattr(nn.Module, "to", to)
    patch.setattr(fastai.torch_core, "retain_type", retain_type)
    patch.setattr(torch, "autocast", Autocast)
    patch.setattr(torch, "load", load_held)
