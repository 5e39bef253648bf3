"""The one door to fastai and fastcore: what ftkit uses of them, and nothing else.

`data/loaders.py`, `data/blocks.py`, `learner/*` and `blurr.py` import from here; nothing else may.
"""

import warnings

with warnings.catch_warnings():
    # fastai scripts functions at import, which torch calls deprecated.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    import fastcore.all as fastcore_all
    from fastai.callback.core import (
        Callback,
        CancelBatchException,
        CancelEpochException,
        CancelFitException,
    )
    from fastai.callback.fp16 import MixedPrecision
    from fastai.callback.progress import ProgressCallback

    # Patches Learner too: fit_one_cycle, fine_tune, lr_find.
    from fastai.callback.schedule import LRFinder, ParamScheduler
    from fastai.callback.tracker import TrackerCallback
    from fastai.data.block import TransformBlock
    from fastai.data.core import DataLoaders, Datasets, TfmdDL, show_batch, show_results
    from fastai.data.transforms import (
        Categorize,
        CategoryMap,
        EncodedMultiCategorize,
        MultiCategorize,
        RegressionSetup,
        ToTensor,
    )
    from fastai.imports import noop
    from fastai.interpret import plot_top_losses
    from fastai.learner import Learner, Metric, Recorder, join_path_file, load_learner
    from fastai.losses import BCEWithLogitsLossFlat
    from fastai.metrics import F1Score, accuracy
    from fastai.optimizer import OptimWrapper, detuplify_pg, set_item_pg
    from fastai.torch_basics import Pipeline, Transform
    from fastai.torch_core import defaults as fastai_defaults
    from fastai.torch_core import display_df, set_seed, to_detach
    from fastcore.foundation import L

__all__ = [
    "BCEWithLogitsLossFlat",
    "Callback",
    "CancelBatchException",
    "CancelEpochException",
    "CancelFitException",
    "Categorize",
    "CategoryMap",
    "DataLoaders",
    "Datasets",
    "EncodedMultiCategorize",
    "F1Score",
    "L",
    "LRFinder",
    "Learner",
    "Metric",
    "MixedPrecision",
    "MultiCategorize",
    "OptimWrapper",
    "ParamScheduler",
    "Pipeline",
    "ProgressCallback",
    "Recorder",
    "RegressionSetup",
    "TfmdDL",
    "ToTensor",
    "TrackerCallback",
    "Transform",
    "TransformBlock",
    "accuracy",
    "detuplify_pg",
    "display_df",
    "fastai_defaults",
    "fastcore_all",
    "join_path_file",
    "load_learner",
    "noop",
    "plot_top_losses",
    "set_item_pg",
    "set_seed",
    "show_batch",
    "show_results",
    "to_detach",
]
