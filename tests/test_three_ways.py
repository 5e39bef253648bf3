"""docs/three_ways: the same job in ftkit, Trainer and Blurr, and what the page says of them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "three-ways.md"


@pytest.fixture(scope="module")
def bench() -> Any:
    """recipes/bench/three_ways.py, which imports its neighbours by their bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes" / "bench"))
        import three_ways

        yield three_ways
        for name in ("three_ways", "rounds", "common"):
            sys.modules.pop(name, None)


def test_the_page_counts_the_lines_of_the_files(bench: Any) -> None:
    told = dict(re.findall(r"^\| \[`(\w+_way)\.py`\]\S+ \| (\d+) ", PAGE.read_text("utf-8"), re.M))
    counted = {file.stem: str(bench.count_lines(file)) for file in bench.WAYS.glob("*.py")}
    assert told == counted
    assert len(counted) == 3


def test_the_page_shows_the_files() -> None:
    shown = re.findall(r'^--8<-- "(docs/three_ways/\w+\.py)"$', PAGE.read_text("utf-8"), re.M)
    assert len(shown) == 3
    assert all((ROOT / file).is_file() for file in shown)


def test_counting(bench: Any, tmp_path: Path) -> None:
    file = tmp_path / "way.py"
    file.write_text('"""One."""\n\n# none\nx = 1  # two\n\n    # none\n', encoding="utf-8")
    assert bench.count_lines(file) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("minilm")
@pytest.mark.parametrize("way", ["ftkit", "trainer", "blurr"])
def test_a_way_goes(way: str, bench: Any, tmp_path: Path) -> None:
    if way == "blurr" and importlib.util.find_spec("ftkit.blurr") is None:
        pytest.skip("ftkit.blurr, the bridge to Blurr, is not there")
    # More than a batch: Blurr leaves out a smaller one.
    folder = bench.write_rows(tmp_path / "tickets", 33)
    scores = bench.load_way(way)(str(folder), bench.minilm_folder(), str(tmp_path / "model"), 1)
    assert {"accuracy", "macro_f1"} <= set(scores)
    assert all(0 <= scores[name] <= 1 for name in ("accuracy", "macro_f1"))

    from transformers import pipeline

    # All three leave what transformers opens, with the queues by name.
    answer = pipeline("text-classification", model=str(tmp_path / "model"))("Where is it?")
    assert answer[0]["label"] in {"billing", "delivery", "returns", "technical", "account"} | {
        *("product question", "cancellation", "feedback")
    }


@pytest.mark.slow
@pytest.mark.usefixtures("minilm")
def test_the_bench_takes_turns(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scores = bench.main(rows=8, epochs=1, rounds=1, ways=("ftkit", "ftkit-fp32"))
    assert set(scores) == {"ftkit", "ftkit-fp32"}
    assert "| 8 rows, 1 epochs | ftkit-fp32 |" in capsys.readouterr().out
