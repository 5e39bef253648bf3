"""A page in the browser for trying a model: one row at a time, or a file of them.

Stands on gradio, which is imported when the page is built. The page is served to this machine
alone, loads nothing from elsewhere, and keeps no text: uploads are deleted once they are read, and
what is downloaded when the page ends. `cli` calls it, and gives it the reader of data files.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.errors import SettingError
from ftkit.inference.demo_actions import MOST_MEGABYTES, Actions, Read, label_of, paragraph
from ftkit.inference.predictor import Predictor, load_model
from ftkit.model.device import Precision
from ftkit.task import Task

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import Blocks

_HOST = "127.0.0.1"
_FIRST_PORT, _PORTS = 7860, 100
_VERBS = {
    "classification": "Classify",
    "ner": "Find entities",
    "qa": "Answer",
    "summarization": "Summarize",
    "translation": "Translate",
}
# Nothing of the page may come from another place, or go there.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'self'"
)


def serve(
    folder: str | Path,
    read: Read,
    *,
    port: int | None = None,
    precision: Precision = "fp32",
) -> None:
    """Serve the page of a bundle on 127.0.0.1 until Ctrl-C, and print its address.

    `port` is the first free one from 7860 where it is None.

    Raises SettingError where gradio is missing, the port is in use, or the model answers no rows.
    """
    if importlib.util.find_spec("gradio") is None:
        raise SettingError(
            "the page needs gradio, which is not installed",
            remedy='Install it: pip install "ftkit[demo]".',
        )
    with _bound(port) as door, _private_files() as files:
        import uvicorn

        model = load_model(folder, precision=precision)
        page = build_page(model, read_card(folder, model.task), read, files)
        # Requests are not logged, for they are nobody's business.
        server = uvicorn.Server(
            uvicorn.Config(
                build_app(page), log_level="critical", timeout_graceful_shutdown=1, ws="none"
            )
        )
        # uvicorn ends by the signal that it was sent, and the files must go first.
        signal.signal(signal.SIGTERM, _stop)
        address = f"http://{_HOST}:{door.getsockname()[1]}"
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        server.run(sockets=[door])


def _stop(signum: int, frame: object) -> None:
    stopped = KeyboardInterrupt()
    stopped.signum = signum  # type: ignore[attr-defined]
    raise stopped


@contextmanager
def _bound(port: int | None) -> Iterator[socket.socket]:
    """A socket at the port, or at a free one."""
    ports = range(_FIRST_PORT, _FIRST_PORT + _PORTS) if port is None else [port]
    for number in ports:
        with socket.socket() as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                door.bind((_HOST, number))
                door.listen()
            except OSError:
                continue
            except OverflowError:
                raise SettingError(
                    f"port is {port}", remedy="Give a number between 1 and 65535."
                ) from None
            yield door
            return
    raise SettingError(
        f"port {ports[0]} cannot be had"
        if len(ports) == 1
        else f"the ports {ports[0]} to {ports[-1]} are in use",
        remedy="Give another --port, or none to take a free one.",
    )


@contextmanager
def _private_files() -> Iterator[Path]:
    """A folder that gradio keeps its files in, gone when the page ends."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="ftkit-demo-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            yield Path(folder)
        finally:
            os.environ.clear()
            os.environ |= before


def build_app(page: Blocks) -> FastAPI:
    """The application that serves the page, and lets nothing in from elsewhere."""
    import gradio as gr
    from fastapi import FastAPI, Request, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"])

    @app.middleware("http")
    async def keep_inside(request: Request, answer: Any) -> Response:
        response: Response = await answer(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    fonts = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    served: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path="/",
        show_error=False,
        footer_links=[],
        run_history=False,
        max_file_size=f"{MOST_MEGABYTES}mb",
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"openapi_url": None},
        theme=gr.themes.Base(
            primary_hue="blue", neutral_hue="slate", font=fonts[0], font_mono=fonts[1]
        ).set(
            button_primary_background_fill="*primary_700",
            button_primary_background_fill_dark="*primary_700",
            button_primary_background_fill_hover="*primary_800",
            button_primary_background_fill_hover_dark="*primary_600",
            button_primary_text_color="white",
            button_secondary_background_fill_hover="*neutral_300",
        ),
        css=Path(__file__).with_suffix(".css").read_text(encoding="utf-8"),
    )
    return served


