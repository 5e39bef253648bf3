"""Temperature scaling: a classifier that is as sure as it is right, in its own weights.

One number divides all logits (Guo et al. 2017). It is multiplied into the output layer, so the
labels stay what they are and every reader of the bundle, such as transformers' pipeline or an
export, gives the calibrated scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ftkit.arrays import as_array
from ftkit.errors import SettingError
from ftkit.learner.learner import TextLearner
from ftkit.scores.calibration import answers_of, best_temperature, reliability
from ftkit.tasks.classification import Classification


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` did, measured on the rows that it chose the temperature by."""

    temperature: float
    """What the logits were divided by: above 1 where the model was too sure."""
    error_before: float
    """Expected calibration error: how far shares of right answers are from the scores."""
    error_after: float
    rows: int

    def __str__(self) -> str:
        """The temperature, and the error before and after."""
        return (
            f"temperature {self.temperature:.3f}; calibration error on {self.rows:,} validation "
            f"rows {self.error_before:.4f} before, {self.error_after:.4f} after"
        )


def calibrate(learn: TextLearner) -> Calibration:
    """Scale the output layer so that the scores are as likely right as they say.

    The temperature is chosen on the Learner's validation rows, once the training is done. Labels
    stay the same; a threshold of several labels moves with the scores. A model that is right on
    all of these rows stays as it is: they cannot say how sure it should be.

    Raises SettingError for a task whose answers have no probability, and for a model without one
    linear layer that makes its logits.
    """
    task = check_has_probabilities(learn)
    logits, targets = _validation_logits(learn)
    temperature = best_temperature(logits, targets)
    layer = _output_layer(learn, len(task.labels))
    _scale(layer, 1 / temperature)
    inputs, _ = learn.dls.valid.new(bs=2, shuffle=False).one_batch()
    before, after = logits[as_array(inputs["row"])], as_array(_outputs(learn, inputs))
    if not np.allclose(after * temperature, before, rtol=1e-2, atol=1e-2):
        _scale(layer, temperature)
        raise SettingError(
            "this model changes its logits after the last layer, so no temperature can go into it",
            remedy="Use its scores as they are.",
        )
    if task.threshold is not None:
        odds = np.log(task.threshold / (1 - task.threshold)) / temperature
        learn.task_scores.choose({"threshold": float(1 / (1 + np.exp(-odds)))})
    before_error, after_error = (
        reliability(*answers_of(task.scores(each), targets)).error
        for each in (logits, logits / temperature)
    )
    return Calibration(temperature, before_error, after_error, len(logits))


def check_has_probabilities(learn: TextLearner) -> Classification:
    """The Learner's task; raises SettingError where its answers have no probability."""
    task = learn.task_scores.trained_task
    if not isinstance(task, Classification) or task.kind == "regression":
        raise SettingError(
            "calibration is for the probabilities of labels", remedy="Leave it out for this task."
        )
    return task


def _validation_logits(learn: TextLearner) -> tuple[np.ndarray, np.ndarray]:
    """Logits (rows, labels) and targets of the validation rows, in their order."""
    found, numbers, targets = [], [], []
    for inputs, wanted in learn.dls.valid.new(shuffle=False):
        found.append(as_array(_outputs(learn, inputs)))
        numbers.append(as_array(inputs["row"]))
        targets.append(as_array(wanted))
    order = np.argsort(np.concatenate(numbers))
    return np.concatenate(found)[order], np.concatenate(targets)[order]


def _outputs(learn: TextLearner, inputs: dict[str, Tensor]) -> Any:
    """What the model answers once it is saved: in float32."""
    learn.model.eval()
    dtype, learn.model.autocast_dtype = learn.model.autocast_dtype, None
    try:
        with torch.inference_mode():
            return learn.model.answer(inputs)
    finally:
        learn.model.autocast_dtype = dtype


def _output_layer(learn: TextLearner, n_labels: int) -> nn.Linear:
    layers = [
        module
        for module in learn.model.hf_model.modules()
        if isinstance(module, nn.Linear) and module.out_features == n_labels
    ]
    if not layers:
        raise SettingError(
            "no linear layer of the model has an output a label", remedy="Use its scores as is."
        )
    return layers[-1]


def _scale(layer: nn.Linear, factor: float) -> None:
    with torch.no_grad():
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.mul_(factor)
