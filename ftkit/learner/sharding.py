"""Training in which each process keeps a share of every weight, gradient and optimizer state.

    accelerate launch --config_file fsdp.yaml script.py

This is torch's FSDP2, asked for in accelerate's config. The weights are in shares within the
passes over the training rows only: elsewhere every process has the whole model, so that
validation, callbacks at the end of an epoch, reports and saving know nothing of it, and no process
waits for another that does not come. What cannot work is refused before a fit trains anything.

    before_train    a copy of the model's modules takes its parameters as shares; the model is empty
    after_train     the weights are put together in the model; the optimizer's state stays in shares
"""

from __future__ import annotations

import copy
import functools
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ftkit._fastai import Callback, ProgressCallback
from ftkit.errors import SettingError, TrainingError, quoted
from ftkit.learner.callbacks import ProgressLines
from ftkit.learner.distributed import (
    DataParallel,
    accelerate_uses,
    count,
    gather,
    is_share,
    share_of,
)
from ftkit.model.device import autocast_dtype, precision_name
from ftkit.model.groups import layer_stacks

# What accelerate's launcher says in the environment, and the values that are carried out. Lines of
# its config have the same names in small letters.
_CARRIED_OUT: dict[str, tuple[str, ...]] = {
    "FSDP_VERSION": ("2",),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "false"),
    "FSDP_AUTO_WRAP_POLICY": ("transformer_based_wrap", "no_wrap"),
    "FSDP_SHARDING_STRATEGY": ("full_shard",),
    "FSDP_OFFLOAD_PARAMS": ("false",),
    "FSDP_ACTIVATION_CHECKPOINTING": ("true", "false"),
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": ("false",),
    # With it transformers leaves the weights of all processes but the first empty.
    "FSDP_CPU_RAM_EFFICIENT_LOADING": ("false",),
    "FSDP_STATE_DICT_TYPE": ("full_state_dict",),
    "FSDP_BACKWARD_PREFETCH": ("backward_pre",),
    "FSDP_FORWARD_PREFETCH": ("false",),
    "FSDP_USE_ORIG_PARAMS": ("true",),
}
# What must not be in the config, by where the launcher says it.
_LEFT_OUT = {
    "FSDP_IGNORED_MODULES": "fsdp_ignored_modules",
    "ACCELERATE_DYNAMO_BACKEND": "dynamo_config",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}
_NOTHING = ("", "no", "none", "false")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Sharing:
    """How accelerate's config wants the model shared out."""

    layers: tuple[str, ...] | None
    """Classes whose modules are gathered one at a time; None is the layers of `layer_stacks`."""
    reshard_after_forward: bool
    """Gather the weights of a layer for the backward pass anew instead of keeping them."""
    recomputes: bool
    """Do as `gradient_checkpointing` does."""


def asked_sharing() -> Sharing | None:
    """What accelerate's launcher says of FSDP; None where it does not ask for it.

    Raises SettingError for what of its config ftkit does not carry out.
    """
    if not accelerate_uses("FSDP"):
        return None
    said = {name: os.environ.get(name, "").lower() for name in (*_CARRIED_OUT, *_LEFT_OUT)}
    # Which accelerate takes for granted.
    said["FSDP_VERSION"] = said["FSDP_VERSION"] or "1"
    wrong = [n for n, values in _CARRIED_OUT.items() if said[n] not in ("", *values)]
    others = [name for name in _LEFT_OUT if said[name] not in _NOTHING]
    if wrong or others:
        lines = [f"{name.lower()}: {said[name]}" for name in wrong]
        found = ", ".join([*lines, *(_LEFT_OUT[name] for name in others)])
        wanted = [f"write {name.lower()}: {_CARRIED_OUT[name][0]}" for name in wrong]
        wanted += [f"leave out {_LEFT_OUT[name]}" for name in others]
        raise SettingError(
            f"accelerate's config for FSDP has {found}, which ftkit does not carry out",
            remedy=f"In that config {', '.join(wanted)}.",
        )
    names = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    layers = tuple(each.strip() for each in names.split(",") if each.strip()) or None
    return Sharing(
        layers=() if said["FSDP_AUTO_WRAP_POLICY"] == "no_wrap" else layers,
        reshard_after_forward=said["FSDP_RESHARD_AFTER_FORWARD"] != "false",
        recomputes=said["FSDP_ACTIVATION_CHECKPOINTING"] == "true",
    )


