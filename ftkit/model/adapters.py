"""LoRA through peft: a frozen checkpoint with small trained matrices beside its own.

Imports torch, transformers, `trust`, `task` and `errors`, and peft only where it is used; `learner`
and `inference` call it.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ftkit.errors import CheckpointError, SettingError, first_line, quoted
from ftkit.model.trust import ADAPTER_FILE, ADAPTER_WEIGHTS, read_json, shown
from ftkit.model.weights import body_prefixes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftkit.task import Head

# What of peft's settings says how to put an adapter on a model, and what besides is written.
_APPLIED = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "fan_in_fan_out",
)
_NOTED = ("base_model_name_or_path", "inference_mode", "modules_to_save", "peft_version")
_MOST_RANK = 8192
_WITHIN = r")(\..*)?"  # in a regular expression, behind the name of a module: and what is in it
# peft's files hold the names that its wrapper gives to what it wraps.
_WRAPPED = "base_model.model."
_ADAPTER = "default"


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation (Hu et al. 2021): W + alpha / r * B A, of which A and B are trained.

    Raises SettingError where built.
    """

    r: int = 8
    """Rank: rows of A, and columns of B."""
    alpha: float | None = None
    """Scale of the change; None is twice the rank."""
    dropout: float = 0.0
    """Share of A's inputs that is dropped in training."""
    targets: str | tuple[str, ...] | None = None
    """Ends of the names of the layers, such as ("query", "value"), or "all-linear"; None takes
    those that peft knows for the architecture, and all linear layers where it knows none."""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise SettingError(f"the rank of LoRA is {self.r}", remedy="Give 1 or more.")
        if self.alpha is not None and self.alpha <= 0:
            raise SettingError(f"alpha of LoRA is {self.alpha}", remedy="Give more than 0.")
        if not 0 <= self.dropout < 1:
            raise SettingError(
                f"the dropout of LoRA is {self.dropout}", remedy="Give 0 or more, less than 1."
            )
        if isinstance(self.targets, str) and self.targets != "all-linear":
            # peft would take it for a regular expression.
            raise SettingError(
                f'the targets of LoRA are "{self.targets}"',
                remedy='Give a tuple of names, such as ("query", "value"), or "all-linear".',
            )


def add_lora(
    model: PreTrainedModel, lora: LoRA, head: Head, new: frozenset[str], *, seed: int
) -> None:
    """Put LoRA's matrices, drawn with `seed`, into a model, and freeze what it had before.

    Trainable stay its parameters named in `new`, which were not pretrained, and its head. The
    pretrained head of a language model is a part of what is frozen.

    Raises SettingError where peft is not installed, or no layer has a name that is asked for.
    """
    peft = _import_peft()
    trained = new | (frozenset() if head.auto_class.endswith("LM") else _outside_body(model))
    wanted = lora.targets or _usual_targets(model)
    targets = wanted if isinstance(wanted, str) else list(wanted)
    owners = _owners(trained)
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=2 * lora.r if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        # As one regular expression: a list would also match the ends of other names.
        exclude_modules=_either(owners) if owners else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(config, model, _ADAPTER)
        except ValueError:
            linear = (n for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)))
            targets = [targets] if isinstance(targets, str) else targets
            names = sorted({name.rpartition(".")[2] for name in linear})
            raise SettingError(
                f"no layer that LoRA can change has a name that ends in {quoted(targets)}",
                remedy=f'Give some of {quoted(names)}, or "all-linear".',
            ) from None
    # Noted for saving only: had peft known it before, it would train copies of these modules.
    config.modules_to_save = owners or None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained or _is_lora(name))


def merged_weights(model: PreTrainedModel) -> dict[str, Tensor] | None:
    """The weights of a model as if LoRA's were a part of them, under their plain names.

    None where it has no LoRA. The model itself stays as it is.
    """
    if _config(model) is None:
        return None
    merged: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        layer, _, kind = name.rpartition(".base_layer.")
        if layer and kind == "weight":
            change: Any = model.get_submodule(layer)
            merged[f"{layer}.weight"] = tensor + change.get_delta_weight(_ADAPTER)
        elif layer:
            merged[f"{layer}.{kind}"] = tensor
        elif not _is_lora(name):
            merged[name] = tensor
    return merged


