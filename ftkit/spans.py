"""Offsets: windows over a sequence longer than the model.

Pure functions over integers: imports nothing, every module may import it.
"""

from __future__ import annotations


def window_bounds(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Start and end of the windows of `size` tokens that cover `length` tokens.

    Neighbours share `stride` tokens, transformers' meaning of the word. The last window ends
    with the sequence and is full, so that no window is left with a few tokens only.

    Raises ValueError where the windows could not move on.
    """
    if size < 1 or not 0 <= stride < size:
        raise ValueError(f"windows of {size} tokens cannot share {stride}")
    if length <= size:
        return [(0, length)]
    starts = list(range(0, length - size, size - stride))
    return [(start, start + size) for start in [*starts, length - size]]


def kept_positions(length: int, size: int, keep: str) -> list[int]:
    """Positions of the `size` tokens kept of `length`: their head, their tail, or both.

    "head+tail" keeps a quarter of the room for the head, the split that served best in
    Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?" (128 and 382 of 510).
    """
    head = {"head": size, "tail": 0, "head+tail": size // 4}[keep]
    if length <= size:
        return list(range(length))
    return [*range(head), *range(length - (size - head), length)]
