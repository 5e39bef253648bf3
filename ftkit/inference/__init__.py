"""From a saved model to answers. Needs `task`, `tasks` and `model`; never imports fastai."""

from ftkit.inference.nli import zero_shot
from ftkit.inference.predictor import Predictor, load_model

__all__ = ["Predictor", "load_model", "zero_shot"]
