"""A folder from a stranger, looked over before it is opened, so that it can at worst give wrong
answers.

Reads names of files, JSON and the headers of safetensors, and runs nothing. A bundle is held to
what ftkit writes; of any other checkpoint, what is read must be sound. `sizes` goes on from there.
Imports `errors` and safetensors; all of `model` and `inference` may call it.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from ftkit.errors import CheckpointError, first_line

TASK_FILE = "task.json"
"""The file by which a folder is known as a bundle."""
ADAPTER_FILE = "adapter_config.json"
"""The file by which peft, and transformers, know an adapter."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# transformers and peft would read pytorch_model*.bin, adapter_model.bin and what config.json names;
# the others are how torch, fastai and scikit-learn call theirs.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")
_PROGRAMS = (".py", ".so", ".pyd")
_OWN_WEIGHTS = re.compile(r"(model(-\d+-of-\d+)?|adapter_model)\.safetensors")
# What ftkit, transformers and tokenizers read whole. The largest of today's checkpoints have a
# tokenizer.json of some 30 MB, and far less in the other files.
_READ_WHOLE = re.compile(
    r"task\.json|((adapter_|generation_|tokenizer_)?config|tokenizer|tekken)\.json"
    r"|(special_tokens_map|added_tokens|vocab|chat_template)\.json|(vocab|merges)\.txt"
    r"|model\.safetensors\.index\.json|.*\.(model|jinja)"
)
EXPORTED = ("model.onnx", "model.onnx.data", "export.json")
"""What a model exported to ONNX has instead of torch's weights."""
_MOST_BYTES = {"tokenizer.json": 2**28}
_USUAL_MOST_BYTES = 2**25
_TEMPLATES = "additional_chat_templates"

CODE_SETTINGS = ("auto_map", "custom_pipelines")
"""What in a config names code of a checkpoint's own."""
# Other files and formats of weights than ftkit writes.
_FOREIGN = (
    *("quantization_config", "transformers_weights", "configuration_files"),
    *("fast_tokenizer_files", "fusion_config", "kernel_config"),
)
# An implementation is a word of transformers' own, or the hub id of a kernel: code.
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation")
_LABEL_MAPS = ("id2label", "label2id")
# What a config counts is made one by one, in Python, before any tensor is.
_COUNTED = re.compile(r"(.*_)?(layers?|groups?|depth|group_num|labels|experts)")
_OUTPUTS = re.compile(r"(.*_)?(labels|experts)")
_FEW = 128  # layers that share their tensors, as ALBERT's do

Header = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor in a folder's weights, by name."""


def is_bundle(folder: str | Path) -> bool:
    """Whether a folder says that ftkit wrote it."""
    return (Path(folder) / TASK_FILE).exists()


def is_read(name: str) -> bool:
    """Whether a file of this name is read where a bundle is opened."""
    return bool(_READ_WHOLE.fullmatch(name) or _OWN_WEIGHTS.fullmatch(name) or name in EXPORTED)


def check_folder(folder: Path, name: str) -> None:
    """Look over a folder's files, settings and header of weights; `name` is what the user calls it.

    Raises CheckpointError for what could run code, lead out of the folder, or ask for absurd
    amounts of memory or time.
    """
    is_ours = is_bundle(folder)
    try:
        files = [*folder.iterdir(), *(folder / _TEMPLATES).glob("*.jinja")]
        for file in sorted(files):
            _check_file(file, folder, name, is_ours)
    except OSError as error:
        _refuse_unread(Path(error.filename or folder), error)
    for kind in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / kind).exists():
            settings = read_json(folder / kind)
            if is_ours:
                _check_settings(settings, kind, name)
            if kind == "config.json":
                _check_counts(settings, folder, name)
    if (folder / ADAPTER_FILE).exists() and any(folder.glob("model*.safetensors")):
        # transformers would put it on them without a word.
        raise CheckpointError(
            f'"{name}" holds an adapter beside whole weights',
            remedy=f"Delete {ADAPTER_FILE} to use the weights alone.",
        )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises CheckpointError where it is none, or too large to be one, or has a NaN in it.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _most_bytes(file):
            # Reading from a pipe or a device may never end.
            raise ValueError("it is no file, or far too large")
        found = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_nan)
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        _refuse_unread(file, error)
    return found


def read_header(folder: Path, name: str) -> Header:
    """The header of a folder's weights, of all its files together; no tensor is read.

    Raises CheckpointError where it is not a header, or does not fit its file.
    """
    header: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in _weight_files(folder, name):
        try:
            with safe_open(file, "pt") as opened:
                for tensor in opened.keys():  # noqa: SIM118 - it is no dict
                    part = opened.get_slice(tensor)
                    header[tensor] = part.get_dtype(), tuple(part.get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f'the weights of "{name}" cannot be opened ({first_line(error)})',
                remedy=f"Check that {file.name} is whole.",
            ) from None
    return header


