"""Distillation: the losses by hand, for every task, and what does not fit together."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import CancelFitException
from tiny_checkpoints import save_checkpoint

import ftkit
from ftkit.errors import SettingError
from ftkit.learner.build import finetune_learner
from ftkit.learner.distill import soft_loss
from ftkit.model.students import shallow

pytestmark = pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")

SINGLE = ftkit.Classification(kind="single", labels=("a", "b", "c"))
MULTI = ftkit.Classification(kind="multi", labels=("a", "b", "c"))
NUMBER = ftkit.Classification(kind="regression")


def divergence(teacher, student):
    """Kullback-Leibler, of lists of logits, in numpy."""
    p, q = (np.exp(each) / np.exp(each).sum() for each in (teacher, student))
    return float((p * np.log(p / q)).sum())


OURS, TAUGHT = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]), np.array([[2.0, 0, 0], [0, 1.0, 3]])


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_losses_by_hand(temperature):
    ours, taught = torch.tensor(OURS), torch.tensor(TAUGHT)
    t = temperature
    rows = [divergence(b / t, a / t) for a, b in zip(OURS, TAUGHT, strict=True)]
    found = soft_loss(SINGLE, ours, taught, torch.tensor([0, 1]), t)
    assert float(found) == pytest.approx(t * t * np.mean(rows))
    labels = [
        divergence(np.array([b, 0]) / t, np.array([a, 0]) / t)
        for a, b in zip(OURS.ravel(), TAUGHT.ravel(), strict=True)
    ]
    found = soft_loss(MULTI, ours, taught, torch.zeros(2, 3), t)
    assert float(found) == pytest.approx(t * t * np.mean(labels))
    # Words and tokens without a target count for nothing.
    targets = torch.tensor([[1, -100]])
    for task in (
        ftkit.NER(labels=("O", "B-x", "I-x")),
        ftkit.LanguageModeling(),
        ftkit.Summarization(),
    ):
        found = soft_loss(task, ours[None], taught[None], targets, t)
        assert float(found) == pytest.approx(t * t * rows[0])
    found = soft_loss(NUMBER, ours[:, :1], taught[:, :1], torch.zeros(2), t)
    assert float(found) == pytest.approx(((OURS[:, 0] - TAUGHT[:, 0]) ** 2).mean())


def test_the_loss_of_answers_by_hand():
    def outputs(start, end):
        none, places = [-1e9, -1e9, -2.0, -2.0], [[-1.0, -1.0], [0.0, 3.0], [4.0, 8.0]]
        window = [[start[i], end[i], *places[i]] for i in range(3)]
        return torch.tensor([[[*window, none], [none] * 4]])  # a window that the row lacks

    ours, taught = outputs(*OURS), outputs(*TAUGHT)
    found = soft_loss(ftkit.QuestionAnswering(), ours, taught, torch.zeros(1, 2), 2.0)
    rows = [divergence(b / 2, a / 2) for a, b in zip(OURS, TAUGHT, strict=True)]
    assert float(found) == pytest.approx(4 * np.mean(rows), rel=1e-5)


def test_temperature_keeps_the_size_of_gradients():
    sizes = []
    for temperature in (4.0, 8.0, 16.0):
        ours = torch.tensor(OURS, requires_grad=True)
        soft_loss(SINGLE, ours, torch.tensor(TAUGHT), torch.tensor([0, 1]), temperature).backward()
        sizes.append(float(ours.grad.norm()))
    assert sizes == pytest.approx([sizes[-1]] * 3, rel=0.25)


# In a Learner


@pytest.fixture(scope="session")
def teacher(fitted, tmp_path_factory):
    return ftkit.save(fitted, tmp_path_factory.mktemp("teacher") / "model")


def leave_out_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def losses_of_first_batch(learn):
    """The losses of the first training batch, by what the callbacks made of it."""
    found = []

    class Note(ftkit._fastai.Callback):
        order = 50

        def after_loss(self):
            if self.training:
                with torch.no_grad():
                    own = self.learn.loss_func(self.learn.pred, self.learn.y)
                found.extend([float(own), float(self.learn.loss), self.learn.pred.detach()])
                found.extend([self.learn.xb[0], self.learn.y])
                raise CancelFitException

    learn.fit(1, 0.0, cbs=Note())
    return found


@pytest.mark.parametrize(("alpha", "hidden"), [(0.0, 0.0), (1.0, 0.0), (0.3, 0.0), (0.3, 2.0)])
def test_the_mixture(alpha, hidden, make_learner, fitted, teacher):
    callback = ftkit.Distill(teacher, alpha=alpha, temperature=3.0, hidden=hidden)
    learn = make_learner(cbs=callback)
    own, mixed, pred, inputs, targets = losses_of_first_batch(learn)
    fitted.model.eval()
    with torch.no_grad():
        soft = soft_loss(SINGLE, pred, fitted.model(inputs), targets, 3.0)
    expected = (1 - alpha) * own + alpha * float(soft)
    if hidden:
        assert mixed > expected  # by the cosine, below
    else:
        assert mixed == pytest.approx(expected, rel=1e-5)


def test_hidden_states_by_hand(make_learner, fitted, teacher):
    learn = make_learner(cbs=ftkit.Distill(teacher, alpha=0.0, hidden=1.0))
    leave_out_dropout(learn.model)
    own, mixed, _, inputs, _ = losses_of_first_batch(learn)
    states = []
    with torch.no_grad():
        for model in (learn.model, fitted.model):
            ids = {n: inputs[n] for n in ("input_ids", "attention_mask")}
            states.append(model.eval().hf_model.bert(**ids).last_hidden_state)
    cosines = F.cosine_similarity(*states, dim=-1)[inputs["attention_mask"] > 0]
    assert (inputs["attention_mask"] == 0).any()
    assert mixed - own == pytest.approx(float((1 - cosines).mean()), rel=1e-4)


def test_a_student_learns_from_the_teacher_alone(make_learner, fitted, teacher, tmp_path):
    student = shallow(teacher, tmp_path / "student", layers=1)
    answers = []
    for source in (teacher, fitted, fitted.model, ftkit.load_model(teacher)):
        callback = ftkit.Distill(source, alpha=1.0, hidden=0.1)
        learn = make_learner(checkpoint=student, new_head=True, cbs=callback)
        learn.fit_one_cycle(4, 1e-2)
        answers.append(learn.get_preds()[0])
        assert learn.history.rows[-1]["accuracy"] > 0.8
    for other in answers[1:]:  # whatever it was given as
        torch.testing.assert_close(other, answers[0])
    assert not learn.model.hf_model.base_model._forward_hooks
    assert not fitted.model.hf_model.base_model._forward_hooks
    assert learn.validate()[0] == pytest.approx(learn.history.rows[-1]["valid_loss"], rel=1e-5)


def test_the_teacher_stays_as_it_was(make_learner, fitted):
    before = {name: each.clone() for name, each in fitted.model.state_dict().items()}
    make_learner(cbs=ftkit.Distill(fitted, hidden=1.0)).fit_one_cycle(1, 1e-2)
    after = fitted.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None or not p.grad.any() for p in fitted.model.parameters())


def test_long_texts_and_groups_of_batches(make_learner, teacher, tiny_data):
    task = ftkit.Classification(long_texts="windows", max_length=12)
    long = tiny_data.map(lambda row: {"text": f"{row['text']} " * 3})
    learn = make_learner(long, task=task, cbs=[ftkit.Distill(teacher, hidden=1.0)])
    learn.add_cb(ftkit.Accumulate(2))
    learn.fit_one_cycle(1, 1e-3)
    assert np.isfinite(learn.history.rows[-1]["train_loss"])


_ROW = "Ann lost the parcel in Oslo"


def rows_of(task):
    rows = {
        "classification": {"text": _ROW, "label": ["a", "b"]},
        "ner": {"text": _ROW, "entities": [{"start": 0, "end": 3, "label": "person"}]},
        "qa": {
            "question": "where?",
            "context": _ROW,
            "answers": {"text": ["Oslo"], "answer_start": [23]},
        },
        "summarization": {"text": _ROW, "summary": "Ann lost"},
        "language_modeling": {"text": _ROW},
    }
    return [rows[task]] * 8 + ([{**rows[task], "label": ["b"]}] if task == "classification" else [])


@pytest.mark.parametrize(
    ("task", "architecture"),
    [
        ("classification", "bert"),
        ("ner", "bert"),
        ("qa", "bert"),
        ("summarization", "t5"),
        ("summarization", "bart"),
        ("language_modeling", "bert"),
        ("language_modeling", "gpt2"),
    ],
)
def test_every_task(task, architecture, tmp_path):
    checkpoint = save_checkpoint(architecture, [_ROW, "where?"] * 100, tmp_path / "checkpoint")
    rows = rows_of(task)
    data = {"train": rows, "validation": rows[:1]}

    def learner(**options):
        return finetune_learner(
            data, checkpoint, task=task, bs=4, precision="fp32", path=tmp_path, **options
        )

    teacher = learner()
    for hidden in (0.0, 1.0):
        learn = learner(cbs=ftkit.Distill(teacher, alpha=1.0, hidden=hidden))
        leave_out_dropout(learn.model)
        _, loss, *_ = losses_of_first_batch(learn)
        assert loss == pytest.approx(0, abs=1e-5)  # they are the same model
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    found = {}
    for alpha, hidden in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        learn = learner(cbs=ftkit.Distill(teacher, alpha=alpha, hidden=hidden))
        leave_out_dropout(learn.model)
        learn.fit(3, 1e-3)
        found[alpha, hidden] = [row["train_loss"] for row in learn.history.rows]
        assert found[alpha, hidden][-1] < found[alpha, hidden][0]
    assert found[1.0, 1.0][0] > found[1.0, 0.0][0] > 0


# What does not fit


def test_numbers_that_cannot_work(teacher):
    for option, message in (
        ({"alpha": 1.5}, r"alpha of the distillation is 1\.5"),
        ({"temperature": 0}, "temperature of the distillation is 0"),
        ({"hidden": -1}, "hidden of the distillation is -1"),
    ):
        with pytest.raises(SettingError, match=message):
            ftkit.Distill(teacher, **option)


def test_other_labels(make_learner, teacher, tiny_data):
    two = tiny_data.filter(lambda row: row["label"] != "billing")
    learn = make_learner(two, cbs=ftkit.Distill(teacher))
    with pytest.raises(SettingError, match='labels none, and only the teacher "billing"'):
        learn.fit(1)


def test_other_tasks(make_learner, teacher, multi_data):
    learn = make_learner(multi_data, cbs=ftkit.Distill(teacher))
    with pytest.raises(SettingError, match=r"learns .* multi_label.*knows .* single_lab"):
        learn.fit(1)


def test_other_vocabularies(make_learner, make_checkpoint, fitted, teacher):
    for checkpoint in ("roberta",):
        learn = make_learner(checkpoint=make_checkpoint(checkpoint), cbs=ftkit.Distill(teacher))
        with pytest.raises(SettingError, match=r"tokens are not the same .* such as \""):
            learn.fit(1)
        learn.remove_cb(ftkit.Distill)
        learn.add_cb(ftkit.Distill(fitted.model))
        with pytest.raises(SettingError, match=r"the student knows \d+ tokens, and the teacher"):
            learn.fit(1)


def test_other_widths(make_learner, make_checkpoint, teacher):
    narrow = make_checkpoint("bert", hidden_size=16)
    make_learner(checkpoint=narrow, cbs=ftkit.Distill(teacher)).fit(1)
    learn = make_learner(checkpoint=narrow, cbs=ftkit.Distill(teacher, hidden=1.0))
    with pytest.raises(SettingError, match=r"hidden states have the shape .*leave out hidden"):
        learn.fit(1)


def test_a_teacher_that_takes_less(make_learner, make_checkpoint, teacher):
    longer = make_checkpoint("bert", max_position_embeddings=96)
    learn = make_learner(checkpoint=longer, cbs=ftkit.Distill(teacher))
    with pytest.raises(SettingError, match=r"takes 64 tokens.*up to 96.*max_length=64"):
        learn.fit(1)
