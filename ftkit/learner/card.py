"""The model card of a bundle: what it was trained on, how, how good it is, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ftkit
from ftkit.model.checkpoint import MINILM

Scores = Mapping[str, float]


@dataclass(frozen=True)
class CardFacts:
    """What a card tells. Scores are those of `Metrics.compute` and `Metrics.per_label`."""

    checkpoint: str
    task: str
    labels: tuple[str, ...]
    rows: Mapping[str, int]
    truncated: Mapping[str, int]
    """Rows of each split of which the model saw a part only."""
    limit: int
    limits: tuple[str, ...]
    pipeline: str
    example: object
    """A row to predict."""
    answers_rows: bool
    """Whether it predicts anything of a row."""
    settings: Mapping[str, object]
    is_adapter: bool = False
    """Whether it holds an adapter without its base."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """By split."""
    per_label: Mapping[str, Scores] = field(default_factory=dict)
    """Of the last split in `scores`."""


def write_card(facts: CardFacts) -> str:
    """The card as Markdown with the front matter that the Hugging Face hub reads."""
    hub_id = MINILM if facts.checkpoint == "minilm" else facts.checkpoint
    is_local = Path(facts.checkpoint).expanduser().exists()
    base = "" if is_local else f"base_model: {hub_id}\n"
    name = Path(facts.checkpoint).name if is_local else hub_id
    library = "peft" if facts.is_adapter else "transformers"
    parts = [
        f"---\nlibrary_name: {library}\npipeline_tag: {facts.pipeline}\n{base}"
        "tags:\n- ftkit\n- fastai\n---",
        f"# {name}, fine-tuned for {facts.task}",
        _labels(facts),
        _use(facts),
        "## Training data\n\n" + _data(facts),
        "## Settings\n\n" + _table(["setting", "value"], facts.settings.items()),
        "## Scores\n\n" + _scores(facts),
        "## Limits\n\n" + _limits(facts),
        f"Made with ftkit {ftkit.__version__}.\n",
    ]
    return "\n\n".join(parts)


# transformers 5 removed the pipelines of the other tasks.
_PIPELINES = ("text-classification", "token-classification", "fill-mask", "text-generation")


def _use(facts: CardFacts) -> str:
    if not facts.answers_rows:
        return _BASE_USE
    own = _OWN_USE.format(example=repr(facts.example))
    if facts.is_adapter or facts.pipeline not in _PIPELINES:
        return own
    return own + _PIPELINE_USE.format(pipeline=facts.pipeline, example=repr(facts.example))


_BASE_USE = """## Use

As a checkpoint to fine-tune from:

```python
import ftkit

learn = ftkit.classification_learner(data, "path/of/this/folder")
```"""

_OWN_USE = """## Use

```python
import ftkit

model = ftkit.load_model("path/of/this/folder")
model.predict([{example}])
```"""

_PIPELINE_USE = """

or, without ftkit:

```python
from transformers import pipeline

pipeline("{pipeline}", model="path/of/this/folder")({example})
```"""


def _labels(facts: CardFacts) -> str:
    if not facts.labels:
        return f"Its task is {facts.task}."
    return f"It knows {len(facts.labels)} labels: {', '.join(facts.labels)}."


def _data(facts: CardFacts) -> str:
    return _table(
        ["split", "rows", f"cut to {facts.limit} tokens"],
        [
            (split, f"{n:,}", f"{facts.truncated.get(split, 0):,}")
            for split, n in facts.rows.items()
        ],
    )


def _scores(facts: CardFacts) -> str:
    if not facts.scores:
        return "It was not evaluated."
    names = list(next(iter(facts.scores.values())))
    table = _table(
        ["split", *names],
        [(split, *[f"{s[name]:.4f}" for name in names]) for split, s in facts.scores.items()],
    )
    if not facts.per_label:
        return table
    split = list(facts.scores)[-1]
    rows = [
        (label, *[f"{s[name]:.3f}" for name in ("precision", "recall", "f1")], f"{s['support']:,}")
        for label, s in facts.per_label.items()
    ]
    header = ["label", "precision", "recall", "F1", "support"]
    return f"{table}\n\nBy label, on {split}:\n\n{_table(header, rows)}"


def _limits(facts: CardFacts) -> str:
    told = (*facts.limits, "The scores hold for rows like those it was evaluated on.")
    return "\n".join(f"- {each}" for each in told)


def _table(header: list[str], rows: object) -> str:
    lines = [header, ["---"] * len(header), *rows]  # type: ignore[misc]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    """Text that stays in its cell."""
    return " ".join(str(value).split()).replace("|", r"\|")
