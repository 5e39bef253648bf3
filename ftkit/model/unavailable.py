"""Why a checkpoint of some name cannot be had at all. Pure; `checkpoint.py` asks it."""

from __future__ import annotations

import re

_REMOVED = re.compile(r"transfo[-_]?xl|transformer-xl", re.IGNORECASE)
_CLOSED = re.compile(
    r"(openai/|google/|anthropic/)?(gpt-?(3|4|5)|chatgpt|davinci|claude|palm|gemini)", re.IGNORECASE
)


def why_unavailable(name: str) -> tuple[str, str] | None:
    """What is wrong with the name of a checkpoint that could not be opened, and the remedy.

    None where the name tells nothing.
    """
    if _REMOVED.search(name):
        return (
            f'"{name}" is a Transformer-XL, which transformers removed in version 5, so no code '
            "can open it",
            "Take an architecture of today for long texts, such as longformer or modernbert.",
        )
    if _CLOSED.match(name):
        return (
            f'"{name}" is the name of a closed model: its weights were never published, so nobody '
            "but its maker can fine-tune it",
            "Take an open checkpoint, such as bert-base-uncased or Qwen/Qwen3-0.6B.",
        )
    return None
