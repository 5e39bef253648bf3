"""Which languages the texts of a split are in, by py3langid, over rows drawn by a seed.

Imports `finding`; `check` calls it.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from ftkit.checks.finding import Finding, SplitRows

SAMPLED = 2000
"""Rows of a split that are looked at."""
SURE = 0.9
"""Probability below which a text's language is not told."""
NOT_SURE = "not sure"

_SEED = 42
_LONGEST = 1000  # characters that are read of a text
_LEAST = 20  # characters: of shorter texts the language is not told
_FEW = 0.02  # share of the sure rows below which other languages are not worth a word


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def count_languages(rows: SplitRows) -> tuple[dict[str, int], list[Finding]]:
    """How many of the rows looked at are in each language, the most frequent first."""
    places = np.arange(len(rows))
    if len(places) > SAMPLED:
        places = np.sort(np.random.default_rng(_SEED).permutation(len(rows))[:SAMPLED])
    texts = rows.texts.take(places).to_pylist()
    told = np.array([_language(text) for text in texts])
    counts = dict(Counter(told.tolist()).most_common())
    sure = {name: count for name, count in counts.items() if name != NOT_SURE}
    if not sure:
        return counts, []
    main = next(iter(sure))
    is_other = np.zeros(len(rows), dtype=bool)
    is_other[places[(told != main) & (told != NOT_SURE)]] = True
    if is_other.sum() < max(2, _FEW * sum(sure.values())):
        return counts, []
    others = ", ".join(f"{name} {count:,}" for name, count in list(sure.items())[1:4])
    found = rows.find(
        "note",
        "other_languages",
        is_other,
        f"{{count}} of {sum(sure.values()):,} texts whose language is sure are not in {main}, as "
        f"most are: {others} (of {len(places):,} rows looked at)",
        "See that the checkpoint was trained on these languages too.",
    )
    return counts, found


def _language(text: str) -> str:
    if len(text) < _LEAST:
        return NOT_SURE
    name, probability = _identifier().classify(text[:_LONGEST])
    return name if probability >= SURE else NOT_SURE
