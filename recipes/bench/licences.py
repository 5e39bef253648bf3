"""The licences of everything in requirements.lock, as their packages state them.

    python recipes/bench/licences.py    # writes LICENCES.md beside this file

Compatible with a library under Apache-2.0 that depends on them and copies nothing of them:
permissive licences, those that bind changes of their own files only (MPL), and NVIDIA's for CUDA,
which torch brings along on Linux. A package that is in the lock for another system is not read.
"""

import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_COMPATIBLE = re.compile(
    r"MIT|Apache|BSD|0BSD|3-Clause BSD|ISC|MPL|Mozilla Public|PSF|Python Software Foundation|"
    r"CNRI-Python|Zlib|BSL|CC0|NVIDIA|LicenseRef-NVIDIA|DFSG approved"
)
# What their metadata leaves out, and the packages' own files say.
_KNOWN = {"cuda-toolkit": "NVIDIA Proprietary"}


def main() -> None:
    """Write the list."""
    found, absent = read_licences(_ROOT / "requirements.lock")
    by_licence: dict[str, list[str]] = defaultdict(list)
    for name, said in found.items():
        by_licence[said].append(name)
    lines = [f"| {said} | {', '.join(names)} |" for said, names in sorted(by_licence.items())]
    page = (
        f"# Licences\n\n{len(found)} packages of requirements.lock, as their metadata states it; "
        "written by licences.py.\n\n| licence | packages |\n|---|---|\n" + "\n".join(lines) + "\n"
    )
    if absent:
        page += f"\nNot installed on the system that wrote this: {', '.join(absent)}.\n"
    (Path(__file__).parent / "LICENCES.md").write_text(page, encoding="utf-8")


def read_licences(lock: Path) -> tuple[dict[str, str], list[str]]:
    """Licence of each package that is installed, and the names of those that are not."""
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)
    found, absent = {}, []
    for name in names:
        try:
            found[name] = _KNOWN.get(name) or _stated(name)
        except PackageNotFoundError:
            absent.append(name)
    return found, absent


def is_compatible(licence: str) -> bool:
    """Whether each part of it, or one of its alternatives, is of a kind that may be depended on."""
    parts = re.split(r"\s+(?:AND|OR|WITH)\s+|;\s*", licence.strip("()"))
    rest = [part.strip("() ") for part in parts if part.strip("() ") != "LLVM-exception"]
    return all(_COMPATIBLE.match(part) for part in rest)


def _stated(name: str) -> str:
    """The expression, else the classifiers, else the first line of the licence's field."""
    about = metadata(name)
    kinds = [
        each.split("::")[-1].strip()
        for each in about.get_all("Classifier") or []
        if each.startswith("License ::") and not each.endswith("OSI Approved")
    ]
    (expression,) = about.get_all("License-Expression") or [""]
    text = "".join(about.get_all("License") or []).strip().splitlines()
    return expression or "; ".join(kinds) or (text[0] if text else "none")


if __name__ == "__main__":
    main()
