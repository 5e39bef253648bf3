"""Distillation: a small model learns from what a large one answers, beside the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ftkit.errors import SettingError, quoted
from ftkit.features import IGNORED
from ftkit.inference.predictor import Predictor, load_model
from ftkit.learner.fits import FitCallback
from ftkit.learner.learner import TextLearner
from ftkit.model.checkpoint import token_limit
from ftkit.model.module import TextModel
from ftkit.task import Inputs, Task
from ftkit.tasks import Classification, QuestionAnswering


class Distill(FitCallback):
    """Train on a teacher's answers too: give it to the verb as `cbs=Distill("teacher/")`.

    The loss is (1 - alpha) of the task's own, alpha of the soft one (`soft_loss`; Hinton et al.
    2015), and `hidden` times 1 - the cosine between the last hidden states of both, as DistilBERT
    has it (Sanh et al. 2019). Validation shows the task's own loss.
    """

    def __init__(
        self,
        teacher: str | Path | Predictor | TextLearner | TextModel,
        *,
        alpha: float = 0.5,
        temperature: float = 2.0,
        hidden: float = 0.0,
    ) -> None:
        """`teacher` is the folder of a model that `ftkit.save` wrote, or a model in memory.

        Raises CheckpointError for a folder that is none, SettingError for numbers that cannot
        work; and a fit raises it where teacher and student do not fit together.
        """
        for name, value, is_right, remedy in (
            ("alpha", alpha, 0 <= alpha <= 1, "Give a number from 0 to 1."),
            ("temperature", temperature, temperature > 0, "Give more than 0."),
            ("hidden", hidden, hidden >= 0, "Give 0 or more."),
        ):
            if not is_right:
                raise SettingError(f"{name} of the distillation is {value}", remedy=remedy)
        self.alpha, self.temperature, self.hidden = alpha, temperature, hidden
        opened: Any = load_model(teacher) if isinstance(teacher, (str, Path)) else teacher
        self.teacher: TextModel = opened if isinstance(opened, TextModel) else opened.model
        self._states: tuple[_LastHidden, ...] = ()
        # A bare model has none, and then only the size of its vocabulary is known.
        self._tokenizer: Any = None
        if isinstance(opened, TextLearner):
            self._tokenizer = opened.dls.train.dataset.tokenizer
        elif not isinstance(opened, TextModel):
            self._tokenizer = opened.tokenizer

    def before_fit(self) -> None:
        """Check that the two fit together, and put the teacher beside the student."""
        student: TextModel = self.learn.model
        tokenizer = self.learn.dls.train.dataset.tokenizer
        _check_tasks(student.task, self.teacher.task)
        _check_vocabularies(tokenizer, self._tokenizer, student, self.teacher)
        limit = token_limit(tokenizer, self.teacher.hf_model)
        needed = self.learn.dls.train.dataset.limit
        if limit < needed:
            raise SettingError(
                f"the teacher takes {limit} tokens, and the student is given up to {needed}",
                remedy=f"Give the student's task max_length={limit}.",
            )
        device = next(student.parameters()).device
        # The student's task, so that windows become rows in the same way.
        self._taught = TextModel(self.teacher.hf_model, student.task).to(device).eval()
        self.after_fit()  # What a fit that ended in an error left.
        if self.hidden:
            self._states = _LastHidden(student), _LastHidden(self._taught)

    def before_train(self) -> None:
        """Let the teacher compute as the student does, whose precision is known by now."""
        self._taught.autocast_dtype = self.learn.model.autocast_dtype

    def after_loss(self) -> None:
        """Mix the losses of a training batch."""
        if not self.training:
            return
        (inputs,), outputs, targets = self.learn.xb, self.learn.pred, self.learn.y
        with torch.no_grad():
            taught = self._taught(inputs)
        _check_shapes("outputs", outputs, taught)
        soft = soft_loss(self.learn.model.task, outputs, taught, targets, self.temperature)
        loss = (1 - self.alpha) * self.learn.loss_grad + self.alpha * soft
        if self.hidden:
            student, teacher = (each.taken() for each in self._states)
            _check_shapes("hidden states", student, teacher)
            loss = loss + self.hidden * _hidden_loss(student, teacher, inputs, targets)
        self.learn.loss_grad, self.learn.loss = loss, loss.detach().clone()

    def after_fit(self) -> None:
        """Leave both models as they were."""
        for each in self._states:
            each.remove()
        self._states = ()


def soft_loss(
    task: Task, outputs: Tensor, taught: Tensor, targets: Tensor, temperature: float
) -> Tensor:
    """Kullback-Leibler divergence of the student's distribution from the teacher's, both softened
    by `temperature`, times its square, so that gradients keep their size.

    `outputs` and `taught` are outputs of the task, of one shape; the mean is over rows, over
    words or tokens that have a target, over labels that may hold together, or over the starts
    and ends of windows. For numbers it is the mean squared difference.
    """
    if isinstance(task, Classification) and task.kind == "regression":
        return F.mse_loss(outputs, taught)
    student, teacher = outputs / temperature, taught / temperature
    counts = torch.ones_like(targets, dtype=torch.bool)
    if isinstance(task, Classification) and task.kind == "multi":
        student, teacher = (
            F.logsigmoid(torch.stack([each, -each], dim=-1)) for each in (student, teacher)
        )
    else:
        if isinstance(task, QuestionAnswering):
            # (rows, windows, start or end, tokens); a window that a row lacks has no places, which
            # the task marks as -2.
            counts = (outputs[..., 2] > -2).any(-1)[..., None].expand(-1, -1, 2)
            student, teacher = (each[..., :2].transpose(-1, -2) for each in (student, teacher))
        elif targets.ndim > 1:
            counts = targets != IGNORED
        student, teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    losses = F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1)
    return temperature**2 * (losses * counts).sum() / counts.sum().clamp(min=1)


def _hidden_loss(student: Tensor, teacher: Tensor, inputs: Inputs, targets: Tensor) -> Tensor:
    """Mean of 1 - cosine over the tokens that are no padding; states are (rows, tokens, width)."""
    losses = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    # With labels they are a decoder's, of the tokens that it writes.
    counts = targets != IGNORED if "labels" in inputs else inputs["attention_mask"] > 0
    return (losses * counts).sum() / counts.sum().clamp(min=1)


class _LastHidden:
    """The last hidden states of a model's latest pass; a decoder's where it has one.

    Read where the head reads them: once asked for by `output_hidden_states`, a model of
    transformers 5 cannot be pickled by `learn.export` any more.
    """

    def __init__(self, model: TextModel) -> None:
        self._found: Tensor | None = None
        self._model, self._first_token_from = model, model.first_token_from
        model.first_token_from = None
        hf_model: Any = model.hf_model
        body = hf_model.base_model
        # An EncoderDecoderModel has no body of its own.
        body = hf_model.get_decoder().base_model if body is hf_model else body
        self._hook = body.register_forward_hook(self._take)

    def taken(self) -> Tensor:
        """The states (rows, tokens, width), once."""
        found, self._found = self._found, None
        assert found is not None
        return found

    def remove(self) -> None:
        self._hook.remove()
        self._model.first_token_from = self._first_token_from

    def _take(self, model: nn.Module, args: Any, found: Any) -> None:
        self._found = found["last_hidden_state"]


def _check_tasks(student: Task, teacher: Task) -> None:
    heads = student.head(), teacher.head()
    kinds = [
        (task.name, head.config.get("problem_type"))
        for task, head in zip((student, teacher), heads, strict=True)
    ]
    if kinds[0] != kinds[1]:
        names = [" ".join(filter(None, kind)) for kind in kinds]
        raise SettingError(
            f"the student learns {names[0]}, and the teacher knows {names[1]}",
            remedy="Take a teacher that was trained for the same task.",
        )
    if heads[0].labels != heads[1].labels:
        ours, others = (set(head.labels) for head in heads)
        found = "the student and the teacher have the same labels in another order"
        if ours != others:
            found = (
                f"only the student has the labels {quoted(sorted(ours - others)) or 'none'}, and "
                f"only the teacher {quoted(sorted(others - ours)) or 'none'}"
            )
        raise SettingError(found, remedy="Take a teacher that was trained on the same labels.")


def _check_vocabularies(tokenizer: Any, other: Any, student: TextModel, teacher: TextModel) -> None:
    remedy = "Take a teacher and a student that share a tokenizer."
    if other is not None:
        ours, others = tokenizer.get_vocab(), other.get_vocab()
        differing = sorted(t for t in {*ours, *others} if ours.get(t) != others.get(t))
        if differing:
            raise SettingError(
                f"{len(differing):,} tokens are not the same in the vocabularies of student and "
                f"teacher, such as {quoted(differing, 3)}",
                remedy=remedy,
            )
        return
    sizes = [m.hf_model.get_input_embeddings().num_embeddings for m in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise SettingError(
            f"the student knows {sizes[0]:,} tokens, and the teacher {sizes[1]:,}", remedy=remedy
        )


def _check_shapes(what: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise SettingError(
            f"the student's {what} have the shape {tuple(student.shape)}, and the teacher's "
            f"{tuple(teacher.shape)}",
            remedy="Take a student of the teacher's width, or leave out hidden."
            if what == "hidden states"
            else "Take a teacher whose answers have the student's shape.",
        )
