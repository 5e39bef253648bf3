"""A whole run from settings to a run directory: what `ftkit train` does.

DIR/run.toml  check.json  metrics.json  history.csv  report.html  resamples.safetensors  model/,
and DIR/checkpoints/ until it is finished
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from ftkit.checks.check import WARNED, check_loaded
from ftkit.checks.estimate import count_parameters
from ftkit.checks.lengths import Tokenized
from ftkit.checks.table import compact
from ftkit.data.sources import load_data
from ftkit.errors import FtkitWarning, SettingError, check_least
from ftkit.learner.best import KeepBest
from ftkit.learner.build import default_lr, finetune_learner
from ftkit.learner.calibrate import calibrate, check_has_probabilities
from ftkit.learner.callbacks import Accumulate
from ftkit.learner.describe import package_versions
from ftkit.learner.distributed import is_first, join
from ftkit.learner.learner import TextLearner
from ftkit.learner.report import report_of
from ftkit.learner.resume import Checkpoints
from ftkit.learner.save import count_truncated, predictor, save
from ftkit.learner.state import WRITING, written_whole
from ftkit.learner.tracking import WandbTracker
from ftkit.model.device import Precision
from ftkit.reports.compare import RESAMPLES_FILE, write_resamples
from ftkit.reports.rows import Answers, evaluate_rows
from ftkit.task import Task
from ftkit.tasks import get_task, with_options

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
# Settings that a resumed run may change: nothing that it ends with depends on them.
_FREE = {"save_steps", "save_minutes"}


@dataclass(frozen=True)
class RunSettings:
    """What a run is made of: the options of `ftkit train`. Raises SettingError where built."""

    task: str
    data: str
    """Path, hub id or sample:NAME."""
    checkpoint: str
    output: str
    columns: Mapping[str, str | list[str]] | None = None
    epochs: int = 3
    lr: float | None = None
    """Learning rate of the head, ten times that of what is below it; None takes `default_lr`."""
    batch_size: int = 32
    max_length: int | None = None
    """Tokens; None is the checkpoint's own limit."""
    long_texts: str | None = None
    """What of a text longer than that the model sees; None is the task's own way."""
    freeze_epochs: int = 0
    """Epochs that train the head alone, before the others."""
    precision: Precision = "auto"
    accumulate: int = 1
    """Batches in an optimizer step."""
    seed: int = 42
    limit: int | None = None
    """Rows of each split at most; None is all."""
    group: str | None = None
    """Column whose groups stay on one side where a validation split is made."""
    new_head: bool = False
    """Train a new head on a checkpoint that was fine-tuned for other labels."""
    keep_best: str | None = None
    """The metric whose best epoch gives the weights; None takes those of the last epoch."""
    patience: int | None = None
    """Epochs without a better one, by `keep_best` or else the loss, after which training ends."""
    calibrate: bool = False
    """Divide the logits by a temperature chosen on validation, once the training is done."""
    lora: int | None = None
    """Rank of LoRA's matrices; None trains the checkpoint's own."""
    wandb: str | None = None
    """Project of Weights & Biases to log to."""
    save_steps: int | None = None
    """Optimizer steps after which the training state is written; None leaves it to the minutes."""
    save_minutes: float = 10
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the task, by name."""

    def __post_init__(self) -> None:
        check_least(1, epochs=self.epochs, batch_size=self.batch_size, accumulate=self.accumulate)
        check_least(0, freeze_epochs=self.freeze_epochs)
        if self.lr is not None and not 0 < self.lr < 1:
            raise SettingError(f"lr is {self.lr}", remedy="Give a number such as 2e-4.")
        self.chosen_task()

    def chosen_task(self) -> Task:
        """The task with its options as they were given."""
        given = {"max_length": self.max_length, "long_texts": self.long_texts}
        options = {name: value for name, value in given.items() if value is not None}
        return with_options(get_task(self.task), {**options, **self.options})

    @classmethod
    def read(cls, file: str | Path, **changes: Any) -> RunSettings:
        """The settings of a run.toml, with changes.

        Raises SettingError where it is none.
        """
        try:
            settings = tomllib.loads(Path(file).read_text(encoding="utf-8"))["run"]
            return cls(**{**settings, **changes})
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, SettingError):
                raise
            raise SettingError(
                f'"{file}" cannot be read as the settings of a run ({error})',
                remedy="Give the run.toml of a run directory.",
            ) from None

    @classmethod
    def resumed(cls, output: str, **given: Any) -> RunSettings:
        """The settings of the run in `output`, which `given` may repeat but not change, save how
        often its state is written. Where other versions wrote it, a warning says so.

        Raises SettingError for one that differs.
        """
        file = Path(output) / "run.toml"
        # The folder may have moved since.
        begun = cls.read(file, output=output)
        now = replace(begun, **given)
        for name in given.keys() - _FREE:
            before, after = getattr(begun, name), getattr(now, name)
            if before != after:
                raise SettingError(
                    f'{name} is {after}, and was {before} in the run in "{output}"',
                    remedy="Resume with the same settings, or give another --output.",
                )
        written = tomllib.loads(file.read_text(encoding="utf-8")).get("versions", {})
        versions = package_versions()
        moved = [
            f"{name} was {then}" for name, then in written.items() if then != versions.get(name)
        ]
        if moved:
            warnings.warn(
                f"other versions began this run ({', '.join(moved)}): it goes on, though not bit "
                "for bit",
                FtkitWarning,
                stacklevel=2,
            )
        return now

    def write(self, file: Path) -> None:
        """Write a run.toml: the settings, and the versions that they ran with."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        text = tomli_w.dumps({"run": given, "versions": package_versions()})
        file.write_text(text, encoding="utf-8")


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
    if resume and (output / "metrics.json").exists():
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
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
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
    if settings.keep_best or settings.patience:
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
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _write_history(learn: TextLearner, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(learn.history.rows[0]))
        writer.writeheader()
        writer.writerows(learn.history.rows)


def _check_output(output: Path, resume: bool) -> None:
    """Refuse a folder with anything in it but what an unfinished run left."""
    if not output.exists():
        return
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
    if found and not resume:
        if any((output / "checkpoints").glob("*")):
            raise SettingError(
                f'"{output}" holds a run that was stopped',
                remedy="Go on with it by --resume, or remove that folder.",
            )
        warnings.warn(
            f'"{output}" holds an unfinished run, which is started anew',
            FtkitWarning,
            stacklevel=3,
        )