def parallel_callbacks(seed: int) -> list[Callback]:
    """What makes a Learner's fits those of several processes, with the model shared out or not."""
    sharing = asked_sharing()
    if sharing is None:
        return [DataParallel(seed)]
    return [ShareOut(sharing), SharedParallel(seed)]


class ShareOut(Callback):
    """Have the model's weights in shares while it trains."""

    # Before what looks at the model where training begins, and before what does so where it ends.
    order = -900

    def __init__(self, sharing: Sharing) -> None:
        self.sharing = sharing
        self.whole: nn.Module | None = None
        """The model where its weights are in shares, without them."""

    def before_fit(self) -> None:
        """Raises SettingError where this fit cannot share out the model, TrainingError where the
        one before ended in an error, and shares are all that is left.
        """
        check_whole(self.learn)
        # `validate` and `get_preds` send the events of a fit too.
        if not self.learn.lock.locked():
            _check_fit(self.learn)

    def before_train(self) -> None:
        """Share the weights out."""
        if self.whole is not None:
            return
        self.whole = whole = self.learn.model
        shared: Any = _copy_modules(whole)
        self.learn.model = shared
        # All processes must pass through the model as many times.
        shared.end = None
        _shard(shared, self.sharing, next(whole.parameters()).device)
        pairs = list(zip(whole.parameters(), shared.parameters(), strict=True))
        _replace(self.learn.opt, pairs)
        for parameter, _ in pairs:
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)

    @torch.no_grad()
    def after_train(self) -> None:
        """Put the weights together again, in every process."""
        if self.whole is None:
            return
        shared, whole = self.learn.model, self.whole
        for module in shared.modules():
            if hasattr(module, "reshard"):
                module.reshard()
        pairs = list(zip(shared.parameters(), whole.parameters(), strict=True))
        _replace(self.learn.opt, pairs)
        for share, parameter in pairs:
            parameter.data = share.full_tensor()
            parameter.requires_grad_(share.requires_grad)
        whole.train(shared.training)
        self.learn.model, self.whole = whole, None

    def after_epoch(self) -> None:
        """The same, where an epoch was left in the middle."""
        self.after_train()

    def after_fit(self) -> None:
        """The same, where a fit was."""
        self.after_train()


class SharedParallel(DataParallel):
    """`DataParallel` for gradients that are in shares, each a mean over the processes already."""

    def after_loss(self) -> None:
        """Weigh what the gradient is made of, for the processes' gradients are added to another."""
        super().after_loss()
        if self.training and len(self.learn.yb) and not hasattr(self.learn, "accumulate"):
            self.learn.loss_grad = self.learn.loss_grad * count(self.learn)

    @torch.no_grad()
    def before_step(self) -> None:
        """Replace the sum by the mean over what counts in all processes."""
        factor = dist.get_world_size() / self.total.clamp(min=1)
        if hasattr(self.learn, "accumulate"):
            # It has divided by what counted here alone.
            factor = factor * self.counted.clamp(min=1)
        gradients = [p.grad for p in self.learn.model.parameters() if p.grad is not None]
        torch._foreach_mul_([gradient.to_local() for gradient in gradients], factor)
        self.counted = self.total = 0


