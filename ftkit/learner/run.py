"""A whole run from settings to a run directory: what `ftkit train` does.

DIR/run.toml  check.json  metrics.json  history.csv  report.html  resamples.safetensors  model/,
and DIR/checkpoints/ until it is finished
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.checks.check import WARNED, check_loaded
from ftkit.checks.estimate import count_parameters
from ftkit.checks.lengths import Tokenized
from ftkit.checks.table import compact
from ftkit.data.sources import load_data
from ftkit.errors import FtkitWarning, SettingError
from ftkit.learner.best import KeepBest
from ftkit.learner.build import default_lr, finetune_learner
from ftkit.learner.calibrate import calibrate, check_has_probabilities
from ftkit.learner.callbacks import Accumulate
from ftkit.learner.distributed import is_first, join
from ftkit.learner.learner import TextLearner
from ftkit.learner.report import report_of
from ftkit.learner.resume import Checkpoints
from ftkit.learner.save import count_truncated, predictor, save
from ftkit.learner.settings import RunSettings
from ftkit.learner.state import WRITING, written_whole
from ftkit.learner.tracking import WandbTracker
from ftkit.locks import alone_at
from ftkit.reports.compare import RESAMPLES_FILE, write_resamples
from ftkit.reports.rows import Answers, evaluate_rows
from ftkit.task import Task

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_EVALUATED = ("validation", "test")
_OURS = (
    "run.toml",
    "check.json",
    "history.csv",
    "metrics.json",
    "report.html",
    RESAMPLES_FILE,
    "model",
    "checkpoints",
)


def run(settings: RunSettings, *, resume: bool = False) -> dict[str, Any]:
    """Train, evaluate and save; returns what it writes to metrics.json.

    With `resume` it goes on from the newest training state that it finds whole, or begins where
    there is none; a run that is finished is left as it is.

    Raises DataError, CheckpointError or SettingError for what cannot work; nothing is written
    before the data, the checkpoint and the settings were found to fit. SIGTERM and Ctrl-C raise
    TrainingStopped, after the state was written.
    """
    join()
    output = Path(settings.output)
    if resume and all((output / name).exists() for name in ("metrics.json", "run.toml")):
        if is_first():
            # Where it was killed before they were removed.
            shutil.rmtree(output / "checkpoints", ignore_errors=True)
        finished: dict[str, Any] = json.loads((output / "metrics.json").read_text("utf-8"))
        return finished
    _check_output(output, resume)
    checkpoints = Checkpoints(
        output / "checkpoints",
        every=settings.save_steps,
        minutes=settings.save_minutes,
        resume=resume,
    )
    checkpoints.remedy = f"Go on with: ftkit train --output {output} --resume"
    tracker = WandbTracker(settings.wandb, config=asdict(settings)) if settings.wandb else None
    task = settings.chosen_task()
    data = _load(settings, task)
    learn = finetune_learner(
        data,
        settings.checkpoint,
        task=task,
        bs=settings.batch_size,
        precision=settings.precision,
        seed=settings.seed,
        new_head=settings.new_head,
        lora=settings.lora,
        tracker=tracker,
        path=output,
        cbs=[checkpoints],
    )
    if settings.calibrate:
        check_has_probabilities(learn)
    if is_first():
        output.mkdir(parents=True, exist_ok=True)
    with alone_at(output) if is_first() else nullcontext():
        return _train(learn, data, settings, resume, tracker)


def _train(
    learn: TextLearner,
    data: DatasetDict,
    settings: RunSettings,
    resume: bool,
    tracker: WandbTracker | None,
) -> dict[str, Any]:
    """Train, evaluate and save, in a folder where no other process writes."""
    output = Path(settings.output)
    if is_first():
        # Another run may have come first while the data were read.
        if _check_output(output, resume):
            warnings.warn(
                f'"{output}" holds an unfinished run, which is started anew',
                FtkitWarning,
                stacklevel=4,
            )
        for litter in output.glob(".model-*"):
            shutil.rmtree(litter, ignore_errors=True)
        with written_whole(output / "run.toml") as partial:
            settings.write(partial)
        if not (resume and (output / "check.json").exists()):
            _check_data(learn, data, output / "check.json")
    fit(learn, settings)
    told: dict[str, object] = {
        "data": settings.data,
        "epochs with the head alone": settings.freeze_epochs,
    }
    if settings.calibrate:
        try:
            told["calibration"] = str(calibrate(learn))
        except SettingError as error:
            # The training is done, and its model is good as it is.
            warnings.warn(f"the model is not calibrated: {error}", FtkitWarning, stacklevel=2)
    if is_first():
        _write_history(learn, output / "history.csv")
    metrics = _evaluate_and_save(learn, data, output, told)
    if tracker is not None:
        if (output / "report.html").exists():
            tracker.log_report(output / "report.html")
        tracker.log_bundle(output / "model")
        tracker.finish()
    if is_first():
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
    return metrics


def _load(settings: RunSettings, task: Task) -> DatasetDict:
    return load_data(
        settings.data,
        task,
        columns=settings.columns,
        group=settings.group,
        seed=settings.seed,
        limit=settings.limit,
    )


def _check_data(learn: TextLearner, data: DatasetDict, file: Path) -> None:
    """Write what is odd in the rows, and warn of what nobody has warned of yet."""
    train, valid = learn.dls.train, learn.dls.valid
    features = {"train": train.dataset.features, "validation": valid.dataset.features}
    tokenized = Tokenized(features, train.dataset.tokenizer, train.dataset.limit)
    found = check_loaded(
        data,
        train.dataset.task,
        tokenized,
        learn.checkpoint,
        batch_size=train.bs,
        steps=len(train),
        **count_parameters(learn.model),
    )
    with written_whole(file) as partial:
        write_json(found.to_dict(), partial)
    told = [each for each in found.findings if each.level != "note" and each.name not in WARNED]
    for line in compact([each.to_dict() for each in told]):
        warnings.warn(line, FtkitWarning, stacklevel=3)


def validation_rows(bundle: str | Path) -> Dataset | None:
    """The validation rows of the run that a bundle comes from; None where it is not in one.

    Raises DataError where the run's data cannot be read any more.
    """
    file = Path(bundle).resolve().parent / "run.toml"
    if not file.is_file():
        return None
    settings = RunSettings.read(file)
    return _load(settings, settings.chosen_task())["validation"]


def fit(learn: TextLearner, settings: RunSettings) -> None:
    """Train as the settings say: one cycle, after the head alone where epochs are given for it."""
    if settings.accumulate > 1:
        learn.add_cb(Accumulate(settings.accumulate))
    if settings.keep_best or settings.patience is not None:
        learn.add_cb(KeepBest(settings.keep_best or "valid_loss", patience=settings.patience))
    lr = settings.lr or default_lr(learn.model)
    if settings.freeze_epochs:
        learn.freeze()
        learn.fit_one_cycle(settings.freeze_epochs, lr, pct_start=0.99)
        learn.unfreeze()
    learn.fit_one_cycle(settings.epochs, slice(lr))


def _evaluate_and_save(
    learn: TextLearner, data: Any, output: Path, told: Mapping[str, object]
) -> dict[str, Any]:
    answers = predictor(learn)
    answered = [evaluate_rows(answers, data[split], split) for split in _EVALUATED if split in data]
    found = {each.split: each.evaluation for each in answered}
    scores = {split: evaluation.scores for split, evaluation in found.items()}
    last = list(found.values())[-1]
    metrics = {
        **scores,
        "per_label": last.per_label,
        "seconds": sum(row["seconds"] for row in learn.history.rows),
        "rows": {split: len(rows) for split, rows in data.items()},
        "truncated": {
            **count_truncated(learn),
            **{split: evaluation.truncated for split, evaluation in found.items()},
        },
        "intervals": {
            split: {name: list(ends) for name, ends in evaluation.intervals.items()}
            for split, evaluation in found.items()
        },
        "padding_share": learn.dls.train.padding_share,
    }
    save(
        learn,
        output / "model",
        scores=scores,
        per_label=last.per_label,
        settings=told,
    )
    if is_first():
        write_resamples(output / RESAMPLES_FILE, answered, data)
        _write_report(learn, answered, output / "report.html", told)
        # Written last: a directory with it holds a whole run.
        with written_whole(output / "metrics.json") as partial:
            write_json(metrics, partial)
    return metrics


def _write_report(
    learn: TextLearner, answered: Sequence[Answers], file: Path, told: Mapping[str, object]
) -> None:
    try:
        with written_whole(file) as partial:
            check = file.with_name("check.json")
            found = json.loads(check.read_text("utf-8")) if check.exists() else None
            report_of(learn, answered, check=found, settings=told).save(partial)
    except Exception as error:
        # The training is done, and no picture of it is worth its model.
        said = f"no report was written ({type(error).__name__}: {error})"
        warnings.warn(said, FtkitWarning, stacklevel=2)


def write_json(content: Any, file: str | Path) -> None:
    """Write JSON for people and programs; a number that is none, such as a mean of nothing, is
    null there, for JSON has no nan.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    Path(file).write_text(text + "\n", "utf-8")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _write_history(learn: TextLearner, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(learn.history.rows[0]))
        writer.writeheader()
        writer.writerows(learn.history.rows)


def _check_output(output: Path, resume: bool) -> bool:
    """Refuse a folder with anything in it but what an unfinished run left, to be started anew."""
    if not output.exists():
        return False
    if not output.is_dir():
        raise SettingError(f'"{output}" is a file', remedy="Give a new folder as --output.")
    names = sorted(path.name for path in output.iterdir())
    found = [name for name in names if not name.startswith(WRITING)]
    if "metrics.json" in found and "run.toml" in found:
        raise SettingError(
            f'"{output}" holds another run', remedy="Give another --output, or remove that folder."
        )
    is_run = "run.toml" in found
    foreign = [name for name in found if not is_run or not name.startswith((*_OURS, ".model-"))]
    if foreign:
        raise SettingError(
            f'"{output}" holds other files ({", ".join(foreign[:3])})',
            remedy="Give an --output that does not exist yet.",
        )
    if found and not resume and any((output / "checkpoints").glob("*")):
        raise SettingError(
            f'"{output}" holds a run that was stopped',
            remedy="Go on with it by --resume, or remove that folder.",
        )
    return bool(found) and not resume
