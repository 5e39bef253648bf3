"""`ftkit evaluate` with intervals, for every task."""

import json
from pathlib import Path

import pytest

from ftkit.cli import main
from ftkit.tasks import (
    NER,
    Classification,
    LanguageModeling,
    QuestionAnswering,
    Summarization,
    Translation,
)

_ANSWERS = {"text": ["late"], "answer_start": [7]}


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize(
    ("task", "row"),
    [
        (Classification(kind="single", labels=("a", "b")), {"text": "late", "label": "a"}),
        (Classification(kind="multi", labels=("a", "b")), {"text": "late", "label": ["a"]}),
        (Classification(kind="regression", labels=("value",)), {"text": "late", "label": 1.5}),
        (NER(labels=("O", "B-x", "I-x")), {"tokens": ["late", "my"], "tags": ["B-x", "O"]}),
        (QuestionAnswering(), {"question": "Why?", "context": "It was late.", "answers": _ANSWERS}),
        (Summarization(max_target_length=4), {"text": "late", "summary": "late"}),
        (Translation(max_target_length=4), {"source": "late", "target": "late"}),
        (LanguageModeling(kind="masked", block=16), {"text": "late again today with help"}),
    ],
    ids=lambda each: f"{each.name}-{getattr(each, 'kind', '')}" if hasattr(each, "name") else "",
)
def test_every_task_has_intervals(task_bundle, tmp_path, monkeypatch, capsys, task, row):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text((json.dumps(row) + "\n") * 5)
    command = ["evaluate", str(task_bundle(task)), "--data", "rows.jsonl", "--json", "scores.json"]
    assert main([*command, "--resamples", "20"]) == 0
    found = json.loads(Path("scores.json").read_text())
    assert list(found["scores"]) == list(task.metric_names)
    assert set(found["intervals"]) == {name for name, x in found["scores"].items() if x is not None}
    printed = capsys.readouterr().out
    assert printed.startswith("5 rows; 95 % intervals by 20 resamples\n")
    for name, (low, high) in found["intervals"].items():
        assert f"\n{name} {found['scores'][name]:.4f} ({low:.4f} to {high:.4f})\n" in printed
