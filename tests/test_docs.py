"""docs/: its code runs, its links lead somewhere, and the site fetches nothing from elsewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from code_blocks import read_blocks, run_command, run_python
from generated_pages import command_line, task_options

import ftkit

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md"))}
# Blocks that are not run, each with its reason on the page.
NOT_RUN = {
    "how-to/push.md": 1,
    "how-to/read-report.md": 1,
    "how-to/resume.md": 1,
    "how-to/serve.md": 1,
    "how-to/several-gpus.md": 2,
    "how-to/track.md": 1,
    "three-ways.md": 4,
    "tutorial.md": 3,
}
TUTORIAL = "tutorial.md"
RUN = [
    page
    for page, path in PAGES.items()
    if page != TUTORIAL and any(block.is_run for block in read_blocks(path))
]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


# What the pages tell to do


def run_page(page: str, folder: Path) -> dict[str, Any]:
    """Run the blocks of a page in their order, in a folder; returns the names that they left."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in read_blocks(PAGES[page]):
            if not block.is_run:
                continue
            if block.language == "python":
                run_python(block, names)
            else:
                for line in block.lines:
                    run_command(line, block.place)
    return names


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that the tutorial was done in, and the names that it left."""
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, run_page(TUTORIAL, folder)


@pytest.mark.slow
def test_the_tutorial(tutorial: tuple[Path, dict[str, Any]]) -> None:
    folder, names = tutorial
    assert names["answer"].label in names["model"].task.labels
    left = {path.name for path in (folder / "runs" / "first").iterdir()}
    files, _, keys = PAGES["reference/run-directory.md"].read_text(encoding="utf-8").split("```")
    # Training states are gone when a run is finished.
    assert left == named_in_table(files) - {"checkpoints"}
    metrics = json.loads((folder / "runs" / "first" / "metrics.json").read_text("utf-8"))
    # Its file has no test split.
    assert set(metrics) == named_in_table(keys) - {"test"}
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 200


def named_in_table(text: str) -> set[str]:
    """The names in the first column."""
    rows = re.findall(r"^\| (`.+?) \|", text, flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.]+)/?`", row)}


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs(page: str, tmp_path: Path, tutorial: tuple[Path, dict[str, Any]]) -> None:
    """Each in a folder of its own, where the tutorial was done if the page says so."""
    if "runs/first" in PAGES[page].read_text(encoding="utf-8"):
        (tmp_path / "runs").mkdir()
        for name in ("runs/first", "new.csv"):
            (tmp_path / name).symlink_to(tutorial[0] / name)
    run_page(page, tmp_path)


def test_what_is_not_run_is_counted() -> None:
    reasons = {
        page: [block.reason for block in read_blocks(path) if block.reason]
        for page, path in PAGES.items()
    }
    assert {page: len(found) for page, found in reasons.items() if found} == NOT_RUN
    every = sum(path.read_text("utf-8").count("<!-- not run") for path in PAGES.values())
    assert every == sum(NOT_RUN.values()), "a reason stands where no block follows"
    assert len(RUN) >= 20


def test_every_block_says_its_language() -> None:
    blocks = [block for path in PAGES.values() for block in read_blocks(path)]
    assert len(blocks) > 50
    assert {block.language for block in blocks} == {"python", "bash", "text"}


# What the pages say


def navigated(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    else:
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from navigated(entry)


def test_every_page_is_in_the_navigation() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    found = list(navigated(config["project"]["nav"]))
    assert len(found) == len(set(found))
    assert set(found) == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages(page: str) -> None:
    linked = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", PAGES[page].read_text(encoding="utf-8"))
    assert not [link for link in linked if not (PAGES[page].parent / link).is_file()]


def test_the_reference_has_exactly_the_public_names() -> None:
    texts = [path.read_text("utf-8") for page, path in PAGES.items() if "reference/" in page]
    named = re.findall(r"^::: ftkit\.(\w+)$", "\n".join(texts), flags=re.MULTILINE)
    assert sorted(named) == sorted(set(dir(ftkit)) - {"__version__"})


@pytest.mark.parametrize(
    ("page", "made"),
    [("reference/command-line.md", command_line), ("reference/task-options.md", task_options)],
)
def test_pages_made_from_the_code(page: str, made: Any) -> None:
    """FTKIT_WRITE=1 writes them anew."""
    text = made()
    assert text.count("\n| ") > 20
    if os.environ.get("FTKIT_WRITE"):
        PAGES[page].write_text(text, encoding="utf-8")
    assert PAGES[page].read_text(encoding="utf-8") == text


def test_messages_are_those_of_the_code() -> None:
    """What stands in the tables of notes is in a text of the package, word for word."""
    said = []
    for file in (ROOT / "ftkit").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    everything = "\n".join(said)
    page = PAGES["concepts/messages.md"].read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.+?) \| [A-Z`]", page[page.index("## Notes") :], flags=re.MULTILINE)
    told = [part for cell in cells for part in re.findall(r"`([^`]+)`", cell)]
    assert len(told) > 20
    assert [part for part in told if part not in everything] == []


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """docs/ built as `make docs` does, in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    # zensical would follow links to these two back to the repository.
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    for name in ("ftkit", "recipes", "CHANGELOG.md"):
        (folder / name).symlink_to(ROOT / name)
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


