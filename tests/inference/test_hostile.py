"""What a stranger prepared is refused in one line, with nothing run and nothing large made."""

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ftkit
from ftkit.errors import CheckpointError


class Trap:
    """What makes a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path):
    """A file that is there once something of a folder's was run."""
    return tmp_path / "canary"


def edit(file, **changes):
    """Set keys of a JSON file, or remove those that are None."""
    settings = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def edit_options(folder, **changes):
    options = json.loads((folder / "task.json").read_text())["options"]
    edit(folder / "task.json", options={**options, **changes})


def edit_weights(folder, **changes):
    """Set tensors of a folder's weights, or remove those that are None."""
    file = folder / "model.safetensors"
    tensors = {**load_file(file), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, file, metadata={"format": "pt"})


def edit_tokenizer(folder, change):
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))


def write_header(folder, text, length=None):
    header = text.encode()
    size = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + header)


def make_sparse(file, size):
    with file.open("wb") as opened:
        opened.truncate(size)


def shard(folder, part):
    """Give a folder an index of weights that leads to `part`."""
    weights = folder / "model.safetensors"
    names = list(load_file(weights))
    weights.rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, part)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_code(folder, canary):
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    (folder / "evil.py").write_text(code)
    (folder / "evil.py").rename(folder.parent / "evil.py")


def link(file, target):
    file.unlink(missing_ok=True)
    file.symlink_to(target)


WEIGHT = "bert.encoder.layer.0.output.dense.weight"
GARBAGE = b"\x00\xff\xfe garbage"
LABELS = ("billing", "delivery", "technical")

