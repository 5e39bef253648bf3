"""The weights of a checkpoint -> a model in float32, in which nothing is missing without a word.

Reads safetensors only. Imports transformers, `sizes`, `task` and `errors`; `checkpoint` and
`encoder_decoder` call it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoModel

from ftkit.errors import CheckpointError, first_line
from ftkit.model.sizes import check_sizes
from ftkit.model.trust import is_bundle, shown
from ftkit.task import Head

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

POOLER = ("pooler.",)
"""In the names of what BERT and its kin put between body and head; many are saved without it."""
_TORCH_LAYERS = tuple(
    layer.__module__ for layer in (torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Embedding)
)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' bars, and its report that a new head is new, as was asked for."""
    logging: Any = transformers.logging
    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


def load_weights(
    auto: Any, folder: str, name: str, config: PretrainedConfig, trust_remote_code: bool = False
) -> tuple[Any, frozenset[str]]:
    """The model that an Auto class makes, and the names of its tensors that the folder lacks.

    Raises CheckpointError where the weights cannot be opened, or are not of the config's sizes;
    `name` is what the user called them.
    """
    model, missing, _ = _load(auto, folder, name, config, trust_remote_code)
    return model, missing


def _load(
    auto: Any, folder: str, name: str, config: PretrainedConfig, trust_remote_code: bool
) -> tuple[Any, frozenset[str], list[str]]:
    """As `load_weights`, and the names in the folder that are none of the model's."""
    if not trust_remote_code:
        check_sizes(auto, folder, config, name)
    try:
        model, report = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:
        raise CheckpointError(
            f'the weights of "{name}" cannot be opened ({first_line(error)})',
            remedy="Check that model.safetensors is whole and belongs to config.json.",
        ) from None
    return model, frozenset(report["missing_keys"]), sorted(report["unexpected_keys"])


def check_whole(
    missing: Iterable[str],
    name: str,
    prefix: str | tuple[str, ...] = "",
    may_lack: Sequence[str] = (),
) -> None:
    """Raises CheckpointError where a tensor under `prefix`, or one of several, is missing, but for
    those of a name with one of `may_lack` in it.
    """
    lost = [
        key
        for key in sorted(missing)
        if key.startswith(prefix) and not any(part in key for part in may_lack)
    ]
    if lost:
        raise CheckpointError(
            f'the weights of "{name}" lack {len(lost)} of the tensors that its config.json '
            f"asks for, such as {lost[0]}",
            remedy="Check that model.safetensors belongs to config.json.",
        )


@quiet_transformers()
def load_with_head(
    folder: str,
    name: str,
    config: PretrainedConfig,
    head: Head,
    is_head_new: bool,
    trust_remote_code: bool,
    drop_head: bool = False,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The model with a head, and the names of its parameters that the folder did not have.

    A language model's head is taken from whatever has one, such as BertForPreTraining, but where
    `drop_head` says to draw it anew.

    Raises CheckpointError for weights that cannot be opened or are not whole.
    """
    auto = getattr(transformers, head.auto_class)
    keeps = head.auto_class.endswith("LM") and not drop_head
    if is_head_new and _may_have_head(config) and not keeps:
        # Its own head may fit by size and must not come along: load the body alone.
        body, missing = load_weights(AutoModel, folder, name, config, trust_remote_code)
        check_whole(missing, name, may_lack=POOLER)
        model = auto.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
        known = body.state_dict()
        model.base_model.load_state_dict(known, strict=False)
        prefix = f"{model.base_model_prefix}."
        # A pooler that no head of the checkpoint's had was drawn too.
        kept = known.keys() - missing
        names = [each for each, _ in model.named_parameters()]
        return model, frozenset(each for each in names if each.removeprefix(prefix) not in kept)
    model, missing, others = _load(auto, folder, name, config, trust_remote_code)
    if is_head_new:
        check_whole(missing, name, body_prefixes(model), POOLER)
        _start_bare_parameters(model, missing, auto, config)
    else:
        check_whole(missing, name)
        if others and is_bundle(folder):
            raise CheckpointError(
                f'the weights of "{name}" hold {len(others)} tensors that its config.json does '
                f"not ask for, such as {shown(others[0])}",
                remedy="Check that model.safetensors belongs to config.json.",
            )
    return model, missing


def body_prefixes(model: PreTrainedModel) -> tuple[str, ...]:
    """What the names of the body's parameters begin with, in a model with a head.

    T5 with a head has its halves at the top, under no name of their own.
    """
    body = model.base_model_prefix
    return (f"{body}.",) if hasattr(model, body) else ("shared.", "encoder.", "decoder.")


def _start_bare_parameters(
    model: PreTrainedModel, missing: Iterable[str], auto: Any, config: PretrainedConfig
) -> None:
    """Give the parameters that no layer of torch owns the values that their class starts from.

    transformers 5 leaves those that a checkpoint lacks, such as the bias of Longformer's LM head,
    as the memory happened to be.
    """
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in missing}
    bare = [name for name, owner in owners.items() if type(owner).__module__ not in _TORCH_LAYERS]
    if bare:
        fresh = auto.from_config(config, dtype=torch.float32).state_dict()
        with torch.no_grad():
            for name in bare:
                model.state_dict()[name].copy_(fresh[name])


def _may_have_head(config: PretrainedConfig) -> bool:
    names = config.architectures
    return not names or any("For" in architecture for architecture in names)
