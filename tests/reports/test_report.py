"""Reports of trained Learners of every task: whole, self-contained, and true to the rows."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

import ftkit
from ftkit.errors import SettingError
from ftkit.reports.answers import error_kinds
from ftkit.reports.data import data_section
from ftkit.reports.rows import entities_of, evaluate_rows
from ftkit.tasks import NER, LanguageModeling, Summarization

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)> $x$ "é" 東京'


def hostile(data):
    """The same rows, with a text that means harm in one of them."""
    rows = data["validation"].to_list()
    rows[0]["text"] = f"{HOSTILE} {rows[0]['text']}"
    return DatasetDict({**data, "validation": Dataset.from_list(rows)})


def tagged(row):
    words = row["text"].split()
    tags = ["B-KEY" if word in {"refund", "parcel", "login", "error"} else "O" for word in words]
    return {"tokens": words, "tags": tags}


def asked(row):
    words = row["text"].split()
    start = row["text"].index(words[-1])
    answers = {"text": [words[-1]], "answer_start": [start]}
    return {"question": "what was the last word", "context": row["text"], "answers": answers}


MAKE = {
    "single": lambda data: (data, ftkit.classification_learner, None),
    "multi": lambda data: (
        data.map(lambda row: {"label": [row["label"]], "text": row["text"]}),
        ftkit.classification_learner,
        None,
    ),
    "regression": lambda data: (
        data.map(lambda row: {"label": float(len(row["text"].split()))}),
        ftkit.classification_learner,
        None,
    ),
    "ner": lambda data: (
        data.map(tagged, remove_columns=["text", "label"]),
        ftkit.ner_learner,
        NER(),
    ),
    "qa": lambda data: (
        data.map(asked, remove_columns=["text", "label"]),
        ftkit.qa_learner,
        None,
    ),
    "summarization": lambda data: (
        data.map(lambda row: {"summary": row["text"].split()[0]}, remove_columns=["label"]),
        ftkit.summarization_learner,
        Summarization(num_beams=1, max_target_length=8),
    ),
    "language_modeling": lambda data: (
        data.remove_columns("label"),
        ftkit.language_model_learner,
        LanguageModeling(),
    ),
}


@pytest.fixture(scope="module", params=MAKE)
def reported(request, tiny_data, tiny_checkpoint):
    """The kind, a Learner trained for an epoch or two, and its report."""
    data, learner, task = MAKE[request.param](hostile(tiny_data))
    learn = learner(data, tiny_checkpoint, task=task, bs=8, precision="fp32")
    learn.fit_one_cycle(2, 1e-2)
    return request.param, learn, ftkit.report(learn, resamples=50, explain_seconds=3)


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.ids, self.described = [], [], [], 0
        self.open = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append(tag)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named[name] for name in ("src", "href", "xlink:href") if name in named]
        assert not any(name.startswith("on") for name in named)
        if tag == "svg":
            self.described += bool(named.get("aria-label")) and named.get("role") == "img"


def test_the_page_loads_and_runs_nothing(reported):
    _, _, report = reported
    html = report.html()
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "img"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"url\((?!#)|@import", html)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert page.tags.count("svg") == page.described
    assert len(html) < 3_000_000


def test_sections(reported):
    kind, _, report = reported
    titles = [section.title for section in report.sections]
    assert titles[:3] == ["What was trained on what", "Scores", "How it was trained"]
    expected = {
        "single": ["Right and wrong", "How sure it is", "Where it is better and worse"],
        "multi": ["Right and wrong", "How sure it is", "Where it is better and worse"],
        "regression": ["Right and wrong", "Worst mistakes"],
        "language_modeling": [],
    }.get(kind, ["Right and wrong", "Where it is better and worse"])
    for title in expected:
        assert title in titles
    assert ("How sure it is" in titles) == (kind in ("single", "multi"))


def test_scores_are_those_of_an_evaluation(reported, tmp_path):
    _, learn, report = reported
    (answers,) = report.evaluated
    ftkit.save(learn, tmp_path / "model")
    rows = learn.dls.valid.dataset.items.rows
    evaluation = ftkit.load_model(tmp_path / "model").evaluate(rows)
    assert answers.evaluation.scores == pytest.approx(evaluation.scores, abs=1e-6, nan_ok=True)
    (name, value), *_ = evaluation.scores.items()
    assert f"{value:.3f}" in report.html()
    assert f"{name} {value:.4f}" in str(report)


def test_rows_are_in_their_order_and_judged_as_the_metric_does(reported):
    kind, learn, report = reported
    (answers,) = report.evaluated
    if kind == "language_modeling":
        assert not answers.rows
        return
    dataset = learn.dls.valid.dataset
    assert [each.number for each in answers.rows] == list(range(len(dataset)))
    name = {"single": "accuracy", "regression": "mae", "qa": "f1", "summarization": "rougeL"}
    if kind in name:
        mean = np.mean([each.score for each in answers.rows])
        assert mean == pytest.approx(answers.evaluation.scores[name[kind]], abs=1e-6)


def test_in_a_notebook_it_is_a_part_of_a_page(reported):
    _, _, report = reported
    shown = report._repr_html_()
    assert shown.startswith("<style>")
    assert "<html" not in shown
    # The style must not reach the notebook around it.
    style = re.sub(r"@media[^{]*\{", "", shown[7 : shown.index("</style>")])
    selectors = re.findall(r"(?:^|[}])\s*([^{}]+)\{", style)
    assert selectors
    assert all(".ftkit-report" in selector for selector in selectors)


def test_mistakes_are_explained(reported):
    kind, _, report = reported
    html = report.html()
    # A word's score stands in its title.
    is_explained = re.search(r'title="[+-]\d+\.\d{3}"', html) is not None
    found = [each.found for answers in report.evaluated for each in answers.rows if each.score < 1]
    if kind in ("single", "multi", "regression") and found:
        assert is_explained
    elif kind == "ner":
        assert is_explained == any(each != "(none)" for each in found)
    elif kind == "qa":
        assert is_explained == ("What spoke for it" in html)
    else:
        assert not is_explained


def test_the_file_is_the_page(reported, tmp_path):
    _, _, report = reported
    path = report.save(tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == report.html()


def test_splits_of_data(tiny_data, fitted_once):
    report = ftkit.report(fitted_once, tiny_data, resamples=20, explain_seconds=0)
    assert [answers.split for answers in report.evaluated] == ["validation", "test"]
    assert "accuracy on test" in report.html()
    with pytest.raises(SettingError, match=r"the splits \['train'\]"):
        ftkit.report(fitted_once, DatasetDict({"train": tiny_data["train"]}))
    with pytest.raises(SettingError, match="of type list"):
        ftkit.report(fitted_once, tiny_data["test"].to_list())


def test_a_score_of_nothing_is_a_dash(tiny_data, tiny_checkpoint):
    """Questions without any answer have no score of those with one."""
    none = {"answers": {"text": [], "answer_start": []}}
    data = tiny_data.map(asked, remove_columns=["text", "label"])
    data["validation"] = data["validation"].map(lambda row: none)
    learn = ftkit.qa_learner(data, tiny_checkpoint, bs=8, precision="fp32")
    html = ftkit.report(learn, resamples=20).html()
    assert '<td class="number">-</td>' in html
    assert ">nan" not in html


@pytest.fixture(scope="module")
def fitted_once(tiny_data, tiny_checkpoint):
    learn = ftkit.classification_learner(tiny_data, tiny_checkpoint, bs=8, precision="fp32")
    learn.fit_one_cycle(3, 1e-2)
    return learn


def test_a_report_changes_no_model(fitted_once):
    before = [parameter.clone() for parameter in fitted_once.model.parameters()]
    ftkit.report(fitted_once, resamples=20, explain_seconds=3)
    after = fitted_once.model.parameters()
    assert all((old == new).all() for old, new in zip(before, after, strict=True))
    fitted_once.fit_one_cycle(1, 1e-3)
    assert len(fitted_once.history.rows) == 4


def test_before_any_training(tiny_data, tiny_checkpoint):
    learn = ftkit.classification_learner(tiny_data, tiny_checkpoint, bs=8, precision="fp32")
    report = ftkit.report(learn, resamples=20, explain_seconds=0)
    assert "How it was trained" not in [section.title for section in report.sections]


def test_all_rows_right(fitted_once):
    from ftkit.learner.save import predictor

    rows = fitted_once.dls.valid.dataset.items.rows
    found = [each.label for each in predictor(fitted_once).predict(rows["text"])]
    mended = rows.remove_columns("label").add_column("label", found)
    answers = evaluate_rows(predictor(fitted_once), mended, "validation", resamples=0)
    assert {each.score for each in answers.rows} == {1.0}
    data = DatasetDict({"validation": mended})
    html = ftkit.report(fitted_once, data, resamples=20).html()
    assert "Every row got its label." in html
    assert "Worst mistakes" not in html


@pytest.mark.parametrize(
    ("wanted", "found", "kinds"),
    [
        ([(0, 3, "a")], [(0, 3, "a")], []),
        ([(0, 3, "a")], [(0, 3, "b")], ["type"]),
        ([(0, 3, "a")], [(0, 5, "a")], ["boundary"]),
        ([(0, 3, "a")], [(2, 5, "b")], ["type and boundary"]),
        ([(0, 3, "a")], [], ["missed"]),
        ([(0, 3, "a")], [(3, 5, "a")], ["missed", "invented"]),
        ([], [(3, 5, "a")], ["invented"]),
        ([(0, 9, "a")], [(0, 3, "a"), (4, 9, "a")], ["boundary"]),
        ([(0, 3, "a"), (5, 9, "b")], [(0, 3, "a"), (5, 9, "c")], ["type"]),
    ],
)
@pytest.mark.unit
def test_kinds_of_errors(wanted, found, kinds):
    assert [kind for kind, _ in error_kinds(wanted, found)] == kinds


@pytest.mark.unit
def test_entities_of_both_shapes_of_rows():
    spans = {"text": "Ann flew", "entities": [{"start": 0, "end": 3, "label": "who"}]}
    tags = {"tokens": ["Ann", "flew"], "tags": ["B-who", "O"]}
    assert entities_of(spans) == entities_of(tags) == [(0, 3, "who")]


def test_absurd_rows_and_many_labels_keep_the_page_small(tiny_checkpoint):
    long = "word " * 20_000
    rows = [
        {"text": f"{long if i == 3 else 'a'} {i}", "label": f"{HOSTILE} {i % 300}"}
        for i in range(900)
    ]
    rows.append({"text": "x" * 100_000, "label": rows[0]["label"]})
    data = {"train": rows, "validation": rows[:60] + rows[-1:]}
    learn = ftkit.classification_learner(ftkit.load_data(data), tiny_checkpoint, bs=64)
    learn.fit(1, 1e-4)
    html = ftkit.report(learn, resamples=10, explain_seconds=60).html()
    assert len(html) < 1_500_000
    assert "<script" not in html


CHECK = {
    "splits": [
        {
            "name": "train",
            "rows": 3,
            "labels": {HOSTILE: 2, "b": 1},
            "lengths": {
                "unit": "tokens",
                "edges": [0, 5, 10],
                "counts": [1, 2],
                "median": 6.5,
                "p95": 9.0,
                "max": 9,
                "limit": 8,
                "cut_rows": 1,
            },
            "languages": {"en": 2, "de": 1},
        },
        {"name": "test", "rows": 1, "labels": None, "lengths": None, "languages": None},
    ],
    "findings": [
        {
            "level": "warning",
            "name": "duplicate_rows",
            "message": f"2 of 3 rows are the same {HOSTILE}",
            "remedy": "Drop them.",
            "split": "train",
            "examples": [{"split": "train", "row": 1234, "text": HOSTILE}],
        }
    ],
    "notes": [HOSTILE],
}


@pytest.mark.unit
def test_the_data():
    html = data_section(CHECK).html()
    assert not {"script", "img"} & set(Page(html).tags)
    for said in ("warning", "train: 2 of 3 rows", "Drop them.", "row 1,234", "en 67%, de 33%"):
        assert said in html
    assert html.count("<svg") == 2
    # A split without lengths keeps its cells under their own names.
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    assert {row.count("<td") + row.count("<th") for row in rows} == {7}
    assert "nothing to mend" in data_section({**CHECK, "findings": [], "splits": []}).html()
