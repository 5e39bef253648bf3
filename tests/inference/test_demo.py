"""The page of a model: its pictures, answers and errors, its server, and itself in a browser."""

import contextlib
import csv
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest

from ftkit.cli import main, read_texts
from ftkit.errors import SettingError
from ftkit.inference.demo import build_app, build_page, read_card
from ftkit.inference.demo_actions import Actions
from ftkit.inference.pictures import flat, picture, table
from ftkit.inference.predictor import Predictor
from ftkit.tasks import TASKS
from ftkit.tasks.classification import LabelPrediction, LabelsPrediction, ValuePrediction
from ftkit.tasks.ner import EntitiesPrediction, Entity
from ftkit.tasks.qa import AnswerPrediction
from ftkit.tasks.summarization import SummaryPrediction
from ftkit.tasks.translation import TranslationPrediction

gradio = pytest.importorskip("gradio")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def answers(model, files):
    return Actions(model, read_texts, files)


@pytest.fixture
def upload(tmp_path):
    """A function that writes an upload, and gives its path."""

    def write(content, name="rows.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# Pictures


def words_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip()


@pytest.mark.parametrize(
    ("prediction", "row", "shown"),
    [
        (LabelPrediction("a", 0.75, {"a": 0.75, "<b>": 0.25}), {}, "a a 75.0% &lt;b&gt; 25.0%"),
        (LabelsPrediction(("a", "b"), {"a": 0.9, "b": 0.6}), {}, "a, b a 90.0% b 60.0%"),
        (LabelsPrediction((), {"a": 0.1}), {}, "No label a 10.0%"),
        (ValuePrediction(3.14159), {}, "3.142"),
        (
            EntitiesPrediction((Entity("Oslo", "city", 3, 7, 0.9),), (), ()),
            {"text": "in Oslo & <x>"},
            "in Oslo city &amp; &lt;x&gt;",
        ),
        (EntitiesPrediction((), (), ()), {"text": "in & out"}, "No entity in &amp; out"),
        (AnswerPrediction("Ada", 3, 6, 0.9), {"context": "by Ada."}, "Ada by Ada ."),
        (AnswerPrediction("", 0, 0, 0.9), {"context": "by Ada."}, "No answer in this context by"),
        (SummaryPrediction("<i>short"), {"text": "long"}, "&lt;i&gt;short"),
        (TranslationPrediction("kurz"), {"source": "short"}, "kurz"),
    ],
)
def test_pictures(prediction, row, shown):
    assert words_of(picture(prediction, row)).startswith(shown)


def test_bars():
    scores = {f"label{i}": (20 - i) / 210 for i in range(20)}
    shown = picture(LabelPrediction("label0", 20 / 210, scores), {})
    assert shown.count("<li") == 10
    assert shown.count("ftkit-chosen") == 1
    assert "width: 9.5%" in shown
    assert "and 10 labels that are less likely" in shown


def test_what_is_marked():
    entity = Entity("Oslo", "city", 3, 7, 0.9)
    shown = picture(EntitiesPrediction((entity,), (), ()), {"text": "in Oslo now"})
    assert re.search(r"in <mark[^>]*>Oslo ?<small[^>]*>city</small></mark> now", shown)
    shown = picture(AnswerPrediction("Ada", 3, 6, 0.9), {"context": "by Ada."})
    assert re.search(r"by <mark[^>]*>Ada</mark>\.", shown)


def test_tables_cut_and_escape_their_cells():
    shown = table([{"text": "<b>" + "x" * 500, "n": None}])
    assert "<b>" not in shown
    assert shown.count("x") < 200
    assert 'scope="col">text' in shown


def test_flat():
    entity = Entity("Oslo", "city", 3, 7, 0.9)
    assert flat(EntitiesPrediction((entity, entity), (), ())) == {
        "entities": "Oslo (city); Oslo (city)"
    }
    assert flat(LabelsPrediction(("a", "b"), {})) == {"labels": "a, b"}
    assert flat(AnswerPrediction("Ada", 3, 6, 0.91234)) == {"answer": "Ada", "score": 0.9123}
    assert flat(SummaryPrediction("short")) == {"summary_text": "short"}


# The card


def test_the_card_of_a_bundle(shared_bundle, model):
    card = read_card(shared_bundle, model.task)
    assert card.title.endswith("fine-tuned for classification")
    assert card.about == "It knows 3 labels: billing, delivery, technical."
    assert card.limits[0] == "Texts longer than 64 tokens are cut to their head."
    assert card.example == model.task.example


@pytest.mark.parametrize(
    ("text", "title", "example"),
    [
        ("", "A model for qa", TASKS["qa"].example),
        ("# owner/name, fine-tuned for qa\n\nIts task is qa.", "name, fine-tuned for qa", None),
        ("# mine\n\nmodel.predict([{'question': 'q', 'context': 'c'}])\n", "mine", "q"),
        ("# mine\n\nmodel.predict([__import__('os').getcwd()])\n", "mine", None),
        ("\xff no card", "A model for qa", None),
    ],
)
def test_cards_of_all_sorts(tmp_path, text, title, example):
    (tmp_path / "README.md").write_text(text, encoding="latin1")
    card = read_card(tmp_path, TASKS["qa"]())
    assert card.title == title
    if example == "q":
        assert card.example == {"question": "q", "context": "c"}
    else:
        assert card.example == TASKS["qa"].example


# One row


def test_an_answer_and_its_reasons(answers, model):
    shown, why, reasons = answers.answer("my refund invoice", None)
    assert f">{model.predict(['my refund invoice'])[0].label}</p>" in shown
    assert (why["visible"], reasons) == (True, "")
    explained = answers.explain("my refund invoice", "")
    assert "Blue words speak for" in explained
    assert explained.count('title="') == 3
    assert "log-odds" not in explained


def test_what_is_not_there_is_not_explained(model, files, monkeypatch):
    found = EntitiesPrediction((Entity("Oslo", "city", 3, 7, 0.9),), (), ())
    answers = Actions(Predictor(model.model, model.tokenizer, TASKS["ner"](), 64), None, files)
    for prediction, is_offered in ((found, True), (EntitiesPrediction((), (), ()), False)):
        monkeypatch.setattr(Predictor, "predict", lambda *rows, now=prediction: [now])
        assert answers.answer("in Oslo")[1]["visible"] is is_offered


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Text is empty"),
        (" \n", "Text is empty"),
        (None, "Text is empty"),
        ("late " * 20_000, "the text has 100,000 characters, and 50,000 at most"),
    ],
)
def test_texts_that_cannot_be_answered(answers, text, said):
    for shown in (answers.answer(text, None)[0], answers.explain(text, None)):
        assert said in shown
        assert shown.startswith('<p class="ftkit-error" role="alert">')
    assert answers.answer(text, None)[1]["visible"] is False