def items_of(settings: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of JSON at any depth, but for the names of labels; what is in a list has
    the list's key. No recursion: a stranger chose the depth.
    """
    waiting = [("", settings)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(k, v) for k, v in value.items() if k not in _LABEL_MAPS]
        elif isinstance(value, (list, tuple)):
            waiting += [(key, each) for each in value]
        if key:
            yield key, value


def numbers_of(settings: Any) -> Iterator[tuple[str, int | float]]:
    """The numbers among `items_of`."""
    for key, value in items_of(settings):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield key, value


def shown(name: object) -> str:
    """A name that a stranger chose, for a message: in quotes, short, of one line."""
    return json.dumps(str(name)[:80])


def _check_file(file: Path, folder: Path, name: str, is_ours: bool) -> None:
    path, kind = shown(file.relative_to(folder).as_posix()), file.suffix.lower()
    is_weights = kind == ".safetensors"
    if is_ours and kind in _PICKLES:
        raise CheckpointError(
            f'"{name}" has the pickle {path} in it, which can run any code when it is opened',
            remedy="Delete the file: a model of ftkit's has none, and nothing of it is needed.",
        )
    if is_ours and kind in _PROGRAMS:
        raise CheckpointError(
            f'"{name}" has code in it ({path})',
            remedy="Delete the file: a model of ftkit's has none, and nothing of it is needed.",
        )
    if is_ours and is_weights and not _OWN_WEIGHTS.fullmatch(file.name):
        raise CheckpointError(
            f'"{name}" has weights besides its own ({path})', remedy="Take them out of the folder."
        )
    if is_ours and not _leads_inside(file, folder):
        raise CheckpointError(
            f'{path} in "{name}" is a link to a place outside of it',
            remedy="Copy the file itself there.",
        )
    if not (is_weights or _READ_WHOLE.fullmatch(file.name)):
        return
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f'{path} in "{name}" is no file', remedy="Take it out of the folder.")
    if not is_weights and status.st_size > _most_bytes(file):
        raise CheckpointError(
            f'{path} in "{name}" has {status.st_size:,} bytes, and no such file needs more than '
            f"{_most_bytes(file):,}",
            remedy="Take the file from the model's origin again.",
        )


def _most_bytes(file: Path) -> int:
    return _MOST_BYTES.get(file.name, _USUAL_MOST_BYTES)


def _leads_inside(file: Path, folder: Path) -> bool:
    """Whether a file is in the folder, or in the hub's cache, whose folders are links to it."""
    home, target = folder.resolve(), file.resolve()
    is_cached = home.parent.name == "snapshots" and target.parent == home.parents[1] / "blobs"
    return target.is_relative_to(home) or is_cached


def _check_settings(settings: Mapping[str, Any], kind: str, name: str) -> None:
    for key, value in items_of(settings):
        if key in CODE_SETTINGS:
            raise CheckpointError(
                f'"{name}" wants to run code of its own ({key} in {kind})',
                remedy=f"Delete {key} if you trust the rest: a model of ftkit's has none.",
            )
        if key in _FOREIGN or (_IMPLEMENTATION.fullmatch(key) and "/" in str(value)):
            raise CheckpointError(
                f'"{name}" has {key} in its {kind}, which no model of ftkit\'s has',
                remedy="Delete it, or save the model again with ftkit.save.",
            )


def _check_counts(config: Mapping[str, Any], folder: Path, name: str) -> None:
    many = [
        (key, value)
        for key, value in numbers_of(config)
        if isinstance(value, int) and value > _FEW and _COUNTED.fullmatch(key)
    ]
    header = read_header(folder, name) if many else {}
    widest = max((max(shape, default=0) for _, shape in header.values()), default=0)
    for key, value in many:
        # A layer has a tensor of its own, or shares it; a label is a row of one.
        if value > (widest if _OUTPUTS.fullmatch(key) else len(header)) + _FEW:
            count = f"{value:,}" if value < 10**15 else f"{str(value)[:9]}..."
            raise CheckpointError(
                f'the config.json of "{name}" asks for {shown(key)} {count}, and its weights hold '
                f"{len(header):,} tensors, of {widest:,} numbers a side at most",
                remedy="Check that model.safetensors belongs to config.json.",
            )


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The files that transformers, or peft, read the weights of a folder from."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists() or not index.exists():
        return [file for file in (whole, folder / ADAPTER_WEIGHTS) if file.exists()]
    places = read_json(index).get("weight_map")
    parts = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    for part in parts:
        if Path(part).name != part or not part.endswith(".safetensors"):
            raise CheckpointError(
                f'the {index.name} of "{name}" leads to {shown(part)}, which is no file of '
                "weights beside it",
                remedy="Take the file from the model's origin again.",
            )
    return [folder / part for part in parts]


def _refuse_nan(constant: str) -> float:
    if constant == "NaN":
        raise ValueError("NaN is no number")
    return float(constant)


def _refuse_unread(file: Path, error: Exception) -> NoReturn:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    raise CheckpointError(
        f'the {file.name} of "{file.parent}" cannot be read ({reason})',
        remedy=f"Take {file.name} from the model's origin again.",
    ) from None
