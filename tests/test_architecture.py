"""The house: which room may import which, the one door to fastai, and what serving leaves out."""

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ftkit

_PACKAGE = Path(ftkit.__file__).parent
_FILES = {
    ".".join(("ftkit", *path.relative_to(_PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(_PACKAGE.rglob("*.py"))
}

# Each room, and the rooms below it that it may import.
_GROUND = {"errors", "spans", "arrays", "marks", "html"}
_TASKS = {*_GROUND, "task", "features", "targets", "scores", "tasks"}
_ABOVE = {*_TASKS, "data", "model", "inference", "reports", "learner", "locks", "_fastai"}
_MAY_IMPORT = {
    "errors": set(),
    "spans": set(),
    "arrays": set(),
    "marks": set(),
    "html": {"marks"},
    "locks": {"errors"},
    "_fastai": set(),
    "task": _GROUND,
    "features": {*_GROUND, "task"},
    "targets": {*_GROUND, "task", "features", "targets"},
    "scores": {*_GROUND, "task", "targets", "scores"},
    "tasks": _TASKS,
    # These two are siblings that never meet: data's loaders know no model, models know no rows.
    "data": {*_TASKS, "data", "_fastai"},
    "model": {*_TASKS, "model"},
    "inference": {*_TASKS, "model", "inference"},
    # What it needs of a Learner is handed to it as plain data.
    "reports": {*_TASKS, "data", "model", "inference", "reports"},
    # Rows before a training: what `ftkit train` and `ftkit check` ask of them.
    "checks": {*_TASKS, "data", "model", "inference", "checks"},
    "learner": {*_ABOVE, "checks"},
    # Files of rows and a model: `inference` itself reads no files, so that serving stays light.
    "jobs": {*_TASKS, "data", "model", "inference", "locks", "jobs"},
    "cli": {*_ABOVE, "jobs", "checks"},
    "blurr": {*_ABOVE, "blurr"},
}
_MAY_USE_THE_DOOR = ("ftkit.data.loaders", "ftkit.data.blocks", "ftkit.learner.", "ftkit.blurr")
_FASTAI = {"fastai", "fastcore", "fastprogress"}
_NOT_FOR_SERVING = {*_FASTAI, "pandas", "matplotlib", "wandb", "datasets", "sklearn"}


def imports_of(module: str) -> Iterator[tuple[str, str | None]]:
    """Each import of a module, wherever it stands, as (module, name or None)."""
    for node in ast.walk(ast.parse(_FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; use the full name"
            for alias in node.names:
                yield node.module or "", alias.name


def own_imports(module: str) -> set[str]:
    """The modules of ftkit that a module imports, the package's root left out."""
    found = set()
    for source, name in imports_of(module):
        whole = f"{source}.{name}"
        if whole in _FILES:
            found.add(whole)
        elif source in _FILES and source != "ftkit":
            found.add(source)
    return found


def room_of(module: str) -> str:
    return module.split(".")[1]


def run_python(code: str) -> str:
    """What a fresh interpreter prints for the code."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_was_found():
    assert {"ftkit", "ftkit.cli", "ftkit.data.loaders", "ftkit.learner.build"} <= set(_FILES)
    assert len(_FILES) >= 35


@pytest.mark.parametrize("module", sorted(set(_FILES) - {"ftkit"}))
def test_imports_go_one_way(module):
    room = room_of(module)
    assert room in _MAY_IMPORT, f"{module} stands in no room of the house"
    for found in own_imports(module):
        assert room_of(found) in _MAY_IMPORT[room], f"{module} must not import {found}"
        if found == "ftkit._fastai":
            assert module.startswith(_MAY_USE_THE_DOOR), f"{module} must not use the fastai door"


@pytest.mark.parametrize("module", sorted(set(_FILES) - {"ftkit._fastai"}))
def test_nothing_but_the_door_imports_fastai(module):
    assert not {source.split(".")[0] for source, _ in imports_of(module)} & _FASTAI


def test_the_ground_imports_neither_torch_nor_transformers():
    heavy = {"torch", "transformers", "datasets", "numpy"}
    for module in ("ftkit.errors", "ftkit.spans", "ftkit.marks", "ftkit.html"):
        assert not {source.split(".")[0] for source, _ in imports_of(module)} & heavy


def test_nothing_but_the_version_is_asked_of_the_root():
    for module, path in _FILES.items():
        if module == "ftkit":
            continue
        for source, name in imports_of(module):
            if source == "ftkit":
                assert name in (None, "__version__") or f"ftkit.{name}" in _FILES, module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "ftkit" or node.attr == "__version__", module


def test_no_cycles():
    graph = {module: own_imports(module) for module in _FILES if module != "ftkit"}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for found in sorted(graph[module]):
                visit(found, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert done == set(graph)


@pytest.mark.parametrize("module", sorted(_FILES))
def test_every_module_says_what_it_is(module):
    docstring = ast.get_docstring(ast.parse(_FILES[module].read_text(encoding="utf-8")))
    assert docstring
    assert docstring.split("\n\n")[0].strip().endswith((".", ":", "import."))


def test_every_public_name_is_there():
    assert len(set(ftkit.__all__)) == len(ftkit.__all__)
    assert {*ftkit._HOMES, "__version__"} == set(dir(ftkit))
    for name in ftkit._HOMES:
        assert getattr(ftkit, name).__name__ == name
        home = importlib.import_module(ftkit._HOMES[name])
        assert getattr(home, name) is getattr(ftkit, name)
    assert set(ftkit._HOMES) - set(ftkit.__all__) == {"language_model_learner", "load_model"}
    assert set(ftkit.__all__) <= set(ftkit._HOMES)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = ftkit.no_such_name


def test_names_for_type_checkers_are_the_public_ones():
    (block,) = (
        node
        for node in ast.parse(_FILES["ftkit"].read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    )
    found = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found == ftkit._HOMES


def test_importing_the_package_loads_nothing_heavy():
    heavy = {*_NOT_FOR_SERVING, "torch", "torchvision", "numpy", "transformers"}
    code = f"import ftkit, json, sys; print(json.dumps(sorted({heavy!r} & set(sys.modules))))"
    assert json.loads(run_python(code)) == []


def test_help_loads_nothing_heavy():
    heavy = {*_NOT_FOR_SERVING, "torch", "torchvision", "numpy", "transformers", "pyarrow"}
    code = f"""
import json, sys
from ftkit.cli import main
for arguments in (["--help"], ["train", "--help"], ["check", "--help"], ["--version"]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code
print(json.dumps(sorted({heavy!r} & set(sys.modules))))
"""
    *printed, loaded = run_python(code).strip().splitlines()
    assert printed[0].startswith("usage: ftkit")
    assert json.loads(loaded) == []


def test_a_task_answers_without_torch():
    code = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import numpy as np
import ftkit.features
from ftkit.tasks import TASKS, NER, Classification, QuestionAnswering

for make in TASKS.values():
    make()
names, tags = ("a", "b"), ("O", "B-a", "I-a")
contexts = [{"context": "Ann ran", "answer": "Ann", "answer_start": 0}] * 2
words = [{"tokens": ["Ann", "ran", "on"]}] * 2
windows = np.array([[0, -1], [1, 2]])
ids = np.zeros((3, 8), dtype=np.int64)
offsets = np.array([[-1, 0, 4]] * 3)
for task, shape, inputs, targets, rows in [
    (Classification(kind="single", labels=names), (3, 2), {}, [0, 1], []),
    (Classification(kind="multi", labels=names), (3, 2), {}, [[0, 1], [1, 0]], []),
    (Classification(kind="regression", labels=("value",)), (3, 1), {}, [0.5, 1.0], []),
    (NER(labels=tags), (3, 8, 3), {"place": np.array([[0, 1, 1], [8, 17, -1]]),
     "shared": np.array([[0, 0, 1], [0, 0, 0]]) > 0}, [[0, 1, 2], [0, 0, -100]], words),
    (QuestionAnswering(has_unanswerable=True), (3, 3, 2),
     {"char_start": offsets, "char_end": offsets + [[0, 3, 3]]}, [[0, 3], [-1, -1]], contexts),
]:
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    outputs = task.merge(logits, {"windows": windows, **inputs})
    assert outputs.dtype == np.float32
    targets = np.array(targets)
    decided = task.decide(task.scores(outputs))
    assert decided.shape == targets.shape
    metrics = task.metrics(None)
    metrics.add(outputs, targets, rows)
    metrics.compute()
    assert len(task.decode(outputs, rows, None)) == 2
    assert len(task.show(rows, None, decided[: len(rows)])) == len(rows)
assert "torch" not in sys.modules
print("answered")
"""
    assert run_python(code) == "answered\n"


def test_serving_imports_nothing_of_training(make_checkpoint, tmp_path):
    """In a process that refuses those libraries, a bundle opens, answers and is scored."""
    from ftkit.inference import load_model
    from ftkit.inference.bundle import save_bundle
    from ftkit.model.checkpoint import open_bundled
    from ftkit.tasks import Classification

    task = Classification(kind="single", labels=("billing", "delivery"), long_texts="windows")
    names = {"id2label": dict(enumerate(task.labels)), "num_labels": 2}
    folder = make_checkpoint("bert", "ForSequenceClassification", **names)
    model, tokenizer = open_bundled(folder, task.head())
    bundle = save_bundle(tmp_path / "model", model, tokenizer, task, limit=64, card="")
    rows = ["my refund", "late " * 100, {"text": "parcel"}]
    code = f"""
import json, sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec

REFUSED = {_NOT_FOR_SERVING - {"sklearn"} | {"IPython"}!r}

class Refuse(Loader):
    # Finds these libraries, and refuses to run them.
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in REFUSED else None

    def exec_module(self, module):
        raise ImportError(module.__name__ + " is not for serving")

sys.meta_path.insert(0, Refuse())
from ftkit.inference import load_model
model = load_model({str(bundle)!r}, device="cpu")
answers = model.predict(json.loads({json.dumps(rows)!r}))
print(json.dumps([answer.to_dict() for answer in answers]))
print(json.dumps(sorted({_NOT_FOR_SERVING!r} & set(sys.modules))))
print(model.evaluate({{"text": ["my refund"], "label": ["billing"]}}).rows)
print(json.dumps(sorted(REFUSED & {{name.split(".")[0] for name in sys.modules}})))
"""
    *_, answers, loaded, scored, refused = run_python(code).strip().splitlines()
    expected = load_model(bundle, device="cpu").predict(rows)
    for answer, wanted in zip(json.loads(answers), expected, strict=True):
        assert answer["label"] == wanted.label
        assert answer["scores"] == pytest.approx(wanted.scores, abs=1e-5)
    assert (json.loads(loaded), scored, json.loads(refused)) == ([], "1", [])
