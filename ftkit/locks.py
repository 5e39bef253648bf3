"""One process at a time at a folder or a file. Imports `errors` only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftkit.errors import SettingError


@contextmanager
def alone_at(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; who dies lets go of it, and nothing stays in it.

    Raises SettingError where another process holds it.
    """
    if os.name == "nt":
        yield  # Windows opens no folders: nobody is kept out.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        hold(handle, folder)
        yield
    finally:
        os.close(handle)


def hold(handle: int, path: Path) -> None:
    """Hold what was opened at `path` against other processes until it is closed, where the disk
    can lock.

    Raises SettingError where another process holds it, or has put something else there.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    is_held = False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_held = not path.exists() or not os.path.samestat(os.fstat(handle), path.stat())
    except BlockingIOError:
        is_held = True
    except OSError:
        pass  # Some network disks cannot.
    if is_held:
        raise SettingError(
            f'another process writes to "{path}"',
            remedy="Wait until it is done, or give another --output.",
        )