class Addresses(HTMLParser):
    """What a page's tags lead to, and of these what a browser loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name not in ("href", "src", "srcset", "data", "poster", "action") or value is None:
                continue
            (self.linked if tag == "a" else self.loaded).append(value)


def pages_of(site: Path) -> dict[Path, Addresses]:
    return {page: Addresses(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = pages_of(site)
    assert len(pages) > 40
    foreign = re.compile(r"(https?:)?//")
    loaded = {each for page in pages.values() for each in page.loaded}
    assert len(loaded) > 5
    assert not [each for each in loaded if foreign.match(each)]
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"""(?:url\(|@import)\s*["']?([^"')]+)""", sheet.read_text("utf-8"))
        assert not [url for url in urls if foreign.match(url)]


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    pages = {path.resolve(): found for path, found in pages_of(site).items()}
    assert sum(len(found.linked) for found in pages.values()) > 1000
    broken = []
    for page, found in pages.items():
        # The page for addresses that are not there has links from the root.
        for link in found.linked + found.loaded if page.name != "404.html" else []:
            address = urlsplit(link)
            if address.scheme in ("http", "https", "data"):
                continue
            target = (page.parent / unquote(address.path)).resolve() if address.path else page
            anchor = unquote(address.fragment)
            is_there = target.is_file()
            if is_there and anchor and target in pages:
                is_there = anchor in pages[target].ids or anchor == "__codelineno-0-1"
            if not is_there:
                broken.append(f"{page.name}: {link}")
    assert broken == []


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_the_site_reads_from_a_file(site: Path) -> None:
    """Its search too, and no request leaves the folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options, Service(str(DRIVER)))
    try:
        browser.get((site / "index.html").as_uri())
        browser.find_element("css selector", ".md-search__button").click()
        wait_for(browser, "input").send_keys("LayerDecay")
        assert "LayerDecay" in wait_for(browser, "a[href*='training.html#ftkit.LayerDecay']").text
        browser.get((site / "reference" / "training.html").as_uri())
        messages = [
            json.loads(each["message"])["message"] for each in browser.get_log("performance")
        ]
        asked = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        assert len(asked) > 10
        assert not [url for url in asked if not url.startswith((site.as_uri(), "data:", "blob:"))]
        assert not [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]
    finally:
        browser.quit()


def wait_for(browser: Any, selector: str) -> Any:
    """The first element of the selector in the search's dialog, which stands in a shadow tree."""
    deadline = time.monotonic() + 20
    while not (found := browser.execute_script(_IN_DIALOG, selector)):
        assert time.monotonic() < deadline, f"no {selector}"
        time.sleep(0.1)
    return found


_IN_DIALOG = """
for (const host of document.querySelectorAll("*")) {
  const found = host.shadowRoot?.querySelector(arguments[0]);
  if (found?.checkVisibility()) return found;
}
"""