def test_a_long_text_is_answered(answers):
    assert "ftkit-answer" in answers.answer("late " * 9_000, None)[0]


def test_what_fails_is_said_in_a_line(answers, model, monkeypatch):
    def fail(*rows, **options):
        raise RuntimeError("out of memory\nTraceback: lines")

    monkeypatch.setattr(Predictor, "predict", fail)
    shown, *_ = answers.answer("late", None)
    assert words_of(shown) == "The model failed (RuntimeError: out of memory)."


def test_without_captum_words_are_occluded(answers, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "captum" else find(name)
    )
    assert "Blue words speak for" in answers.explain("my refund", None)


def test_examples_fill_the_fields(answers, model, files):
    assert answers.example("A text") == ["A text", ""]
    questions = Actions(Predictor(model.model, model.tokenizer, TASKS["qa"](), 64), None, files)
    assert questions.fields == (("question", True), ("context", True))
    assert questions.example({"context": "c", "question": "q"}) == ["q", "c"]
    entities = Actions(Predictor(model.model, model.tokenizer, TASKS["ner"](), 64), None, files)
    assert entities.fields == (("text", True),)
    assert entities.example("A text") == "A text"


# A file


def test_a_file_is_answered(answers, model, upload, files):
    texts = ["my refund invoice", "late, again", "crash é"]
    buffer = io.StringIO()
    own = {"label": "mine", "predicted_label": "my own"}
    pd.DataFrame({"id": [7, 8, 9], "text": texts, **own}).to_csv(buffer, index=False)
    path = upload(buffer.getvalue())
    shown, download = answers.answer_file(str(path))
    assert "3 rows answered." in shown
    assert not path.exists()
    expected = model.predict(texts)
    with download["value"].open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts
    assert [row["id"] for row in rows] == ["7", "8", "9"]
    assert [row["label"] for row in rows] == ["mine"] * 3
    assert [row["predicted_label"] for row in rows] == ["my own"] * 3
    found = [row["predicted_predicted_label"] for row in rows]
    assert found == [each.label for each in expected]
    assert [float(row["score"]) for row in rows] == pytest.approx(
        [each.score for each in expected], abs=1e-4
    )
    assert download["value"].parent == files


