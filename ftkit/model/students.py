"""A smaller checkpoint made of a larger one's own layers, to start a student from.

Imports torch, transformers and `errors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ftkit.errors import SettingError
from ftkit.model.checkpoint import open_as_saved
from ftkit.model.groups import layer_stacks
from ftkit.model.weights import quiet_transformers


def shallow(checkpoint: str | Path, output: str | Path, *, layers: int) -> Path:
    """Write a checkpoint with some of another's layers, and all that is not in a layer.

    The layers lie at equal distances, the first and the last among them: of 12, DistilBERT's six
    (Sanh et al. 2019). Of an encoder-decoder it is so many in each half. A head comes along. An
    older checkpoint in `output` is replaced.

    Raises CheckpointError for a checkpoint that cannot be opened, SettingError where it does not
    have more layers than are asked for, or `output` holds something else.
    """
    folder = Path(output).expanduser()
    is_used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_used and not (folder / "config.json").exists():
        raise SettingError(f'"{output}" exists and is no checkpoint', remedy="Give a new folder.")
    model, tokenizer = open_as_saved(checkpoint)
    stacks = layer_stacks(model)
    depth = min((len(stack) for stack in stacks), default=0)
    if not 0 < layers < depth:
        raise SettingError(
            f'"{checkpoint}" has {depth} layer(s), and {layers} of them make no smaller one',
            remedy=f"Give layers from 1 to {depth - 1}." if depth > 1 else "Take another one.",
        )
    kept = {len(stack): spread(len(stack), layers) for stack in stacks}
    parts = {id(part) for stack in stacks for layer in stack for part in layer}
    for parent in list(model.modules()):
        for name, each in list(parent.named_children()):
            if isinstance(each, nn.ModuleList) and len(each) and id(each[0]) in parts:
                setattr(parent, name, nn.ModuleList(each[i] for i in kept[len(each)]))
    _shorten(model.config, kept)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def spread(depth: int, layers: int) -> list[int]:
    """So many numbers from 0 to depth - 1, at equal distances."""
    return [round(i * (depth - 1) / max(layers - 1, 1)) for i in range(layers)]


# What configs call their number of layers, beside what maps to one of these.
_DEPTHS = (
    *("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers"),
    *("decoder_layers", "n_layer", "n_layers"),
)
# Lists in configs that have a value a layer.
_PER_LAYER = ("layer_types", "attention_window")


def _shorten(config: Any, kept: dict[int, list[int]]) -> None:
    """Tell a config, and those inside it, how many layers there are, and what each is like."""
    for inner in (config, *(getattr(config, name) for name in getattr(config, "sub_configs", ()))):
        for name, value in list(vars(inner).items()):
            if name in _DEPTHS and value in kept:
                setattr(inner, name, len(kept[value]))
            elif name in _PER_LAYER and isinstance(value, list) and len(value) in kept:
                setattr(inner, name, [value[i] for i in kept[len(value)]])