def check_shareable(model: nn.Module, sharing: Sharing, compile: bool | str) -> None:
    """Raises SettingError where the processes would wait for each other in vain, or the model
    cannot be cut into shares.
    """
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    settings = {name: value for each in configs for name, value in vars(each).items()}
    drops = [n for n, value in settings.items() if n.endswith("layerdrop") and value]
    remedy = "Train it without FSDP; lora=8 and gradient_checkpointing=True need less memory too."
    if compile:
        raise SettingError("compile and FSDP do not go together", remedy="Give one of the two.")
    if drops:
        raise SettingError(
            f"{drops[0]} is {settings[drops[0]]}: under FSDP no process can leave out a layer",
            remedy=f"Set {drops[0]} to 0 in the checkpoint's config.json.",
        )
    if any(settings.get(name) for name in _EXPERTS):
        raise SettingError("a model of experts cannot be shared out", remedy=remedy)
    scalars = [name for name, parameter in model.named_parameters() if not parameter.ndim]
    if scalars:
        raise SettingError(f"{scalars[0]} is one number: it has no shares", remedy=remedy)
    _parts(model, sharing)


def check_whole(learn: Any) -> None:
    """Raises TrainingError where the model's weights are in shares: within a training pass, and
    after one that ended in an error.
    """
    if any(is_share(parameter) for parameter in learn.model.parameters()):
        raise TrainingError(
            "the weights are shared out to several processes; there is no whole model",
            remedy="Within a fit, wait for the epoch's end; after one that ended in an error, "
            "begin with a new Learner.",
        )


def check_saves_whole(learn: Any, with_opt: bool) -> None:
    """Raises TrainingError as `check_whole`, SettingError where fastai's `learn.save` would write
    one process's share of the optimizer's state.
    """
    check_whole(learn)
    tensors = [each for state in _states(learn.opt) for each in state.values()]
    if with_opt and any(is_share(each) for values in tensors for each in values.values()):
        raise SettingError(
            "under FSDP each process has a share of the optimizer's state only",
            remedy="Write the weights alone by with_opt=False, or all of it by ftkit.Checkpoints.",
        )


def share_optimizer(learn: Any, state: dict[str, Any]) -> dict[str, Any]:
    """A whole state of the Learner's optimizer with each process's shares in place of tensors,
    where it trains in shares; else as it is.
    """
    if not hasattr(learn, "share_out"):
        return state
    inner = getattr(learn.opt, "opt", None)
    groups = inner.param_groups if inner is not None else learn.opt.param_groups
    parameters = [p for group in groups for p in group["params"]]
    given = state["state"]
    places = given.items() if isinstance(given, Mapping) else enumerate(given)
    shared = {
        place: {name: _share_of(value, parameters[place]) for name, value in values.items()}
        for place, values in places
    }
    return {**state, "state": shared if isinstance(given, Mapping) else list(shared.values())}


def _check_fit(learn: Any) -> None:
    names = {cb.name for cb in learn.cbs if not isinstance(cb, (ProgressCallback, ProgressLines))}
    found = gather(names)
    if differing := sorted(set.union(*found) - set.intersection(*found)):
        raise SettingError(
            f"not every process has the callbacks {quoted(differing)}, and under FSDP some would "
            "wait for the others",
            remedy="Give them in all processes; ftkit's own write in the first only.",
        )
    if hasattr(learn, "gradient_accumulation"):
        raise SettingError(
            "fastai's GradientAccumulation does not work under FSDP",
            remedy="Give ftkit.Accumulate.",
        )
    device = next(learn.model.parameters()).device
    check_precision(precision_name(autocast_dtype(learn.mixed_precision.precision, device)))


def check_precision(precision: str) -> None:
    """Raises SettingError for one that does not work in shares, or that accelerate's config has
    otherwise.
    """
    if precision == "fp16":
        raise SettingError("fp16 does not work under FSDP", remedy='Give precision="bf16".')
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", precision):
        raise SettingError(
            f"accelerate's config has mixed_precision: {asked}, and the Learner {precision}",
            remedy='Write mixed_precision: "no", and give the verb precision=.',
        )


