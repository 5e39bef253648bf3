"""Search for the learning rate, epochs, batch size and weight decay that suit your rows (Optuna).

python recipes/search.py
python recipes/search.py --data YOUR.csv --columns text=body,label=queue --trials 30
python recipes/search.py --task ner --data YOUR_FOLDER --columns "" --output runs/ner_search

Run the same command again to go on after a stop, or with more --trials: it ends as one run of them
all would. In OUTPUT are the study (study.db), the best model so far (trial-N), and the plots.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import ftkit
from ftkit.cli import parse_columns
from ftkit.errors import SettingError, TrainingError, check_least
from ftkit.inference.predictor import Evaluation
from ftkit.learner.best import KeepBest
from ftkit.tasks import get_task

try:
    import optuna
    from optuna.trial import FrozenTrial, Trial, TrialState
except ModuleNotFoundError:
    raise SettingError(
        "the search needs the package optuna, which is not installed",
        remedy='Install it: pip install "ftkit[search]".',
    ) from None
# After ftkit, which keeps fastai quiet about what torch calls deprecated.
from fastai.callback.core import Callback

N_RANDOM = 4  # trials drawn at random; as many must end before another is given up
EPOCHS = (2, 3, 4, 6)
CYCLE = 12  # a multiple of each of them


class Prune(Callback):  # type: ignore[misc]
    """Report the validation score after each epoch; give a trial up where it falls behind.

    Trials are compared at like shares of their cycles: scores rise as the rate falls, so that after
    as many epochs a long trial would look bad beside a short one that is at its end.
    """

    order = 56  # when ftkit's history has the epoch

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial, self.metric = trial, metric

    def after_epoch(self) -> None:
        epoch, score = self.epoch + 1, self.history.rows[-1][self.metric]
        if math.isfinite(score):
            self.trial.report(score, step=CYCLE * epoch // self.n_epoch)
        if not math.isfinite(score) or (epoch < self.n_epoch and self.trial.should_prune()):
            raise optuna.TrialPruned(f"after epoch {epoch}")


def main(
    task: str = "classification",
    data: str = "sample:tickets",
    columns: str = "label=queue",
    checkpoint: str = "minilm",
    trials: int = 10,
    output: str = "runs/search",
    limit: int | None = None,
    seed: int = 42,
) -> Evaluation | None:
    """Go on until `trials` are done in all, then score the best by validation on the test rows."""
    check_least(1, trials=trials)
    named = parse_columns(columns or None)
    # Read once; the tokenised rows are kept in a cache.
    rows = ftkit.load_data(data, task, columns=named, limit=limit, seed=seed)
    metric = get_task(task).with_labels(rows).metric_names[0]
    sign = KeepBest(metric).sign
    settings = {"task": task, "data": data, "columns": columns, "checkpoint": checkpoint}
    folder = Path(output)
    study = open_study(folder, {**settings, "limit": limit, "seed": seed}, sign)

    def objective(trial: Trial) -> float:
        # Keep the ranges in step with sweep.yaml. The head learns at lr, the rest at a tenth of it.
        lr = trial.suggest_float("lr", 2e-4, 5e-3, log=True)
        epochs = trial.suggest_categorical("epochs", EPOCHS)
        bs = trial.suggest_categorical("batch_size", (16, 32))
        wd = trial.suggest_float("weight_decay", 1e-3, 0.1, log=True)
        learn = ftkit.finetune_learner(rows, checkpoint, task=task, bs=bs, wd=wd, seed=seed)
        try:
            with learn.no_bar(), learn.no_logging():
                learn.fit_one_cycle(epochs, slice(lr), cbs=Prune(trial, metric))
        except TrainingError as error:
            raise optuna.TrialPruned(error.found) from None
        chosen = {"chosen by": f"validation {metric}, trial {trial.number} of a search"}
        ftkit.save(learn, folder / f"trial-{trial.number}", settings=chosen)
        return float(learn.history.rows[-1][metric])

    def best() -> FrozenTrial | None:
        # The first of equals, which Optuna's own best_trial does not promise.
        ended = study.get_trials(states=(TrialState.COMPLETE,))
        return max(ended, key=lambda trial: sign * trial.values[0], default=None)

    while (done := len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))) < trials:
        # A seed for each trial: a study that goes on draws what it would have drawn.
        drawn = random.Random(f"{seed} {done}").getrandbits(32)
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=N_RANDOM, seed=drawn)
        study.optimize(objective, n_trials=1)
        print(describe(study.trials[-1], metric), flush=True)
        kept = best()
        for trial in study.trials:
            if kept is None or trial.number != kept.number:
                shutil.rmtree(folder / f"trial-{trial.number}", ignore_errors=True)
    chosen = best()
    if chosen is None:
        raise SettingError(f"no trial ended with a {metric}", remedy="Try more rows or trials.")
    draw_plots(study, folder, metric)
    found = folder / f"trial-{chosen.number}"
    print(f"\nThe best of {done} trials is in {found}:\n{describe(chosen, metric)}")
    print(f"The validation rows chose it, so that their {metric} flatters it.")
    if "test" not in rows:
        return None
    evaluation = ftkit.load_model(found).evaluate(rows["test"])
    print(f"\nOn {evaluation.rows:,} test rows, by which nothing was chosen:\n{evaluation}")
    return evaluation


def open_study(folder: Path, settings: dict[str, Any], sign: int) -> optuna.Study:
    """The folder's study, new or gone on with; a SettingError where it has other settings."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="search",
        load_if_exists=True,
        direction="maximize" if sign > 0 else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=N_RANDOM),
    )
    begun = study.user_attrs.get("settings", settings)
    if changed := [name for name in settings if settings[name] != begun[name]]:
        raise SettingError(
            f'the search in "{folder}" has another {", ".join(changed)}',
            remedy="Give the same again, or another --output.",
        )
    study.set_user_attr("settings", settings)
    # What a kill leaves: a trial, and a part of its bundle.
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    for part in folder.glob(".trial-*"):
        shutil.rmtree(part)
    return study


def describe(trial: FrozenTrial, metric: str) -> str:
    """A trial as a line: its last score, what was drawn for it, how long it took."""
    score = "none" if trial.value is None else f"{trial.value:.4f}"
    end = " (given up)" if trial.state == TrialState.PRUNED else ""
    knobs = "  ".join(f"{name} {float(value):.2g}" for name, value in trial.params.items())
    took = str(trial.duration).partition(".")[0]
    return f"trial {trial.number}  {metric} {score}{end}  {knobs}  {took}"


def draw_plots(study: optuna.Study, folder: Path, metric: str) -> None:
    """The scores in their order, by each value drawn and, of enough trials, what mattered most."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    ended = study.get_trials(states=(TrialState.COMPLETE,))
    names = ["optimization_history", "slice", "param_importances"]
    for name in names if len(ended) > N_RANDOM else names[:2]:
        with warnings.catch_warnings():
            # Optuna calls its plots experimental.
            warnings.simplefilter("ignore")
            getattr(plots, f"plot_{name}")(study, target_name=metric)
        plt.savefig(folder / f"{name}.png", bbox_inches="tight")
        plt.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="classification")
    parser.add_argument("--data", default="sample:tickets")
    parser.add_argument("--columns", default="label=queue", help='yours; "" if named as usual')
    parser.add_argument("--checkpoint", default="minilm")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--output", default="runs/search")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=42)
    main(**vars(parser.parse_args()))
