"""A task's scores as fastai metrics: right over a pass, gathered once, deciding on validation."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

import ftkit
from ftkit.learner.metrics import TaskScores, task_metrics
from ftkit.tasks import Classification, Summarization


class Pass:
    """As much of a Learner as a metric looks at."""

    def __init__(self, pred, y, *, is_validation=True):
        self.pred, self.y, self.xb = pred, y, ({"row": torch.arange(len(y))},)
        self.dl = type("Loader", (), {"rows_of": lambda loader, inputs: [], "n_shards": 1})()
        self.dls = type("Loaders", (), {"valid": self.dl if is_validation else object()})


MULTI = Classification(kind="multi", labels=("a", "b"))


def test_scores_over_a_validation_are_those_of_scikit_learn(fitted):
    scores, targets = fitted.get_preds()
    found = scores.argmax(1)
    _, accuracy, macro_f1, mcc = fitted.validate()
    assert accuracy == pytest.approx(accuracy_score(targets, found))
    assert macro_f1 == pytest.approx(f1_score(targets, found, average="macro"))
    assert mcc == pytest.approx(matthews_corrcoef(targets, found))


def test_each_pass_starts_anew():
    scores = TaskScores(Classification(kind="single", labels=("a", "b")), None)
    accuracy, *others = task_metrics(scores)
    for right, expected in ((0, 1.0), (1, 0.0)):
        for metric in (accuracy, *others):
            metric.reset()
        batch = Pass(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([right, right]))
        for metric in (accuracy, *others):
            metric.accumulate(batch)
        assert accuracy.value == expected


def test_a_batch_counts_once_however_many_metrics_show_it():
    scores = TaskScores(Classification(kind="single", labels=("a", "b")), None)
    metrics = task_metrics(scores)
    assert [metric.name for metric in metrics] == ["accuracy", "macro_f1", "mcc"]
    for metric in metrics:
        metric.accumulate(Pass(torch.tensor([[1.0, 0.0]]), torch.tensor([0])))
    assert sum(len(each) for each in scores.metrics.found) == 1


def run_pass(scores, wanted_from, *, is_validation=True):
    """A pass over scores 0.01 to 0.99, of which those from `wanted_from` are wanted."""
    values = torch.arange(1, 100) / 100
    targets = (values >= wanted_from - 1e-6).float()
    lead = task_metrics(scores)[0]
    lead.reset()
    both = torch.stack([values, values], 1)
    batch = Pass(both.logit(), torch.stack([targets, targets], 1), is_validation=is_validation)
    lead.accumulate(batch)
    return lead.value


def test_validation_chooses_the_threshold():
    scores = TaskScores(MULTI, None)
    assert scores.trained_task.threshold is None
    assert run_pass(scores, 0.3) == 1.0
    assert scores.trained_task.threshold == pytest.approx(0.3)
    assert run_pass(scores, 0.7) == 1.0
    assert scores.trained_task.threshold == pytest.approx(0.7)


def test_other_rows_do_not_choose():
    scores = TaskScores(MULTI, None)
    run_pass(scores, 0.3)
    run_pass(scores, 0.9, is_validation=False)
    task_metrics(scores)[0].reset()
    assert scores.trained_task.threshold == pytest.approx(0.3)


def test_what_validation_chose_goes_into_the_bundle(make_learner, multi_data, tmp_path):
    learn = make_learner(multi_data)
    learn.fit_one_cycle(2, 5e-3)
    scores, targets = learn.get_preds()
    candidates = np.arange(5, 96) / 100
    f1 = [f1_score(targets, scores >= t - 1e-6, average="micro") for t in candidates]
    learn.predict("hello")
    learn.validate(dl=learn.dls.test_dl(multi_data["test"], with_labels=True))
    folder = ftkit.save(learn, tmp_path / "model")
    threshold = json.loads((folder / "task.json").read_text())["options"]["threshold"]
    assert threshold == pytest.approx(candidates[int(np.argmax(f1))], abs=0.0101)
    assert learn.history.rows[-1]["micro_f1"] == pytest.approx(max(f1), abs=1e-6)
    for row in ftkit.load_model(folder).predict(multi_data["test"]["text"]):
        assert set(row.labels) == {n for n, score in row.scores.items() if score >= threshold}


def test_own_metrics_take_their_place(make_learner):
    def half(outputs, targets):
        return torch.tensor(0.5)

    learn = make_learner(metrics=[half])
    learn.fit_one_cycle(1, 1e-3)
    assert learn.history.rows[-1]["half"] == 0.5
    assert "accuracy" not in learn.history.rows[-1]


@pytest.mark.filterwarnings("error::UserWarning")
def test_predicting_one_row_warns_of_nothing(fitted):
    assert fitted.predict("my refund invoice is late")[0] in ("billing", "delivery")


class Written(Pass):
    """A validation batch of a task that generates: the model counts what it is asked for."""

    def __init__(self, rows, total, epoch, n_epoch):
        super().__init__(torch.zeros(len(rows), 1, 4), torch.tensor([[5]] * len(rows)))
        self.xb = ({"row": torch.tensor(rows)},)
        self.epoch, self.n_epoch, self.asked = epoch, n_epoch, []
        self.dl.dataset = range(total)
        self.dl.rows_of = lambda inputs: [{"text": "a b", "summary": "b"} for _ in inputs["row"]]
        self.model = type("Model", (), {"answer": lambda model, inputs: self.answer(inputs)})()

    def answer(self, inputs):
        self.asked += inputs["row"].tolist()
        return torch.full((len(inputs["row"]), 1), 5)


def test_summaries_are_written_for_some_rows_in_some_epochs(tiny_tokenizer):
    task = Summarization(validate_rows=6, validate_every=2)
    asked = []
    for epoch in range(5):
        scores = TaskScores(task, tiny_tokenizer("t5"))
        batch = Written(list(range(20)), 20, epoch, 5)
        scores.add(batch)
        asked.append(batch.asked)
        assert math.isnan(scores.values()["rouge1"]) == (not batch.asked)
    # Every second epoch, the last among them, and the same six rows each time.
    assert [len(each) for each in asked] == [6, 0, 6, 0, 6]
    assert asked[0] == asked[2] == asked[4]
