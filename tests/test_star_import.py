"""`from ftkit import *` beside fastai's star imports, whichever comes first."""

import builtins
from itertools import permutations

import pytest

import ftkit

FASTAI = ("fastai.text.all", "fastai.callback.all")
OTHERS = ("fastai.basics", "fastai.interpret", "fastai.distributed", "fastcore.all")


def star(*modules):
    """The names that star imports of these modules bring, in that order."""
    names = {}
    exec("\n".join(f"from {module} import *" for module in modules), names)
    del names["__builtins__"]
    return names


@pytest.mark.parametrize("order", permutations((*FASTAI, "ftkit")), ids=" ".join)
def test_no_order_of_star_imports_changes_what_a_name_is(order):
    found, own, theirs = star(*order), star("ftkit"), star(*FASTAI)
    assert len(theirs) > 1000
    assert set(own) == set(ftkit.__all__)
    for name, value in {**theirs, **own}.items():
        assert found[name] is value, name


@pytest.mark.parametrize("module", [*FASTAI, *OTHERS])
def test_no_public_name_is_fastais_too(module):
    assert set(ftkit.__all__) & set(star(module)) == set()


def test_no_public_name_is_pythons_too():
    assert set(ftkit.__all__) & set(dir(builtins)) == set()


def test_only_names_that_fastai_has_are_left_out():
    left_out = set(ftkit._HOMES) - set(ftkit.__all__)
    assert left_out <= set(star(*FASTAI))
    assert callable(ftkit.load_model)
