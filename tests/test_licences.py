"""Whatever comes with ftkit may come with it: recipes/bench/licences.py."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

_ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def licences() -> Any:
    return SimpleNamespace(**runpy.run_path(str(_ROOT / "recipes" / "bench" / "licences.py")))


def test_all_of_the_lock_is_compatible_and_listed(licences: Any) -> None:
    found, absent = licences.read_licences(_ROOT / "requirements.lock")
    assert len(found) > 10 * len(absent)
    unclear = {name: said for name, said in found.items() if not licences.is_compatible(said)}
    assert not unclear, "look at their licences, and run recipes/bench/licences.py"
    page = (_ROOT / "recipes" / "bench" / "LICENCES.md").read_text(encoding="utf-8")
    assert not [name for name in found if name not in page]


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-only", "AGPL-3.0", "MIT AND GPL-2.0", "Proprietary", "none", ""]
)
def test_what_asks_for_a_look(licences: Any, licence: str) -> None:
    assert not licences.is_compatible(licence)
