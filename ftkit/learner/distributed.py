"""Data-parallel training under torchrun: every process computes a share of every batch.

    torchrun --nproc_per_node 2 script.py

A batch of all processes together holds `bs` rows for each, in the order that one process with as
large a batch would have them. Gradients are summed over what counts, so that a step is that one
process's step; validation's outputs are gathered, so that its scores are exact over all rows and
the same everywhere. fastai's DistributedDL is not used: it pads epochs with rows seen twice, and
cannot gather outputs of different lengths.
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ftkit._fastai import MixedPrecision, set_seed
from ftkit.errors import FtkitWarning, SettingError
from ftkit.learner.fits import FitCallback


def join() -> tuple[int, int]:
    """The rank of this process and how many there are, as torchrun says; (0, 1) without it.

    Joins the process group where nobody did: NCCL on GPUs, each process on its own; else gloo.
    Raises SettingError where accelerate was told to share out the model as well, by DeepSpeed or
    to one process: it would hold the whole of it, and nobody would know.
    """
    if accelerate_uses("DEEPSPEED"):
        raise SettingError(
            "accelerate is set to DEEPSPEED, and ftkit shares out a model by FSDP alone",
            remedy="Write distributed_type: FSDP into accelerate's config, or give lora=8 or "
            "gradient_checkpointing=True.",
        )
    if not dist.is_available() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        if accelerate_uses("FSDP"):
            raise SettingError(
                "accelerate is set to FSDP, and there is one process: it would have all shares",
                remedy="Write num_processes: 2 or more into accelerate's config.",
            )
        return 0, 1
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
        if dist.get_rank():
            # Said once is enough.
            warnings.simplefilter("ignore", FtkitWarning)
    return dist.get_rank(), dist.get_world_size()


def accelerate_uses(name: str) -> bool:
    """Whether accelerate's launcher was told of this way of sharing out a model."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_on() -> bool:
    return dist.is_available() and dist.is_initialized()


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return not _is_on() or dist.get_rank() == 0


def wait() -> None:
    """Go on when all processes have come here."""
    if _is_on():
        dist.barrier()


@contextmanager
def first_goes_first() -> Iterator[None]:
    """Let the first process do something, such as filling a cache, before the others do."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def gather(value: Any) -> list[Any]:
    """The value of every process, by rank."""
    if not _is_on():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def is_share(tensor: Any) -> bool:
    """Whether it is this process's share of a larger tensor (a DTensor); see `sharding.py`."""
    return hasattr(tensor, "full_tensor")


def whole(value: Any) -> Any:
    """The value with whole tensors in place of shares, within dicts, lists and tuples; on the CPU.

    All processes must come here, and the first alone gets the tensors.
    """
    if is_share(value):
        gathered = value.full_tensor()
        return gathered.cpu() if is_first() else None
    if isinstance(value, Mapping):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [whole(each) for each in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def alike(value: Tensor, like: Tensor) -> Tensor:
    """The value as a share where `like` is one, and else whole; all processes must come here."""
    share: Any = like
    if is_share(like) and not is_share(value):
        return share_of(value.to(like.device), share.device_mesh, share.placements)
    if is_share(value) and not is_share(like):
        gathered: Tensor = value.full_tensor()  # type: ignore[attr-defined]
        return gathered
    return value


def share_of(value: Tensor, mesh: Any, placements: Any) -> Tensor:
    """The share in this process of a tensor that all have, so that none is sent."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def most(*numbers: int) -> list[int]:
    """The largest of each number over all processes."""
    if not _is_on():
        return list(numbers)
    on = torch.cuda.current_device() if dist.get_backend() == "nccl" else "cpu"
    largest = torch.tensor(numbers, dtype=torch.int64, device=on)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    found: list[int] = largest.tolist()
    return found


def count(learn: Any) -> Tensor:
    """What counts in the Learner's batch, by which it is weighed: (); 0 for a stand-in."""
    counted: Tensor = learn.task_scores.task.n_counted(learn.pred, learn.y)
    return counted * 0 if learn.dl.is_stand_in else counted


class DataParallel(FitCallback):
    """Make a step of all processes together the step of one with as large a batch."""

    # After Accumulate has made the gradient of this process, before GradScaler and clipping.
    order = MixedPrecision.order - 3

    def __init__(self, seed: int) -> None:
        """`seed` is that of the Learner; each process draws its dropout from its own."""
        self.seed = seed

    def before_fit(self) -> None:
        """Draw from a generator of this process's own; raises SettingError in `lr_find`."""
        if hasattr(self.learn, "lr_finder"):
            # fastai puts the weights of before back in the first process alone.
            raise SettingError(
                "lr_find looks in one process alone",
                remedy="Look for the rate in a script of its own, started without a launcher.",
            )
        set_seed(self.seed + dist.get_rank())

    def before_train(self) -> None:
        """Count anew."""
        self.counted: Any = 0
        """What counted in the batches of this step here."""
        self.total: Any = 0
        """And in all processes."""

    def after_loss(self) -> None:
        """Weigh the share by what counts in it; `loss` becomes that of all shares together."""
        if not self.training or not len(self.learn.yb):
            return
        learn, counted = self.learn, count(self.learn)
        both = torch.stack([learn.loss * counted, counted.to(learn.loss)])
        dist.all_reduce(both)
        learn.loss = both[0] / both[1].clamp(min=1)
        self.counted, self.total = self.counted + counted, self.total + both[1]

    def before_step(self) -> None:
        """Replace the mean gradient of this process by that over what counts in all of them."""
        parameters = [p for p in self.learn.model.parameters() if p.requires_grad]
        # Some layers may have none, such as those that a process dropped.
        has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        has_gradient = has_gradient.to(parameters[0].device)
        dist.all_reduce(has_gradient, dist.ReduceOp.MAX)
        reached = [p for p, has in zip(parameters, has_gradient.tolist(), strict=True) if has]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in reached]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) * self.counted
        dist.all_reduce(flat)
        flat /= self.total.clamp(min=1)
        sizes = [gradient.numel() for gradient in gradients]
        for p, part in zip(reached, flat.split(sizes), strict=True):
            # A copy: fastai's optimizers refuse gradients that are views.
            p.grad = part.view_as(p).clone()
        self.counted = self.total = 0


def share(
    outputs: Tensor, targets: Tensor, numbers: Tensor, *, is_stand_in: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What every process has of a batch, by rank and on the CPU; stand-ins are left out."""
    mine = None if is_stand_in else (outputs.cpu(), targets.cpu(), numbers.cpu())
    return [each for each in gather(mine) if each is not None]
