"""Small data sets written for ftkit, so that every task runs without a network.

One world, a shop's support tickets, serves all tasks; README.md says what is in the folder. Imports
`ftkit.errors` only. Recipes, notebooks and tests use it; nothing else in the package does.
"""

from pathlib import Path

from ftkit.errors import DataError

_NAMES = ("tickets", "questions", "summaries")


def sample_folder(name: str) -> Path:
    """Return the folder that holds a sample's train, validation and test files."""
    if name not in _NAMES:
        raise DataError(f"no sample is called {name!r}", remedy=f"Use one of {', '.join(_NAMES)}.")
    return Path(__file__).parent / name
