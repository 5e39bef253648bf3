"""int8: what exporting a trained model costs of its score, on rows that nothing was chosen by.

    python recipes/bench/int8.py RUN [RUN ...] --work /tmp/bench

A RUN is a folder of `ftkit train`. Its model is exported twice, in fp32 and in int8 as far as the
validation rows of the run allow (0.5 points), and all three answer its test rows.
"""

import argparse
import shutil
from pathlib import Path

from common import WORK, machine, package_versions

import ftkit
from ftkit.inference.onnx import export_onnx
from ftkit.learner.run import validation_rows
from ftkit.learner.settings import RunSettings


def main() -> None:
    parser = argparse.ArgumentParser(description="What int8 costs of a model's test score.")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, default=WORK)
    options = parser.parse_args()
    print(machine(), package_versions())
    print("| run | test rows | score | torch fp32 | ONNX fp32 | ONNX int8 | MB | left in fp32 |")
    print("|---|---:|---|---:|---:|---:|---:|---|")
    for run in options.runs:
        settings = RunSettings.read(run / "run.toml")
        rows = ftkit.load_data(settings.data, settings.chosen_task(), columns=settings.columns)
        model, found = ftkit.load_model(run / "model", device="cpu"), {}
        name = model.task.metric_names[0]
        found["torch"] = model.evaluate(rows["test"]).scores[name]
        for kind in ("fp32", "int8"):
            folder = options.work / f"{run.name}-{kind}"
            shutil.rmtree(folder, ignore_errors=True)
            export = export_onnx(
                run / "model", folder, int8=kind == "int8", rows=validation_rows(run / "model")
            )
            found[kind] = ftkit.load_model(folder, device="cpu").evaluate(rows["test"]).scores[name]
        scores = " | ".join(f"{100 * score:.2f}" for score in found.values())
        kept = ", ".join(export.kept_in_fp32) or "nothing"
        print(
            f"| {run.name} | {len(rows['test']):,} | {name} | {scores} | {export.megabytes:.1f} "
            f"| {kept} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