def test_long_files_are_shown_in_part(answers, upload):
    shown, download = answers.answer_file(str(upload("text\n" + "late\n" * 80)))
    assert "80 rows answered, the first 50 of them here." in shown
    assert shown.count("<tr>") == 51
    assert len(download["value"].read_text(encoding="utf-8-sig").splitlines()) == 81


def test_other_kinds_of_files(answers, upload):
    for name, content in (
        ("rows.jsonl", json.dumps({"text": "late"}) + "\n"),
        ("rows.json", json.dumps([{"text": "late"}])),
        ("rows.tsv", "text\tn\nlate\t1\n"),
    ):
        assert "1 rows answered" in answers.answer_file(str(upload(content, name)))[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("body\nlate\n", "the columns are body. Rename the column in the file."),
        ("", "rows.csv: the file is empty"),
        ("text\n", "rows.csv: "),
        ("text\ncafé\n".encode("latin1"), "is not UTF-8; the file may be latin1"),
        ("text;n\nlate;1\n", "separated by"),
        ("text,n\nlate,1\nlate,1,2\n", "row 2"),
        ("text,n\nlate,1\n,2\n", "row 2"),
        (b"\x00\x01\x02\xff", "rows.csv"),
        ("text\nlate\n" + "late " * 20_000 + "\n", "row 2"),
        ("text\n" + "late\n" * 2_001, "the file has 2,001 rows, and 2,000 at most"),
    ],
)
def test_files_that_cannot_be_answered(answers, upload, content, said):
    path = upload(content)
    shown, download = answers.answer_file(str(path))
    assert said in shown.replace("&quot;", '"')
    assert shown.startswith('<p class="ftkit-error" role="alert">')
    assert str(path.parent) not in shown
    assert "\n" not in shown
    assert download["visible"] is False
    assert not path.exists()


# The page and its server


@pytest.fixture
def page(model, shared_bundle, files):
    return build_page(model, read_card(shared_bundle, model.task), read_texts, files)


@pytest.mark.parametrize("task", ["ner", "qa", "summarization", "translation"])
def test_pages_of_other_tasks(model, tmp_path, files, task):
    other = Predictor(model.model, model.tokenizer, TASKS[task](), 64)
    built = build_page(other, read_card(tmp_path, other.task), read_texts, files)
    labels = [each.label for each in built.blocks.values() if isinstance(each, gradio.Textbox)]
    assert (
        labels
        == {
            "ner": ["Text"],
            "qa": ["Question", "Context"],
            "summarization": ["Text"],
            "translation": ["Source"],
        }[task]
    )


def test_nothing_is_open_to_others(page):
    from starlette.testclient import TestClient

    with TestClient(build_app(page), base_url="http://127.0.0.1:7860") as client:
        got = client.get("/")
        assert got.status_code == 200
        assert "default-src 'self'" in got.headers["content-security-policy"]
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400
        assert client.get("/gradio_api/info").json()["named_endpoints"] == {}
        for path in ("/docs", "/openapi.json", "/gradio_api/runs", "/monitoring"):
            assert client.get(path).status_code in (403, 404), path
        config = client.get("/config").json()
        assert config["analytics_enabled"] is False
        assert config["footer_links"] == []
        large = {"files": ("rows.csv", b"x" * 21_000_000)}
        assert client.post("/gradio_api/upload", files=large).status_code == 413


def test_a_model_that_answers_no_rows(model, tmp_path, files):
    writer = Predictor(model.model, model.tokenizer, TASKS["language_modeling"](), 64)
    with pytest.raises(SettingError, match="language_modeling answers no rows"):
        build_page(writer, read_card(tmp_path, writer.task), read_texts, files)


