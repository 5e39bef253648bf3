"""The nn.Module that a Learner trains: a batch dict in, outputs of its rows out.

Imports torch, `errors`, `targets` and `task`, and of this room `asked_places`, `attention`,
`first_token` and `onednn`.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftkit.errors import SettingError
from ftkit.model.asked_places import asked_places_only
from ftkit.model.attention import drops_fused_attention, set_fused_attention
from ftkit.model.first_token import first_token_only, past_attention
from ftkit.model.onednn import fast_linear, keep_few_shapes
from ftkit.targets.texts import target_limit
from ftkit.task import Inputs, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WINDOWS_AT_ONCE = 32


class TextModel(nn.Module):
    """A Hugging Face model that takes a batch as one dict and gives outputs in float32."""

    end: int | None = None
    """The token whose last place the head reads, where it reads one."""

    def __init__(self, hf_model: PreTrainedModel, task: Task) -> None:
        """`task` makes outputs of the rows from the logits of their windows."""
        super().__init__()
        keep_few_shapes()
        self.hf_model, self.task = hf_model, task
        self.autocast_dtype: torch.dtype | None = None
        # None computes the hidden states of every token, for who wants to see them.
        self.first_token_from = past_attention(hf_model)
        self._drops_fused = drops_fused_attention(hf_model)
        self._is_fused = True
        is_classifier = type(hf_model).__name__.endswith("ForSequenceClassification")
        if is_classifier and hf_model.config.is_encoder_decoder:
            self.end = hf_model.config.eos_token_id
        self.arguments = frozenset(inspect.signature(hf_model.forward).parameters) - {"labels"}

    def forward(self, batch: Inputs) -> Tensor:
        """Outputs (rows, ...) of a batch of windows (windows, tokens).

        "labels" (rows, tokens), where there are any, become the decoder's input: its own loss is
        not computed. Keys that the model does not know, such as "row", are left out.

        Raises SettingError where a model that generates is to score rows without labels.
        """
        inputs = self._model_inputs(batch)
        if "labels" in batch:
            inputs["decoder_input_ids"] = self._shifted(batch["labels"])
        elif self.task.generates:
            raise SettingError(
                "these rows have no text to score",
                remedy="Use test_dl(rows, with_labels=True); `predict` writes texts for others.",
            )
        if torch.is_grad_enabled() or "windows" not in batch:
            outputs: Tensor = self.task.merge(self.logits(inputs, batch.get("places")), batch)
            return outputs
        # A long row may have hundreds of windows: without gradients, a few at a time do.
        parts = range(0, len(batch["input_ids"]), _WINDOWS_AT_ONCE)
        logits = [
            self.logits({name: each[i : i + _WINDOWS_AT_ONCE] for name, each in inputs.items()})
            for i in parts
        ]
        merged: Tensor = self.task.merge(torch.cat(logits), batch)
        return merged

    @torch.no_grad()
    def answer(self, batch: Inputs, task: Task | None = None) -> Tensor:
        """What the task decodes: the outputs, or generated token ids (rows, tokens).

        `task` is the model's own with other settings of generation.
        """
        if not self.task.generates:
            with fast_linear(self.hf_model):
                outputs: Tensor = self(batch)
            return outputs
        inputs = self._model_inputs(batch)
        if task is not None and task != self.task:
            # A copy, for another thread may be generating with the model's own.
            inputs["generation_config"] = copy.deepcopy(self.hf_model.generation_config)
            settings = dict(task.head().generation)
            most = settings["max_new_tokens"]
            settings["max_new_tokens"] = target_limit(self.hf_model.config, most)
            inputs["generation_config"].update(**settings)
        with self._autocast(inputs["input_ids"].device), fast_linear(self.hf_model):
            ids: Tensor = self.hf_model.generate(**inputs)  # type: ignore[operator]
        return ids

    def _model_inputs(self, batch: Inputs) -> dict[str, Any]:
        return {name: tensor for name, tensor in batch.items() if name in self.arguments}

    def _shifted(self, labels: Tensor) -> Tensor:
        """Labels moved a place to the right, behind the start token, as the model wants them."""
        model: Any = self.hf_model
        if hasattr(model, "prepare_decoder_input_ids_from_labels"):
            shifted: Tensor = model.prepare_decoder_input_ids_from_labels(labels=labels)
            return shifted
        start = torch.full_like(labels[:, :1], model.generation_config.decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted < 0, model.config.pad_token_id)

    def logits(self, inputs: dict[str, Any], places: Tensor | None = None) -> Tensor:
        """Logits (windows, ...) in float32 of what the model takes; of a reading head (windows,
        tokens, 2), start and end. Of a language model they may be those of `places` alone.
        """
        device = inputs["input_ids"].device
        end = None if torch.compiler.is_exporting() else self.end
        if end is not None and len(parts := _by_ends(inputs["input_ids"], end)) > 1:
            pieces = [self.logits({n: each[p] for n, each in inputs.items()}) for p in parts]
            return torch.cat(pieces)[torch.cat(parts).argsort()]
        self._choose_attention(device)
        shorter = first_token_only(self.hf_model, self.first_token_from)
        fewer = asked_places_only(self.hf_model, places, inputs["input_ids"].shape[1])
        with self._autocast(device), shorter, fewer:
            # The logits are taken out here: autocast cannot convert every ModelOutput.
            found: Any = self.hf_model(**inputs)
            logits: Tensor = (
                found.logits
                if "logits" in found
                else torch.stack([found.start_logits, found.end_logits], dim=-1)
            )
        return logits.float()

    def _choose_attention(self, device: torch.device) -> None:
        is_slow = self.training and device.type == "cpu" and self.autocast_dtype is not None
        if self._drops_fused and self._is_fused == is_slow:
            self._is_fused = not is_slow
            set_fused_attention(self.hf_model, self._is_fused)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast_dtype)


def _by_ends(ids: Tensor, end: int) -> list[Tensor]:
    """Places of the windows with as many end-of-text tokens, which the head reads together.

    A text that writes one out, or is a pair, has more than others.
    """
    counts = (ids == end).sum(1)
    return [counts.eq(count).nonzero()[:, 0] for count in torch.unique(counts)]


def convert_products(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Keep the weights of linear layers in the type that autocast multiplies in.

    The outputs are the same, and no batch waits for the weights to be converted. Weights that are
    shared with another module, such as tied embeddings, stay as they are.
    """
    owners = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )
    for module in model.modules():
        if isinstance(module, nn.Linear) and owners[id(module.weight)] == 1:
            module.to(dtype)


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Compute activations again in the backward pass instead of keeping them (Chen et al. 2016).

    Raises SettingError for an architecture that cannot.
    """
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    try:
        # transformers 6 knows the first name only, and older ones the second.
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    except ValueError:
        raise SettingError(
            f"{type(model).__name__} cannot compute its activations again",
            remedy="Leave out gradient_checkpointing, and give a smaller bs or max_tokens.",
        ) from None
    # It also lets gradients run down to the embeddings, which would undo what freeze() saves.
    model.disable_input_require_grads()  # type: ignore[no-untyped-call]


def compile_in_place(model: PreTrainedModel, backend: str | bool) -> None:
    """Have torch.compile make the model's code when it first runs; True is "inductor".

    Raises SettingError for a backend that torch does not know.
    """
    backend = "inductor" if backend is True else backend
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise SettingError(
            f'torch.compile has no backend "{backend}"', remedy=f"Use one of {', '.join(known)}."
        )
    # In place, so that saved names stay plain; dynamic, for every batch has another length.
    model.compile(backend=backend, dynamic=True)
