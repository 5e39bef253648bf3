"""The notebooks: stripped and canonical in git, and every cell of them runs on bundled data.

`python tests/test_notebooks.py` writes those that were worked on in their canonical form.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
COUNT = 9

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

# What a cell of the notebook is to show, by its id: a kind of output, and a part of it.
_SHOWN = {
    "00_quick_start": {
        "check": ("text/html", "<table"),
        "learner": ("text/html", "<table"),
        "lr": ("image/png", ""),
        "results": ("text/html", "predicted"),
        "report": ("text/html", "Worst mistakes"),
        "predict": ("stream", "billing"),
        "evaluate": ("stream", "accuracy"),
    },
    "01_classification": {
        "check": ("text/html", "<table"),
        "results-one": ("text/html", "predicted"),
        "report": ("text/html", "Worst mistakes"),
        "losses": ("text/html", "loss</th>"),
        "confusion": ("image/png", ""),
        "several": ("text/html", "predicted"),
        "number": ("text/plain", "'regression'"),
        "wrong": ("stream", "the label is missing"),
    },
    "02_ner": {
        "tags": ("text/html", "<mark"),
        "train": ("text/html", "<mark"),
        "results": ("text/html", "predicted"),
        "predict": ("text/plain", "("),
        "long": ("text/plain", "["),
    },
    "03_question_answering": {
        "learner": ("text/html", "<mark"),
        "results": ("text/html", "predicted"),
        "ask": ("stream", "100.0"),
        "topk": ("stream", "-"),
    },
    "04_summarization": {
        "learner": ("text/html", "summary</th>"),
        "groups": ("text/html", "trainable"),
        "results": ("text/html", "predicted"),
        "evaluate": ("stream", "rougeL"),
    },
    "05_datablock": {
        "summary": ("stream", "Setting-up type transforms pipelines"),
        "loaders": ("text/html", "<table"),
        "test": ("text/plain", "tensor"),
        "ner": ("text/html", "<mark"),
    },
    "06_learning_rates": {
        "groups": ("text/html", "embeddings"),
        "find": ("image/png", ""),
        "schedule": ("image/png", ""),
        "precision": ("stream", "None"),
    },
    "08_from_learner_to_service": {
        "folder": ("stream", "model.safetensors"),
        "explain": ("text/html", "<span"),
        "onnx": ("text/plain", "'label'"),
        "files": ("stream", '"prediction"'),
        "serve": ("stream", '"ready"'),
        "request": ("stream", "."),
    },
}


def canonical(notebook: nbformat.NotebookNode) -> str:
    """The notebook as it stands in git: no outputs, no counts, little metadata."""
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nbformat.writes(notebook) + "\n"


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_how_many_there_are() -> None:
    assert len(NOTEBOOKS) == COUNT
    assert set(_SHOWN) <= {path.stem for path in NOTEBOOKS}


@by_name
def test_it_is_stripped_and_canonical(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    text = path.read_text(encoding="utf-8")
    assert text == canonical(notebook), f"run: python {Path(__file__).relative_to(ROOT)}"


@by_name
def test_it_begins_with_a_title_and_explains_itself(path: Path) -> None:
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert len(cells) <= 24
    assert [cell.id for cell in cells if not cell.source.strip()] == []
    assert "What to try next" in cells[-1].source


@by_name
def test_its_links_lead_somewhere(path: Path) -> None:
    names = {each.name for each in NOTEBOOKS}
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for piece in text.split("](")[1:]:
        assert piece.split(")")[0] in names


def files_of(folder: Path) -> set[Path]:
    """All files in a folder, those of caches and hidden folders aside."""
    found = set()
    for top, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        found |= {Path(top, name) for name in files}
    return found


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """One kernel for all notebooks, as its imports take longer than most of them, with a home that
    can be written to, and no network.
    """
    home = tmp_path_factory.mktemp("home")
    (home / "runtime").mkdir()
    names = ["HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MPLCONFIGDIR"]
    names += ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME", "FASTAI_HOME"]
    settings = dict.fromkeys(names, str(home))
    settings |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    settings["JUPYTER_RUNTIME_DIR"] = str(home / "runtime")
    settings["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        manager, client = start_new_kernel(kernel_name="python3")
        client.stop_channels()
        yield manager
        manager.shutdown_kernel(now=True)


@pytest.fixture
def workplace(tmp_path: Path, kernel: KernelManager) -> Iterator[Path]:
    """A folder as `nbs` in a checkout, where the kernel is, with nothing of another notebook."""
    folder = tmp_path / "nbs"
    folder.mkdir()
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    begin = f"%reset -f\nimport os; os.chdir({str(folder)!r}); del os"
    assert client.execute_interactive(begin, timeout=60)["content"]["status"] == "ok"
    client.stop_channels()
    before = files_of(ROOT)
    yield folder
    assert files_of(ROOT) == before, "a cell wrote into the repository"


def shown_by(cell: nbformat.NotebookNode, kind: str) -> str:
    """What a cell shows of a kind: "stream" for what it prints, or a MIME type."""
    if kind == "stream":
        return "".join(each.text for each in cell.outputs if each.output_type == "stream")
    return "".join(each.data[kind] for each in cell.outputs if kind in each.get("data", {}))


@pytest.mark.slow
@by_name
def test_every_cell_runs(path: Path, workplace: Path, kernel: KernelManager, minilm: str) -> None:
    notebook = read(path)
    # A cell that fails raises CellExecutionError, which shows the cell and its traceback.
    NotebookClient(notebook, timeout=300, km=kernel).execute()
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert all(cell.execution_count for cell in cells.values())
    for name, (kind, part) in _SHOWN.get(path.stem, {}).items():
        shown = shown_by(cells[name], kind)
        assert shown, f"cell {name} shows no {kind}"
        assert part in shown, f"cell {name}"


if __name__ == "__main__":
    for each in NOTEBOOKS:
        each.write_text(canonical(read(each)), encoding="utf-8")
