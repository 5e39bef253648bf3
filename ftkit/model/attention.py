"""The attention that a CPU trains fastest with. Imports torch only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")


def drops_fused_attention(model: PreTrainedModel) -> bool:
    """Whether it trains with dropout in torch's fused attention, which a CPU does not have.

    There torch computes it in parts, and in bf16 these take longer than transformers' own.
    """
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    is_fused = model.config._attn_implementation == "sdpa"
    return is_fused and any(getattr(each, name, 0) for each in configs for name in _DROPOUT)


def set_fused_attention(model: PreTrainedModel, is_fused: bool) -> None:
    """Take torch's fused attention, or transformers' own, whose results are the same."""
    model.set_attn_implementation("sdpa" if is_fused else "eager")
