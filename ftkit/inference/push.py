"""A bundle -> a model on the Hugging Face hub, where everybody may open it with any tool.

Imports `predictor`, `task_file` and `model.trust`, and huggingface_hub where it is used; the
command line calls it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ftkit.errors import CheckpointError, FtkitError, SettingError, first_line
from ftkit.inference.predictor import load_model
from ftkit.inference.task_file import read_task
from ftkit.model.trust import is_read

CARD_FILE = "README.md"
# As the hub's own client checks them, but with an owner.
_HUB_ID = re.compile(r"(?=.{3,96}$)[A-Za-z0-9][\w.-]*/\w([\w.-]*\w)?(?<!\.git)", re.ASCII)


def list_files(folder: str | Path, hub_id: str) -> dict[str, int]:
    """The files of a bundle that `push` uploads, and their sizes in bytes; nothing is uploaded.

    The bundle is opened first: one that `ftkit.load_model` refuses is not published.

    Raises CheckpointError for a bundle that cannot be opened, has no card, or needs a folder of
    this machine; SettingError for what is no hub id.
    """
    if not _HUB_ID.fullmatch(hub_id) or "--" in hub_id or ".." in hub_id:
        raise SettingError(
            f"{json.dumps(hub_id)} is no hub id that can be pushed to",
            remedy="Write it as OWNER/NAME, of letters, digits, and single - _ . between them.",
        )
    folder = Path(folder)
    load_model(folder, device="cpu")
    _, _, base = read_task(folder)
    if base is not None and Path(base).is_absolute():
        raise CheckpointError(
            f'"{folder}" holds an adapter of "{base}", which nobody else has',
            remedy="Save the model without adapter=True, which merges the two, and push that.",
        )
    _check_card(folder)
    files = sorted(file for file in folder.iterdir() if _is_pushed(file.name))
    return {file.name: file.stat().st_size for file in files}


def push(folder: str | Path, hub_id: str, *, private: bool = False) -> str:
    """Upload a bundle in one commit, as a new model or over an older one; returns its address.

    A file of an older bundle that the new one lacks is deleted there; other files stay. `private`
    is for a new model; one that is there already must be private too.

    Raises CheckpointError and SettingError as `list_files`, and SettingError where nobody is
    logged in, the hub cannot be reached, or this user may not write there.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    names = list_files(folder, hub_id)
    if get_token() is None:
        raise SettingError(
            "nobody is logged in to the hub",
            remedy="Run `hf auth login` once, or set HF_TOKEN to a token that may write.",
        )
    api = HfApi()
    try:
        api.create_repo(hub_id, private=private or None, exist_ok=True)
        if private and not api.model_info(hub_id).private:
            raise SettingError(
                f'"{hub_id}" is there already, and is public',
                remedy="Make it private on its page, or leave out --private.",
            )
        old = [name for name in api.list_repo_files(hub_id) if _is_pushed(name)]
        changes: list[Any] = [CommitOperationAdd(name, Path(folder) / name) for name in names]
        changes += [CommitOperationDelete(name) for name in old if name not in names]
        return str(api.create_commit(hub_id, changes, commit_message="Push with ftkit").repo_url)
    except FtkitError:
        raise
    except Exception as error:
        raise _explained(error, hub_id) from None


def _is_pushed(name: str) -> bool:
    return name == CARD_FILE or is_read(name)


def _check_card(folder: Path) -> None:
    """Raises CheckpointError for a card without what the hub sorts models by."""
    from huggingface_hub.repocard import metadata_load

    card = folder / CARD_FILE
    try:
        facts = metadata_load(card) or {}
        lost = [key for key in ("library_name", "pipeline_tag") if not facts.get(key)]
        if lost:
            raise ValueError(f"its front matter has no {lost[0]}")
    except Exception as error:
        raise CheckpointError(
            f'the card "{card}" cannot be published ({first_line(error)})',
            remedy="Save the model again with ftkit.save, which writes it.",
        ) from None


def _explained(error: Exception, hub_id: str) -> SettingError:
    """What an error of huggingface_hub means to a user."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return SettingError(
            "the hub does not accept this token",
            remedy="Run `hf auth login` again, or set HF_TOKEN to a token that may write.",
        )
    if status in (403, 404):
        return SettingError(
            f'this token may not write to "{hub_id}"',
            remedy="Give your own name or an organization's of yours as OWNER, and a token that "
            "may write there.",
        )
    if status is not None or isinstance(error, ValueError):
        return SettingError(
            f'the hub refused "{hub_id}" ({first_line(error)})', remedy="Try again later."
        )
    return SettingError(
        f"the hub cannot be reached ({first_line(error)})",
        remedy="Check the network, and that HF_HUB_OFFLINE is not set.",
    )
