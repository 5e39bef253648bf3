"""The service under load: rows of 64 clients in shared batches, against one row at a time.

`recipes/serve_api.py` runs in a process of its own, once as it comes and once with batches of one
row (the peer: the same server, model and clients); the clients stand in this process and ask again
as soon as they are answered. The two take turns, five rounds; rows a second and the time from a
request to its answer are read here, at the clients. Every answer is compared with the model's own:
one that belongs to another's row would be seen. Then 256 clients ask a service that lets 32 rows
wait: what it refuses, and how long those wait that it takes. Exits with 1 for a wrong answer.

    python recipes/bench/serve.py --model runs/first/model --data ../shared/data/sst2/test.parquet
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
from common import machine, package_versions
from rounds import spread

import ftkit

SERVICE = Path(__file__).parents[1] / "serve_api.py"
CONTENDERS = {
    "one row at a time": ["--max-tokens", "1", "--max-wait", "0"],
    "shared batches": [],
}


@dataclass(frozen=True)
class Load:
    """What clients saw."""

    rows_a_second: float
    p50: float  # milliseconds from the request to its answer
    p99: float
    wrong: int  # answers that are not the model's own to the row
    refused: int


@contextmanager
def serving(model: Path, options: list[str]) -> Iterator[str]:
    """The service's address, while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(SERVICE), str(model), "--port", str(port), *options]
    with subprocess.Popen(command, env=dict(os.environ)) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(1200):
                try:
                    httpx.get(f"{url}/health", trust_env=False)
                    break
                except httpx.TransportError:
                    if process.poll() is not None:
                        sys.exit("the service did not start")
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def ask(url: str, texts: list[str], expected: list[dict[str, float]], clients: int) -> Load:
    """All texts, a row a request, each client with one request at a time."""
    left = iter(range(len(texts)))
    seconds: list[float] = []
    wrong = refused = 0

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal wrong, refused
        for number in left:
            started = time.perf_counter()
            answer = await session.post(f"{url}/predict", json={"rows": [texts[number]]})
            if answer.status_code == 503:
                refused += 1
                continue
            seconds.append(time.perf_counter() - started)
            scores = answer.json()["predictions"][0]["scores"]
            own = expected[number]
            wrong += any(abs(scores[label] - own[label]) > 1e-4 for label in own)

    async def run() -> None:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as session:
            await asyncio.gather(*(client(session) for _ in range(clients)))

    started = time.perf_counter()
    asyncio.run(run())
    whole = time.perf_counter() - started
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99]).tolist()
    return Load(len(seconds) / whole, p50, p99, wrong, refused)


def main() -> None:
    parser = argparse.ArgumentParser(description="The service under load.")
    parser.add_argument("--model", type=Path, required=True, help="a bundle of classification")
    parser.add_argument("--data", type=Path, required=True, help="parquet with a column text")
    parser.add_argument("--rows", type=int, default=1000, help="requests a round (1000)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    texts = pq.read_table(options.data, columns=["text"])["text"].to_pylist()[: options.rows]
    expected = [each.scores for each in ftkit.load_model(options.model).predict(texts)]
    loads: dict[str, list[Load]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in list(CONTENDERS)[:: 1 if number % 2 else -1]:
            with serving(options.model, CONTENDERS[name]) as url:
                ask(url, texts[:100], expected, options.clients)  # warms up
                loads[name].append(ask(url, texts, expected, options.clients))
            print(f"  round {number + 1}: {name}: {loads[name][-1]}", flush=True)
    with serving(options.model, ["--max-waiting", "32"]) as url:
        overload = ask(url, texts, expected, 256)
    print(f"\n{machine()}, {package_versions()}; {options.clients} clients, {len(texts):,} rows\n")
    print("| service | rows/s | ratio | p50, ms | p99, ms | wrong answers |")
    print("|---|---:|---:|---:|---:|---:|")
    slow = loads["one row at a time"]
    for name, found in loads.items():
        ratios = [a.rows_a_second / b.rows_a_second for a, b in zip(found, slow, strict=True)]
        cells = [
            spread([each.rows_a_second for each in found], 0),
            "1" if found is slow else spread(ratios, 2),
            spread([each.p50 for each in found], 0),
            spread([each.p99 for each in found], 0),
            str(sum(each.wrong for each in found)),
        ]
        print(f"| {' | '.join([name, *cells])} |")
    print(
        f"\n256 clients where 32 rows may wait: {overload.refused:,} of {len(texts):,} requests "
        f"refused (503), the others answered in {overload.p50:.0f} ms (p99 {overload.p99:.0f} ms)"
    )
    if options.json:
        record = {
            "machine": machine(),
            "versions": package_versions(),
            "loads": {name: [asdict(each) for each in found] for name, found in loads.items()},
            "overload": asdict(overload),
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    if overload.wrong or any(each.wrong for found in loads.values() for each in found):
        sys.exit("an answer was not the model's own to its row")


if __name__ == "__main__":
    main()
