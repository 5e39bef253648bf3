"""Where a tracked run is written: Weights & Biases, or TensorBoard's event files.

`tracking.py` decides what is written and when; wandb and tensorboard are imported when a run
starts, never before.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ftkit.errors import FtkitWarning, SettingError

# Seconds to reach W&B when a run starts, before it goes on offline; and for the last uploads when
# it ends. What was not uploaded stays on disk.
_INIT_TIMEOUT, _FINISH_TIMEOUT = 30, 600
STEP = "train/step"
_DRAWN_OVER_STEPS = ("train/*", "valid/*", "per_label/*", "lr/*", "momentum/*")


class Service(Protocol):
    """What a tracker writes to. Steps count the batches of all fits, from 1."""

    def start(self, run_id: str | None, step: int) -> str:
        """Start a run, or go on with the run `run_id` after `step`; returns the run's id."""
        ...

    def configure(self, config: Mapping[str, Any]) -> None:
        """Set settings of the run: plain JSON data."""
        ...

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""
        ...

    def table(self, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Write a table; its rows have the same keys."""
        ...

    def confusion(
        self, name: str, wanted: np.ndarray, found: np.ndarray, labels: Sequence[str], step: int
    ) -> None:
        """Write a confusion matrix of class numbers (rows,)."""
        ...

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        """Write how numbers are spread."""
        ...

    def page(self, name: str, file: Path, step: int) -> None:
        """Keep a page of HTML."""
        ...

    def bundle(self, folder: Path, name: str, metadata: Mapping[str, Any]) -> None:
        """Keep a saved model, with what it was made from."""
        ...

    def finish(self) -> None:
        """End the run."""
        ...

    def abandon(self, error: Exception) -> None:
        """Let go of a run that cannot be written any more."""
        ...


class WandbService:
    """A run of Weights & Biases; offline where there is no key or no network."""

    def __init__(self, project: str, options: Mapping[str, Any]) -> None:
        """`options` are further arguments of `wandb.init`.

        Raises SettingError where wandb is not installed, or for a project that it would refuse.
        """
        _check_installed("wandb")
        if not project or len(project) > 128 or set(project) & set("/\\#?%:"):
            raise SettingError(
                f'"{project}" is no name of a W&B project',
                remedy="Use up to 128 characters, none of / \\ # ? % :",
            )
        self.project, self.options = project, dict(options)
        self._run: Any = None
        self._is_ours = True

    def __getstate__(self) -> dict[str, Any]:
        """Without the run, so that `learn.export` can pickle its callbacks."""
        return {**self.__dict__, "_run": None}

    def start(self, run_id: str | None, step: int) -> str:
        """Join the run that is active in this process, such as a sweep's, or start one."""
        import wandb

        self._is_ours = wandb.run is None
        self._run = self._init(run_id) if self._is_ours else wandb.run
        # W&B drops what is logged at a step of its own that goes back, as after a resume.
        self._run.define_metric(STEP)
        for names in _DRAWN_OVER_STEPS:
            self._run.define_metric(names, step_metric=STEP)
        found: str = self._run.id
        return found

    def _init(self, run_id: str | None) -> Any:
        import wandb

        options: dict[str, Any] = {
            "project": self.project,
            # Another Learner's run may still be open.
            "reinit": "create_new",
            "settings": wandb.Settings(init_timeout=_INIT_TIMEOUT, finish_timeout=_FINISH_TIMEOUT),
            **self.options,
        }
        if run_id is not None:
            options |= {"id": run_id, "resume": "allow"}
        mode: Any = options.pop("mode", None) or os.environ.get("WANDB_MODE")
        mode = mode or wandb.setup().settings.mode
        if mode != "online":
            return wandb.init(mode=mode, **options)
        try:
            # `wandb.init` would ask for a missing key at a prompt.
            if wandb.login(prompt=False, verify=False):
                return wandb.init(mode=mode, **options)
            reason = "no W&B key was found (`wandb login` stores one)"
        except Exception as error:
            reason = f"W&B cannot be reached ({_first_line(error)})"
        run = wandb.init(mode="offline", **options)
        warnings.warn(
            f"{reason}: the run is tracked offline, and `wandb sync {Path(run.dir).parent}` "
            "uploads it later",
            FtkitWarning,
            stacklevel=2,
        )
        return run

    def configure(self, config: Mapping[str, Any]) -> None:
        """Set the run's config; settings that a sweep chose stay as they are."""
        self._run.config.update(dict(config), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers as one row of the run's history."""
        self._run.log({**values, STEP: step})

    def table(self, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Log a wandb.Table."""
        import wandb

        table = wandb.Table(dataframe=pd.DataFrame(rows))
        self._run.log({name: table, STEP: step})

    def confusion(
        self, name: str, wanted: np.ndarray, found: np.ndarray, labels: Sequence[str], step: int
    ) -> None:
        """Log W&B's own chart of a confusion matrix."""
        import wandb

        chart = wandb.plot.confusion_matrix(
            y_true=wanted.tolist(), preds=found.tolist(), class_names=list(labels), title=name
        )
        self._run.log({name: chart, STEP: step})

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        """Log a wandb.Histogram."""
        import wandb

        self._run.log({name: wandb.Histogram(list(values)), STEP: step})

    def page(self, name: str, file: Path, step: int) -> None:
        """Log the page as a wandb.Html."""
        import wandb

        self._run.log({name: wandb.Html(str(file)), STEP: step})

    def bundle(self, folder: Path, name: str, metadata: Mapping[str, Any]) -> None:
        """Log the folder's files as an artifact of type model."""
        import wandb

        artifact = wandb.Artifact(name, type="model", metadata=dict(metadata))
        artifact.add_dir(str(folder))
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        """Upload what is left, for ten minutes at most; a run that was joined goes on."""
        run, self._run = self._run, None
        if self._is_ours:
            run.finish()

    def abandon(self, error: Exception) -> None:
        """Forget the run; where wandb's process is gone, let wandb notice it now."""
        self._run = None
        # Its mailbox has an error of its own for answers that never come.
        is_gone = type(error).__module__.startswith("wandb.sdk.mailbox")
        if is_gone or isinstance(error, ConnectionError):
            import wandb

            # Otherwise it would, with a traceback, when Python ends.
            with suppress(Exception):
                wandb.teardown()


class TensorBoardService:
    """Event files in a folder, which `tensorboard --logdir` shows."""

    def __init__(self, folder: str | Path) -> None:
        """Raises SettingError where tensorboard is not installed."""
        _check_installed("tensorboard")
        self.folder = Path(folder)
        self._writer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file, so that `learn.export` can pickle its callbacks."""
        return {**self.__dict__, "_writer": None}

    def start(self, run_id: str | None, step: int) -> str:
        """Open a new event file in the folder, whose name is the run's id."""
        from torch.utils.tensorboard import SummaryWriter

        # Hides what an interrupted run wrote after the step at which it is resumed.
        self._writer = SummaryWriter(self.folder, purge_step=step + 1 if step else None)
        return self.folder.name

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the settings as text."""
        self._writer.add_text("config", _as_code(config))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers, each under its name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Write a table as Markdown."""
        self._writer.add_text(name, _as_markdown(rows), step)

    def confusion(
        self, name: str, wanted: np.ndarray, found: np.ndarray, labels: Sequence[str], step: int
    ) -> None:
        """Write the counts as a table, wanted labels down and found ones across."""
        counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
        np.add.at(counts, (wanted, found), 1)
        rows = [
            {"wanted \\ found": label, **dict(zip(labels, row, strict=True))}
            for label, row in zip(labels, counts.tolist(), strict=True)
        ]
        self.table(name, rows, step)

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        """Write a histogram."""
        self._writer.add_histogram(name, np.array(values), step)

    def page(self, name: str, file: Path, step: int) -> None:
        """Write where the page is, for TensorBoard shows none."""
        self._writer.add_text(name, _as_code({"page": str(file)}), step)

    def bundle(self, folder: Path, name: str, metadata: Mapping[str, Any]) -> None:
        """Write where the model is, for TensorBoard keeps no files."""
        self._writer.add_text(name, _as_code({"folder": str(folder), **metadata}))

    def finish(self) -> None:
        """Write what is left, and close the file."""
        writer, self._writer = self._writer, None
        writer.close()

    def abandon(self, error: Exception) -> None:
        """Forget the file."""
        self._writer = None


def _check_installed(package: str) -> None:
    if find_spec(package) is None:
        raise SettingError(f"{package} is not installed", remedy=f"Run `pip install {package}`.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _as_code(content: Mapping[str, Any]) -> str:
    """JSON as a block of Markdown, which is indented by four."""
    lines = json.dumps(content, indent=2, ensure_ascii=False, default=str).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _as_markdown(rows: Sequence[Mapping[str, object]]) -> str:
    names = list(rows[0]) if rows else []
    lines = [names, ["---"] * len(names), *([*map(_as_cell, row.values())] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _as_cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
