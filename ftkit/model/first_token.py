"""Less work for a classifier that reads the first token alone: its last layer, past the attention,
is computed for that token only. Imports torch and `groups` only.

Outputs and gradients are the same. Of MiniLM's six layers it saves most of one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ftkit.model.groups import layer_stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What follows the attention in a layer, in architectures whose classifier reads hidden[:, 0].
# From there on a layer works token by token.
_FOLLOWS_ATTENTION = {
    **dict.fromkeys(
        ("bert", "camembert", "deberta", "deberta-v2", "electra", "ernie", "roberta"),
        "attention.output",
    ),
    "xlm-roberta": "attention.output",
    "mpnet": "attention.LayerNorm",
    "distilbert": "sa_layer_norm",
}


def past_attention(model: PreTrainedModel) -> str | None:
    """The name of the module that follows the last layer's attention.

    None for a model that is no classifier of texts, and for an architecture whose head may read
    other tokens than the first.
    """
    place = _FOLLOWS_ATTENTION.get(model.config.model_type)
    if place is None or not type(model).__name__.endswith("ForSequenceClassification"):
        return None
    follows = layer_stacks(model)[0][-1][0].get_submodule(place)
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    return names[follows]


def first_token_only(model: PreTrainedModel, name: str | None) -> AbstractContextManager[object]:
    """Give the module of that name the first token of each window alone, in this context.

    None changes nothing. Nor do models whose forward pass is compiled, which would be compiled
    again for each batch, or repeated in the backward pass, when this context is over.
    """
    if name is None or _repeats(model) or model._compiled_call_impl is not None:
        return nullcontext()
    return model.get_submodule(name).register_forward_pre_hook(_first_token)


def _repeats(model: PreTrainedModel) -> bool:
    """Whether it computes its activations again in the backward pass."""
    # transformers 6 knows the first name only, and older ones the second.
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    return bool(getattr(model, next(name for name in names if hasattr(type(model), name))))


def _first_token(module: nn.Module, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of hidden states (windows, tokens, width) those of the first token (windows, 1, width)."""
    return tuple(each[:, :1] for each in hidden)
