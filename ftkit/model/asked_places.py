"""Less work for a masked language model: the vocabulary is scored at the places asked for alone.

Imports torch only. Outputs and gradients are the same; with a vocabulary of 30,000 the layer that
scores it is most of a small model's step, and its logits most of the memory.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def asked_places_only(
    model: PreTrainedModel, places: Tensor | None, n_tokens: int
) -> AbstractContextManager[object]:
    """Give the layer that scores the vocabulary the hidden states of `places` (windows, places)
    alone, in this context.

    Where nothing is left out, and in models that are compiled or score in another way, nothing
    changes: logits (windows, tokens, vocabulary) are still to be looked up.
    """
    if places is None or places.shape[1] == n_tokens or model._compiled_call_impl is not None:
        return nullcontext()
    layer = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(layer, nn.Linear):
        return nullcontext()
    chosen = places[:, :, None]

    def take(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        (hidden,) = given
        if hidden.ndim != 3 or hidden.shape[1] != n_tokens:
            return None
        return (hidden.gather(1, chosen.expand(-1, -1, hidden.shape[2])),)

    return layer.register_forward_pre_hook(take)