def save_adapter(model: PreTrainedModel, folder: Path, base: str) -> None:
    """Write what was trained on the checkpoint `base` in peft's format, and the model's config.

    Raises SettingError where the model has no LoRA.
    """
    config = _config(model)
    if config is None:
        raise SettingError(
            "there is no adapter to save", remedy="Train with lora=8, or save without adapter=True."
        )
    whole = tuple(f"{owner}." for owner in config.modules_to_save or ())
    # Clones, for tied tensors share their memory, which safetensors refuses.
    tensors = {
        _WRAPPED + name.replace(f".{_ADAPTER}.", "."): tensor.detach().clone().contiguous()
        for name, tensor in model.state_dict().items()
        if _is_lora(name) or name.startswith(whole)
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    saved = copy.copy(config)
    saved.base_model_name_or_path, saved.inference_mode = base, True
    saved.save_pretrained(str(folder))
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def load_adapter(model: PreTrainedModel, folder: Path, new: frozenset[str]) -> PreTrainedModel:
    """The model with the adapter of a folder merged into it.

    Raises CheckpointError where the adapter does not fit, or lacks what is `new` in the model;
    SettingError where peft is not installed.
    """
    peft = _import_peft()
    config = _read_config(peft, folder)
    try:
        tuner = peft.LoraModel(model, config, _ADAPTER)
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        unknown = peft.set_peft_model_state_dict(model, tensors).unexpected_keys
    except Exception as error:
        raise CheckpointError(
            f'the adapter in "{folder}" cannot be put on its base ({first_line(error)})',
            remedy="Check that the folder is whole, and its base the one that it was trained on.",
        ) from None
    given = {name.removeprefix(_WRAPPED).replace(f".{_ADAPTER}.", ".") for name in tensors}
    wanted = {
        name.replace(f".{_ADAPTER}.", ".")
        for name, _ in model.named_parameters()
        if _is_lora(name) or name in new
    }
    if unknown or wanted - given:
        raise CheckpointError(
            f'the adapter in "{folder}" does not fit its base: '
            f"{quoted(sorted(wanted - given) or sorted(unknown), 3)}",
            remedy="Check that its base is the checkpoint that it was trained on.",
        )
    merged: PreTrainedModel = tuner.merge_and_unload()
    return merged


def describe_lora(model: PreTrainedModel) -> dict[str, object]:
    """Rank, scale and layers of a model's LoRA for its card; empty where it has none."""
    config = _config(model)
    if config is None:
        return {}
    names = (name for name, _ in model.named_parameters() if ".lora_A." in name)
    layers = sorted({name.partition(".lora_A.")[0].rpartition(".")[2] for name in names})
    return {"LoRA": f"rank {config.r}, alpha {config.lora_alpha:g}, on {', '.join(layers)}"}


def _import_peft() -> Any:
    if importlib.util.find_spec("peft") is None:
        raise SettingError(
            "LoRA needs the package peft, which is not installed",
            remedy='Install it: pip install "ftkit[lora]".',
        )
    import peft

    return peft


def _read_config(peft: Any, folder: Path) -> Any:
    """The config of a folder's adapter for peft, of nothing but what `add_lora` sets.

    By itself peft would let the file name modules to import, and do much else.
    """
    found = read_json(folder / ADAPTER_FILE)
    usual = peft.LoraConfig().to_dict()
    others = [
        key
        for key, value in found.items()
        if value and value != usual.get(key) and key not in (*_APPLIED, *_NOTED)
    ]
    rank, targets, but = (found.get(key) for key in ("r", "target_modules", "exclude_modules"))
    if not isinstance(rank, int) or not 1 <= rank <= _MOST_RANK:
        others.append("r")
    if targets != "all-linear" and not isinstance(targets, list):
        # A text would be a regular expression, of which some take years.
        others.append("target_modules")
    if but is not None:
        names = str(but)[1:].removesuffix(_WITHIN).replace("\\", "").split("|")
        if but != _either(names):
            others.append("exclude_modules")
    if others:
        raise CheckpointError(
            f'the {ADAPTER_FILE} of "{folder}" has {", ".join(map(shown, sorted(others)[:3]))} '
            "otherwise than ftkit writes it",
            remedy="Save the model again with ftkit.save.",
        )
    try:
        return peft.LoraConfig(**{key: found[key] for key in _APPLIED if key in found})
    except Exception as error:
        raise CheckpointError(
            f'the {ADAPTER_FILE} of "{folder}" cannot be read ({first_line(error)})',
            remedy="Save the model again with ftkit.save.",
        ) from None


def _either(names: Sequence[str]) -> str:
    """The regular expression of modules of these names, and of what is in them."""
    return f"({'|'.join(map(re.escape, names))}{_WITHIN}"


def _config(model: PreTrainedModel) -> Any:
    """What peft was told of the model's LoRA, or None."""
    return getattr(model, "peft_config", {}).get(_ADAPTER)


def _usual_targets(model: PreTrainedModel) -> str | list[str]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known

    targets = known.get(model.config.model_type, "all-linear")
    return targets if isinstance(targets, str) else list(targets)


def _outside_body(model: PreTrainedModel) -> frozenset[str]:
    """Names of the parameters that are not the pretrained body's."""
    body = {id(parameter) for parameter in model.base_model.parameters()}
    if model.base_model is model:
        parts = body_prefixes(model)
        body = {id(p) for name, p in model.named_parameters() if name.startswith(parts)}
    return frozenset(name for name, p in model.named_parameters() if id(p) not in body)


def _owners(names: Iterable[str]) -> list[str]:
    """The modules that hold these parameters, none of them inside another."""
    found = sorted({name.rpartition(".")[0] for name in names})
    return [each for each in found if not any(each.startswith(f"{other}.") for other in found)]


def _is_lora(name: str) -> bool:
    return ".lora_" in name
