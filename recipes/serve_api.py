"""Serve a model over HTTP: FastAPI over a Predictor, rows of all requests in shared batches.

    python recipes/serve_api.py runs/first/model --port 8000
    curl -s localhost:8000/predict -d '{"rows": ["Where is my parcel?"]}'

GET /health answers 200 once the model is loaded, GET /metrics in Prometheus' format. A body over
`--max-bytes` is answered by 413, a row that cannot be read by 422 with its number, and where more
rows than `--max-waiting` would wait by 503 with Retry-After. SIGTERM answers what waits, then
stops. Needs `pip install "ftkit[serve]"`; put a proxy before it for TLS and for who may ask.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect

import ftkit
from ftkit.errors import DataError, FtkitError
from ftkit.inference.batching import Batcher, OverloadError


def make_app(model: Any, *, max_bytes: int = 1_000_000, **limits: Any) -> FastAPI:
    """The service; `limits` are those of `ftkit.inference.batching.Batcher`."""
    batcher, registry = Batcher(model, **limits), CollectorRegistry()
    answers = Counter("ftkit_requests", "Requests by status", ["status"], registry=registry)
    rows = Counter("ftkit_rows", "Rows answered", registry=registry)
    seconds = Histogram("ftkit_seconds", "Seconds from request to answer", registry=registry)
    waiting = Gauge("ftkit_waiting_rows", "Rows in the queue", registry=registry)
    waiting.set_function(lambda: batcher.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(title="ftkit", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        started, status = time.perf_counter(), 500  # where the model fails
        try:
            response = await answer(request)
            status = response.status_code
            return response
        finally:
            seconds.observe(time.perf_counter() - started)
            answers.labels(status).inc()

    async def answer(request: Request) -> Response:
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    return refusal(413, f"the body has more than {max_bytes:,} bytes")
        except ClientDisconnect:
            return refusal(400, "the body broke off")
        try:
            # Reading and tokenising takes time, in which others want to be heard.
            pending = await asyncio.to_thread(lambda: submit(batcher, read_rows(bytes(body))))
        except DataError as error:
            return refusal(422, str(error))
        except OverloadError as error:
            return refusal(503, str(error), {"Retry-After": "1"})
        found = await asyncio.gather(*map(asyncio.wrap_future, pending))
        rows.inc(len(found))
        return JSONResponse({"predictions": [each.to_dict() for each in found]})

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ready", "task": model.task.name}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return app


def read_rows(body: bytes) -> list[Any]:
    """The rows of a request; raises DataError where it is none."""
    try:
        rows = json.loads(body)["rows"]
    except (ValueError, TypeError, KeyError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not rows:
        raise DataError("the body is no request", remedy='Send JSON such as {"rows": ["A text"]}.')
    return rows


def submit(batcher: Batcher, rows: list[Any]) -> list[Future[Any]]:
    """All rows of a request, or none where one cannot be taken."""
    if len(rows) > batcher.max_waiting:
        raise DataError(
            f"the request has {len(rows):,} rows, and {batcher.max_waiting:,} are allowed",
            remedy="Send fewer at once.",
        )
    pending: list[Future[Any]] = []
    try:
        for number, row in enumerate(rows, start=1):
            try:
                pending.append(batcher.submit(row))
            except DataError as error:
                raise error.located(row=number) from None
    except FtkitError:
        for future in pending:
            future.cancel()
        raise
    return pending


def refusal(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error}, status, headers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a model over HTTP.")
    parser.add_argument("model", help="the folder that ftkit.save, train or export wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--precision", default="fp32", choices=("auto", "fp32", "fp16", "bf16"))
    parser.add_argument("--max-bytes", type=int, default=1_000_000, help="of a request's body")
    parser.add_argument("--max-row-tokens", type=int, default=16_384, help="of a row")
    parser.add_argument("--max-waiting", type=int, default=1024, help="rows in the queue")
    parser.add_argument("--max-tokens", type=int, default=4096, help="of a batch")
    parser.add_argument("--max-wait", type=float, default=0.005, help="seconds for a batch to fill")
    options = parser.parse_args()
    model = ftkit.load_model(options.model, precision=options.precision)
    app = make_app(
        model,
        max_bytes=options.max_bytes,
        max_row_tokens=options.max_row_tokens,
        max_waiting=options.max_waiting,
        max_tokens=options.max_tokens,
        max_wait=options.max_wait,
    )
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
