"""How a mend takes the place of what it mends: in Blurr's modules and classes, nowhere else.

What is replaced stays at hand as `__wrapped__`. Imports `errors` only.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from ftkit.errors import FtkitWarning

_said: set[str] = set()


def say_once(result: str) -> None:
    """Warn of a result that differs from Blurr's own, once in a process."""
    if result not in _said:
        _said.add(result)
        warnings.warn(f"ftkit.blurr: {result}", FtkitWarning, stacklevel=3)


def replace(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Put `new` in the place of a function of Blurr's, in every module of it that has it."""
    new = wraps(old)(new)
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "blurr":
            for key, value in list(vars(module).items()):
                if value is old:
                    setattr(module, key, new)


def replace_method(owner: type, name: str, new: Callable[..., Any]) -> None:
    """Put `new` in the place of a method, which may be a class method."""
    old = owner.__dict__[name]
    if isinstance(old, classmethod):
        setattr(owner, name, classmethod(wraps(old.__func__)(new)))
    else:
        setattr(owner, name, wraps(old)(new))


def change_arguments(
    owner: type, name: str, change: Callable[[type, dict[str, Any]], object]
) -> None:
    """Have `change` look over the arguments of a class method, by name, before it runs."""
    old = owner.__dict__[name].__func__
    signature = inspect.signature(old)

    def changed(cls: type, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(cls, *args, **kwargs)
        bound.apply_defaults()
        change(cls, bound.arguments)
        return old(*bound.args, **bound.kwargs)

    replace_method(owner, name, changed)
