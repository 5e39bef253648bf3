"""The command line, a thin shell over `learner.run`, `inference`, `jobs` and `checks`.

Heavy imports stand inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ftkit import __version__
from ftkit.errors import FtkitError, FtkitWarning, SettingError

USER_MISTAKE = 2
# The registry's names: importing it here would cost --help a second.
_TASKS = (
    "classification",
    "ner",
    "qa",
    "summarization",
    "translation",
    "language_modeling",
)
_PRECISIONS = ("auto", "fp32", "fp16", "bf16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 where a check finds errors, or 2 for a user's
    mistake.
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        _say_notes_plainly()
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        code: int = options.command(options) or 0
        if sys.stdout is not None:
            # A full disk or a reader gone is met here, not when the interpreter ends.
            sys.stdout.flush()
    except FtkitError as error:
        print(f"ftkit: {error}", file=sys.stderr)
        return USER_MISTAKE
    except BrokenPipeError:
        # The reader went away, as `| head` does; keep the interpreter from complaining too.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        print(f"ftkit: {error.strerror or error}{place}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"ftkit: {str(stopped) or 'stopped'}", file=sys.stderr)
        return 128 + int(getattr(stopped, "signum", signal.SIGINT))
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_MISTAKE, f"ftkit: {message}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ftkit", description="Fine-tune Hugging Face checkpoints with fastai.")
    parser.add_argument("--version", action="version", version=f"ftkit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_check(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_compare(commands)
    _add_export(commands)
    _add_push(commands)
    _add_demo(commands)
    return parser


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="look over your rows before a training",
        description="Look over your rows before a training. The exit code is 1 where a training "
        "would fail, or its scores would lie.",
    )
    check.set_defaults(command=_check)
    check.add_argument("task", metavar="TASK", help=", ".join(_TASKS))
    add = check.add_argument
    add("--data", required=True, metavar="PATH|HUB_ID", help="as for train")
    add("--checkpoint", metavar="NAME", help="count lengths in its tokens, and try a step of it")
    add("--columns", metavar="text=body,...", help="the task's columns under your names")
    add("--group", metavar="COLUMN", help="keep its groups whole where validation is split off")
    add("--limit", type=int, metavar="N", help="at most so many rows of each split")
    add("--max-length", type=int, metavar="N", help="tokens that the model sees of a text")
    add("--batch-size", type=int, default=32, metavar="N", help="rows a batch (32)")
    add("--seed", type=int, metavar="N", help="seed of every random choice (42)")
    add("--option", action="append", metavar="NAME=VALUE", help="an option of the task")
    add("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it to FILE too")
    add("--model", metavar="DIR/model", help="list labels that a trained model doubts")
    add("--suspects", metavar="FILE.csv", help="write all of these there")


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="fine-tune a checkpoint on your rows")
    train.set_defaults(command=_train)
    train.add_argument("task", nargs="?", metavar="TASK", help=", ".join(_TASKS))
    add = train.add_argument
    add("--data", metavar="PATH|HUB_ID", help="file, folder, hub id or sample:tickets")
    add("--checkpoint", metavar="NAME", help="hub id, folder, or minilm")
    add("--output", metavar="DIR", help="new folder for the run")
    add("--config", metavar="RUN.TOML", help="repeat a run; other options change it")
    add("--columns", metavar="text=body,...", help="the task's columns under your names")
    add("--epochs", type=int, metavar="N", help="passes over the rows (3)")
    add(
        "--lr",
        type=float,
        metavar="X",
        help="learning rate of the head; the layers below take a tenth",
    )
    add("--batch-size", type=int, metavar="N", help="rows a batch (32)")
    add("--max-length", type=int, metavar="N", help="tokens that the model sees of a text")
    add(
        "--long-texts",
        choices=("head", "tail", "head+tail", "windows"),
        help="what it sees of a longer one (head)",
    )
    add("--freeze-epochs", type=int, metavar="N", help="epochs for the head alone, first (0)")
    add("--precision", choices=_PRECISIONS, help="auto takes the best the device has")
    add("--accumulate", type=int, metavar="N", help="batches an optimizer step (1)")
    add("--seed", type=int, metavar="N", help="seed of every random choice (42)")
    add("--limit", type=int, metavar="N", help="at most so many rows of each split")
    add("--group", metavar="COLUMN", help="keep its groups whole where validation is split off")
    add(
        "--option",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the task, such as stride=64; may be repeated",
    )
    add("--lora", type=int, metavar="R", help="train LoRA matrices of rank R and the head alone")
    add("--wandb", metavar="PROJECT", help="log to Weights & Biases")
    add("--keep-best", metavar="METRIC", help="end with the epoch that is best by it")
    add("--patience", type=int, metavar="N", help="stop after N epochs without a better one")
    add("--save-steps", type=int, metavar="N", help="write the training state every N steps")
    add("--save-minutes", type=float, metavar="X", help="and every X minutes (10)")
    add("--resume", action="store_true", help="go on with the run in --output, if it was stopped")
    add(
        "--calibrate",
        action="store_true",
        default=None,
        help="make a classifier as sure as it is right, by validation rows",
    )
    add("--new-head", action="store_true", default=None, help="drop the checkpoint's own labels")


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="score a model on labelled rows")
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("model", metavar="DIR/model")
    evaluate.add_argument("--data", required=True, metavar="PATH|HUB_ID")
    evaluate.add_argument("--split", metavar="NAME", help="test, else validation, else train")
    _add_answering(evaluate)
    evaluate.add_argument(
        "--resamples",
        type=int,
        default=1000,
        metavar="N",
        help="resamples of the rows for intervals (1000); 0 leaves them out",
    )
    evaluate.add_argument("--json", metavar="FILE", help="write the scores there too")


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="answer rows with a model",
        description="Answer rows with a model. A row that cannot be read is told, keeps its place "
        "and has no answer; the exit code is 0, unless no row could be read, or with --strict.",
    )
    predict.set_defaults(command=_predict)
    predict.add_argument("model", metavar="DIR/model")
    predict.add_argument(
        "input",
        metavar="INPUT",
        help="data file (of a .txt each line is a text), or - for a text (or a JSON object) a line",
    )
    add = predict.add_argument
    add("--output", metavar="FILE", help="FILE.jsonl or FILE.parquet; else standard output")
    add("--resume", action="store_true", help="go on with the job, if it was stopped")
    add("--strict", action="store_true", help="end at the first row that cannot be read")
    add("--top-k", type=int, metavar="N", help="keep the N likeliest scores or answers")
    add("--batch-size", type=int, default=32, metavar="N", help="rows a batch (32)")
    _add_answering(predict)
    add(
        "--option",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the task, such as threshold=0.4; may be repeated",
    )


def _add_compare(commands: Any) -> None:
    command = commands.add_parser("compare", help="put runs side by side, with bootstrap tests")
    command.set_defaults(command=_compare)
    command.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; the first is the base"
    )
    command.add_argument("--split", metavar="NAME", help="test, else validation")
    command.add_argument("--json", metavar="FILE", help="write the comparison there too")


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="write a model for ONNX Runtime")
    export.set_defaults(command=_export)
    add = export.add_argument
    add("model", metavar="DIR/model")
    add("--onnx", action="store_true", required=True, help="the format; there is no other yet")
    add("--output", required=True, metavar="DIR", help="new folder for the export")
    add("--int8", action="store_true", help="weights of a byte: a quarter of the size, and faster")
    add(
        "--tolerance",
        type=float,
        default=0.005,
        metavar="X",
        help="what int8 may cost of the main score (0.005)",
    )
    add("--data", metavar="PATH|HUB_ID", help="validation rows; those of the run without it")
    add("--split", default="validation", metavar="NAME", help="the split of --data (validation)")
    add("--columns", metavar="text=body,...")
    add("--limit", type=int, default=1000, metavar="N", help="at most so many of them (1000)")


def _add_push(commands: Any) -> None:
    push = commands.add_parser("push", help="publish a model on the Hugging Face hub")
    push.set_defaults(command=_push)
    push.add_argument("model", metavar="DIR/model")
    push.add_argument("hub_id", metavar="OWNER/NAME")
    push.add_argument("--private", action="store_true", help="for you and yours alone")
    push.add_argument("--dry-run", action="store_true", help="list the files, upload nothing")


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="try a model on a page in your browser")
    demo.set_defaults(command=_demo)
    demo.add_argument("model", metavar="DIR/model")
    demo.add_argument("--port", type=int, metavar="N", help="of 127.0.0.1; a free one from 7860")
    demo.add_argument("--precision", choices=_PRECISIONS, default="fp32")


def _add_answering(command: argparse.ArgumentParser) -> None:
    command.add_argument("--columns", metavar="text=body,...")
    command.add_argument("--precision", choices=_PRECISIONS, default="fp32")


def _check(options: argparse.Namespace) -> int:
    from ftkit.checks.command import CheckOptions, run_check

    given = {
        name: value
        for name, value in vars(options).items()
        if value is not None and name not in ("command", "columns", "option", "max_length")
    }
    of_task = parse_options(options.option or ())
    if options.max_length is not None:
        of_task["max_length"] = options.max_length
    columns = parse_columns(options.columns)
    return run_check(CheckOptions(**given, columns=columns, options=of_task))


def _train(options: argparse.Namespace) -> None:
    given = {
        name: value
        for name, value in vars(options).items()
        if value is not None and name not in ("command", "config", "option", "resume")
    }
    if options.option:
        given["options"] = parse_options(options.option)
    if "columns" in given:
        given["columns"] = parse_columns(given["columns"])
    from ftkit.learner.settings import RunSettings

    if options.config:
        given = vars(RunSettings.read(options.config, **given))
    is_stopped = (
        options.resume and "output" in given and Path(given["output"], "run.toml").is_file()
    )
    missing = [name for name in ("task", "data", "checkpoint", "output") if name not in given]
    if missing and not is_stopped:
        raise SettingError(
            f"missing: {', '.join(name if name == 'task' else f'--{name}' for name in missing)}",
            remedy="Give them, or --config RUN.TOML.",
        )
    from ftkit.learner.distributed import is_first
    from ftkit.learner.run import run

    settings = RunSettings.resumed(**given) if is_stopped else RunSettings(**given)
    metrics = run(settings, resume=options.resume)
    if not is_first():
        return
    for split in ("validation", "test"):
        if split in metrics:
            scores = "  ".join(f"{name} {value:.4f}" for name, value in metrics[split].items())
            print(f"{split} ({metrics['rows'][split]:,} rows): {scores}")
    print(f"trained in {metrics['seconds']:.0f} s; the model is in {settings.output}/model")


def _evaluate(options: argparse.Namespace) -> None:
    from ftkit.data.sources import read_rows
    from ftkit.inference import load_model

    model = load_model(options.model, precision=options.precision)
    columns = parse_columns(options.columns)
    rows = read_rows(options.data, model.task, columns=columns, split=options.split)
    evaluation = model.evaluate(rows, resamples=options.resamples)
    how = f"; 95 % intervals by {options.resamples:,} resamples" if evaluation.intervals else ""
    print(f"{evaluation.rows:,} rows{how}\n{evaluation}")
    if options.json:
        from ftkit.learner.run import write_json

        write_json(evaluation.to_dict(), options.json)


def _compare(options: argparse.Namespace) -> None:
    from ftkit.reports.compare import compare

    comparison = compare(options.runs, split=options.split)
    print(comparison)
    if options.json:
        from ftkit.learner.run import write_json

        write_json(comparison.to_dict(), options.json)


def _export(options: argparse.Namespace) -> None:
    from ftkit.errors import check_least
    from ftkit.inference.onnx import export_onnx
    from ftkit.inference.task_file import read_task

    check_least(1, limit=options.limit)
    task, _, _ = read_task(Path(options.model))
    if options.data is None:
        from ftkit.learner.run import validation_rows

        rows = validation_rows(options.model)
    else:
        from ftkit.data.sources import read_rows

        columns = parse_columns(options.columns)
        rows = read_rows(options.data, task, columns=columns, split=options.split)
    if rows is None:
        warnings.warn(
            "no validation rows: the export is not scored. Give --data to score it",
            FtkitWarning,
            stacklevel=2,
        )
    elif len(rows) > options.limit:
        rows = rows.shuffle(seed=42).select(range(options.limit))
    print(
        export_onnx(
            options.model, options.output, int8=options.int8, rows=rows, tolerance=options.tolerance
        )
    )


def _predict(options: argparse.Namespace) -> None:
    from ftkit.jobs.predict import PredictJob, predict

    job = PredictJob(
        model=options.model,
        input=options.input,
        output=options.output,
        columns=parse_columns(options.columns),
        top_k=options.top_k,
        batch_size=options.batch_size,
        precision=options.precision,
        options=parse_options(options.option or ()),
        strict=options.strict,
        resume=options.resume,
    )
    done = predict(job)
    if options.output is not None:
        answered = done.rows - done.failed
        said = f"{answered:,} predictions in {options.output}, {done.rows_a_second:,.0f} rows/s"
        # A pipe or a device may be standard output itself.
        print(said, file=sys.stdout if Path(options.output).is_file() else sys.stderr)


def _push(options: argparse.Namespace) -> None:
    import transformers

    from ftkit.inference.push import list_files, push

    if not options.dry_run:
        if sys.stderr is None or not sys.stderr.isatty():
            logging: Any = transformers.logging
            logging.disable_progress_bar()  # the hub's too
        address = push(options.model, options.hub_id, private=options.private)
        print(f"the model is in {address}")
        return
    files = list_files(options.model, options.hub_id)
    for name, size in files.items():
        print(f"{size:>14,}  {name}")
    print(f"{sum(files.values()):>14,}  bytes in {len(files)} files, of which none was uploaded")


def _demo(options: argparse.Namespace) -> None:
    from ftkit.inference.demo import serve

    serve(options.model, read_texts, port=options.port, precision=options.precision)


def read_texts(
    source: str | Path, task: Any, columns: dict[str, str | list[str]] | None = None
) -> list[dict[str, Any]]:
    """The rows of a data file as dicts, checked for what the task's model reads."""
    from ftkit.data.sources import read_rows

    rows = read_rows(source, task, columns=columns, has_labels=False)
    listed: list[dict[str, Any]] = rows.to_list()
    return listed


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Options of a task in ["stride=64", "sub_tokens=all"]; values are JSON, or else text.

    Raises SettingError where one has no name or no value.
    """
    import json

    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise SettingError(f'--option is "{pair}"', remedy="Write it as --option stride=64.")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            options[name.replace("-", "_")] = value
    return options


def parse_columns(text: str | None) -> dict[str, str | list[str]] | None:
    """The column map in "text=body,label=queue"; "label=urgent+angry" names several columns.

    Raises SettingError where it is none.
    """
    if text is None:
        return None
    columns: dict[str, str | list[str]] = {}
    for pair in text.split(","):
        name, equals, theirs = pair.strip().partition("=")
        if not (name and equals and theirs):
            raise SettingError(
                f'--columns has "{pair}"', remedy="Write it as --columns text=body,label=queue."
            )
        if name in columns:
            raise SettingError(
                f'--columns names "{name}" twice', remedy="Write several columns as label=a+b."
            )
        columns[name] = theirs.split("+") if "+" in theirs else theirs
    return columns


def _say_notes_plainly() -> None:
    """Print ftkit's warnings as notes of one line; others as they are."""
    warnings.simplefilter("always", FtkitWarning)
    show = warnings.showwarning

    def show_note(message: Any, category: Any, *rest: Any, **options: Any) -> None:
        if issubclass(category, FtkitWarning):
            print(f"note: {message}", file=sys.stderr)
        else:
            show(message, category, *rest, **options)

    warnings.showwarning = show_note


if __name__ == "__main__":
    sys.exit(main())
