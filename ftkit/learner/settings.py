"""The settings of a run: the options of `ftkit train`, and the run.toml that holds them."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from ftkit.errors import FtkitWarning, SettingError, check_least
from ftkit.learner.describe import package_versions
from ftkit.model.device import Precision
from ftkit.task import Task
from ftkit.tasks import get_task, with_options

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
        check_least(1, patience=self.patience)
        check_least(0, freeze_epochs=self.freeze_epochs)
        if self.lr is not None and not 0 < self.lr < 1:
            raise SettingError(f"lr is {self.lr}", remedy="Give a number such as 2e-4.")
        self.chosen_task()
        # No run.toml can hold a null; where that is the default, it need not.
        options = {name: value for name, value in self.options.items() if value is not None}
        for name in self.options.keys() - options:
            if getattr(get_task(self.task), name) is not None:
                raise SettingError(f"{name} is null", remedy="Give a value, or leave it out.")
        object.__setattr__(self, "options", options)

    def chosen_task(self) -> Task:
        """The task with its options as they were given."""
        given = {"max_length": self.max_length, "long_texts": self.long_texts}
        options = {name: value for name, value in given.items() if value is not None}
        return with_options(get_task(self.task), {**options, **self.options})

    @classmethod
    def read(cls, file: str | Path, **changes: Any) -> RunSettings:
        """The settings of a run.toml, with changes; options are changed one by one.

        Raises SettingError where it is none.
        """
        try:
            settings = tomllib.loads(Path(file).read_text(encoding="utf-8"))["run"]
            options = {**settings.get("options", {}), **changes.get("options", {})}
            return cls(**{**settings, **changes, "options": options})
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
