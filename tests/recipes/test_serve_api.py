"""The service over HTTP: many clients, bad requests, too many requests, and a graceful end."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import httpx
import pytest
from fastapi.testclient import TestClient

import ftkit


@pytest.fixture(scope="module")
def folder(tiny_data, tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    learn = ftkit.classification_learner(tiny_data, tiny_checkpoint, bs=8, precision="fp32")
    learn.fit_one_cycle(3, 1e-2)
    return ftkit.save(learn, folder / "model")


class Service:
    """The recipe in a process of its own."""

    def __init__(self, folder, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "recipes/serve_api.py", str(folder), "--port", str(port)]
        self.process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, text=True, env={**os.environ}
        )
        for _ in range(600):
            try:
                self.get("/health")
                return
            except urllib.error.URLError:
                assert self.process.poll() is None, self.process.stderr.read()
                time.sleep(0.1)
        raise AssertionError("it never answered")

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def ask_all(self, bodies, clients=64):
        """Answers to all bodies, so many of them asked at once."""

        async def run():
            limits = httpx.Limits(max_connections=clients)
            async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
                return await asyncio.gather(
                    *(client.post(f"{self.url}/predict", content=body) for body in bodies)
                )

        return asyncio.run(run())

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return self.process.stderr.read()


@pytest.fixture
def serve(folder):
    """A function that starts the service; it is stopped when the test ends."""
    started = []

    def start(*options):
        started.append(Service(folder, *options))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        each.process.stderr.close()


def test_clients_get_their_own_answers_and_errors(serve, folder):
    service = serve("--max-bytes", "20000", "--max-row-tokens", "400")
    model = ftkit.load_model(folder, device="cpu")
    texts = [f"{'late refund ' * (n % 9)} courier {n % 17} invoice" for n in range(320)]
    answers = service.ask_all([json.dumps({"rows": [text, "late"]}) for text in texts])
    assert {answer.status_code for answer in answers} == {200}
    late = model.predict(["late"])[0].scores
    for answer, expected in zip(answers, model.predict(texts), strict=True):
        first, second = answer.json()["predictions"]
        assert first["scores"] == pytest.approx(expected.scores, abs=1e-5)
        assert second["scores"] == pytest.approx(late, abs=1e-5)
    bad = {
        "no json": (422, 'Send JSON such as {"rows"'),
        '{"rows": []}': (422, "no request"),
        '{"rows": ["fine", 7]}': (422, "row 2.*found 7"),
        '{"rows": [{"body": "late"}]}': (422, "row 1.*found nothing"),
        json.dumps({"rows": ["late " * 1000]}): (422, "row 1.*1,002 tokens, and 400"),
        json.dumps({"rows": ["late " * 10000]}): (413, "more than 20,000 bytes"),
        '{"rows": ' + "[" * 5000 + "]" * 5000 + "}": (422, ""),
        "\udcff".encode("utf-8", "surrogatepass"): (422, "no request"),
    }
    found = service.ask_all(list(bad), clients=8)
    for answer, (status, message) in zip(found, bad.values(), strict=True):
        assert answer.status_code == status
        assert re.search(message, answer.json()["error"])
    assert json.loads(service.get("/health")) == {"status": "ready", "task": "classification"}
    metrics = service.get("/metrics")
    assert 'ftkit_requests_total{status="200"} 320.0' in metrics
    assert "ftkit_rows_total 640.0" in metrics
    assert "ftkit_waiting_rows 0.0" in metrics
    assert service.end() == ""


def test_overload_is_refused_and_sigterm_answers_what_was_asked(serve):
    # A long row is a batch alone; short ones wait together.
    service = serve("--max-waiting", "8", "--max-tokens", "500", "--max-wait", "1.5")
    body = json.dumps({"rows": ["late refund " * 200]})
    answers = service.ask_all([body] * 200, clients=200)
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "8 rows wait already" in refused.json()["error"]
    assert service.ask_all([body])[0].status_code == 200
    body = json.dumps({"rows": ["late refund"]})

    async def run():
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            asked = [
                asyncio.create_task(client.post(f"{service.url}/predict", content=body))
                for _ in range(5)
            ]
            await asyncio.sleep(0.5)
            service.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*asked)

    assert [answer.status_code for answer in asyncio.run(run())] == [200] * 5
    assert service.process.wait(30) in (0, -signal.SIGTERM)


def test_what_fails_is_counted(recipe, folder, monkeypatch):
    model = ftkit.load_model(folder)
    with TestClient(recipe.make_app(model, max_waiting=3), raise_server_exceptions=False) as client:
        assert client.post("/predict", json={"rows": ["late"] * 3}).status_code == 200
        answer = client.post("/predict", json={"rows": ["late"] * 4})
        assert (answer.status_code, "4 rows, and 3 are allowed" in answer.text) == (422, True)
        with monkeypatch.context() as patch:
            patch.setattr(model, "predict", lambda rows, **_: 1 / 0)
            assert client.post("/predict", json={"rows": ["late"]}).status_code == 500
        metrics = client.get("/metrics").text
        for status in (200, 422, 500):
            assert f'ftkit_requests_total{{status="{status}"}} 1.0' in metrics
        assert "ftkit_seconds_count 3.0" in metrics
        assert client.post("/predict", json={"rows": ["late"]}).status_code == 200
