"""A bundle -> a folder that ONNX Runtime answers from, with or without torch; int8 too.

The model is traced by `torch.onnx.export` with batch and length left open, and what it says is
held against the original's. `int8` makes its weights smaller; `onnx_engine` runs it.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ftkit
from ftkit.errors import CheckpointError, SettingError, check_least, first_line
from ftkit.features import Padding, input_columns, prepare_rows
from ftkit.inference.engine import Engine
from ftkit.inference.int8 import quantise, quiet
from ftkit.inference.onnx_engine import DATA_FILE, EXPORT_FILE, MODEL_FILE, OnnxEngine
from ftkit.inference.onnx_graph import pick_early
from ftkit.inference.predictor import Evaluation, Predictor
from ftkit.task import Arrays

if TYPE_CHECKING:
    import torch

    from ftkit.model.module import TextModel

_NAMES = ("input_ids", "attention_mask", "token_type_ids")
# What float32 sums in another order may differ by in a logit.
_TOLERANCE = 1e-3
# Above this, protobuf's 2 GB are near, and the weights stand in a file of their own.
_ONE_FILE = 1_800_000_000


_BATCHES = (
    "int8 rounds by a scale that the rows of a batch share: a row's scores may differ a little "
    "with the rows that it is asked with"
)
_PIPELINE = re.compile(r"\n+or, without ftkit:\n.*?```python.*?```", re.DOTALL)


@dataclass(frozen=True)
class Export:
    """What an export gave; printed, it is a few lines."""

    folder: Path
    precision: str
    """"fp32" or "int8"."""
    megabytes: float
    kept_in_fp32: tuple[str, ...]
    """The matrix products that int8 left out."""
    original: Evaluation | None
    exported: Evaluation | None
    """Their scores on the validation rows; None where there were none."""

    def __str__(self) -> str:
        """Size and scores, the original's beside its own."""
        lines = [f"{self.precision}, {self.megabytes:.1f} MB in {self.folder}"]
        if self.precision == "int8":
            lines.append(_BATCHES)
        if self.kept_in_fp32:
            kept = ", ".join(self.kept_in_fp32)
            lines.append(f"left in fp32, for they cost the score most: {kept}")
        if self.original and self.exported:
            lines.append(f"on {self.original.rows:,} validation rows:")
            for name, evaluation in (("original", self.original), ("exported", self.exported)):
                scores = (f"{key} {value:.4f}" for key, value in evaluation.scores.items())
                lines.append(f"{name}  {'  '.join(scores)}")
        return "\n".join(lines)