def fails(capsys, *given):
    assert main(["demo", *map(str, given)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes_end_in_one_line(shared_bundle, tmp_path, capsys, monkeypatch):
    assert "no ftkit model" in fails(capsys, tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = fails(capsys, shared_bundle, "--port", port)
        assert said.startswith(f"ftkit: port {port} cannot be had. Give another --port")
    assert "port is 70000" in fails(capsys, shared_bundle, "--port", "70000")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "ftkit[demo]"' in fails(capsys, shared_bundle)


@contextlib.contextmanager
def serving(bundle, folder):
    """The address of a page, and its process; its output stands in `folder`."""
    folder.mkdir()
    log = folder / "said"
    code = "import sys; from ftkit.cli import main; sys.exit(main())"
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "demo", str(bundle)],
            stdout=output,
            stderr=output,
            env=environment,
            # As in a terminal, though the tests may run in the background of a shell.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        deadline = time.monotonic() + 240
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield found[0], process
    finally:
        process.kill()
        process.wait()


# In a browser


@pytest.fixture(scope="module")
def served(shared_bundle, tmp_path_factory):
    """A page's address, its process and its folder."""
    folder = tmp_path_factory.mktemp("served") / "page"
    with serving(shared_bundle, folder) as (address, process):
        yield address, process, folder


@pytest.fixture(scope="module")
def address(served):
    return served[0]


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium; its windows log their requests."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver here")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, address):
    """A window of it with the page, 1280 wide, that knows nothing of those before."""
    for log in ("browser", "performance"):
        chromium.get_log(log)
    first = chromium.current_window_handle
    chromium.switch_to.new_window("window")
    set_size(chromium, 1280, 900)
    chromium.get(address)
    wait_for(chromium, "textarea")
    yield chromium
    chromium.close()
    chromium.switch_to.window(first)