def _copy_modules(model: nn.Module) -> nn.Module:
    """The modules again, with the same parameters, buffers and hooks."""
    kept: list[Any] = [*model.parameters(), *model.buffers(), getattr(model, "task", None)]
    for module in model.modules():
        kept += [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        kept += [*module._backward_pre_hooks.values(), *module._backward_hooks.values()]
    return copy.deepcopy(model, {id(each): each for each in kept})


def _shard(model: nn.Module, sharing: Sharing, device: torch.device) -> None:
    from torch.distributed.fsdp import fully_shard

    mesh = _mesh(device.type)
    parts = _parts(model, sharing)
    for part in parts:
        fully_shard(part, mesh=mesh, reshard_after_forward=sharing.reshard_after_forward)
    fully_shard(model, mesh=mesh)
    for part in (*parts, model):
        part.register_forward_pre_hook(_refuse_to_answer, prepend=True)
    model.register_forward_hook(_own_memory, prepend=True)


def _refuse_to_answer(module: nn.Module, given: Any) -> None:
    """A pass that only some processes make would wait for the others for ever."""
    if not torch.is_grad_enabled():
        raise TrainingError(
            "a model whose weights are shared out only trains",
            remedy="Let it answer when an epoch or the fit has ended.",
        )


def _own_memory(module: nn.Module, given: Any, outputs: Tensor) -> Tensor:
    """In place on a view, an operation would lose the hook by which FSDP begins to go back."""
    return outputs.clone() if outputs._is_view() else outputs


def _parts(model: nn.Module, sharing: Sharing) -> list[nn.Module]:
    """The modules that are gathered one at a time, inner ones first; what is left is gathered
    for a whole pass.

    Raises SettingError where no module is of a class that is named.
    """
    if sharing.layers is None:
        found = [part for stack in layer_stacks(model) for layer in stack for part in layer]
    else:
        named = list(model.modules())[::-1]
        found = [module for module in named if type(module).__name__ in sharing.layers]
        missing = set(sharing.layers) - {type(module).__name__ for module in found}
        if missing:
            raise SettingError(
                f"the model has no {quoted(sorted(missing))}, which accelerate's config wraps",
                remedy="Leave out fsdp_transformer_layer_cls_to_wrap: ftkit finds the layers.",
            )
    uses = _uses(model)
    # Weights that are tied to others elsewhere must be gathered together with these.
    return [part for part in found if all(uses[key] == n for key, n in _uses(part).items())]


def _uses(model: nn.Module) -> Counter[int]:
    return Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))


@functools.cache
def _mesh(device_type: str) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device_type, (dist.get_world_size(),))


def _share_of(value: Any, parameter: Tensor) -> Any:
    """The share in this process of what an optimizer remembers of a parameter in its shape."""
    is_whole = isinstance(value, Tensor) and not is_share(value)
    if not is_whole or not value.ndim or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import Shard

    device = parameter.device
    return share_of(value.to(device), _mesh(device.type), [Shard(0)])


def _states(opt: Any) -> list[Any]:
    """What an optimizer remembers by parameter, and what torch's own does where it wraps one."""
    return [each.state for each in (opt, getattr(opt, "opt", None)) if each is not None]


def _replace(opt: Any, pairs: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Have an optimizer step other parameters, with what it remembers of those before."""
    new = {id(before): after for before, after in pairs}
    inner = getattr(opt, "opt", None)
    wrapped = [group["params"] for group in inner.param_groups] if inner is not None else []
    for group in (*opt.param_lists, *wrapped):
        for i, parameter in enumerate(list(group)):
            group[i] = new.get(id(parameter), parameter)
    for state in _states(opt):
        kept = list(state.items())
        state.clear()
        for before, values in kept:
            after = new.get(id(before), before)
            state[after] = {name: _share_of(each, after) for name, each in values.items()}
