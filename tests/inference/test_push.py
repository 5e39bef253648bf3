"""Publishing a bundle: what a hub on this machine gets, what it never gets, and one-line errors."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import transformers
import yaml

import ftkit
from ftkit.cli import main
from ftkit.errors import CheckpointError, SettingError
from ftkit.inference.push import list_files, push

TOKEN = "hf_of_this_test"


class Hub(ThreadingHTTPServer):
    """A hub on this machine: models as dicts of files, by the calls of huggingface_hub's client."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.models, self.private, self.objects, self.calls = {}, {}, {}, []


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def reply(self, found, status=200):
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_call(self):
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.calls.append(f"{self.command} {path}")
        if path.startswith("/lfs/"):
            assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
            hub.objects[path.rpartition("/")[2]] = body
            return self.reply({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply({"error": "Invalid credentials"}, 401)
        if path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            assert front["pipeline_tag"] == "text-classification"
            return self.reply({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        found = re.fullmatch(r"(?:/api/models)?/([\w-]+/[\w-]+)(?:\.git)?(?:/(.*))?", path)
        name, call = found[1], found[2] or "info"
        if name not in hub.models:
            return self.reply({"error": "Repository not found"}, 404)
        if call == "info/lfs/objects/batch":
            return self.info_lfs(body)
        return getattr(self, call.partition("/")[0])(name, body)

    do_GET = do_POST = do_PUT = handle_call

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "others":
            return self.reply({"error": "You don't have the rights to create a model"}, 403)
        if asked["organization"] == "broken":
            return self.reply({"error": "out of order"}, 500)
        status = 409 if name in self.server.models else 200
        if status == 200:
            self.server.models[name] = {}
            self.server.private[name] = asked.get("visibility") == "private"
        return self.reply({"url": f"{self.server.address}/{name}"}, status)

    def info(self, name, body):
        self.reply({"id": name, "private": self.server.private[name], "siblings": [], "tags": []})

    def tree(self, name, body):
        files = self.server.models[name].items()
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in files
        ]
        self.reply(entries)

    def preupload(self, name, body):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.reply({"files": files})

    def info_lfs(self, body):
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.address}/lfs/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self.reply({"transfer": "basic", "objects": objects})

    def commit(self, name, body):
        if name.startswith("readonly/"):
            return self.reply({"error": "Forbidden: you may only read"}, 403)
        model = self.server.models[name]
        for line in body.decode().splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "file":
                model[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                model[value["path"]] = self.server.objects[value["oid"]]
            elif change["key"] == "deletedFile":
                del model[value["path"]]
        address = f"{self.server.address}/{name}"
        return self.reply({"commitUrl": f"{address}/commit/{'0' * 40}", "commitOid": "0" * 40})


@pytest.fixture
def hub(monkeypatch):
    """A running hub, and a client that knows it and is logged in."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    transformers.logging.enable_progress_bar()  # which the command line turns off
    server.shutdown()
    server.server_close()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_hub_gets_the_bundle_file_by_file(hub, shared_bundle):
    address = push(shared_bundle, "me/tickets")
    assert address == f"{hub.address}/me/tickets"
    assert hub.models["me/tickets"] == contents(shared_bundle)
    assert hub.private["me/tickets"] is False


def test_nothing_else_leaves_the_machine(hub, bundle):
    wanted = contents(bundle)
    (bundle / "notes.txt").write_text("mine")
    (bundle / ".env").write_text("SECRET=1")
    (bundle / "rows").mkdir()
    (bundle / "rows" / "train.csv").write_text("mine")
    push(bundle, "me/tickets", private=True)
    assert hub.models["me/tickets"] == wanted
    assert hub.private["me/tickets"] is True


def test_an_older_bundle_is_replaced_and_other_files_stay(hub, shared_bundle):
    old = {"adapter_config.json": b"{}", "config.json": b"{}", "LICENSE": b"mine"}
    hub.models["me/tickets"], hub.private["me/tickets"] = dict(old), False
    push(shared_bundle, "me/tickets")
    assert hub.models["me/tickets"] == {**contents(shared_bundle), "LICENSE": b"mine"}


def test_what_was_pushed_opens(hub, shared_bundle, tmp_path, model):
    push(shared_bundle, "me/tickets")
    for name, data in hub.models["me/tickets"].items():
        (tmp_path / name).write_bytes(data)
    assert ftkit.load_model(tmp_path).predict(["my refund"]) == model.predict(["my refund"])


def test_the_command_says_where_it_is(hub, shared_bundle, capsys):
    assert main(["push", str(shared_bundle), "me/tickets", "--private"]) == 0
    assert capsys.readouterr().out.strip() == f"the model is in {hub.address}/me/tickets"
    assert hub.private["me/tickets"] is True


def test_a_dry_run_lists_and_sends_nothing(hub, bundle, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (bundle / "notes.txt").write_text("mine")
    assert main(["push", str(bundle), "me/tickets", "--dry-run"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    sizes = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines}
    assert sizes == {n: len(data) for n, data in contents(bundle).items() if n != "notes.txt"}
    assert (
        last.split()
        == f"{sum(sizes.values()):,} bytes in 6 files, of which none was uploaded".split()
    )
    assert hub.calls == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's own
@pytest.mark.parametrize(
    ("hub_id", "environment", "message"),
    [
        ("me/tickets", {"HF_TOKEN": "hf_wrong"}, "does not accept this token"),
        ("others/tickets", {}, 'may not write to "others/tickets"'),
        ("readonly/tickets", {}, 'may not write to "readonly/tickets"'),
        ("broken/tickets", {}, 'the hub refused "broken/tickets"'),
    ],
)
def test_what_the_hub_refuses_is_said_in_a_line(
    hub, shared_bundle, monkeypatch, capsys, hub_id, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["push", str(shared_bundle), hub_id]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not any(hub.models.values())


def test_private_never_ends_up_public(hub, shared_bundle):
    hub.models["me/tickets"], hub.private["me/tickets"] = {}, False
    with pytest.raises(SettingError, match="is there already, and is public"):
        push(shared_bundle, "me/tickets", private=True)
    assert hub.models["me/tickets"] == {}


def test_without_a_token(hub, shared_bundle, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(SettingError, match=r"nobody is logged in.*HF_TOKEN"):
        push(shared_bundle, "me/tickets")
    assert hub.calls == []


def test_without_a_network(hub, shared_bundle, monkeypatch):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(SettingError, match=r"the hub cannot be reached .*Check the network"):
        push(shared_bundle, "me/tickets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingError, match=r"the hub cannot be reached .*HF_HUB_OFFLINE"):
        push(shared_bundle, "me/tickets")


@pytest.mark.parametrize(
    "hub_id",
    [
        "tickets",
        "",
        "/tickets",
        "me/",
        "a/b/c",
        "me/tick ets",
        "me/t--t",
        "me/.t",
        "me/t.git",
        "é/t",
    ],
)
def test_what_is_no_hub_id(hub, shared_bundle, hub_id):
    with pytest.raises(SettingError, match="is no hub id that can be pushed to"):
        push(shared_bundle, hub_id)
    assert hub.calls == []


@pytest.mark.parametrize("hub_id", ["me/tickets", "my-lab/minilm_v1.2", "A1/b"])
def test_what_is_one_is_one_for_the_hubs_client_too(shared_bundle, hub_id):
    huggingface_hub.utils.validate_repo_id(hub_id)
    assert len(list_files(shared_bundle, hub_id)) == 6


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda b: (b / "optimizer.pt").write_bytes(b"x"), "has the pickle"),
        (lambda b: (b / "tokenizer.json").unlink(), "tokenizer"),
        (lambda b: (b / "README.md").unlink(), "cannot be published"),
        (lambda b: (b / "README.md").write_text("# A model"), "has no library_name"),
        (lambda b: (b / "README.md").write_text("---\n[: \n---\n"), "cannot be published"),
    ],
)
def test_a_broken_or_hostile_bundle_is_not_published(hub, bundle, break_it, message):
    break_it(bundle)
    with pytest.raises(CheckpointError, match=message) as caught:
        push(bundle, "me/tickets")
    assert "\n" not in str(caught.value)
    assert hub.calls == []


def test_an_adapter_of_a_local_folder_is_not_published(hub, tiny_data, tiny_checkpoint, tmp_path):
    pytest.importorskip("peft")
    options = {"lora": 4, "bs": 8, "precision": "fp32", "path": tmp_path}
    learn = ftkit.classification_learner(tiny_data, tiny_checkpoint, **options)
    folder = ftkit.save(learn, tmp_path / "model", adapter=True)
    with pytest.raises(CheckpointError, match=r"which nobody else has.*without adapter=True"):
        push(folder, "me/tickets")
    assert hub.calls == []
