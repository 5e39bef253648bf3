"""Scale: time and memory of preparation against the number of rows and the length of their texts.

preparation.py says what a run is: from a file of Parquet to batches, all of them read once, then a
few steps of a tiny model, in a process of its own. Both should be lines, and memory flat. The
figure shows the medians.

    python recipes/bench/scale.py --clock cpu
    python recipes/bench/scale.py --rows 1000 10000 --lengths 10 40 --rounds 1    # a trial
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from common import WORK, conditions, new_figure, write_section
from preparation import OURS, THEIRS, Run, Runs, measure_sides, write_rows
from rounds import spread

WORDS = 40  # of a text, where the number of rows is varied
ROWS = 10_000  # where the length is
SIDES_SHOWN = [THEIRS, OURS]
COLUMNS: dict[str, Callable[[Runs], list[Run]]] = {
    "first": lambda runs: runs.first,
    "cached": lambda runs: runs.cached,
}


def per_row(run: Run, rows: int) -> float:
    """Microseconds from the file to the last batch, for each row."""
    return 1e6 * (run.prepare + run.read) / rows


def table(axis: str, found: dict[int, dict[str, Runs]], rows_of: Callable[[int], int]) -> str:
    """A row for each size and side."""
    head = [axis, "contender", "first, µs a row", "cached, µs a row", "a step, ms"]
    head += ["peak of memory, MiB", "not mapped from files, MiB"]
    lines = [f"| {' | '.join(head)} |", "|---:|---|" + "---:|" * (len(head) - 2)]
    for size, sides in found.items():
        for side, runs in sides.items():
            cells = [f"{size:,}", side]
            for of in COLUMNS.values():
                cells.append(spread([per_row(run, rows_of(size)) for run in of(runs)], 0))
            cells.append(spread([run.step for run in runs.cached], 1))
            cells.append(spread([run.peak for run in runs.first], 0))
            cells.append(spread([run.own for run in runs.first], 0))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(
    file: Path, by_rows: dict[int, dict[str, Runs]], by_length: dict[int, dict[str, Runs]]
) -> None:
    """Seconds and memory, against rows and against length."""
    figure, axes = new_figure(2, 2)
    for column, (name, found) in enumerate((("rows", by_rows), ("words a text", by_length))):
        top, bottom = axes[0][column], axes[1][column]
        for number, side in enumerate(SIDES_SHOWN):
            sizes = [size for size in found if side in found[size]]
            for title, of in COLUMNS.items():
                seconds = [
                    median(run.prepare + run.read for run in of(found[size][side]))
                    for size in sizes
                ]
                style = "-" if title == "first" else "--"
                top.plot(sizes, seconds, style, marker="o", color=f"C{number}")
                top.lines[-1].set_label(f"{side}, {title}")
            peaks = [median(run.own for run in found[size][side].first) for size in sizes]
            bottom.plot(sizes, peaks, "-", marker="o", color=f"C{number}", label=side)
        ticks = [f"{size:,}" for size in found]
        top.set(xscale="log", yscale="log", ylabel="seconds to the last batch")
        bottom.set(xscale="log", ylabel="MiB not mapped from files", xlabel=name)
        bottom.set_ylim(bottom=0)
        for panel in (top, bottom):
            panel.minorticks_off()
            panel.set_xticks(list(found), ticks)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of preparation by size.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 40, 160, 320])
    parser.add_argument("--work", type=Path, default=WORK / "preparation", help="rows and caches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--into", type=Path, help="write the tables into this file, and a figure")
    options = parser.parse_args()

    def measure(rows: int, words: int) -> dict[str, Runs]:
        print(f"{rows:,} rows of {words} words, {time.strftime('%H:%M:%S')}", flush=True)
        folder = options.work / f"parquet-{rows}-{words}"
        write_rows(folder, rows, words, "parquet")
        return measure_sides(SIDES_SHOWN, folder, options.work, options.rounds, options.clock)

    by_rows = {rows: measure(rows, WORDS) for rows in options.rows}
    by_length = {words: measure(ROWS, words) for words in options.lengths}
    found = "\n\n".join(
        [
            f"By rows, of {WORDS} words each:",
            table("rows", by_rows, lambda rows: rows),
            f"By words, {ROWS:,} rows:",
            table("words", by_length, lambda _: ROWS),
            conditions(options.rounds, options.clock),
        ]
    )
    print(f"\n{found}")
    if options.into:
        picture = options.into.with_name("scale.svg")
        draw(picture, by_rows, by_length)
        write_section(
            options.into, "scale", f"![Time and memory by size]({picture.name})\n\n{found}"
        )


if __name__ == "__main__":
    main()
