"""A config, a tokenizer and a way of generating, held against the weights that they came with.

What a stranger's files ask for beyond what their weights hold would be made, however large, or
fail at the first answer. Imports `errors`, `trust` and torch; `weights` and `checkpoint` call it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ftkit.errors import CheckpointError, first_line
from ftkit.model.trust import Header, is_bundle, items_of, numbers_of, read_header, shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_FLOATS = ("F16", "BF16", "F32", "F64")
_COMPUTED = 2**26  # numbers that a model computes by itself, such as masks and positions
_MOST_BEAMS = 1000
_MOST_GROWTH = 100


def check_sizes(auto: Any, folder: str, config: PretrainedConfig, name: str) -> None:
    """Build the model that a config asks for without memory, and hold its size against what the
    weights of a local folder hold: a part that they lack would be made, however large.

    Raises CheckpointError where it is far larger, or no model can be built.
    """
    header = read_header(Path(folder), name)
    if not header:
        return
    try:
        with torch.device("meta"):
            build = auto.from_config if hasattr(auto, "from_config") else auto._from_config
            model = build(config)
    except Exception as error:
        raise CheckpointError(
            f'no model can be built from the config.json of "{name}" ({first_line(error)})',
            remedy="Take config.json from the checkpoint's origin again.",
        ) from None
    check_size(model, header, name)
    if is_bundle(folder):
        wrong = [
            f"{tensor} as {header[tensor][0]}"
            for tensor, _ in model.named_parameters()
            if tensor in header and header[tensor][0] not in _FLOATS
        ]
        if wrong:
            raise CheckpointError(
                f'the weights of "{name}" hold {wrong[0]}, which are no weights of ftkit\'s',
                remedy="Save the model again with ftkit.save.",
            )


def check_size(model: PreTrainedModel, header: Header, name: str) -> None:
    """Raises CheckpointError where a model has far more numbers than the weights hold.

    Twice is let pass: a new head, or a second half of an encoder-decoder, is not among them.
    """
    held = sum(math.prod(shape) for _, shape in header.values())
    asked, computed = (
        sum(each.numel() for each in kind) for kind in (model.parameters(), model.buffers())
    )
    if asked > 2 * held or computed > max(_COMPUTED, held):
        raise CheckpointError(
            f'the config.json of "{name}" asks for a model of {asked + computed:,} numbers, and '
            f"its weights hold {held:,}",
            remedy="Check that model.safetensors belongs to config.json.",
        )


def check_same_sizes(config: PretrainedConfig, base: PretrainedConfig, name: str) -> None:
    """Raises CheckpointError where an adapter's config is not that of the base's architecture."""
    sizes, wanted = (
        {
            (key, value)
            for key, value in numbers_of(each.to_dict())
            if isinstance(value, int) and "token_id" not in key
        }
        for each in (config, base)
    )
    if config.model_type != base.model_type or sizes != wanted:
        differing = sorted({key for key, _ in sizes ^ wanted}) or ["model_type"]
        raise CheckpointError(
            f'the config.json of "{name}" differs from that of its base in '
            f"{', '.join(map(shown, differing[:3]))}",
            remedy="Check that its base is the checkpoint that it was trained on.",
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Raises CheckpointError where a tokenizer gives a token that its model does not know, or can
    make a text absurdly long.
    """
    rows, backend = _rows(model), tokenizer.backend_tokenizer
    # The template of special tokens has ids of its own.
    around = (int(each) for _, each in numbers_of(_parts_of(backend.post_processor)))
    last = max([*tokenizer.get_vocab().values(), *around])
    if last >= rows:
        raise CheckpointError(
            f'the tokenizer of "{name}" has token {last:,}, and its model knows {rows:,}',
            remedy="Put the tokenizer files of this very model beside its weights.",
        )
    growth = 1
    for part in (backend.normalizer, backend.decoder):
        for key, value in items_of(_parts_of(part)):
            # What stands for one character, in one replacement after the other.
            if key == "content" and growth <= _MOST_GROWTH:
                growth *= max(1, len(str(value)))
    if growth > _MOST_GROWTH:
        raise CheckpointError(
            f'the tokenizer of "{name}" can make a text {growth:,} times as long, or longer',
            remedy="Take tokenizer.json from the model's origin again.",
        )


def _parts_of(part: Any) -> Any:
    """A part of a tokenizer as it stands in tokenizer.json."""
    return {} if part is None else json.loads(part.__getstate__())


def check_generation(model: PreTrainedModel, name: str) -> None:
    """Raises CheckpointError where a bundle's way of generating cannot work."""
    rows = _rows(model)
    for key, value in numbers_of(model.generation_config.to_dict()):
        most = rows - 1 if "token_id" in key else _MOST_BEAMS if key.startswith("num_") else 2**20
        if value > most:
            raise CheckpointError(
                f'the generation_config.json of "{name}" asks for {shown(key)} {value:,}, and '
                f"{most:,} is the most",
                remedy="Save the model again with options that can work.",
            )


def _rows(model: PreTrainedModel) -> int:
    """How many tokens a model has an embedding for."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])
