"""Rounds: contenders take turns, and their times become ratios. A leaf.

A round runs every contender once, the next round in the opposite order. The ratio is taken inside
each round, so that a slow minute of the machine falls on both sides.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

Measure: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """Figures of several contenders over the same rounds; the first contender is the yardstick."""

    name: str
    unit: str
    figures: dict[str, list[float]]
    goals: dict[str, str]

    def rows(self) -> Iterator[str]:
        """A row of the table for each contender."""
        yardstick = next(iter(self.figures.values()))
        for contender, figures in self.figures.items():
            ratios = [own / other for own, other in zip(figures, yardstick, strict=True)]
            ratio = "1" if figures is yardstick else spread(ratios, 3)
            cells = [self.name, contender, f"{spread(figures, 1)} {self.unit}", ratio]
            yield f"| {' | '.join([*cells, self.goals.get(contender, '')])} |"


def table(comparisons: list[Comparison]) -> str:
    """All comparisons as one markdown table."""
    head = "| measure | contender | median (min to max) | ratio (min to max) | goal |"
    rows = [row for comparison in comparisons for row in comparison.rows()]
    return "\n".join([head, "|---|---|---:|---:|---|", *rows])


def spread(values: list[float], digits: int) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def take_turns(
    contenders: dict[str, Measure], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """The figure each contender gives in each round, after one round that is not counted."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            gc.collect()
            figure = contenders[name]()
            if number:
                figures[name].append(figure)
            print(f"  round {number}: {name} {figure:,.2f}", flush=True)
    return figures