def export_onnx(
    folder: str | Path,
    output: str | Path,
    *,
    int8: bool = False,
    rows: Any = None,
    tolerance: float = 0.005,
) -> Export:
    """Write a bundle's model as ONNX, for `load_model` and any other ONNX Runtime.

    `rows` are labelled validation rows, as `Predictor.evaluate` takes them: on them original and
    export are scored. With `int8`, products are left in float32 until the task's main score is
    within `tolerance` of the original's; without rows all are quantised, and nothing is scored.

    Raises SettingError for a task that writes texts, for an `output` that exists, and where even
    few quantised products cost more than the tolerance; CheckpointError for an architecture that
    cannot be traced, or whose trace answers differently.
    """
    from ftkit.inference.predictor import load_model

    output = Path(output).resolve()
    check_least(0, tolerance=tolerance)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SettingError(f'"{output}" exists', remedy="Give a new folder.")
    _check_installed()
    original = load_model(folder, device="cpu")
    if original.task.generates or original.task.packs:
        raise SettingError(
            f"a model for {original.task.name} cannot be exported yet",
            remedy="Classification, NER and question answering can; serve others with torch.",
        )
    if int8 and _n_bytes(original.model) > _ONE_FILE:
        raise SettingError(
            f"a model of {_n_bytes(original.model) / 1e9:.1f} GB cannot be made int8 yet",
            remedy="Export it without int8.",
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    try:
        part.chmod(0o755)
        plain = part / MODEL_FILE

        def answering() -> Predictor:
            engine = OnnxEngine(plain, "cpu")
            return Predictor(engine, original.tokenizer, original.task, original.limit)

        _trace(original, plain)
        _check_trace(original, OnnxEngine(plain, "cpu"))
        before = None if rows is None else original.evaluate(rows)
        kept: tuple[str, ...] = ()
        if int8:
            full = plain.rename(part / "fp32.onnx")
            kept = quantise(full, plain, answering, original, before, rows, tolerance)
            full.unlink()
        after = None if rows is None else answering().evaluate(rows)
        size = sum(each.stat().st_size for each in part.glob(f"{MODEL_FILE}*")) / 1e6
        found = Export(output, "int8" if int8 else "fp32", size, kept, before, after)
        _write_others(Path(folder), part, found)
        if output.exists():
            output.rmdir()
        part.rename(output)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return found


def _check_installed() -> None:
    import importlib.util

    missing = [
        name
        for name in ("onnx", "onnxscript", "onnxruntime")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise SettingError(
            f"not installed: {', '.join(missing)}", remedy='Install: pip install "ftkit[onnx]".'
        )


# Tracing


def _trace(original: Predictor, file: Path) -> None:
    """Write the model with open batch and length; raises CheckpointError where it cannot be."""
    import onnx
    import torch

    model = original.model
    # GPT-2 reads token types as tokens: they are for models whose tokenizer makes them.
    known = {"input_ids", "attention_mask", *original.tokenizer.model_input_names}
    names = [name for name in _NAMES if name in model.arguments and name in known]
    inputs = _examples(original, (3, 2))
    zeros = np.zeros_like(inputs["input_ids"])
    given = {name: torch.from_numpy(inputs.get(name, zeros)) for name in names}
    sizes = {name: {0: "windows", 1: "tokens"} for name in names}
    wrapped = _logits_of(model)
    # Plain attention has the fewest operators; some architectures have but one.
    with suppress(ValueError):
        model.hf_model.set_attn_implementation("eager")
    try:
        with quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                wrapped,
                kwargs=given,
                dynamo=True,
                input_names=names,
                output_names=["logits"],
                dynamic_shapes={"inputs": sizes},
                verbose=False,
            )
            is_large = _n_bytes(model) > _ONE_FILE
            program.save(file, external_data=is_large)
            graph = onnx.load(file)
            pick_early(graph.graph)
            onnx.save(graph, file, save_as_external_data=is_large, location=DATA_FILE)
    except Exception as error:
        raise CheckpointError(
            f"{type(model.hf_model).__name__} cannot be exported ({_root(error)})",
            remedy="Serve it with torch, or fine-tune another architecture.",
        ) from None


def _logits_of(model: TextModel) -> torch.nn.Module:
    """A module of named tensors -> logits of windows, without what the task makes of them."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hf_model = model.hf_model

        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return model.logits(inputs)

    return Logits().eval()


def _n_bytes(model: TextModel) -> int:
    return sum(each.numel() * each.element_size() for each in model.hf_model.parameters())


def _examples(original: Predictor, repeats: Sequence[int]) -> Arrays:
    """A batch of the task's example, each row of it so many times over."""
    task, tokenizer = original.task, original.tokenizer
    example = input_columns([task.example], task)
    columns = {name: [" ".join(texts * n) for n in repeats] for name, texts in example.items()}
    features = prepare_rows(columns, task, tokenizer, original.limit)
    inputs, _ = task.collate(features.fill(np.arange(len(repeats)), Padding.of(tokenizer)))
    return inputs


def _check_trace(original: Predictor, engine: Engine) -> None:
    """Raises CheckpointError where the export says something else in any shape of batch."""
    for repeats in ((1,), (1, 3), (7, 2, 1, 1, 4), (40, 1)):
        inputs = _examples(original, repeats)
        wanted = original.engine.answer(inputs, original.task)
        try:
            found = engine.answer(inputs, original.task)
        except Exception as error:
            difference = first_line(error)
        else:
            gap = np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max())
            if gap <= _TOLERANCE:
                continue
            difference = f"its outputs differ by {gap:.2g}"
        windows, tokens = inputs["input_ids"].shape
        raise CheckpointError(
            f"the export of {type(original.model.hf_model).__name__} is not the model: with "
            f"{windows} windows of {tokens} tokens, {difference}",
            remedy="Serve it with torch, or fine-tune another architecture.",
        )


def _root(error: BaseException) -> str:
    """What the first error of a chain says, in a line; the exporter's own words are a page."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(Exception(str(error) or type(error).__name__))


# Around the model


def _write_others(folder: Path, part: Path, found: Export) -> None:
    """What a bundle has beside its weights, and what this export is and scores."""
    for file in folder.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".jinja"):
            shutil.copy(file, part / file.name)
    facts = {
        "format": 1,
        "ftkit": ftkit.__version__,
        "precision": found.precision,
        "kept_in_fp32": list(found.kept_in_fp32),
        "original": found.original and asdict(found.original),
        "exported": found.exported and asdict(found.exported),
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (part / EXPORT_FILE).write_text(text, encoding="utf-8")
    # transformers does not open an export.
    card = _PIPELINE.sub("", (folder / "README.md").read_text(encoding="utf-8"), count=1)
    card = card.replace("library_name: transformers", "library_name: onnx", 1)
    (part / "README.md").write_text(card + _describe(found), encoding="utf-8")


def _describe(found: Export) -> str:
    """The card's section on the export."""
    text = (
        f"\n## Export\n\n`{MODEL_FILE}` holds the model for ONNX Runtime in {found.precision} "
        f"({found.megabytes:.1f} MB), instead of torch's weights. `ftkit.load_model` opens this "
        "folder where onnxruntime is installed; torch is not needed.\n"
    )
    if found.precision == "int8":
        text += f"\n{_BATCHES}.\n"
    if found.kept_in_fp32:
        text += f"\nLeft in fp32, for they cost the score most: {', '.join(found.kept_in_fp32)}.\n"
    if found.original and found.exported:
        names = list(found.original.scores)
        text += f"\nOn {found.original.rows:,} validation rows:\n\n"
        text += f"| model | {' | '.join(names)} |\n|---{'|---' * len(names)}|\n"
        for name, evaluation in (("original", found.original), ("export", found.exported)):
            cells = (f"{evaluation.scores[each]:.4f}" for each in names)
            text += f"| {name} | {' | '.join(cells)} |\n"
    return text