def set_size(driver, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait_for(driver, selector, text=""):
    """The first element that is shown and has the text."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    def find(driver):
        return next(
            (
                each
                for each in driver.find_elements("css selector", selector)
                if each.is_displayed() and text in each.text
            ),
            None,
        )

    waiting = WebDriverWait(driver, 60, ignored_exceptions=[StaleElementReferenceException])
    return waiting.until(find)


@pytest.mark.slow
def test_type_a_text_and_see_the_answer_and_why(browser, model):
    text = "my <b>refund</b> invoice"
    wait_for(browser, "textarea").send_keys(text)
    wait_for(browser, "button", "Classify").click()
    assert wait_for(browser, ".ftkit-answer").text == model.predict([text])[0].label
    wait_for(browser, "button", "Why this answer?").click()
    wait_for(browser, "p", "Blue words speak for")
    shown = browser.find_elements("css selector", "span[title]")
    words = [each.text for each in shown if each.text.isalpha()]
    assert words == ["my", "b", "refund", "b", "invoice"]
    assert float(shown[0].get_attribute("title")) == pytest.approx(
        model.explain(text).words[0].score, abs=1e-3
    )


@pytest.mark.slow
def test_the_keyboard_alone_will_do(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys):
        ActionChains(browser).send_keys(*keys).perform()

    for _ in range(6):
        press(Keys.TAB)
        if browser.switch_to.active_element.tag_name == "textarea":
            break
    press("my refund", Keys.TAB)
    assert browser.switch_to.active_element.text == "Classify"
    outline = browser.switch_to.active_element.value_of_css_property("outline-style")
    assert outline == "solid"
    press(Keys.ENTER)
    wait_for(browser, ".ftkit-answer")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(browser, upload, width):
    set_size(browser, width, 740)
    wait_for(browser, "textarea").send_keys("refund" * 100 + " late")
    wait_for(browser, "button", "Classify").click()
    wait_for(browser, ".ftkit-answer")
    wait_for(browser, "button", "Why this answer?").click()
    wait_for(browser, "p", "Blue words speak for")
    assert_no_scroll(browser, width)
    send_file(browser, upload("text,a,b,c,d,e\n" + "late,aaaaaaaa,b,c,d,e\n" * 3))
    wait_for(browser, ".ftkit-table")
    assert_no_scroll(browser, width)


def assert_no_scroll(browser, width):
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width


def send_file(browser, path):
    wait_for(browser, "button[role=tab]", "A file").click()
    wait_for(browser, "p", "A csv, tsv, jsonl")
    browser.find_element("css selector", "input[type=file]").send_keys(str(path))


@pytest.mark.slow
def test_a_file_in_the_page(browser, upload, files):
    send_file(browser, upload("id,text\n1,my refund invoice\n2,late parcel\n"))
    assert "2 rows answered" in wait_for(browser, "p", "rows answered").text
    cells = [each.text for each in browser.find_elements("css selector", ".ftkit-table td")]
    assert "late parcel" in cells
    allowed = {"behavior": "allow", "downloadPath": str(files)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    wait_for(browser, "button", "Download all answers as csv").click()
    deadline = time.monotonic() + 60
    while not (got := list(files.glob("answers-*.csv"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lines = got[0].read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == "text,id,label,score"
    assert len(lines) == 3


@pytest.mark.slow
def test_an_error_in_the_page(browser, upload):
    wait_for(browser, "button", "Classify").click()
    assert wait_for(browser, "[role=alert]").text.startswith("Text is empty.")
    send_file(browser, upload("body\nlate\n"))
    assert 'there is no column "text"' in wait_for(browser, ".ftkit-error", "no column").text


@pytest.mark.slow
def test_every_field_has_a_name_and_nothing_comes_from_elsewhere(browser, address):
    wait_for(browser, "button", "Second text of a pair").click()
    wait_for(browser, "label", "Second text")
    fields = browser.find_elements("css selector", "textarea, button:not([tabindex='-1'])")
    names = [each.accessible_name for each in fields if each.is_displayed()]
    assert {"Text", "Second text", "Classify", "Example"} <= set(names)
    assert all(names)
    assert browser.title.endswith("fine-tuned for classification")
    assert not browser.find_elements("css selector", "footer a")
    messages = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) > 10
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser, scheme):
    """Of all texts, WCAG 2's 4.5 against what stands behind them."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.refresh()
    wait_for(browser, "textarea").send_keys("my refund invoice")
    wait_for(browser, "button", "Classify").click()
    wait_for(browser, "button", "Why this answer?").click()
    wait_for(browser, "p", "Blue words speak for")
    time.sleep(0.5)  # colours change smoothly
    found = browser.execute_script(_CONTRASTS)
    assert len(found) > 10
    assert not [each for each in found if each[1] < 4.5]


_CONTRASTS = """
const parse = text => {
  const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a];
};
const behind = element => {
  if (!element) return [255, 255, 255];
  const [r, g, b, a] = parse(getComputedStyle(element).backgroundColor);
  if (a === 1) return [r, g, b];
  const under = behind(element.parentElement);
  return [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
};
const light = colour => {
  const [r, g, b] = colour.map(c => c / 255).map(
    c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.checkVisibility() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
  const one = light(parse(getComputedStyle(element).color).slice(0, 3));
  const two = light(behind(element));
  found.push([element.textContent.trim(), Math.max(one, two) / Math.min(one, two)]);
}
return found;
"""


# The end


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(request, shared_bundle, tmp_path, sent):
    """By Ctrl-C a new page, by SIGTERM that of the tests above, which is why this comes last."""
    import httpx

    with contextlib.ExitStack() as stack:
        if sent == signal.SIGTERM:
            address, process, folder = request.getfixturevalue("served")
        else:
            folder = tmp_path / "served"
            address, process = stack.enter_context(serving(shared_bundle, folder))
        assert httpx.get(address, trust_env=False).status_code == 200
        files = {"files": ("rows.csv", b"text\nsecret words\n")}
        posted = httpx.post(f"{address}/gradio_api/upload", files=files, trust_env=False)
        assert posted.status_code == 200
        assert list(folder.rglob("rows.csv"))
        process.send_signal(sent)
        assert process.wait(timeout=30) == 128 + sent
    said = (folder / "said").read_text().splitlines()
    assert said == [f"the page is at {address} (Ctrl-C ends it)", "ftkit: stopped"]
    assert not list(folder.glob("ftkit-demo-*"))
