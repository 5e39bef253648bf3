"""Answer a billion rows: a folder of Parquet files in, a folder of Parquet files out, by Ray Data.

    python recipes/predict_many.py runs/first/model rows/ --output answers/ --actors 2
    python recipes/predict_many.py runs/first/model 'logs/*/*.parquet' --output answers/ \
        --columns text=body --address auto --actors 64 --resume

The files are cut into shards, each some row groups of a file. An actor loads the model once, and
answers one shard after the other in flat memory; a shard's answers are a file of their own, in the
order of its rows, with the columns that `ftkit predict` writes. A job that was stopped goes on by
--resume with the shards that lack; another model, setting or input is refused. A shard that cannot
be read is told in the end, and the exit code is 2. On a cluster, all machines see the same folders.
Needs `pip install "ftkit[scale]"`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch

import ftkit
from ftkit.cli import parse_columns, parse_options
from ftkit.errors import DataError, FtkitError, SettingError, first_line
from ftkit.jobs.predict import PredictJob
from ftkit.jobs.progress import Progress
from ftkit.jobs.shards import Shard, answer_shard, plan_shards, remove_partial


class Answerer:
    """An actor: a model, and its answers to the shards that it is given."""

    def __init__(self, job: PredictJob, threads: int) -> None:
        torch.set_num_threads(threads)
        self.job, self.model = job, ftkit.load_model(job.model, precision=job.precision)

    def __call__(self, batch: pa.Table) -> dict[str, list[Any]]:
        """What became of each shard."""
        done = [self._answer(Shard(**row)) for row in batch.to_pylist()]
        return {name: [each[name] for each in done] for name in done[0]}

    def _answer(self, shard: Shard) -> dict[str, Any]:
        done: dict[str, Any] = {"rows": 0, "failed": 0, "unread": "", "unwritten": ""}
        try:
            failed = answer_shard(self.job, self.model, shard)
        except DataError as error:
            return {**done, "unread": str(error)}
        except OSError as error:
            return {**done, "unwritten": str(error)}
        return {**done, "rows": shard.rows, "failed": failed}


def main(
    job: PredictJob,
    output: str,
    shard_rows: int = 100_000,
    actors: int = 1,
    gpus: float = 0,
    address: str | None = None,
) -> int:
    """Answer what lacks of `job`; returns how many rows there were for that.

    `address` is that of a Ray cluster, "auto" that of this machine's; without it Ray starts here.
    An actor has its share of the cores, and `gpus` graphics processors.

    Raises DataError where shards could not be read, once the others are answered, OSError for the
    first that cannot be written, and what `plan_shards` raises.
    """
    shards = plan_shards(job, Path(output), shard_rows)
    left = [shard for shard in shards if not shard.is_done]
    total = sum(shard.rows for shard in shards)
    answered = failed = 0
    errors = []
    with Progress(total, total - sum(shard.rows for shard in left)) as progress:
        for done in answer_all(job, left, actors, gpus, address) if left else ():
            if done["unwritten"]:  # the others' disk is full as well
                raise OSError(done["unwritten"])
            if done["unread"]:
                errors.append(done["unread"])
            answered, failed = answered + done["rows"], failed + done["failed"]
            progress.advance(done["rows"])
    remove_partial(shards)
    print(f"{answered:,} rows answered in {len(left) - len(errors):,} of {len(shards):,} shards")
    if failed:
        print(f"{failed:,} of them could not be read and have no answer: see prediction_error")
    if errors:
        raise DataError(
            f"{len(errors):,} shards were not answered, the first: {errors[0].rstrip('.')}",
            remedy="The others stand. --resume tries again; a file that was mended is a new job.",
        )
    return answered


def answer_all(
    job: PredictJob, shards: list[Shard], actors: int, gpus: float, address: str | None
) -> Iterator[dict[str, Any]]:
    """What became of each shard, as they are done."""
    here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100_000_000}
    try:
        with silence():
            session = ray.init(address, log_to_driver=False, **({} if address else here))
    except ConnectionError as error:
        raise SettingError(first_line(error), remedy="Check --address.") from None
    with session:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        actors = min(actors, len(shards))
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        cores = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
        threads = max(1, min(sum(cores) // actors, *filter(None, cores)))
        # Ray is given the places of shards, a block each, and never a row.
        places = ray.data.from_items(list(map(asdict, shards)), override_num_blocks=len(shards))
        yield from places.map_batches(
            Answerer,
            fn_constructor_args=(job, threads),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=threads,
            num_gpus=gpus,
        ).iter_rows()


@contextmanager
def silence() -> Iterator[None]:
    """Without what Ray reports to its makers, or says when it starts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def parse() -> dict[str, Any]:
    """What the command line asks of `main`."""
    parser = argparse.ArgumentParser(description="Answer a folder of Parquet files by Ray Data.")
    add = parser.add_argument
    add("model", help="the folder that ftkit.save, train or export wrote")
    add("input", help="a folder of .parquet files, or a pattern of such files in quotes")
    add("--output", required=True, metavar="DIR", help="folder for a file of answers a shard")
    add("--resume", action="store_true", help="go on with the job, if it was stopped")
    add("--columns", metavar="text=body,...")
    add("--top-k", type=int, metavar="N", help="keep the N likeliest scores or answers")
    add("--batch-size", type=int, default=32, metavar="N", help="rows a batch (32)")
    add("--precision", default="fp32", choices=("auto", "fp32", "fp16", "bf16"))
    add("--option", action="append", metavar="NAME=VALUE", help="an option of the task")
    add("--shard-rows", type=int, default=100_000, metavar="N", help="rows a shard (100,000)")
    add("--actors", type=int, default=1, metavar="N", help="copies of the model (1)")
    add("--gpus", type=float, default=0, metavar="X", help="graphics processors a copy takes (0)")
    add("--address", help="of a Ray cluster, or auto; without it Ray starts on this machine")
    given = vars(parser.parse_args())
    run = {name: given.pop(name) for name in ("output", "shard_rows", "actors", "gpus", "address")}
    given["model"] = str(Path(given["model"]).absolute())
    given["columns"] = parse_columns(given["columns"])
    given["options"] = parse_options(given.pop("option") or ())
    return {"job": PredictJob(**given), **run}


if __name__ == "__main__":
    try:
        main(**parse())
    except (FtkitError, OSError) as error:
        print(f"predict_many: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, FtkitError) else 1)
    except KeyboardInterrupt:
        sys.exit("predict_many: stopped; --resume goes on")
