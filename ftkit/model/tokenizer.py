"""A checkpoint's name or folder -> its tokenizer. Needs transformers, and no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from ftkit.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def load_tokenizer(
    folder: str,
    name: str,
    trust_remote_code: bool = False,
    config: PretrainedConfig | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, without truncation or padding of its own; `config`, where it
    is given, is the checkpoint's.

    Raises CheckpointError where it is missing or cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=config, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise CheckpointError(
            f'the tokenizer of "{name}" cannot be opened ({first_line(error)})',
            remedy="Put tokenizer.json and tokenizer_config.json beside the weights.",
        ) from None
    if not tokenizer.is_fast:
        raise CheckpointError(
            f'the tokenizer of "{name}" has no fast version, and ftkit needs its offsets',
            remedy="Convert it to a tokenizer.json with transformers, or take another checkpoint.",
        )
    if len(tokenizer) <= len(tokenizer.all_special_tokens) + 1:
        # transformers makes an empty one where there is no file at all.
        raise CheckpointError(
            f'"{name}" has no tokenizer',
            remedy="Put tokenizer.json and tokenizer_config.json beside the weights.",
        )
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise CheckpointError(
            f'the tokenizer of "{name}" has a model_max_length that is no number',
            remedy="Give tokenizer_config.json a number there, or none.",
        )
    # Some ship with both set in tokenizer.json, which would cut texts without a word.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    _try_out(tokenizer, name)
    return tokenizer


def _try_out(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises CheckpointError where a text alone or a pair stops the tokenizer, as a template of
    special tokens does that names one which is not there.
    """
    try:
        tokenizer.backend_tokenizer.encode_batch(["a", ("a", "a")])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raise CheckpointError(
            f'the tokenizer of "{name}" breaks at a text of one letter ({type(error).__name__}: '
            f"{first_line(error)})",
            remedy="Take tokenizer.json from the model's origin again.",
        ) from None