# The card


@dataclass(frozen=True)
class Card:
    """What the page tells of the model."""

    title: str
    about: str
    limits: tuple[str, ...]
    example: Any


def read_card(folder: str | Path, task: Task) -> Card:
    """The title, the first sentence, the limits and the example of a bundle's card."""
    file = Path(folder, "README.md")
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    title = re.search(r"^# (.+)$", body, re.MULTILINE)
    about = re.search(r"^# .+\n\n(.+)$", body, re.MULTILINE)
    limits = re.search(r"^## Limits\n\n((?:- .+\n?)+)", body, re.MULTILINE)
    return Card(
        # A hub id without its owner.
        re.sub(r"^[\w.-]+/", "", title[1]) if title else f"A model for {task.name}",
        about[1] if about else "",
        tuple(line.removeprefix("- ") for line in limits[1].splitlines()) if limits else (),
        _example(body, task),
    )


def _example(card: str, task: Task) -> Any:
    if found := re.search(r"^model\.predict\(\[(.+)\]\)$", card, re.MULTILINE):
        try:
            return ast.literal_eval(found[1])
        except (ValueError, SyntaxError):
            pass
    return task.example


# The page


def build_page(model: Predictor, card: Card, read: Read, files: Path) -> Blocks:
    """The page of a model; `files` is a folder for what is downloaded.

    Raises SettingError for a model that answers no rows.
    """
    import gradio as gr

    task = model.task
    if task.name not in _VERBS:
        raise SettingError(
            f"a model for {task.name} answers no rows, and there is nothing to show on a page",
            remedy="Fine-tune from its folder first.",
        )
    room = Actions(model, read, files)
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    page: Blocks = gr.Blocks(title=card.title, analytics_enabled=False)
    with page:
        gr.HTML(f"<h1>{escape(card.title)}</h1><p>{escape(card.about)}</p>")
        with gr.Tab("One text"), gr.Row(equal_height=False, elem_classes="ftkit-columns"):
            with gr.Column(min_width=280):
                fields = [_field(name) for name, is_needed in room.fields if is_needed]
                with gr.Row():
                    answer = gr.Button(_VERBS[task.name], variant="primary", min_width=120)
                    example = gr.Button("Example", min_width=120)
                for name in (name for name, is_needed in room.fields if not is_needed):
                    with gr.Accordion(f"{label_of(name)} of a pair", open=False):
                        fields.append(_field(name))
            with gr.Column(min_width=280):
                shown = _live_html(paragraph("The answer appears here."))
                why = gr.Button("Why this answer?", visible=False, size="sm")
                reasons = _live_html()
        with gr.Tab("A file"):
            gr.HTML(paragraph(room.wanted()))
            upload = gr.UploadButton(
                "Choose a file",
                file_types=list(_KINDS),
                variant="primary",
                elem_classes="ftkit-own",
            )
            told = _live_html()
            download = gr.DownloadButton(
                "Download all answers as csv", visible=False, elem_classes="ftkit-own"
            )
        if card.limits:
            gr.HTML(f'<p class="ftkit-limits">{escape(" ".join(card.limits[:2]))}</p>')
        said = [shown, why, reasons]
        answer.click(room.answer, fields, said, **quiet)
        why.click(room.explain, fields, reasons, **quiet)
        example.click(lambda: room.example(card.example), None, fields, **quiet)
        upload.upload(room.answer_file, upload, [told, download], **quiet)
    return page


_KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def _field(name: str) -> Any:
    import gradio as gr

    lines = 6 if name in ("text", "context", "source") else 2
    return gr.Textbox(label=label_of(name), lines=lines, max_lines=16)


def _live_html(value: str = "") -> Any:
    """HTML whose changes a screen reader reads out."""
    import gradio as gr

    return gr.HTML(value, html_template='<div aria-live="polite">${value}</div>')
