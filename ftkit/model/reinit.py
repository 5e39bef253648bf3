"""The top layers of a checkpoint drawn anew, for data sets of few rows.

Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning". Imports torch, `groups` and
`errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ftkit.errors import SettingError
from ftkit.model.groups import layer_stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def reinitialize_layers(model: PreTrainedModel, n: int, seed: int = 42) -> frozenset[str]:
    """Draw the top `n` layers, and the pooler above them, as the model's class starts them.

    The layers are those of the stack that stands last, so an encoder-decoder's are its
    decoder's. Every other weight stays. Gives the names of the parameters that are new.

    Raises SettingError where there are fewer layers; ALBERT, which shares its one, has one.
    """
    stacks = layer_stacks(model)
    layers = stacks[-1] if stacks else []
    if not 0 <= n <= len(layers):
        raise SettingError(
            f"reinit_layers is {n}, and there are {len(layers)} layers",
            remedy=f"Give a number from 0 to {len(layers)}; 1 to 3 are usual.",
        )
    if n == 0:
        return frozenset()
    fresh = [each for layer in layers[-n:] for each in layer]
    if not model.config.is_encoder_decoder:
        fresh += [part for name, part in model.named_modules() if name.endswith("pooler")]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in fresh:
            for parameter in part.parameters():
                # transformers marks what it loaded, and its initializers pass over what is marked.
                parameter._is_hf_initialized = False  # type: ignore[attr-defined]
            part.apply(model._init_weights)
    drawn = {id(parameter) for part in fresh for parameter in part.parameters()}
    return frozenset(name for name, p in model.named_parameters() if id(p) in drawn)
