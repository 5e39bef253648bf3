"""A training state on disk: a folder of safetensors and JSON that is whole or absent.

FOLDER/model.safetensors      the weights, under their own names
FOLDER/training.safetensors   every other tensor, such as the optimizer's
FOLDER/training.json          everything else, and where each of those tensors belongs
FOLDER/checksums.json         SHA-256 of the three, written last

No pickle: a state from a stranger can at worst hold wrong numbers. `resume.py` says what is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftkit.errors import CheckpointError, SettingError

WRITING = ".writing-"
"""How the name of a file or folder begins that is not whole yet."""
_MODEL, _TENSORS, _REST = "model.safetensors", "training.safetensors", "training.json"
_CHECKSUMS = "checksums.json"


def model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, themselves and not copies; tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def write_state(folder: Path, model: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Write weights and the rest of a state (numbers, texts, tensors, arrays, in any nesting of
    dicts, lists and tuples): to a folder beside, flushed to the disk, then renamed.

    Raises OSError where it cannot be written, a full disk for one, and leaves nothing of it;
    SettingError for a value that is none of these.
    """
    tensors: dict[str, Tensor] = {}
    packed = _pack(rest, "", tensors)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=WRITING, dir=folder.parent))
    try:
        _save(dict(model), partial / _MODEL)
        _save(tensors, partial / _TENSORS)
        (partial / _REST).write_text(json.dumps(packed), encoding="utf-8")
        files = (_MODEL, _TENSORS, _REST)
        checksums = {name: _checksum(partial / name) for name in files}
        (partial / _CHECKSUMS).write_text(json.dumps(checksums, indent=2), encoding="utf-8")
        for name in (*files, _CHECKSUMS, "."):
            flush(partial / name)
        _rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_state(folder: Path) -> tuple[dict[str, Tensor], Any]:
    """The weights and the rest, tensors on the CPU.

    Raises CheckpointError, which says why, for a state that is torn or was altered.
    """
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        for name in (_MODEL, _TENSORS, _REST):
            if _checksum(folder / name) != checksums[name]:
                raise ValueError(f"{name} is not as it was written")
        packed = json.loads((folder / _REST).read_text(encoding="utf-8"))
        return load_file(folder / _MODEL), _unpack(packed, load_file(folder / _TENSORS))
    except FileNotFoundError as error:
        why = f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        why = str(error)
    raise CheckpointError(
        f'"{folder}" is no whole training state ({why})', remedy="Go on from an older one."
    )


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Gives a path to write at, whose file takes the place of `file` in one move when it is done:
    whoever is killed meanwhile leaves the old one, or none.
    """
    partial = file.with_name(f"{WRITING}{file.name}")
    yield partial
    flush(partial)
    partial.replace(file)
    flush(file.parent)


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file)
    except SafetensorError as error:
        # It hides which error of the system it was, a full disk most likely.
        raise OSError(None, str(error), str(file)) from None


def _rename(partial: Path, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    flush(folder.parent)


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the disk hold what was written, so that a power cut after a rename finds it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        # Windows opens no folders.
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a value; its tensors go into `tensors`, under their paths in it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Tensor, np.ndarray)):
        is_array = isinstance(value, np.ndarray)
        tensors[path] = torch.as_tensor(value)
        return {"array" if is_array else "tensor": path}
    if isinstance(value, Mapping):
        pairs = [[key, _pack(each, f"{path}/{key}", tensors)] for key, each in value.items()]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        members = [_pack(each, f"{path}/{i}", tensors) for i, each in enumerate(value)]
        return {"tuple": members} if isinstance(value, tuple) else members
    raise SettingError(
        f'the training state holds a {type(value).__name__} at "{path}"',
        remedy="A state_dict may hold numbers, texts, tensors, lists and dicts.",
    )


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(each, tensors) for each in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "tuple":
        return tuple(_unpack(each, tensors) for each in content)
    return {key: _unpack(each, tensors) for key, each in content}
