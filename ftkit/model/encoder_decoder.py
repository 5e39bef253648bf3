"""An encoder checkpoint -> an encoder-decoder whose halves both start from it.

Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks". Imports
transformers, `errors` and `weights`; `checkpoint` calls it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
)

from ftkit.errors import CheckpointError
from ftkit.model.weights import POOLER, check_whole, load_weights, quiet_transformers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WARM_STARTED = (
    "bert",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
)
"""Model types of encoders that transformers can also run as a decoder with cross-attention."""


@quiet_transformers()
def warm_start(
    folder: str,
    name: str,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """An encoder-decoder of which both halves have the weights of an encoder checkpoint.

    New, and drawn with torch's generator, are the cross-attention that the decoder reads the
    encoder with and, where the checkpoint has none, the layer in front of its vocabulary. Its
    special tokens are set so that `generate()` works, after saving and loading too. The names of
    the new parameters stand beside the model.

    `folder` may be a hub id, and `name` is what the user called it; `config` is its own.

    Raises CheckpointError for an architecture that cannot be a decoder, weights that do not fit,
    and a tokenizer that does not put tokens around a text.
    """
    check_architecture(config, name)
    start, end = _tokens_around(tokenizer, name)
    encoder_config, decoder_config = copy.deepcopy(config), copy.deepcopy(config)
    decoder_config.is_decoder = True
    decoder_config.add_cross_attention = True
    encoder, _ = _load_half(AutoModel, folder, name, encoder_config, trust_remote_code)
    decoder, new = _load_half(AutoModelForCausalLM, folder, name, decoder_config, trust_remote_code)
    special = {
        "decoder_start_token_id": start,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": tokenizer.pad_token_id,
    }
    both = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder.config, decoder.config, vocab_size=decoder.config.vocab_size, **special
    )
    model = EncoderDecoderModel(config=both, encoder=encoder, decoder=decoder)
    model.generation_config = GenerationConfig.from_dict(special)
    return model, frozenset(f"decoder.{name}" for name in new)


def check_architecture(config: PretrainedConfig, name: str) -> None:
    """Raises CheckpointError for one that cannot be both halves of an encoder-decoder."""
    if config.model_type not in WARM_STARTED:
        raise CheckpointError(
            f'"{name}" is a {config.model_type}, which has no decoder that reads an encoder, and '
            "cannot become one",
            remedy="Take an encoder-decoder such as t5 or bart. These can be made into one: "
            f"{', '.join(WARM_STARTED)}.",
        )


def _tokens_around(tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[int, int]:
    """The tokens that a tokenizer puts before and behind a text."""
    ids = list(tokenizer("")["input_ids"])
    if len(ids) < 2 or tokenizer.pad_token_id is None:
        raise CheckpointError(
            f'the tokenizer of "{name}" does not mark where a text starts and ends, or has no '
            "token to pad with, so a decoder cannot know when to stop",
            remedy="Give a tokenizer such as BERT's, or take another checkpoint.",
        )
    return ids[0], ids[-1]


def _load_half(
    auto: Any, folder: str, name: str, config: PretrainedConfig, trust_remote_code: bool
) -> tuple[Any, frozenset[str]]:
    """One half, and the names of its parameters that the checkpoint does not have.

    Raises CheckpointError where the weights lack more than what is to be new.
    """
    model, missing = load_weights(auto, folder, name, config, trust_remote_code)
    prefix = "" if auto is AutoModel else f"{model.base_model_prefix}."
    check_whole(missing, name, prefix, (".crossattention", *POOLER))
    return model, missing
