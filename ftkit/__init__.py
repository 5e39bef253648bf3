"""ftkit fine-tunes Hugging Face checkpoints with fastai.

The public names, loaded when first used, so that serving a model never imports fastai.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftkit.checks.check import check
    from ftkit.data.blocks import AnswerBlock, SummaryBlock, TokenTagsBlock
    from ftkit.data.sources import load_data
    from ftkit.errors import FtkitError
    from ftkit.inference import load_model as load_model
    from ftkit.inference import zero_shot
    from ftkit.learner.averaging import AverageWeights
    from ftkit.learner.best import KeepBest
    from ftkit.learner.blocks import HFTextBlock
    from ftkit.learner.build import (
        classification_learner,
        finetune_learner,
        ner_learner,
        qa_learner,
        summarization_learner,
        translation_learner,
    )
    from ftkit.learner.build import language_model_learner as language_model_learner
    from ftkit.learner.calibrate import calibrate
    from ftkit.learner.callbacks import Accumulate
    from ftkit.learner.distill import Distill
    from ftkit.learner.optimizer import LayerDecay
    from ftkit.learner.phases import Phase
    from ftkit.learner.report import report
    from ftkit.learner.resume import Checkpoints
    from ftkit.learner.save import save
    from ftkit.learner.tracking import TensorBoardTracker, WandbTracker
    from ftkit.model.adapters import LoRA
    from ftkit.tasks import (
        NER,
        Classification,
        LanguageModeling,
        QuestionAnswering,
        Summarization,
        Translation,
    )

__version__ = "0.1.0"

# What a star import brings. `load_model` and `language_model_learner` are public too, and fastai
# has functions of these names: a star import must not put ours in their place, nor they in ours.
__all__ = [
    "NER",
    "Accumulate",
    "AnswerBlock",
    "AverageWeights",
    "Checkpoints",
    "Classification",
    "Distill",
    "FtkitError",
    "HFTextBlock",
    "KeepBest",
    "LanguageModeling",
    "LayerDecay",
    "LoRA",
    "Phase",
    "QuestionAnswering",
    "Summarization",
    "SummaryBlock",
    "TensorBoardTracker",
    "TokenTagsBlock",
    "Translation",
    "WandbTracker",
    "calibrate",
    "check",
    "classification_learner",
    "finetune_learner",
    "load_data",
    "ner_learner",
    "qa_learner",
    "report",
    "save",
    "summarization_learner",
    "translation_learner",
    "zero_shot",
]

_HOMES = {
    "Accumulate": "ftkit.learner.callbacks",
    "AnswerBlock": "ftkit.data.blocks",
    "Checkpoints": "ftkit.learner.resume",
    "AverageWeights": "ftkit.learner.averaging",
    "Classification": "ftkit.tasks",
    "Distill": "ftkit.learner.distill",
    "FtkitError": "ftkit.errors",
    "HFTextBlock": "ftkit.learner.blocks",
    "KeepBest": "ftkit.learner.best",
    "LanguageModeling": "ftkit.tasks",
    "LayerDecay": "ftkit.learner.optimizer",
    "LoRA": "ftkit.model.adapters",
    "NER": "ftkit.tasks",
    "Phase": "ftkit.learner.phases",
    "QuestionAnswering": "ftkit.tasks",
    "Summarization": "ftkit.tasks",
    "SummaryBlock": "ftkit.data.blocks",
    "TensorBoardTracker": "ftkit.learner.tracking",
    "TokenTagsBlock": "ftkit.data.blocks",
    "Translation": "ftkit.tasks",
    "WandbTracker": "ftkit.learner.tracking",
    "calibrate": "ftkit.learner.calibrate",
    "check": "ftkit.checks.check",
    "classification_learner": "ftkit.learner.build",
    "finetune_learner": "ftkit.learner.build",
    "language_model_learner": "ftkit.learner.build",
    "load_data": "ftkit.data.sources",
    "load_model": "ftkit.inference",
    "ner_learner": "ftkit.learner.build",
    "qa_learner": "ftkit.learner.build",
    "report": "ftkit.learner.report",
    "save": "ftkit.learner.save",
    "summarization_learner": "ftkit.learner.build",
    "translation_learner": "ftkit.learner.build",
    "zero_shot": "ftkit.inference",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ftkit' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