# What is done to a bundle's folder, given the path of the canary, and what the refusal says. These
# are refused as the start of a training too.
FOLDERS = {
    # Pickles
    "a pickle beside the weights": (
        lambda b, c: (b / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(c))),
        'has the pickle "pytorch_model.bin" in it',
    ),
    "a pickle instead of the weights": (
        lambda b, c: [
            (b / "model.safetensors").unlink(),
            (b / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(c))),
        ],
        "only as a pickle",
    ),
    "a pickled adapter beside the weights": (
        lambda b, c: [
            (b / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8})),
            (b / "adapter_model.bin").write_bytes(pickle.dumps(Trap(c))),
        ],
        'has the pickle "adapter_model.bin" in it',
    ),
    **{
        f"a pickle called {name}": (
            lambda b, c, name=name: (b / name).write_bytes(pickle.dumps(Trap(c))),
            f'has the pickle "{name}" in it',
        )
        for name in ("export.pkl", "model.pt", "MODEL.PTH", "training_args.bin", "last.ckpt")
    },
    "an adapter beside the weights": (
        lambda b, c: (b / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
        "holds an adapter beside whole weights",
    ),
    # Code
    "code of an architecture's own": (
        lambda b, c: [
            write_code(b, c),
            edit(b / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"}),
        ],
        r"wants to run code of its own \(auto_map in config.json\)",
    ),
    "code besides a known architecture": (
        lambda b, c: [
            write_code(b, c),
            edit(b / "config.json", auto_map={"AutoModelForSequenceClassification": "evil.Model"}),
        ],
        r"wants to run code of its own \(auto_map in config.json\)",
    ),
    "code of a tokenizer's own": (
        lambda b, c: [
            write_code(b, c),
            edit(b / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
        ],
        r"wants to run code of its own \(auto_map in tokenizer_config.json\)",
    ),
    "code of a pipeline's own": (
        lambda b, c: edit(b / "config.json", custom_pipelines={"x": {"impl": "evil.Pipeline"}}),
        r"code of its own \(custom_pipelines in config.json\)",
    ),
    "a file of code": (
        lambda b, c: (b / "evil.py").write_text(f"open({str(c)!r}, 'w')"),
        r'has code in it \("evil.py"\)',
    ),
    "a kernel from the hub": (
        lambda b, c: edit(b / "config.json", _attn_implementation="someone/their-kernel"),
        "_attn_implementation in its config.json",
    ),
    "weights in another format": (
        lambda b, c: edit(b / "config.json", quantization_config={"quant_method": "quark"}),
        "quantization_config in its config.json",
    ),
    "weights in another file": (
        lambda b, c: edit(b / "config.json", transformers_weights="adapter_model.bin"),
        "transformers_weights in its config.json",
    ),
    "shards that another loader would take": (
        lambda b, c: shutil.copy(
            b / "model.safetensors", b / "shard-00001-model-00001-of-00001.safetensors"
        ),
        "has weights besides its own",
    ),
    # Paths
    "weights behind a link": (
        lambda b, c: [
            shutil.move(b / "model.safetensors", b.parent / "w"),
            link(b / "model.safetensors", b.parent / "w"),
        ],
        '"model.safetensors" in .* is a link to a place outside of it',
    ),
    "any file behind a link": (
        lambda b, c: link(b / "README.md", "/etc/hostname"),
        '"README.md" in .* is a link to a place outside of it',
    ),
    "a link to nothing": (
        lambda b, c: link(b / "tokenizer.json", b / "nothing"),
        "cannot be read",
    ),
    "an index that climbs out": (
        lambda b, c: shard(b, "../elsewhere.safetensors"),
        'leads to "../elsewhere.safetensors", which is no file of weights beside it',
    ),
    "an index with a full path": (
        lambda b, c: shard(b, str(b.parent / "elsewhere.safetensors")),
        "which is no file of weights beside it",
    ),
    "an index of pickles": (
        lambda b, c: shard(b, "pytorch_model.bin"),
        'leads to "pytorch_model.bin", which is no file of weights',
    ),
    "a pipe for a file": (
        lambda b, c: [(b / "config.json").unlink(), os.mkfifo(b / "config.json")],
        '"config.json" in .* is no file',
    ),
    # Weights
    "truncated weights": (
        lambda b, c: (b / "model.safetensors").write_bytes(
            (b / "model.safetensors").read_bytes()[:-1000]
        ),
        "weights of .* cannot be opened",
    ),
    "whole numbers for weights": (
        lambda b, c: edit_weights(b, **{WEIGHT: torch.zeros(32, 64, dtype=torch.int64)}),
        f"hold {WEIGHT} as I64",
    ),
    "a weight that does not fit": (
        lambda b, c: edit_weights(b, **{WEIGHT: torch.zeros(32, 65)}),
        "weights of .* cannot be opened",
    ),
    "a directory of weights": (
        lambda b, c: [(b / "model.safetensors").unlink(), (b / "model.safetensors").mkdir()],
        '"model.safetensors" in .* is no file',
    ),
    # Configs
    "a config that is a list": (lambda b, c: (b / "config.json").write_text("[]"), "no JSON obj"),
    "a config that is not UTF-8": (
        lambda b, c: (b / "config.json").write_bytes(GARBAGE),
        "config.json of .* cannot be read",
    ),
    "a config with NaN": (
        lambda b, c: edit(b / "config.json", layer_norm_eps=float("nan")),
        "NaN is no number",
    ),
    **{
        f"a config with {key} {value!r}": (
            lambda b, c, key=key, value=value: edit(b / "config.json", **{key: value}),
            r"config.json of .* cannot be read|no model can be built|weights of .* cannot be",
        )
        for key, value in (
            ("hidden_size", "32"),
            ("hidden_size", -32),
            ("hidden_size", 0),
            ("num_hidden_layers", "2"),
            ("num_attention_heads", 0),
            ("num_attention_heads", 5),
            ("vocab_size", -1),
            ("vocab_size", 60),
            ("pad_token_id", 10**12),
            ("id2label", ["a", "b"]),
            ("hidden_act", "evil"),
            ("model_type", "evil\n\x1b[2Jftkit: all is well"),
        )
    },
    # Tokenizers
    "garbage for a tokenizer": (
        lambda b, c: (b / "tokenizer.json").write_bytes(GARBAGE),
        "the tokenizer of .* cannot be opened",
    ),
    "half a tokenizer": (
        lambda b, c: (b / "tokenizer.json").write_text(
            (b / "tokenizer.json").read_text()[:1000],
        ),
        "the tokenizer of .* cannot be opened",
    ),
    "a tokenizer with more words": (
        lambda b, c: edit_tokenizer(b, lambda t: t["model"]["vocab"].update({"evil": 120})),
        "has token 120, and its model knows 120",
    ),
    "a tokenizer with a hole": (
        lambda b, c: edit_tokenizer(b, lambda t: t["model"]["vocab"].update({"refund": 10**6})),
        "has token 1,000,000, and its model knows 120",
    ),
    "special tokens that no vocabulary has": (
        lambda b, c: edit_tokenizer(b, lambda t: t["post_processor"].update(cls=["[CLS]", 9999])),
        "has token 9,999, and its model knows 120",
    ),
    "a tokenizer that doubles every e 40 times": (
        lambda b, c: edit_tokenizer(
            b,
            lambda t: t.update(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
                    ]
                    * 40,
                }
            ),
        ),
        "can make a text 128 times as long, or longer",
    ),
    "a length that is no number": (
        lambda b, c: edit(b / "tokenizer_config.json", model_max_length="long"),
        "model_max_length that is no number",
    ),
    "another file for the tokenizer": (
        lambda b, c: edit(b / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.1.0.json"]),
        "fast_tokenizer_files in its tokenizer_config.json",
    ),
}

# What only a bundle's reader can see.
TASKS = {
    "task.json that is not UTF-8": (lambda b: (b / "task.json").write_bytes(GARBAGE), "utf-8"),
    "a directory for task.json": (
        lambda b: [(b / "task.json").unlink(), (b / "task.json").mkdir()],
        "task.json of .* cannot be read",
    ),
    "a pipe for task.json": (
        lambda b: [(b / "task.json").unlink(), os.mkfifo(b / "task.json")],
        "task.json of .* cannot be read",
    ),
    "a bottomless task.json": (
        lambda b: (b / "task.json").write_text("[" * 10**6),
        "task.json of .* cannot be read",
    ),
    "a format that is no number": (
        lambda b: edit(b / "task.json", format="1\nftkit: all is well"),
        r"format '1\\nftkit",
    ),
    "no options": (lambda b: edit(b / "task.json", options=[]), "options are no object"),
    "a task that is no name": (lambda b: edit(b / "task.json", task=["ner"]), "no task is called"),
    "the task of another model": (
        lambda b: edit(b / "task.json", task="qa", options={}),
        "weights of .* lack",
    ),
    "fewer labels": (lambda b: edit_options(b, labels=["billing", "delivery"]), "has the labels"),
    "the same labels in another order": (
        lambda b: edit_options(b, labels=LABELS[::-1]),
        'has the labels "technical", "delivery", "billing", and its config.json "billing"',
    ),
    "a layer less in the config": (
        lambda b: edit(b / "config.json", num_hidden_layers=1),
        r"hold 16 tensors that its config.json does not ask for, such as \"bert.encoder.layer.1",
    ),
    "tensors of many lines": (
        lambda b: edit_weights(b, **{"x\nftkit: all is well\x1b": torch.zeros(3)}),
        r"such as \"x\\nftkit: all is well\\u001b\"",
    ),
    "tensors of nothing": (
        lambda b: edit_weights(b, evil=torch.zeros(3)),
        'hold 1 tensors that its config.json does not ask for, such as "evil"',
    ),
    "a limit that the model does not take": (
        lambda b: edit(b / "task.json", limit=65),
        "a limit of 65 tokens, and its model one of 64",
    ),
    **{
        f"limit {value!r}": (
            lambda b, value=value: edit(b / "task.json", limit=value),
            re.escape(f"limit is {value!r}"),
        )
        for value in (-1, 0, 7, 10**12, "64", 64.0, True, [64])
    },
    **{
        f"option {key} {value!r}": (
            lambda b, key=key, value=value: edit_options(b, **{key: value}),
            f"{key} is ",
        )
        for key, value in (
            ("kind", "evil"),
            ("kind", 1),
            ("labels", "billing"),
            ("labels", [1, 2, 3]),
            ("labels", {"billing": 0}),
            ("max_length", 10**12),
            ("max_length", "long"),
            ("stride", None),
            ("stride", "32"),
            ("stride", 1e300),
            ("threshold", [0.5]),
            ("threshold", float("inf")),
            ("class_weights", {"billing": "much"}),
            ("label_smoothing", True),
        )
    },
    **{
        f"base {base!r}": (
            lambda b, base=base: edit(b / "task.json", base=base),
            "neither a hub id nor the full path",
        )
        for base in (
            *("../../x", "./x", "~/x", "a/b/c", "/tmp/../etc", "//share/x", "\\\\share\\x"),
            *("file:///etc", "", 1, ["x"], "a\nb"),
        )
    },
}


def refusal(work):
    with pytest.raises(CheckpointError) as caught:
        work()
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000
    assert caught.value.remedy.endswith(".")
    return text


@pytest.mark.parametrize("how", FOLDERS)
def test_a_hostile_folder_is_refused(bundle, canary, how, monkeypatch):
    monkeypatch.chdir(bundle.parent)
    break_it, message = FOLDERS[how]
    break_it(bundle, canary)
    assert_said(message, refusal(lambda: ftkit.load_model(bundle)))
    assert not canary.exists()


@pytest.mark.parametrize("how", FOLDERS)
def test_nor_does_a_training_start_from_one(bundle, canary, how, monkeypatch, tiny_data):
    monkeypatch.chdir(bundle.parent)
    break_it, message = FOLDERS[how]
    break_it(bundle, canary)
    options = {"bs": 8, "precision": "fp32", "path": bundle.parent}
    assert_said(
        message, refusal(lambda: ftkit.classification_learner(tiny_data, bundle, **options))
    )
    assert not canary.exists()


@pytest.mark.parametrize("how", TASKS)
def test_a_hostile_task_file_is_refused(bundle, how):
    break_it, message = TASKS[how]
    break_it(bundle)
    assert_said(message, refusal(lambda: ftkit.load_model(bundle)))


def assert_said(pattern, text):
    assert re.search(pattern, text), text


# Absurd sizes

ABSURD = {
    **{
        f"{key} {value:.0e}": (
            lambda b, key=key, value=value: edit(b / "config.json", **{key: value}),
            rf"asks for (a model of [\d,]+ numbers|\"{key}\" [\d,]+)",
        )
        for key, value in (
            ("hidden_size", 10**9),
            ("intermediate_size", 10**12),
            ("vocab_size", 10**12),
            ("max_position_embeddings", 10**12),
            ("type_vocab_size", 10**10),
            ("num_hidden_layers", 10**6),
            ("num_hidden_layers", 10**18),
            ("num_labels", 10**12),
        )
    },
    "an architecture of which the weights have nothing": (
        lambda b: [
            (b / "config.json").write_text(
                '{"model_type": "gpt2", "n_embd": 60000, "n_layer": 100, "vocab_size": 60000}'
            ),
        ],
        "asks for a model of",
    ),
    "positions that are computed": (
        lambda b: (b / "config.json").write_text(
            json.dumps(
                {
                    **{"model_type": "distilbert", "sinusoidal_pos_embds": True, "dim": 32},
                    **{"n_heads": 2, "max_position_embeddings": 10**9},
                }
            )
        ),
        "asks for a model of",
    ),
    "a layer count behind a smaller one": (
        lambda b: edit(
            b / "config.json",
            num_hidden_layers=10**9,
            encoder={"num_hidden_layers": 130},
            decoder={"num_hidden_layers": 130},
        ),
        'asks for "num_hidden_layers" 1',
    ),
    "a number of 5,000 digits": (
        lambda b: (b / "config.json").write_text(f'{{"hidden_size": {"9" * 5000}}}'),
        "config.json of .* cannot be read",
    ),
    "a number of 4,000 digits": (
        lambda b: (b / "config.json").write_text(
            f'{{"model_type": "bert", "num_hidden_layers": {"9" * 4000}}}'
        ),
        r'asks for "num_hidden_layers" 999999999\.\.\.',
    ),
    "a bottomless config": (
        lambda b: (b / "config.json").write_text('{"a":' * 10**5 + "1" + "}" * 10**5),
        "config.json of .* cannot be read",
    ),
    "a header of 10**18 bytes": (
        lambda b: write_header(b, "{}", 10**18),
        "weights of .* cannot be opened",
    ),
    "a tensor of 10**18 numbers": (
        lambda b: write_header(
            b, '{"x": {"dtype": "F32", "shape": [1000000000000000000], "data_offsets": [0, 4]}}'
        ),
        "weights of .* cannot be opened",
    ),
    "offsets behind the end": (
        lambda b: write_header(
            b,
            '{"x": {"dtype": "F32", "shape": [1000000000], "data_offsets": [0, 4000000000]}}',
        ),
        "weights of .* cannot be opened",
    ),
    **{
        f"{name} of 10**11 bytes": (
            lambda b, name=name: make_sparse(b / name, 10**11),
            f"{name}.* (has 100,000,000,000 bytes|cannot be read)",
        )
        for name in ("config.json", "task.json", "tokenizer.json", "chat_template.jinja")
    },
    "/dev/zero for task.json": (
        lambda b: link(b / "task.json", "/dev/zero"),
        "task.json of .* cannot be read",
    ),
}

OPEN_ALL = """
import json, resource, sys, time
from ftkit.inference.bundle import read_bundle
from ftkit.errors import CheckpointError

good, *folders = sys.argv[1:]
read_bundle(good)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)
found = []
for folder in folders:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_bundle(folder)
        text = "opened"
    except CheckpointError as error:
        text = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found.append([text, time.perf_counter() - start, grown / 1024])
read_bundle(good)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures with Linux's /proc")
def test_absurd_sizes_cost_neither_memory_nor_time(shared_bundle, tmp_path):
    folders = []
    for number, (break_it, _) in enumerate(ABSURD.values()):
        folders.append(Path(shutil.copytree(shared_bundle, tmp_path / str(number) / "model")))
        break_it(folders[-1])
    done = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, shared_bundle, *folders],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for how, (text, seconds, grown) in zip(ABSURD, found, strict=True):
        assert_said(ABSURD[how][1], text)
        assert "\n" not in text
        assert len(text) < 1000
        assert seconds < 2, how
        assert grown < 100, how  # MB


# What harms nobody opens as before

ENDLESS = "{% for i in range(10**12) %}{% for j in range(10**12) %}{{ i }}{% endfor %}{% endfor %}"
PADDING = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
PADDING |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
HARMLESS = {
    "notes and settings of other tools": lambda b: [
        *((b / name).write_text("x") for name in (".gitattributes", "notes.md", "metrics.csv")),
        (b / "old").mkdir(),
        (b / "old" / "pytorch_model.bin").write_bytes(b"never read"),
        make_sparse(b / "rows.json", 10**11),
    ],
    "a chat template without end": lambda b: (b / "chat_template.jinja").write_text(ENDLESS),
    "a chat template in the config": lambda b: edit(
        b / "tokenizer_config.json", chat_template=ENDLESS
    ),
    "padding to 10**9 tokens": lambda b: edit_tokenizer(b, lambda t: t.update(padding=PADDING)),
    "weights in half precision": lambda b: edit_weights(
        b, **{WEIGHT: load_file(b / "model.safetensors")[WEIGHT].bfloat16()}
    ),
    "weights in shards": lambda b: [
        shard(b, "model-00001-of-00001.safetensors"),
        shutil.move(b.parent / "elsewhere.safetensors", b / "model-00001-of-00001.safetensors"),
    ],
    "a link inside the folder": lambda b: link(b / "LICENSE", "README.md"),
}


@pytest.mark.parametrize("how", HARMLESS)
def test_what_harms_nobody_opens(bundle, model, how):
    HARMLESS[how](bundle)
    (answer,), (wanted,) = (
        ftkit.load_model(bundle).predict(["my refund"]),
        model.predict(["my refund"]),
    )
    assert answer.scores == pytest.approx(wanted.scores, abs=1e-2)


def test_the_hubs_cache_is_made_of_links(shared_bundle, tmp_path, model):
    snapshot, blobs = tmp_path / "snapshots" / "0123abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(shared_bundle, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert ftkit.load_model(snapshot).predict(["my refund"]) == model.predict(["my refund"])
    link(snapshot / "README.md", tmp_path / "secret")
    (tmp_path / "secret").touch()
    assert "is a link to a place outside" in refusal(lambda: ftkit.load_model(snapshot))


def test_a_checkpoint_of_anothers_is_not_held_to_what_ftkit_writes(bundle, tiny_data):
    (bundle / "task.json").unlink()
    (bundle / "optimizer.pt").write_bytes(b"never read")
    shutil.move(bundle / "model.safetensors", bundle.parent / "weights")
    link(bundle / "model.safetensors", bundle.parent / "weights")
    edit(bundle / "config.json", auto_map={"AutoConfig": "theirs.Config"})
    learn = ftkit.classification_learner(tiny_data, bundle, bs=8, path=bundle.parent)
    saved = ftkit.save(learn, bundle.parent / "again")
    assert "auto_map" not in (saved / "config.json").read_text()
    ftkit.load_model(saved)


def test_a_folder_that_may_not_be_read(bundle):
    (bundle / "task.json").chmod(0)
    if os.access(bundle / "task.json", os.R_OK):
        pytest.skip("this user may read everything")
    assert "Permission denied" in refusal(lambda: ftkit.load_model(bundle))


# Adapters


@pytest.fixture(scope="module")
def shared_adapter(tiny_data, tiny_checkpoint, tmp_path_factory):
    pytest.importorskip("peft")
    path = tmp_path_factory.mktemp("adapter")
    learn = ftkit.classification_learner(
        tiny_data, tiny_checkpoint, lora=4, bs=8, precision="fp32", path=path
    )
    return ftkit.save(learn, path / "model", adapter=True)


# Without an entry for the canary: what these would run is of other packages.
ADAPTERS = {
    "a module to import": (
        {"megatron_config": {"x": 1}, "megatron_core": "evil"},
        'has "megatron_config", "megatron_core" otherwise',
    ),
    "another method": ({"peft_type": "PREFIX_TUNING"}, '"peft_type"'),
    "a costly start": ({"init_lora_weights": "pissa"}, '"init_lora_weights"'),
    "a regular expression": ({"target_modules": "(x+x+)+y"}, '"target_modules"'),
    "another expression": ({"exclude_modules": r"((x+x+)+y)(\..*)?"}, '"exclude_modules"'),
    "a rank of 10**9": ({"r": 10**9}, 'has "r"'),
    "a rank that is no number": ({"r": "4"}, 'has "r"'),
    "another rank": ({"r": 5}, "cannot be put on its base"),
    "no layers": ({"target_modules": ["evil"]}, "cannot be put on its base"),
}


@pytest.mark.parametrize("how", ADAPTERS)
def test_a_hostile_adapter_is_refused(shared_adapter, tmp_path, canary, monkeypatch, how):
    folder = Path(shutil.copytree(shared_adapter, tmp_path / "model"))
    write_code(folder, canary)
    monkeypatch.syspath_prepend(tmp_path)
    changes, message = ADAPTERS[how]
    edit(folder / "adapter_config.json", **changes)
    assert_said(message, refusal(lambda: ftkit.load_model(folder)))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"hidden_size": 10**9}, 'differs from that of its base in "hidden_size"'),
        ("config.json", {"num_hidden_layers": 10**9}, 'asks for "num_hidden_layers" 1,000,000,000'),
        ("config.json", {"model_type": "gpt2"}, "differs from that of its base"),
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}, "code of its own"),
        ("task.json", {"base": "nobody/nothing"}, "cannot be opened"),
        ("task.json", {"base": "/nothing/here"}, "there is no folder"),
    ],
)
def test_nor_is_what_stands_beside_it_believed(shared_adapter, tmp_path, file, changes, message):
    folder = Path(shutil.copytree(shared_adapter, tmp_path / "model"))
    ftkit.load_model(folder)
    edit(folder / file, **changes)
    assert_said(message, refusal(lambda: ftkit.load_model(folder)))


# And without ftkit

WITHOUT = """
import json, sys
from importlib.abc import MetaPathFinder

class NoFtkit(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ftkit", "fastai", "fastcore"):
            raise ImportError(f"{name} is not for this test")

sys.meta_path.insert(0, NoFtkit())
try:
    import ftkit
except ImportError:
    from transformers import pipeline

    answers = pipeline("text-classification", model=sys.argv[1], device="cpu", top_k=None)(
        json.loads(sys.argv[2])
    )
    print(json.dumps([{each["label"]: each["score"] for each in answer} for answer in answers]))
"""


def test_transformers_opens_a_bundle_where_there_is_no_ftkit(shared_bundle, model):
    texts = ["my refund", "the parcel is late"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, shared_bundle, json.dumps(texts)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for scores, answer in zip(found, model.predict(texts), strict=True):
        assert scores == pytest.approx(answer.scores, abs=1e-5)
